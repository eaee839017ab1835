"""Fine-tuning on one screen: read the labels, train, select an epoch on validation, test once."""

import logging
import shutil
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from itertools import islice
from pathlib import Path

import torch
from torch import nn
from torch.optim import Optimizer

from maskedclip.config import FinetuneConfig
from maskedclip.data.augmentation import augmentation
from maskedclip.data.labelled_views import LabelledBatch, training_batches
from maskedclip.data.lost_samples import Ledger
from maskedclip.data.readable_parts import refuse_unreadable
from maskedclip.engine.checkpoint import Checkpoints, restore
from maskedclip.engine.cores import decoding_threads
from maskedclip.engine.distributed import process_group
from maskedclip.engine.hang_watch import HangWatch
from maskedclip.engine.preemption import Preempted, Preemption
from maskedclip.engine.run_lease import RunLease, Superseded
from maskedclip.engine.step_log import Recorder
from maskedclip.finetune.constant_answers import learnt_nothing, start_at_frequencies
from maskedclip.finetune.epoch import (
    EvaluationBatches,
    learning_rate,
    predict,
    steps_per_epoch,
    train_epoch,
)
from maskedclip.finetune.progress import EpochProgress, SaveInterval
from maskedclip.finetune.result_board import write_board
from maskedclip.finetune.run_directory import (
    LOST,
    PROTOCOL,
    STATES,
    Labels,
    check_classes,
    claim,
    encoder_info_of,
    finished,
    learnt,
    lock_run,
    preparation_of,
    read_labels,
    resolved,
    write_results,
)
from maskedclip.finetune.selection import BestWeights, selection_score
from maskedclip.metrics.results import no_order
from maskedclip.metrics.scores import chosen_thresholds, macro, metrics_of, point
from maskedclip.models.adapters import merged, train_only
from maskedclip.models.classifier import adamw_by_layer, build_classifier, on_device
from maskedclip.models.pretrained import LoadReport
from maskedclip.plan.finetuning import FinetuneMemory, finetune_memory

logger = logging.getLogger(__name__)
_KEPT, _SAVING = 2, 0.1  # states on the disk; share of the time that saving them may take


def finetune(config: FinetuneConfig, *, rest: float = 0.0, protocol: str = PROTOCOL) -> Path:
    """Train, select an epoch on validation, test its weights once; return the run's directory.

    A finished run of the same configuration is not run again; a killed one resumes from its newest
    verified state, to the same result. Raises ValueError for weights or labels that do not fit,
    and for a directory of another run; Preempted where a signal asked to stop.

    Args:
        rest: the runs that wait behind this one, as a multiple of it, for the time left.
        protocol: of the rows, of a fold its own.
    """
    augmentation(config.image_size or 224, config.augmentation)  # or a ValueError, before any note
    labels = read_labels(config)
    config = resolved(config, labels)
    run = Path(config.out) / config.name
    with lock_run(run):
        if finished(config, run):
            logger.info("%s is finished; to run it again use another --name", run)
        else:
            if labels.task.kind == "class" and not labels.task.ordered:
                logger.warning("%s: %s", config.dataset, no_order(labels.task.classes))
            check_classes(config, run, labels)
            refuse_unreadable(labels.dataset, labels.task, labels.parts)
            model, ledger, lease = train(config, run, labels, rest)
            predictions, validation = (
                predict(model, EvaluationBatches(labels, part, config), labels, ledger)
                for part in ("test", "val")
            )
            if labels.task.kind == "labels":
                thresholds = thresholds_of(model, labels, config, ledger)
                predictions = predictions._replace(thresholds=thresholds)
            if other := lease.other_holder():
                raise Superseded(run, config.epochs * steps_per_epoch(labels, config), other)
            if unlearnt := learnt_nothing(run, labels, config):
                logger.warning("%s: %s; %s", run, unlearnt, _what_to_try(config))
            write_results(config, run, labels, model, predictions, validation, protocol, unlearnt)
        write_board(run)
        shutil.rmtree(run / STATES, ignore_errors=True)
    return run


def _what_to_try(config: FinetuneConfig) -> str:
    fewer = {"trained": ", --recipe=frozen or lora", "lora": ", --recipe=frozen"}
    return (
        f"try another rate than {config.lr:g} (a tenth; ten times where the loss hardly moved)"
        f"{fewer.get(config.encoder, '')}, more epochs or more labels"
    )


