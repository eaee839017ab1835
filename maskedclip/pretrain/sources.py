"""The data of a pre-training run: its sources, its batches, and the lists of samples left out."""

import json
import logging
import math
import os
from collections.abc import Generator, Iterable, Iterator, Mapping, Sized
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from maskedclip.config import Config, check_divisible
from maskedclip.data.lost_samples import RunLedger, lines_before, write_unseen
from maskedclip.data.multi_crop import Crops
from maskedclip.data.rows import Lost, View
from maskedclip.data.source import Source, without_caption
from maskedclip.data.storage.shards import Shards
from maskedclip.data.storage.staging import Staging, TarUse
from maskedclip.data.stream import Batch, stream
from maskedclip.engine.cores import decoding_threads, reading_threads
from maskedclip.engine.distributed import gathered
from maskedclip.engine.preemption import gathered_with_request
from maskedclip.engine.whole_file import read_json, write_whole
from maskedclip.models.text import Tokenizer
from maskedclip.pretrain.left_out import leaves_out
from maskedclip.pretrain.trained_images import LEFT_OUT, UNCAPTIONED, tested_of

logger = logging.getLogger(__name__)
LOST, UNSEEN = "lost_samples.jsonl", "unseen_samples.jsonl"
_REMEDY = "remove it, and it is made again from the shards, which must be as at the first start"


def read_sources(config: Config) -> tuple[Source | None, Source | None]:
    """Return the paired and the unpaired source, each if a step has such images."""
    data = config.data
    sizes = data.paired_batch, data.unpaired_batch
    check_divisible(sizes, dist.get_world_size(), config.optim.accumulate)
    datasets = {
        name: [Shards(Path(directory)) for directory in getattr(data, name)]
        for name in ("paired", "unpaired")
        if getattr(data, f"{name}_batch")
    }
    tested = _tested(config, datasets)
    paired, unpaired = (
        _source(name, datasets[name], config, tested.get(name)) if name in datasets else None
        for name in ("paired", "unpaired")
    )
    return paired, unpaired


def _source(
    name: str, datasets: list[Shards], config: Config, tested: list[np.ndarray] | None
) -> Source:
    captioned = name == "paired"
    source = Source(
        name, datasets, config.seed, captioned, window=config.data.window,
        weights=getattr(config.data, f"{name}_weights"),
        uncaptioned=_uncaptioned(datasets, config.directory / UNCAPTIONED) if captioned else None,
        tested=tested,
    )  # fmt: skip
    if source.left_out and dist.get_rank() == 0:
        logger.info("data.%s: %d samples have no caption and stay out", name, source.left_out)
    if source.excluded and dist.get_rank() == 0:
        logger.info("data.%s: %d samples are left out by exclude.csv", name, source.excluded)
    if tested is not None and dist.get_rank() == 0:
        logger.info(
            "data.%s: %d test images stay out of pre-training, %d samples take part",
            name, source.held_out, len(source),
        )  # fmt: skip
    return source


def _tested(config: Config, datasets: Mapping[str, list[Shards]]) -> dict[str, list[np.ndarray]]:
    """Return the test images that stay out of each dataset, as at the run's first start.

    Nothing where none are asked to. Rank 0 looks for them, and its answer is kept, as that of
    `_uncaptioned` is: splits written later would move every sample.
    """
    if not leaves_out(config):
        return {}
    line = ""
    if dist.get_rank() == 0:
        path = config.directory / LEFT_OUT
        known = read_json(path, _REMEDY) if path.exists() else tested_of(config, datasets)
        line = json.dumps(known)
    (line,) = gathered([line] if line else [])
    return {k: [np.array(one, np.int64) for one in v] for k, v in json.loads(line).items()}


def keep_tested(sources: Iterable[Source | None], config: Config) -> None:
    """Write what `_tested` found, once."""
    path = config.directory / LEFT_OUT
    if leaves_out(config) and dist.get_rank() == 0 and not path.exists():
        found = {s.name: [rows.tolist() for rows in s.tested] for s in sources if s is not None}
        write_whole(path, json.dumps(found) + "\n")


def _uncaptioned(datasets: list[Shards], path: Path) -> list[np.ndarray]:
    """Return the samples of each dataset without a caption, as at the run's first start.

    Rank 0 reads them, and its answer is kept: metadata damaged later would change which samples
    take part, and with that the position of every other one.
    """
    line = ""
    if dist.get_rank() == 0:
        known = read_json(path, _REMEDY) if path.exists() else {}
        line = json.dumps(
            [known[d.name] if d.name in known else without_caption(d).tolist() for d in datasets]
        )
    (line,) = gathered([line] if line else [])
    return [np.array(indices, np.int64) for indices in json.loads(line)]


def keep_uncaptioned(paired: Source | None, run: Path) -> None:
    """Write what `_uncaptioned` found, once."""
    path = run / UNCAPTIONED
    if paired is not None and dist.get_rank() == 0 and not path.exists():
        datasets = zip(paired.datasets, paired.uncaptioned, strict=True)
        found = {d.name: rows.tolist() for d, rows in datasets}
        write_whole(path, json.dumps(found) + "\n")


