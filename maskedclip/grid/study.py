"""Many fine-tunings, one after another: each cell of a table is one run directory."""

import logging
import sys
import time
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from maskedclip.config import FinetuneConfig
from maskedclip.data.augmentation import augmentation
from maskedclip.data.labelled import Task, labelled
from maskedclip.data.readable_parts import refuse_unreadable
from maskedclip.data.splits import Division, division_of, training_share
from maskedclip.data.storage.shards import Shards
from maskedclip.engine.preemption import Preempted
from maskedclip.finetune.loop import finetune
from maskedclip.finetune.run_directory import (
    Labels,
    check_kind,
    finished,
    preparation_of,
    resolved,
    run_name,
)
from maskedclip.grid.study_command import Study
from maskedclip.metrics.results import read_rows, written
from maskedclip.metrics.scores import metrics_of
from maskedclip.models.checkpoints.architectures import check_image_size
from maskedclip.models.checkpoints.files import RANDOM, locate
from maskedclip.next_step import next_lines, report_command
from maskedclip.shards.image_folders import TASK, as_shards, tree_of

logger = logging.getLogger(__name__)
OpenedDatasets = dict[tuple[str, str, tuple[str, ...], str], tuple[Shards, Task, Division]]
_TRAINED = 3  # passes that learning from an image costs, where telling its class costs one


class Tuned(NamedTuple):
    """One fine-tuning: its name, whether it is finished, and the passes over images it costs."""

    config: FinetuneConfig
    name: str
    finished: bool
    passes: int
    unknown: str = ""  # why the passes are not known


def run(study: Study) -> int:
    """Run what is not finished; return the exit code, 1 where a fine-tuning failed.

    Raises ValueError where weights are damaged or two cells would be one run, and Preempted where
    a signal asked to leave: it ends the study, not one cell of it.
    """
    check_readable(study.cells)
    opened: OpenedDatasets = {}
    cells = [tuned_of(config, opened, build=not study.config.dry_run) for config in study.cells]
    check_names(cells)
    waiting = [cell for cell in cells if not cell.finished]
    for line in study.missing:
        logger.warning("%s", line)
    logger.info("fine-tunings: %d, finished: %d", len(cells), len(cells) - len(waiting))
    if study.config.dry_run:
        sys.stdout.writelines(f"{_state(cell)}  {cell.name}\n" for cell in cells)
        return 0
    failed = _run_all(waiting)
    for name, fault in failed.items():
        sys.stderr.write(f"failed: {name}: {fault}\n")
    if len(failed) < len(cells):
        sys.stdout.write(next_lines(report_command([study.config.out])))
    return 1 if failed else 0


def check_readable(cells: Sequence[FinetuneConfig]) -> None:
    """Raise ValueError where weights are damaged or no encoder: before anything is queued."""
    for config in {cell.weights: cell for cell in cells}.values():
        preparation_of(config)


def check_names(cells: Sequence[Tuned]) -> None:
    """Raise ValueError where two of them would be one run."""
    name, count = Counter(cell.name for cell in cells).most_common(1)[0]
    if count > 1:
        raise ValueError(
            f"{count} fine-tunings would be called {name}; use weights and datasets whose folders "
            f"have different names, or one --out for each"
        )


def refuse_failing(cells: Sequence[Tuned]) -> None:
    """Raise ValueError where some would refuse their data as they begin: after hours in a queue."""
    failing = [cell for cell in cells if cell.unknown and not cell.finished]
    if failing:
        raise ValueError(
            f"{len(failing)} of {len(cells)} fine-tunings would be refused as they begin, "
            f"{failing[0].name}: {failing[0].unknown}; correct it, or leave the dataset out"
        )


def _run_all(cells: Sequence[Tuned]) -> dict[str, str]:
    """Run them and return what went wrong, by name."""
    failed: dict[str, str] = {}
    for number, cell in enumerate(cells, 1):
        sys.stderr.write(f"fine-tuning {number} of {len(cells)}: {cell.name}\n")
        start, later = time.monotonic(), sum(other.passes for other in cells[number:])
        try:
            directory = finetune(cell.config, rest=later / max(1, cell.passes))
        except Preempted:
            raise
        except (ValueError, RuntimeError, OSError) as error:
            failed[cell.name] = " ".join(str(error).split())
            sys.stderr.write(f"failed: {failed[cell.name]}\n")
            continue
        seconds = round(time.monotonic() - start)
        sys.stdout.write(f"{cell.name}: {_scores(directory)}, {seconds} s\n")
        sys.stdout.flush()
    return failed


def tuned_of(config: FinetuneConfig, opened: OpenedDatasets, *, build: bool) -> Tuned:
    """Return a cell, whose weights may be to come; where its data cannot serve, running it says so.

    What it costs is then not known, and why.
    """
    if not build and tree_of(Path(config.dataset)):
        name = run_name(replace(config, task=TASK))
        done = bool(read_rows(Path(config.out) / name))
        return Tuned(config, name, done, 0, f"{config.dataset} is made into shards when it runs")
    try:
        labels = _labels(config, opened)
        config = resolved(config, labels, to_come=not _is_there(config.weights))
    except (ValueError, RuntimeError, OSError) as error:
        name, why = config.name or run_name(config), " ".join(str(error).split())
        return Tuned(config, name, False, 0, why)
    try:
        done = finished(config, Path(config.out) / config.name)
    except (ValueError, OSError):
        done = False  # running it says what is wrong
    train, val, test = (len(labels.parts[part]) for part in ("train", "val", "test"))
    return Tuned(config, config.name, done, config.epochs * (_TRAINED * train + val) + test)


def check_tunable(config: FinetuneConfig, patches: Collection[int], opened: OpenedDatasets) -> None:
    """Raise ValueError where a fine-tuning would refuse its fields or its labels when it begins.

    Args:
        config: whose weights are to come, behind a pre-training.
        patches: the sizes of these weights' patches, in pixels.
    """
    try:
        for patch in sorted(patches) if config.image_size else ():
            check_image_size(config.image_size, {"patch_size": patch})
        augmentation(config.image_size or 224, config.augmentation)
        _labels(config, opened)
    except ValueError as error:
        words = str(error).removeprefix(f"{config.dataset}: ")
        raise ValueError(f"fine-tuning on {config.dataset}: {words}") from None


def _is_there(weights: str) -> bool:
    try:
        return weights == RANDOM or locate(weights).is_file()
    except ValueError:
        return False  # of a pre-training that is to come


def _labels(config: FinetuneConfig, opened: OpenedDatasets) -> Labels:
    key = config.dataset, config.task, config.classes_order, config.split
    if key not in opened:
        dataset = Shards(as_shards(Path(config.dataset)))
        task = labelled(dataset, config.task, config.classes_order)
        split = Path(config.split) if config.split else None
        division = division_of(dataset, task, split)
        refuse_unreadable(dataset, task, division.parts)
        opened[key] = dataset, task, division
    dataset, task, division = opened[key]
    check_kind(config, task)
    share = training_share(division, config.fraction, config.seed)
    return Labels(dataset, task, division.parts | {"train": share})


def _state(cell: Tuned) -> str:
    return "finished" if cell.finished else "to run  "


def _scores(directory: Path) -> str:
    rows = read_rows(directory)
    values = {row["metric"]: row["value"] for row in rows}
    names = {"auroc": "AUROC", "average_precision": "average precision", "mae": "MAE", "r2": "R2"}
    shown = metrics_of(str(rows[0].get("kind") or "class"))[:2]
    return ", ".join(f"{names[metric]} {written(metric, values[metric])}" for metric in shown)