def train(
    config: FinetuneConfig, run: Path, labels: Labels, rest: float
) -> tuple[nn.Module, Ledger, RunLease]:
    """Train from the newest verified state to the last epoch; return the selected network.

    Raises Superseded where a later start of this run has taken its lease.
    """
    model, report = build(config, labels)
    with process_group() as device:
        model = on_device(model, device)
        best: BestWeights[nn.Module] = BestWeights(model)
        # one graph: the blocks differ in their drop path, and would be one each
        fast = torch.compile(model, dynamic=False, fullgraph=True) if config.compile else None
        optimizer = adamw_by_layer(
            model, layer_decay=config.layer_decay, weight_decay=config.weight_decay
        )
        steps = steps_per_epoch(labels, config)
        lease = RunLease(run)
        lease.take()  # from here on an earlier start writes nothing
        done = saved = restored(config, run, model, best, optimizer) // steps  # epochs
        if done:
            logger.info("%s goes on after epoch %d", run, done)
        claim(config, run, report, labels.task.classes, resumed=done > 0)
        ledger = Ledger(run / LOST, labels.dataset.name)
        ledger.add(labels.task.lost)
        validation = EvaluationBatches(labels, "val", config)
        selected_by = f"val_{'mae' if labels.task.kind == 'number' else config.selection}"
        progress = EpochProgress(config.epochs, done, rest, selected_by)
        saves = SaveInterval(_SAVING)
        with (
            closing(training_views(config, labels, done)) as views,
            Preemption() as preemption,
            HangWatch(run / "hang", config.hang_minutes, lease.token) as watch,
            Checkpoints(
                run / STATES, _KEPT, asynchronous=False, lease=lease, config=learnt(config)
            ) as checkpoints,
            closing(Recorder(run, done * steps, finetuning=True)) as recorder,
        ):
            for epoch in range(done, config.epochs):
                batches: Iterator[LabelledBatch] = watched(islice(views, steps), watch)
                if saved == epoch:  # all before it is saved: it may be cut short
                    batches = until_stopped(batches, preemption, run, epoch * steps)
                loss = train_epoch(model, optimizer, batches, labels, config, epoch, ledger, fast)
                scores = validate(model, watched(validation, watch), labels, config, ledger)
                score = scores[selected_by]
                best.offer(-score if selected_by == "val_mae" else score, model)
                lease.check(saved * steps)
                row = {"epoch": epoch + 1, "loss": loss, "lr": learning_rate(config, epoch + 1)}
                recorder.record((epoch + 1) * steps, row | scores)
                progress.show(epoch + 1, loss, score)
                if preemption.request or (epoch + 1 < config.epochs and saves.due()):
                    with saves.measured(), watch.paused():
                        checkpoints.save((epoch + 1) * steps, model, best, optimizer)
                    saved = epoch + 1
                if preemption.request:
                    checkpoints.finish()
                    raise Preempted(run, saved * steps, preemption.request)
            checkpoints.ignore_failure()
    return merged(best.model), ledger, lease


def restored(
    config: FinetuneConfig, run: Path, model: nn.Module, best: nn.Module, optimizer: Optimizer
) -> int:
    """Load the newest verified state, where it is this run's and of this user; return its step."""
    trusted = config.i_trust_this_directory
    return restore(run / STATES, model, best, optimizer, config=learnt(config), trusted=trusted)


def build(config: FinetuneConfig, labels: Labels) -> tuple[nn.Module, LoadReport]:
    """Return the network, the same for equal arguments, and how its weights were loaded."""
    torch.manual_seed(config.seed)
    model, report = build_classifier(
        config.weights, image_size=config.image_size, num_classes=len(labels.task.classes),
        drop_path=config.drop_path, size=config.size,
    )  # fmt: skip
    logger.info("%s", report)  # loaded.json lists the names
    start_at_frequencies(model.get_classifier(), labels, config)
    train_only(model, config.encoder, rank=config.lora_rank, alpha=config.lora_alpha)
    return model, report


def planned_memory(config: FinetuneConfig) -> FinetuneMemory:
    """Return what a fine-tuning trains, and the memory that is planned for a GPU."""
    return finetune_memory(
        encoder_info_of(config), image_size=preparation_of(config).image_size, batch=config.batch,
        encoder=config.encoder, rank=config.lora_rank, alpha=config.lora_alpha,
    )  # fmt: skip


def until_stopped(
    batches: Iterator[LabelledBatch], preemption: Preemption, run: Path, step: int
) -> Iterator[LabelledBatch]:
    """Yield the batches; raise Preempted, back at the saved `step`, where a signal asks to stop."""
    for views in batches:
        if preemption.request:
            raise Preempted(run, step, preemption.request)
        yield views


def training_views(
    config: FinetuneConfig, labels: Labels, done: int
) -> Generator[LabelledBatch, None, None]:
    """Return the batches of all epochs that are to come, augmented."""
    norm = preparation_of(config)
    augment = augmentation(
        config.image_size, config.augmentation, config.re_prob, mean=norm.mean, std=norm.std
    )
    return training_batches(
        labels.dataset, labels.parts["train"], augment, batch=config.batch,
        epochs=range(done, config.epochs), seed=config.seed,
        workers=decoding_threads(config.threads), balanced=config.balance == "sampling",
        image_size=config.image_size,
    )  # fmt: skip


def watched(batches: Iterable[LabelledBatch], watch: HangWatch) -> Iterator[LabelledBatch]:
    """Yield the batches, each of which shows that the run does not hang."""
    for number, views in enumerate(batches):
        watch.beat(number)
        yield views


def validate(
    model: nn.Module,
    validation: Iterable[LabelledBatch],
    labels: Labels,
    config: FinetuneConfig,
    ledger: Ledger,
) -> dict[str, float]:
    """Return the scores on validation images.

    val_{config.selection} is to select the epoch by; of numbers val_mae, the lower the better.
    """
    found = predict(model, validation, labels, ledger)
    judged = found.label_B, found.probability_BY, labels.untrained
    if labels.task.kind == "number":
        values = {f"val_{name}": point(name, *judged)[0] for name in metrics_of("number")}
        return {name: value for name, value in values.items() if value is not None}
    score = selection_score(config.selection, *judged)
    return {
        "val_auroc": macro("auroc", *judged)[0],
        "val_average_precision": macro("average_precision", *judged)[0],
        f"val_{config.selection}": score,
    }


def thresholds_of(
    model: nn.Module, labels: Labels, config: FinetuneConfig, ledger: Ledger
) -> tuple[float, ...]:
    """Return each label's threshold of the highest F1 on validation images."""
    found = predict(model, EvaluationBatches(labels, "val", config), labels, ledger)
    return chosen_thresholds(found.label_B, found.probability_BY, labels.untrained)
