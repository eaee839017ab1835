"""Cross-validation of fine-tuning: a run for each fold, and their predictions pooled to one value.

RUN/NAME-fold1of5/ is an ordinary fine-tuning by the split file in it, so that it resumes, and what
reads it later knows who trained and who was tested. RUN/results.jsonl is of all images.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from maskedclip.config import FinetuneConfig
from maskedclip.data.folds import folds_line, folds_of
from maskedclip.data.labelled import LabelledSample, Task, labelled
from maskedclip.data.readable_parts import refuse_unreadable
from maskedclip.data.splits import UNUSED, split_bytes, write_split
from maskedclip.data.storage.shards import Shards
from maskedclip.finetune.loop import finetune
from maskedclip.finetune.result_board import write_board
from maskedclip.finetune.run_directory import (
    CONFIG_FILE,
    FOLDS_FILE,
    PROTOCOL,
    Labels,
    encoder_name,
    lock_run,
    resolved,
    seen_fields,
)
from maskedclip.metrics import results
from maskedclip.metrics.pooled_folds import fold_protocol, folds_protocol, pooled, with_spread
from maskedclip.metrics.results import predictions_of
from maskedclip.metrics.scores import metrics_of
from maskedclip.pretrain.trained_images import images_behind
from maskedclip.shards.image_folders import as_shards

logger = logging.getLogger(__name__)
SPLIT = "split.csv"  # in the directory of a fold
_SHARED = (
    "recipe",
    "balance",
    "encoder",
    "image_size",
    "colours",
)  # fields of a row, the same of all folds


def cross_validate(config: FinetuneConfig, folds: int) -> Path:
    """Fine-tune each fold on the others, pool the predictions; return the directory of all.

    Every image is tested once, by a network that saw no image of its patient. Finished folds are
    not run again, a killed one resumes. Raises ValueError where a split is named, for several
    labels an image, for too few patients, and for a directory of something else.
    """
    if config.split:
        raise ValueError(f"folds {folds} with split: leave one out; the folds are the splits")
    dataset = Shards(as_shards(Path(config.dataset)))
    task = labelled(dataset, config.task, config.classes_order)
    divided = folds_of(task, folds)
    named = {
        f"{part} of fold {fold}": samples
        for fold, parts in enumerate(divided, 1)
        for part, samples in parts.items()
    }
    refuse_unreadable(dataset, task, named)
    given = config.name
    config = resolved(config, Labels(dataset, task, {}))
    name = given or f"{config.name}-{folds}folds"
    config, run = replace(config, name=name), Path(config.out) / name
    with lock_run(run):
        _claim(run, folds)
        logger.info("%s: %s", config.dataset, folds_line(task, folds))
        directories = []
        for fold, parts in enumerate(divided, 1):
            logger.info("fold %d of %d", fold, folds)
            own = _config_of_fold(config, run, fold, folds)
            _divide(Path(own.split), task, parts)
            protocol = fold_protocol(PROTOCOL, fold, folds)
            directories.append(finetune(own, rest=folds - fold, protocol=protocol))
        tested = [sample for parts in divided for sample in parts["test"]]
        results.write_rows(run, _pooled_rows(config, run, dataset, tested, directories))
        write_board(run)
    return run


def _claim(run: Path, folds: int) -> None:
    """Note in a directory that it is of so many folds; ValueError where it is of something else."""
    path = run / FOLDS_FILE
    if (run / CONFIG_FILE).exists():
        raise ValueError(f"{run} holds a run without folds; choose another --name or --out")
    if path.exists() and (before := json.loads(path.read_text())["folds"]) != folds:
        raise ValueError(f"{run} holds {before} folds; choose another --name or --out")
    path.write_text(json.dumps({"folds": folds}) + "\n")


def _config_of_fold(config: FinetuneConfig, run: Path, fold: int, folds: int) -> FinetuneConfig:
    name = f"{config.name}-fold{fold}of{folds}"
    return replace(config, out=str(run), name=name, split=str((run / name / SPLIT).resolve()))


def _divide(path: Path, task: Task, parts: Mapping[str, list[LabelledSample]]) -> None:
    """Write the split of a fold; ValueError where another one is there, of other images.

    Images of the published test split are in no part.
    """
    used = {sample.key for samples in parts.values() for sample in samples}
    rest = [sample for sample in task.samples if sample.key not in used]
    every = {**parts, UNUSED: rest}
    if not path.exists():
        write_split(path, task, every)
    elif path.read_bytes() != split_bytes(task, every):
        raise ValueError(
            f"{path}: the images or their patients are others than when this was begun; choose "
            f"another --name or --out"
        )


def _pooled_rows(
    config: FinetuneConfig,
    run: Path,
    dataset: Shards,
    tested: Sequence[LabelledSample],
    directories: Sequence[Path],
) -> list[dict[str, Any]]:
    """Return the rows of the predictions of all folds, written under `run`."""
    rows = [_row_of(directory) for directory in directories]
    read = [predictions_of(*pair) for pair in zip(directories, rows, strict=True)]
    tests, classes = [predictions for predictions, _ in read], read[0][1]
    identity = {
        "run": config.name,
        "dataset": dataset.name,
        "task": config.task,
        "protocol": folds_protocol(PROTOCOL, len(tests)),
        "fraction": config.fraction,
        "seed": config.seed,
    }
    every = pooled(tests)
    new = results.save_and_score(
        identity, classes, every, run, method=encoder_name(config), shards=dataset.directory
    )
    facts = {name: rows[0][name] for name in _SHARED if name in rows[0]}
    facts |= {"folds": len(tests)}
    unlearnt = [
        f"fold {fold}: {row['unlearnt']}" for fold, row in enumerate(rows, 1) if "unlearnt" in row
    ]
    facts |= {"unlearnt": "; ".join(unlearnt)} if unlearnt else {}
    facts |= seen_fields(images_behind(config.weights), dataset, tested, every.keys)
    return [with_spread(row | facts, tests, classes) for row in new]


def _row_of(directory: Path) -> dict[str, Any]:
    """Return a row of a fold's own test, which names its predictions."""
    rows = [row for row in results.read_rows(directory) if row["protocol"].startswith(PROTOCOL)]
    return next(row for row in rows if row["metric"] in metrics_of(row.get("kind") or "class"))
