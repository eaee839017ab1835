"""The online probe: how well the frozen encoder tells labels apart, while it is pre-trained.

k-NN and logistic regression are fitted on training images of a labelled dataset and scored on its
validation images; its test images are never read. It is monitoring: it changes no weight, leaves
no image out of pre-training, and its curve is no result.
"""

import logging
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from maskedclip.config import Config
from maskedclip.data.labelled import LabelledSample, Task, labelled, share_of
from maskedclip.data.labelled_views import preparation, prepared_batches
from maskedclip.data.pretraining_images import PretrainingImages
from maskedclip.data.readable_parts import refuse_unreadable
from maskedclip.data.splits import division_of, split_file
from maskedclip.data.storage.shards import Shards
from maskedclip.data.transforms import normalise
from maskedclip.engine.cores import decoding_threads
from maskedclip.engine.step_log import rows_until
from maskedclip.losses.gathering import of_all_ranks
from maskedclip.metrics import probes
from maskedclip.metrics.results import written
from maskedclip.metrics.scores import scores
from maskedclip.pretrain.methods.protocol import Measured, Method
from maskedclip.shards.image_folders import as_shards

logger = logging.getLogger(__name__)
MOST = 2000  # labelled images
# fixed, where an evaluation chooses them on validation images: nothing is chosen on what is scored
NEIGHBOURS, STRENGTH = 20, 0.01
_BATCH = 64  # images that are encoded at a time
LOW, HIGH = "_low", "_high"  # behind a score's name: the ends of its 95 % interval
_WORDS = {"probe_knn": "k-NN", "probe_logistic": "logistic regression"}


class Probed(NamedTuple):
    """What the encoder is probed on; of a large dataset the same share of each class."""

    dataset: Shards
    task: Task
    train: list[LabelledSample]
    validation: list[LabelledSample]
    is_published: bool  # whether the dataset has a validation split of its own

    @property
    def words(self) -> str:
        """Return what is scored, in words."""
        return f"{len(self.validation)} validation images of {self.dataset.name} ({self.task.name})"


def read_probed(config: Config, method: type[Method]) -> Probed | None:
    """Return what log.probe names, None where nothing is to be probed.

    Raises ValueError where it has no labels, or none that tell classes apart on both sides, and for
    a method without an `encode`.
    """
    log = config.log
    if not log.probe or not log.probe_every:
        return None
    where = f"log.probe {log.probe}"
    if not issubclass(method, Measured):
        raise ValueError(
            f"{where}: method {config.method} has no `encode` to be probed by "
            f"(pretrain/methods/protocol.py); leave log.probe out"
        )
    dataset = Shards(as_shards(Path(log.probe)))
    task = labelled(dataset, log.probe_task)
    if task.kind == "number":
        raise ValueError(
            f"{where}: {task.name} is a number, which has no AUROC; name a task of classes as "
            f"--log.probe_task"
        )
    try:
        parts = division_of(dataset, task).parts
        refuse_unreadable(dataset, task, {name: parts[name] for name in ("train", "val")})
    except (ValueError, RuntimeError) as error:
        words = str(error).removeprefix(f"{dataset.directory}: ")
        raise ValueError(f"{where}: {words}") from None
    train, validation = at_most(MOST, parts["train"], parts["val"])
    published = any(sample.split == "val" for sample in task.samples)
    return Probed(dataset, task, train, validation, published)


def at_most(
    most: int, train: list[LabelledSample], validation: list[LabelledSample]
) -> tuple[list[LabelledSample], list[LabelledSample]]:
    """Return the same share of each class of both parts, so many images or a few less in all."""
    images = len(train) + len(validation)
    if images <= most:
        return train, validation
    labels = {label for s in (*train, *validation) for label in s.labels or (s.label,)}
    # of each class one image stays in each part, however small its share is
    share = max(most - 2 * len(labels), 0) / images
    return share_of(train, share, 0), share_of(validation, share, 0)


def say_probed(probed: Probed, images: PretrainingImages) -> None:
    """Log what the encoder is probed on, and which of the images that are scored it trains on."""
    where = f"log.probe {probed.dataset.directory}"
    file = split_file(probed.dataset.directory, probed.task.name)
    by = f"by splits/{file.name}" if file.is_file() else "as fine-tuning does"
    samples = [*probed.train, *probed.validation]
    known = sum(sample.patient is not None for sample in samples)
    whole = "patients whole" if known == len(samples) else f"patients known of {known} alone"
    how = (
        "its validation split"
        if probed.is_published
        else f"no validation split is published: parted off its training images, {whole}, {by}"
    )
    logger.info(
        "%s: %s, fitted on %d training images, scored on %d (%s); no test image is read; "
        "%d neighbours and C %g are fixed, where evaluate chooses them",
        where, probed.task.name, len(probed.train), len(probed.validation), how, NEIGHBOURS,
        STRENGTH,
    )  # fmt: skip
    seen = images.seen(probed.dataset, [sample.index for sample in probed.validation])
    of = f"of the {len(probed.validation)} images that are scored"
    if seen.names:
        count = "an unknown number" if seen.images is None else f"{seen.images}"
        logger.warning(
            "%s: %s %s are trained on (%s), without their labels: the curve can rise by images "
            "that are known, and is no guide to new ones; probe a dataset that is no source, or "
            "list them in its exclude.csv", where, count, of, seen.names,
        )  # fmt: skip
    elif seen.note:
        logger.warning("%s: whether %s some are trained on is %s", where, of, seen.note)


