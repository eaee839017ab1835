"""Fine-tuning on one screen: labels on an encoder, by the paper's recipe.

python -m maskedclip.finetune RUN_OR_WEIGHTS --dataset shards/idrid --fraction 0.1 --seed 1
"""

if __name__ == "__main__":  # before torch is imported: --help and mistakes answer at once
    from maskedclip.command import one_line_errors
    from maskedclip.downstream_command import read_finetune

    CONFIG = read_finetune(__doc__)

import hashlib
import logging
import math
import shutil
import sys
import time
from collections.abc import Iterable
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn
from torch.nn import functional as F
from torch.optim import AdamW

from maskedclip.config import FinetuneConfig, load, save
from maskedclip.data.downstream import Sample, Task, labelled
from maskedclip.data.ledger import Ledger
from maskedclip.data.order import number
from maskedclip.data.splits import division_of, split_file, training_share
from maskedclip.data.storage.opening import dataset_sha256
from maskedclip.data.storage.shards import Shards
from maskedclip.data.transforms import MEAN, STD
from maskedclip.data.views import Views, prepared_batches, training_batches
from maskedclip.engine.distributed import compute_type
from maskedclip.engine.metrics import Recorder
from maskedclip.engine.provenance import check_data, provenance, record
from maskedclip.engine.schedule import warmup_cosine
from maskedclip.eval import results
from maskedclip.eval.results import Measured
from maskedclip.eval.scores import METRICS, macro
from maskedclip.inference import name_of
from maskedclip.models.classifier import (
    FINETUNED,
    adamw_by_layer,
    build_classifier,
    write_classifier,
)

logger = logging.getLogger(__name__)
LOST, CONFIG_FILE = "lost_samples.jsonl", "config.json"
_EVALUATION_BATCH = 64


class Labels(NamedTuple):
    """What is learnt from: the samples of train (its fraction), val and test."""

    dataset: Shards
    task: Task
    parts: dict[str, list[Sample]]


def finetune(config: FinetuneConfig) -> Path:
    """Train, select by validation macro AUROC, test the selected weights once; return the run.

    A finished run of the same configuration is not run again; an unfinished one starts over.
    Raises ValueError for weights or labels that cannot serve, and for a directory of another run.
    """
    labels = read_labels(config)
    config = replace(config, task=labels.task.name, name=config.name or run_name(config))
    run = Path(config.out) / config.name
    if _finished(config, run):
        logger.info("%s is finished; remove it to run it again", run)
        sys.stdout.write(results.table(results.read_rows(run)))
        return run
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(config.seed)
    model, report = build_classifier(
        config.weights, image_size=config.image_size, num_classes=len(labels.task.classes),
        drop_path=config.drop_path, size=config.size,
    )  # fmt: skip
    logger.info("%s", report)
    model = model.to(device)
    _claim(config, run)
    ledger = Ledger(run / LOST, labels.dataset.name)
    ledger.add(labels.task.lost)
    optimizer = adamw_by_layer(
        model, layer_decay=config.layer_decay, weight_decay=config.weight_decay
    )
    batches = training_batches(
        labels.dataset, labels.parts["train"], image_size=config.image_size, batch=config.batch,
        epochs=config.epochs, seed=config.seed, workers=config.threads,
    )  # fmt: skip
    steps = math.ceil(len(labels.parts["train"]) / config.batch)  # an epoch
    best, weights, start = -1.0, model.state_dict(), time.monotonic()
    recorder = Recorder(run, 0)

    for epoch in range(config.epochs):
        torch.manual_seed(number(config.seed, "drop path", epoch, bits=32))
        times = (epoch + step / steps for step in range(steps))
        loss = train(model, optimizer, islice(batches, steps), config, times, ledger)
        found = predict(model, labels, "val", config, ledger)
        auroc, average_precision = (
            macro(metric, found.label_B, found.probability_BY)[0] for metric in METRICS[:2]
        )
        row: dict[str, float | None] = {
            "epoch": epoch + 1, "loss": loss, "lr": learning_rate(config, epoch + 1),
            "val_auroc": auroc, "val_average_precision": average_precision,
        }  # fmt: skip
        recorder.record((epoch + 1) * steps, row)
        _show(epoch + 1, config.epochs, loss, auroc, start)
        if auroc > best:  # of equal ones the earlier
            best = auroc
            weights = {k: v.detach().cpu().clone() for k, v in model.state_dict().items()}

    recorder.close()
    model.load_state_dict(weights)
    _write(config, run, labels, model, predict(model, labels, "test", config, ledger))
    return run


def train(
    model: nn.Module,
    optimizer: AdamW,
    batches: Iterable[Views],
    config: FinetuneConfig,
    epochs: Iterable[float],
    ledger: Ledger,
) -> float:
    """Take an optimizer step a batch, `epochs` the time of each; return the mean loss an image.

    Raises RuntimeError where it is not finite, or no image can be read.
    """
    device = next(model.parameters()).device
    kind = compute_type("auto", device)
    total, images = torch.zeros((), device=device), 0
    model.train()
    for epoch, views in zip(epochs, batches, strict=True):
        ledger.add(views.lost)
        if not views.samples:
            continue
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(config, epoch) * group["lr_scale"]
        label_B = torch.tensor([sample.label for sample in views.samples], device=device)
        with torch.autocast(device.type, kind, enabled=kind != torch.float32):
            logit_BY = model(views.image_BCHW.to(device, non_blocking=True))
        loss = F.cross_entropy(logit_BY.float(), label_B, label_smoothing=config.smoothing)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += loss.detach() * len(label_B)
        images += len(label_B)
    mean = total.item() / images if images else math.nan
    if not math.isfinite(mean):
        raise RuntimeError(
            f"the loss over {images} images is {mean}; lower --lr, or check the shards and weights"
        )
    return mean


