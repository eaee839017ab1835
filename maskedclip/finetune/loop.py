"""Fine-tuning on one screen: labels on an encoder, by a named recipe."""

import logging
import shutil
from collections.abc import Iterator
from contextlib import closing
from itertools import islice
from pathlib import Path

import torch
from torch import nn
from torch.optim import AdamW

from maskedclip.config import FinetuneConfig
from maskedclip.data.augmentation import augmentation
from maskedclip.data.labelled_views import Views, training_batches
from maskedclip.data.lost_samples import Ledger
from maskedclip.engine.checkpoint import Checkpoints, restore
from maskedclip.engine.distributed import process_group
from maskedclip.engine.preemption import Preempted, Preemption
from maskedclip.engine.step_log import Recorder
from maskedclip.finetune.best_weights import Best
from maskedclip.finetune.epoch import Prepared, learning_rate, predict, steps_of, train
from maskedclip.finetune.progress import Epochs
from maskedclip.finetune.run_directory import (
    LOST,
    STATES,
    Labels,
    alone,
    claim,
    finished,
    preparation_of,
    read_labels,
    resolved,
    write_results,
)
from maskedclip.finetune.save_interval import Pace
from maskedclip.finetune.selection import selection_score
from maskedclip.metrics.scores import macro
from maskedclip.models.classifier import adamw_by_layer, build_classifier

logger = logging.getLogger(__name__)
_KEPT, _SAVING = 2, 0.1  # states on the disk; share of the time that saving them may take


def finetune(config: FinetuneConfig, *, rest: float = 0.0) -> Path:
    """Train, select an epoch on validation, test its weights once; return the run's directory.

    A finished run of the same configuration is not run again; a killed one goes on from its newest
    verified state, to the same result. Raises ValueError for weights or labels that cannot serve,
    and for a directory of another run; Preempted where a signal asked to leave.

    Args:
        rest: work that waits behind this run, as a multiple of it; the time left counts it.
    """
    labels = read_labels(config)
    config = resolved(config, labels)
    run = Path(config.out) / config.name
    with alone(run):
        if finished(config, run):
            logger.info("%s is finished; remove it to run it again", run)
        else:
            best, ledger = train_all(config, run, labels, rest)
            classes = len(labels.task.classes)
            found = predict(best, Prepared(labels, "test", config), classes, ledger)
            write_results(config, run, labels, best, found)
        shutil.rmtree(run / STATES, ignore_errors=True)
    return run


def train_all(
    config: FinetuneConfig, run: Path, labels: Labels, rest: float
) -> tuple[nn.Module, Ledger]:
    """Go on from the newest verified state to the last epoch; return the selected network."""
    looks = preparation_of(config)
    augment = augmentation(
        config.image_size, config.augmentation, config.re_prob, mean=looks.mean, std=looks.std
    )
    torch.manual_seed(config.seed)
    model, report = build_classifier(
        config.weights, image_size=config.image_size, num_classes=len(labels.task.classes),
        drop_path=config.drop_path, size=config.size,
    )  # fmt: skip
    logger.info("%s", report.table())
    with process_group() as device:
        model = model.to(device)
        best: Best[nn.Module] = Best(model)
        optimizer = adamw_by_layer(
            model, layer_decay=config.layer_decay, weight_decay=config.weight_decay
        )
        done = restore(run / STATES, model, best, optimizer) // steps_of(labels, config)
        if done:
            logger.info("%s goes on after epoch %d", run, done)
        claim(config, run, report, goes_on=done > 0)
        ledger = Ledger(run / LOST, labels.dataset.name)
        ledger.add(labels.task.lost)
        batches = training_batches(
            labels.dataset, labels.parts["train"], augment, batch=config.batch,
            epochs=range(done, config.epochs), seed=config.seed, workers=config.threads,
        )  # fmt: skip
        epochs = Epochs(config.epochs, done, rest)
        with closing(batches):
            learn(config, run, labels, (model, best, optimizer), batches, ledger, epochs)
    return best.model, ledger


def learn(
    config: FinetuneConfig,
    run: Path,
    labels: Labels,
    networks: tuple[nn.Module, Best[nn.Module], AdamW],
    batches: Iterator[Views],
    ledger: Ledger,
    epochs: Epochs,
) -> None:
    """Run the epochs that are left: train, validate, keep the better weights, save the state."""
    model, best, optimizer = networks
    steps, saved, pace = steps_of(labels, config), epochs.done, Pace(_SAVING)
    validation, classes = Prepared(labels, "val", config), len(labels.task.classes)

    def until_asked(epoch: int) -> Iterator[Views]:
        for views in islice(batches, steps):
            if preemption.request and saved == epoch:  # else there is more to lose: end the epoch
                raise Preempted(run, epoch * steps, preemption.request)
            yield views

    with (
        Preemption() as preemption,
        Checkpoints(run / STATES, _KEPT, asynchronous=False) as checkpoints,
        closing(Recorder(run, saved * steps)) as recorder,
    ):
        for epoch in range(saved, config.epochs):
            loss = train(model, optimizer, until_asked(epoch), labels, config, epoch, ledger)
            _, _, label_B, probability_BY = predict(model, validation, classes, ledger)
            score = selection_score(config.selection, label_B, probability_BY)
            best.offer(score, model)
            row: dict[str, float | None] = {
                "epoch": epoch + 1, "loss": loss, "lr": learning_rate(config, epoch + 1),
                "val_auroc": macro("auroc", label_B, probability_BY)[0],
                "val_average_precision": macro("average_precision", label_B, probability_BY)[0],
                f"val_{config.selection}": score,
            }  # fmt: skip
            recorder.record((epoch + 1) * steps, row)
            epochs.show(epoch + 1, loss, score)
            if preemption.request or (epoch + 1 < config.epochs and pace.due()):
                with pace.measured():
                    checkpoints.save((epoch + 1) * steps, model, best, optimizer)
                saved = epoch + 1
            if preemption.request:
                checkpoints.finish()
                raise Preempted(run, saved * steps, preemption.request)
        checkpoints.ignore_failure()