class OnlineProbe:
    """The images of a probe, decoded once, and their scores by an encoder.

    They are shared out over the ranks. Every rank calls `scores`; the numbers are on rank 0.
    """

    def __init__(self, probed: Probed, config: Config, device: torch.device) -> None:
        self.probed, self._config, self._device = probed, config, device
        self._samples = [*probed.train, *probed.validation]
        self._images: tuple[Tensor, Tensor] | None = None

    @torch.no_grad()
    def scores(self, method: Measured) -> dict[str, float]:
        """Return the macro AUROC of each probe; nothing, with a line, where there is none."""
        first = self._images is None
        start = time.monotonic()
        image_RCHW, number_R = self._images = self._images or self._decoded()
        decoded = time.monotonic()
        feature_RD = torch.cat(
            [
                method.encode(normalise(image_BCHW.to(self._device))).float()
                for image_BCHW in image_RCHW.split(_BATCH)
            ]
        )
        number_N = of_all_ranks(number_R.to(self._device), None).cpu().numpy()
        feature_ND = of_all_ranks(feature_RD, None).cpu().numpy()
        if dist.get_rank():
            return {}
        is_there = number_N >= 0
        found = self.fitted(number_N[is_there], feature_ND[is_there])
        if first:
            logger.info(
                "log.probe: %d images decoded in %.1f s; a look takes %.1f s",
                is_there.sum(), decoded - start, time.monotonic() - decoded,
            )  # fmt: skip
        return found

    def _decoded(self) -> tuple[Tensor, Tensor]:
        """Return this rank's image_RCHW, uint8, as an evaluation cuts them, and their numbers.

        Equally many on each rank: -1 is the number of what fills a row, as for a damaged image.
        """
        rank, world = dist.get_rank(), dist.get_world_size()
        own, rows = self._samples[rank::world], -(-len(self._samples) // world)
        size = self._config.model.image_size
        image_RCHW = torch.zeros(rows, 3, size, size, dtype=torch.uint8)
        number_R = torch.full((rows,), -1)
        number_of = {sample.index: number for number, sample in enumerate(self._samples)}
        prepare = preparation(size, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
        row = 0
        for views in prepared_batches(
            self.probed.dataset, own, prepare=prepare, batch=_BATCH,
            threads=decoding_threads(self._config.data.threads),
        ):  # fmt: skip
            for damage in views.lost:
                logger.warning("log.probe: left out: %s", damage)
            stop = row + len(views.samples)
            if views.samples:
                image_RCHW[row:stop] = (255 * views.image_BCHW).round().to(torch.uint8)
                number_R[row:stop] = torch.tensor([number_of[s.index] for s in views.samples])
            row = stop
        return image_RCHW, number_R

    def fitted(self, number_N: np.ndarray, feature_ND: np.ndarray) -> dict[str, float]:
        """Return the scores of both probes, of the images that could be read."""
        order_N = number_N.argsort()
        samples = [self._samples[number] for number in number_N[order_N]]
        feature_ND, first = feature_ND[order_N], int((number_N < len(self.probed.train)).sum())
        answer_N, classes = self.probed.task.answers(samples), len(self.probed.task.classes)
        train, validation = (
            (feature_ND[part], answer_N[part]) for part in (slice(first), slice(first, None))
        )
        probe_of = {
            "probe_knn": partial(probes.nearest, neighbours=(NEIGHBOURS,)),
            "probe_logistic": partial(probes.logistic, strengths=(STRENGTH,)),
        }
        try:
            found = {
                name: probe(train, validation, validation[0], classes)
                for name, probe in probe_of.items()
            }
            values = {name: one.validation_score for name, one in found.items()}
            units = [sample.unit for sample in samples[first:]]
            for name, one in found.items():
                values |= _interval(name, validation[1], one.validation_BY, units)
            return values
        except ValueError as error:  # features that are not finite, a class lost: training goes on
            logger.warning("log.probe: no score now (%s)", str(error).splitlines()[0])
            return {}


def _interval(
    name: str, answer_N: np.ndarray, probability_NY: np.ndarray, units: Sequence[str]
) -> dict[str, float]:
    """Return the ends of a score's 95 % interval by patient; nothing where there is none."""
    score = scores(["auroc"], answer_N, probability_NY, units)["auroc"]
    if score.low is None or score.high is None:
        return {}
    return {f"{name}{LOW}": score.low, f"{name}{HIGH}": score.high}


def best_so_far(run: Path, step: int, probed: Probed) -> str:
    """Return in words the best, first and last score of each probe up to a step, over restarts.

    With 95 % intervals, by patient where patients are known.

    "" where no row has any.
    """
    rows, _ = rows_until(run, step)
    lines = [line for name in _WORDS if (line := _best(name, rows))]
    if not lines:
        return ""
    return (
        f"online probe, {probed.words}, in brackets 95 % intervals: {'; '.join(lines)}. "
        f"The best of many looks is chosen on the images that it is of: no result, and not one on "
        f"test images"
    )


def _best(name: str, rows: Sequence[Mapping[str, Any]]) -> str:
    """Return a probe's best score (of equal ones the first), its first and its last, in words."""
    looks = [row for row in rows if name in row]
    if not looks:
        return ""
    first, best, last = looks[0], max(looks, key=lambda row: float(row[name])), looks[-1]
    words = f"{_WORDS[name]} best AUROC {_shown(name, best)} at step {best['step']}"
    if first is not best:
        words += f", {_shown(name, first)} at {first['step']}"
    return words if last in (best, first) else f"{words}, {_shown(name, last)} at {last['step']}"


def _shown(name: str, row: Mapping[str, Any]) -> str:
    """Return a look's score with its interval, which rows of before 2026-11-30 do not have."""
    ends = [row[name + end] for end in (LOW, HIGH) if name + end in row]
    interval = f" [{', '.join(written('auroc', end) for end in ends)}]" if ends else ""
    return written("auroc", row[name]) + interval
