"""An epoch of fine-tuning, its learning rate, and the predictions of a network."""

import math
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import AdamW

from maskedclip.config import FinetuneConfig
from maskedclip.data.augmentation import mixed
from maskedclip.data.labelled import LabelledSample, Task
from maskedclip.data.labelled_views import LabelledBatch, preparation, prepared_batches
from maskedclip.data.lost_samples import Ledger
from maskedclip.data.order import number
from maskedclip.engine.cores import decoding_threads
from maskedclip.engine.distributed import autocast
from maskedclip.engine.optimizer import warmup_cosine
from maskedclip.finetune.run_directory import Labels, preparation_of
from maskedclip.metrics.prediction_files import Predictions
from maskedclip.models.adapters import training_mode
from maskedclip.models.classifier import TaskHead

_EVALUATION_BATCH, _KEPT_BYTES = 64, 1_000_000_000


def steps_per_epoch(labels: Labels, config: FinetuneConfig) -> int:
    """Return the steps of an epoch, whose last batch may be smaller."""
    return math.ceil(len(labels.parts["train"]) / config.batch)


def train_epoch(
    model: nn.Module,
    optimizer: AdamW,
    batches: Iterable[LabelledBatch],
    labels: Labels,
    config: FinetuneConfig,
    epoch: int,
    ledger: Ledger,
    compiled: Callable[[Tensor], Tensor] | None = None,
) -> float:
    """Take one optimizer step a batch; return the mean loss an image.

    Raises RuntimeError where it is not finite, or no image can be read.

    Args:
        compiled: the model, compiled for whole batches.
    """
    device = next(model.parameters()).device
    steps, head = steps_per_epoch(labels, config), labels.head
    total, images = torch.zeros((), device=device), 0
    torch.manual_seed(number(config.seed, "drop path", epoch, bits=32))
    weight_Y = class_weights(labels).to(device) if config.balance == "weights" else None
    training_mode(model)
    for step, views in zip(range(steps), batches, strict=True):
        ledger.add(views.lost)
        if not views.samples:
            continue
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(config, epoch + step / steps) * group["lr_scale"]
        image_BCHW, target = targets(views, device, labels.task, head, config, epoch, step)
        # a smaller batch, the last or one with a lost image, is not worth a graph of its own
        whole = len(views.samples) == config.batch
        network = model if compiled is None or not whole else compiled
        loss = train_step(network, optimizer, head, image_BCHW, target, config, weight_Y)
        total += loss * len(views.samples)
        images += len(views.samples)
    mean = total.item() / images if images else math.nan
    if not math.isfinite(mean):
        raise RuntimeError(
            f"the loss over {images} images is {mean}; lower --lr, or check the shards and weights"
        )
    return mean


def train_step(
    network: Callable[[Tensor], Tensor],
    optimizer: AdamW,
    head: TaskHead,
    image_BCHW: Tensor,
    target: Tensor,
    config: FinetuneConfig,
    weight_Y: Tensor | None,
) -> Tensor:
    """Update the weights once; return the loss, for which the host has not waited."""
    with autocast(image_BCHW.device):
        logit_BY = network(image_BCHW)
    loss = head.loss(logit_BY.float(), target, config.smoothing, weight_Y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.detach()


def class_weights(labels: Labels) -> Tensor:
    """Return weight_Y: inverse to a class's training images, 1 on average over these images."""
    label_B = np.array([sample.label for sample in labels.parts["train"]])
    count_Y = np.bincount(label_B, minlength=len(labels.task.classes))
    trained = (count_Y > 0).sum()
    weight_Y = np.where(count_Y > 0, len(label_B) / (trained * np.maximum(count_Y, 1)), 1.0)
    return torch.from_numpy(weight_Y).float()


def targets(
    views: LabelledBatch,
    device: torch.device,
    task: Task,
    head: TaskHead,
    config: FinetuneConfig,
    epoch: int,
    step: int,
) -> tuple[Tensor, Tensor]:
    """Return the images and their targets: label_B, or target_BY of labels and mixed images."""
    image_BCHW = views.image_BCHW.to(device, non_blocking=True)
    label_B = head.targets(task.answers(views.samples), device)
    if not (config.mixup or config.cutmix):
        return image_BCHW, label_B
    key = number(config.seed, "mixup", epoch, step, bits=32)
    return mixed(
        image_BCHW, label_B, classes=len(task.classes), mixup=config.mixup, cutmix=config.cutmix,
        key=key,
    )  # fmt: skip


class EvaluationBatches:
    """The images of a split, prepared for evaluation; it can be iterated over again and again.

    A split of up to 1 GB is read and prepared once.
    """

    def __init__(self, labels: Labels, part: str, config: FinetuneConfig) -> None:
        self._dataset, self._samples = labels.dataset, labels.parts[part]
        self._threads = decoding_threads(config.threads)
        self._prepare = preparation(**preparation_of(config)._asdict())
        self._fits = len(self._samples) * 3 * config.image_size**2 * 4 <= _KEPT_BYTES
        self._kept: list[LabelledBatch] = []

    def __iter__(self) -> Iterator[LabelledBatch]:
        if self._kept:
            yield from self._kept
            return
        kept = []
        for views in prepared_batches(
            self._dataset, self._samples, prepare=self._prepare, batch=_EVALUATION_BATCH,
            threads=self._threads,
        ):  # fmt: skip
            if self._fits:
                kept.append(views)
            yield views
        self._kept = kept


def predict(
    model: nn.Module, batches: Iterable[LabelledBatch], labels: Labels, ledger: Ledger
) -> Predictions:
    """Return the predictions of a network for the prepared images that can be read."""
    return predictions_with(model, batches, labels.task, labels.head, ledger)


@torch.no_grad()
def predictions_with(
    model: nn.Module, batches: Iterable[LabelledBatch], task: Task, head: TaskHead, ledger: Ledger
) -> Predictions:
    """Return the predictions of a network whose head is known, as `predict` does."""
    device = next(model.parameters()).device
    kept: list[LabelledSample] = []
    rows = [np.zeros((0, len(task.classes)))]
    model.eval()
    for views in batches:
        ledger.add(views.lost)
        if not views.samples:
            continue
        with autocast(device):
            logit_BY = model(views.image_BCHW.to(device, non_blocking=True))
        kept += views.samples
        rows.append(head.answers(logit_BY).cpu().numpy())
    return Predictions(
        [sample.key for sample in kept],
        [sample.unit for sample in kept],
        task.answers(kept),
        np.concatenate(rows),
        kind=task.kind,
        sources=tuple(sample.source for sample in kept),
    )


def learning_rate(config: FinetuneConfig, epoch: float) -> float:
    """Return the rate at a time in epochs: from 0 up to lr, then half a cosine to min_lr."""
    share = warmup_cosine(epoch, config.warmup_epochs, config.epochs)
    floor = config.min_lr if epoch >= config.warmup_epochs else 0.0
    return floor + (config.lr - floor) * share