@torch.no_grad()
def predict(
    model: nn.Module, labels: Labels, part: str, config: FinetuneConfig, ledger: Ledger
) -> Measured:
    """Return the probabilities of one part's images, cut as for evaluation."""
    device = next(model.parameters()).device
    kind = compute_type("auto", device)
    kept: list[Sample] = []
    rows = [np.zeros((0, len(labels.task.classes)))]
    model.eval()
    for views in prepared_batches(
        labels.dataset, labels.parts[part], image_size=config.image_size,
        batch=_EVALUATION_BATCH, threads=config.threads,
    ):  # fmt: skip
        ledger.add(views.lost)
        if not views.samples:
            continue
        with torch.autocast(device.type, kind, enabled=kind != torch.float32):
            logit_BY = model(views.image_BCHW.to(device, non_blocking=True))
        kept += views.samples
        rows.append(logit_BY.double().softmax(dim=-1).cpu().numpy())
    return Measured(
        [sample.key for sample in kept],
        [sample.unit for sample in kept],
        np.array([sample.label for sample in kept]),
        np.concatenate(rows),
    )


def read_labels(config: FinetuneConfig) -> Labels:
    """Return the dataset's labelled samples, `fraction` of the training ones."""
    dataset = Shards(Path(config.dataset))
    task = labelled(dataset, config.task)
    division = division_of(dataset, task, Path(config.split) if config.split else None)
    share = training_share(division, config.fraction, config.seed)
    return Labels(dataset, task, division.parts | {"train": share})


def learning_rate(config: FinetuneConfig, epoch: float) -> float:
    """Return the rate at a time in epochs: from 0 up to lr, then half a cosine to min_lr."""
    share = warmup_cosine(epoch, config.warmup_epochs, config.epochs)
    floor = config.min_lr if epoch >= config.warmup_epochs else 0.0
    return floor + (config.lr - floor) * share


def run_name(config: FinetuneConfig) -> str:
    """Return a run's name, made of what usually differs between fine-tunings."""
    dataset = Path(config.dataset).resolve().name
    labels, seed = f"{config.fraction:g}", f"seed{config.seed}"
    return results.file_name(method_of(config), dataset, config.task, labels, seed)


def method_of(config: FinetuneConfig) -> str:
    """Return what a run's encoder is called in tables: its weights, or random and the size."""
    random = config.weights == "random"
    return name_of(f"random_{config.size}" if random else config.weights)


def _finished(config: FinetuneConfig, run: Path) -> bool:
    """Return whether the run has its results; ValueError where the directory is another run's."""
    path = run / CONFIG_FILE
    if not path.exists():
        return False
    try:
        before = load(path, FinetuneConfig)
    except ValueError as error:
        raise ValueError(f"{run} holds another kind of run ({error}); use --name") from error
    if replace(before, threads=config.threads, out=config.out) != config:
        raise ValueError(
            f"{run} holds a fine-tuning with another configuration; choose another --name, "
            f"or remove it"
        )
    check_data(run / "provenance.json", [Path(config.dataset)], dataset_sha256)
    return {row["metric"] for row in results.read_rows(run)} >= set(METRICS)


def _claim(config: FinetuneConfig, run: Path) -> None:
    """Clear what an unfinished life left, and write config.json and provenance.json."""
    for name in (LOST, "metrics.jsonl", FINETUNED):
        (run / name).unlink(missing_ok=True)
    for name in ("predictions", "tensorboard"):
        shutil.rmtree(run / name, ignore_errors=True)
    run.mkdir(parents=True, exist_ok=True)
    save(config, run / CONFIG_FILE)
    facts = provenance([Path(config.dataset)], config.seed, 1, dataset_sha256)
    record(facts | {"split_sha256": _split_sha256(config)}, run / "provenance.json")


def _split_sha256(config: FinetuneConfig) -> str | None:
    """Return the hash of the split's file; None where the split is made by rule."""
    own = split_file(Path(config.dataset), config.task)
    path = Path(config.split) if config.split else own
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None


def _write(
    config: FinetuneConfig, run: Path, labels: Labels, model: VisionTransformer, found: Measured
) -> None:
    """Write weights, predictions and then the rows, whose presence says that the run is whole."""
    task, name = labels.task, labels.dataset.name
    facts = {"task": task.name, "dataset": name, "mean": MEAN, "std": STD}
    write_classifier(model, run / FINETUNED, task.classes, facts)
    identity = {
        "run": config.name,
        "dataset": name,
        "task": task.name,
        "protocol": "finetune",
        "fraction": config.fraction,
        "seed": config.seed,
    }
    rows = results.measure(
        identity,
        task.classes,
        found,
        run,
        method=method_of(config),
        shards=labels.dataset.directory,
    )
    results.write_rows(run, rows)
    sys.stdout.write(results.table(rows))


def _show(epoch: int, epochs: int, loss: float, auroc: float, start: float) -> None:
    seconds = (time.monotonic() - start) / epoch * (epochs - epoch)
    left = time.strftime("%H:%M:%S", time.gmtime(seconds))
    sys.stderr.write(
        f"epoch {epoch}/{epochs}  loss {loss:.4f}  validation AUROC {auroc:.3f}  {left} left\n"
    )


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    with one_line_errors():
        finetune(CONFIG)