@contextmanager
def staged(config: Config, sources: Iterable[Source | None]) -> Iterator[None]:
    """Copy the tars of the run to data.stage, if it is set, while the block runs.

    At its end every rank has read its last sample: the copies are removed. A run that stops before
    leaves them to its next start on the node.
    """
    if config.data.stage is None:
        yield
        return
    tars = [
        TarUse(dataset, number)
        for source in sources
        if source is not None
        for which, dataset in enumerate(source.datasets)
        for number in dataset.tars_of(source.taking_part(which))
    ]
    first = os.environ.get("LOCAL_RANK", "0") == "0"
    staging = Staging(config.data.stage, config.directory, tars, says=first)
    staging.start()
    ended = False
    try:
        yield
        ended = True
    finally:
        staging.close(remove=ended)


def length(config: Config, paired: Sized | None, unpaired: Sized | None) -> tuple[float, int]:
    """Return (steps in a pass of the larger source, steps of the run)."""
    sizes = (config.data.paired_batch, config.data.unpaired_batch)
    pairs = zip((paired, unpaired), sizes, strict=True)
    samples, batch = max((len(source), size) for source, size in pairs if source is not None)
    steps = samples / batch
    return steps, config.optim.steps or math.ceil(config.optim.epochs * steps)


def single_crop(config: Config) -> View:
    """Return how a sample becomes a row: one crop, its mask and its caption."""
    grid = config.model.image_size // config.model.patch_size
    return View(
        image_size=config.model.image_size,
        num_patches=grid * grid,
        mask_ratio=config.model.mask_ratio,
        mask_unit=config.model.mask_unit,
        crop_area=config.data.crop_area,
        caption_template=config.data.caption_template,
        caption_from=config.data.caption_from,
        fidelity=config.data.fidelity,
        label_guided=config.loss.label_guided,
    )


class Batches:
    """The batches of a run from any step on, and its list of lost samples.

    Use as a context; `seek` first. Every rank calls each of these.
    """

    def __init__(
        self,
        config: Config,
        sources: tuple[Source | None, Source | None],
        view: View,
        tokenize: Tokenizer,
        device: torch.device,
    ) -> None:
        self._config, self._sources, self._view = config, sources, view
        self._tokenize, self._device = tokenize, device
        self._stream: Generator[Batch, None, None] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._stream is not None:
            self._stream.close()

    def seek(self, step: int) -> None:
        """Make the batch of `step` the next one; samples lost from there on are listed anew."""
        if self._stream is not None:
            self._stream.close()
        data = self._config.data
        self._ledger = open_ledger(self._config, step)
        threads = decoding_threads(data.threads)
        self._stream = stream(
            *self._sources, (data.paired_batch, data.unpaired_batch), self._view, self._tokenize,
            first_step=step, rank=dist.get_rank(), world=dist.get_world_size(),
            readers=reading_threads(data.readers, threads), threads=threads,
            prefetch=data.prefetch,
        )  # fmt: skip

    def next(self) -> Batch:
        """Return this rank's share of the next step, in the host's memory."""
        assert self._stream is not None, "seek comes first"
        return next(self._stream)

    def on_device(self, batch: Batch) -> Batch:
        """Return a batch whose copies to the device are under way."""
        return to_device(batch, self._device)

    def report_lost(self, step: int, lost: list[Lost], asked: int) -> int:
        """List what any rank lost in `step`; return the signal that any rank got (Preemption).

        Raises RuntimeError where more are lost than data.max_lost allows.
        """
        lines, asked = gathered_with_request([json.dumps(entry) for entry in lost], asked)
        self._ledger.add(step, [Lost(*json.loads(line)) for line in lines])
        return asked


def to_device(batch: Batch, device: torch.device) -> Batch:
    """Return the batch with its tensors on `device`, not waiting for the copies.

    Of several crops these alone are needed there.
    """
    if batch.crops is not None:
        return batch._replace(crops=batch.crops._replace(**_copied(batch.crops, device)))
    return batch._replace(**_copied(batch, device))


def _copied(fields: Batch | Crops, device: torch.device) -> dict[str, Any]:
    return {
        name: value.to(device, non_blocking=True)
        for name, value in fields._asdict().items()
        if isinstance(value, Tensor)
    }


def open_ledger(config: Config, done: int) -> RunLedger:
    """Return the list of lost samples of a run that has taken `done` steps."""
    path, data, first = config.directory / LOST, config.data, dist.get_rank() == 0
    kept = gathered(lines_before(path, done) if first else [])
    images = data.paired_batch + data.unpaired_batch
    return RunLedger(path, kept, images, data.max_lost, writes=first)


def list_unseen(config: Config, paired: Source | None, unpaired: Source | None, steps: int) -> None:
    """Write which samples the last, unfinished epochs of the sources did not come to."""
    path, data = config.directory / UNSEEN, config.data
    shown = [(paired, steps * data.paired_batch)] if paired else []
    shown += [(unpaired, steps * data.unpaired_batch)] if unpaired else []
    for name, count in write_unseen(path, shown).items():
        if count:
            logger.info("data.%s: %d samples short of whole epochs, see %s", name, count, path)
