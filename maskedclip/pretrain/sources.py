"""The data of a pre-training run: who takes part, in which shares, and the lists of who did not."""

import json
import logging
import math
from collections.abc import Sized
from pathlib import Path

import numpy as np
import torch.distributed as dist

from maskedclip.config import Config, check_shares
from maskedclip.data.lost_samples import RunLedger, lines_before, write_unseen
from maskedclip.data.rows import Lost, View
from maskedclip.data.source import Source, without_caption
from maskedclip.data.storage.shards import Shards
from maskedclip.engine.distributed import gathered
from maskedclip.engine.preemption import gathered_with_request

logger = logging.getLogger(__name__)
LOST, UNSEEN, SILENT = "lost_samples.jsonl", "unseen_samples.jsonl", "without_caption.json"


def read_sources(config: Config) -> tuple[Source | None, Source | None]:
    """Return the paired and the unpaired source, each if a step has such images."""
    data = config.data
    sizes = data.paired_batch, data.unpaired_batch
    check_shares(sizes, dist.get_world_size(), config.optim.accumulate)
    paired = _source("paired", data.paired, config) if data.paired_batch else None
    return paired, _source("unpaired", data.unpaired, config) if data.unpaired_batch else None


def _source(name: str, directories: tuple[str, ...], config: Config) -> Source:
    datasets = [Shards(Path(directory)) for directory in directories]
    captioned = name == "paired"
    source = Source(
        name, datasets, config.seed, captioned, window=config.data.window,
        weights=getattr(config.data, f"{name}_weights"),
        silent=_silent(datasets, config.directory / SILENT) if captioned else None,
    )  # fmt: skip
    if source.left_out and dist.get_rank() == 0:
        logger.info("data.%s: %d samples have no caption and stay out", name, source.left_out)
    if source.excluded and dist.get_rank() == 0:
        logger.info("data.%s: %d samples are left out by exclude.csv", name, source.excluded)
    return source


def _silent(datasets: list[Shards], path: Path) -> list[np.ndarray]:
    """Return which samples of each dataset have no caption, as at the run's first start.

    One rank looks, and what it found stays: metadata that breaks later would change who takes part,
    and with that the place of every other sample.
    """
    found = ""
    if dist.get_rank() == 0:
        known = json.loads(path.read_text()) if path.exists() else {}
        found = json.dumps(
            [known[d.name] if d.name in known else without_caption(d).tolist() for d in datasets]
        )
    (line,) = gathered([found] if found else [])
    return [np.array(indices, np.int64) for indices in json.loads(line)]


def keep_silent(paired: Source | None, run: Path) -> None:
    """Write what `_silent` found, once."""
    path = run / SILENT
    if paired is not None and dist.get_rank() == 0 and not path.exists():
        datasets = zip(paired.datasets, paired.silent, strict=True)
        path.write_text(json.dumps({d.name: silent.tolist() for d, silent in datasets}) + "\n")


def length(config: Config, paired: Sized | None, unpaired: Sized | None) -> tuple[float, int]:
    """Return (steps in a pass of the larger source, steps of the run)."""
    sizes = (config.data.paired_batch, config.data.unpaired_batch)
    there = [(len(s), n) for s, n in zip((paired, unpaired), sizes, strict=True) if s is not None]
    samples, a_step = max(there, key=lambda found: found[0])
    steps = samples / a_step
    return steps, config.optim.steps or math.ceil(config.optim.epochs * steps)


def view(config: Config) -> View:
    """Return how a sample becomes a row."""
    grid = config.model.image_size // config.model.patch_size
    return View(
        image_size=config.model.image_size,
        num_patches=grid * grid,
        mask_ratio=config.model.mask_ratio,
        crop_area=config.data.crop_area,
        caption_template=config.data.caption_template,
        caption_from=config.data.caption_from,
        fidelity=config.data.fidelity,
        label_guided=config.loss.label_guided,
    )


def open_ledger(config: Config, done: int) -> RunLedger:
    """Return the list of lost samples of a run that has taken `done` steps."""
    path, data, first = config.directory / LOST, config.data, dist.get_rank() == 0
    kept = gathered(lines_before(path, done) if first else [])
    images = data.paired_batch + data.unpaired_batch
    return RunLedger(path, kept, images, data.max_lost, writes=first)


def everywhere(lost: list[Lost], asked: int) -> tuple[list[Lost], int]:
    """Return what all ranks lost in this step, and what any was asked to do (Preemption)."""
    lines, asked = gathered_with_request([json.dumps(entry) for entry in lost], asked)
    return [Lost(*json.loads(line)) for line in lines], asked


def list_unseen(config: Config, paired: Source | None, unpaired: Source | None, steps: int) -> None:
    """Write which samples the last, unfinished epochs of the sources did not come to."""
    path, data = config.directory / UNSEEN, config.data
    shown = [(paired, steps * data.paired_batch)] if paired else []
    shown += [(unpaired, steps * data.unpaired_batch)] if unpaired else []
    for name, count in write_unseen(path, shown).items():
        if count:
            logger.info("data.%s: %d samples short of whole epochs, see %s", name, count, path)
