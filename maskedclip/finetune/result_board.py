"""What a run scored, in TensorBoard: a row of HParams, PR curves and a confusion matrix each.

RUN/results/NAME/ holds one event file for one evaluation (the rows of one file of predictions), so
that it is a row of its own, and all runs have the same columns. It follows from results.jsonl and
the predictions alone: the same command again writes nothing, a damaged file is written again.
"""

import json
import logging
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from maskedclip.config import flat
from maskedclip.finetune.confusion_picture import confusion_png
from maskedclip.metrics.confusion import confusion
from maskedclip.metrics.file_lock import locked
from maskedclip.metrics.prediction_files import Predictions
from maskedclip.metrics.results import predictions_of, read_rows, remark

if TYPE_CHECKING:
    from tensorboard.compat.proto.summary_pb2 import Summary

logger = logging.getLogger(__name__)
FOLDER, KIND, PROTOCOL = "results", "results", "finetune"
_VERSION = 3  # raise it where the same results would be drawn otherwise
_OF_A_ROW = {  # field of a row -> its column
    "method": "system", "dataset": "dataset", "task": "task", "protocol": "protocol",
    "fraction": "fraction", "seed": "seed", "recipe": "recipe", "image_size": "image_size",
    "n": "test_images", "seen_images": "test_images_in_pretraining",
}  # fmt: skip
_SECTIONS = ("model", "loss", "dino", "optim")  # of a pre-training, and what decides its batches
_FURTHER = ("method", "init_from", "data.paired_batch", "data.unpaired_batch")
_NOT_LEARNT = (
    "name", "out", "dataset", "weights", "threads", "hang_minutes", "compile", "split",
    "i_trust_this_directory",
)  # fmt: skip


def write_board(run: Path) -> None:
    """Write the event files of a run's results that are not there; remove those of no result.

    A disk that takes them not is said in a line: results.jsonl has the numbers.
    """
    try:
        with locked(
            run / f".{FOLDER}.lock", wait=True, without="do not write two boards at a time"
        ):
            _write_board(run)
    except OSError as error:
        logger.warning(
            "%s: TensorBoard does not show all results (%s); results.jsonl has them",
            run / FOLDER, error.strerror or error,
        )  # fmt: skip


def _write_board(run: Path) -> None:
    by_predictions: dict[str, list[dict[str, Any]]] = {}
    for row in read_rows(run):
        if row.get("predictions"):
            by_predictions.setdefault(str(row["predictions"]), []).append(row)
    config = _config(run)
    names = folders_of(by_predictions.values())
    for name, rows in zip(names, by_predictions.values(), strict=True):
        try:
            _write_one(run, name, rows, config)
        except ValueError as error:
            logger.warning("%s; TensorBoard does not show it", error)
    for folder in (run / FOLDER).glob("*/"):
        if folder.name not in names:
            shutil.rmtree(folder)


def folders_of(results: Iterable[Sequence[Mapping[str, Any]]]) -> list[str]:
    """Return the directories in RUN/results: short where one alone is a fine-tuning's own test.

    Its run's name says of which labels; else the name is that of the predictions.
    """
    first = [rows[0] for rows in results]
    own = [row for row in first if str(row["protocol"]).startswith(PROTOCOL)]
    return [
        str(row["protocol"])
        if len(own) == 1 and row is own[0]
        else Path(str(row["predictions"])).stem.removesuffix("-test")
        for row in first
    ]


def _write_one(
    run: Path, name: str, rows: Sequence[dict[str, Any]], config: Mapping[str, Any]
) -> None:
    from maskedclip.engine.whole_events import hparams, write_whole_events

    path = run / str(rows[0]["predictions"])
    row = next((one for one in rows if "threshold" not in one), rows[0])
    columns = _columns(row, config)
    read = predictions_of(run, row)

    def draw() -> "list[Summary]":
        session = f"{run.resolve().name}/{name}"
        return [
            *hparams(columns, session), *_scalars(rows), _notes(rows), *_curves(row, *read)
        ]  # fmt: skip

    facts = json.dumps([_VERSION, name, columns, rows], sort_keys=True).encode()
    write_whole_events(run / FOLDER / name, KIND, facts + path.read_bytes(), draw)


def _config(run: Path) -> dict[str, Any]:
    """Return the fields of config.json that decide what is learnt, by their columns."""
    path = run / "config.json"
    if not path.is_file():
        return {}
    try:
        fields = flat(json.loads(path.read_text(encoding="utf-8")))
    except ValueError as error:
        logger.warning("%s: is not whole JSON (%s); TensorBoard lacks its fields", path, error)
        return {}
    if "optim.betas" in fields:
        own = {
            key: value
            for key, value in fields.items()
            if key in _FURTHER or key.partition(".")[0] in _SECTIONS
        }
        own["pretraining_seed"] = fields.get("seed")
    else:
        own = {key: value for key, value in fields.items() if key not in _NOT_LEARNT}
    return own


def _columns(row: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, str | float | bool]:
    """Return the hyperparameters of a result: what the row says goes before the configuration."""
    own = {column: row.get(name) for name, column in _OF_A_ROW.items() if name in row}
    if "seen_images" in row and row["seen_images"] is None:
        own["test_images_in_pretraining"] = "not known"
    every = {**config, **own}
    return {
        key: value if isinstance(value, str | int | float) else ",".join(map(str, value))
        for key, value in every.items()
        if value is not None and value not in ("", [])
    }


def _scalars(rows: Iterable[Mapping[str, Any]]) -> "Iterable[Summary]":
    from maskedclip.engine.whole_events import scalar

    for row in rows:
        name, where = row["metric"], f"{row['n']} test images"
        for tag, key, words in (
            (name, "value", f"{name} of {where}, 0 to 1 unless it is of numbers"),
            (f"{name}_low", "low", f"lower end of the 95 % interval of {name}"),
            (f"{name}_high", "high", f"upper end of the 95 % interval of {name}"),
        ):
            if row.get(key) is not None:
                yield scalar(tag, float(row[key]), words)


def _notes(rows: Sequence[Mapping[str, Any]]) -> "Summary":
    """Return the scores with their intervals and remarks as a table."""
    from maskedclip.engine.whole_events import text

    lines = ["| metric | value | 95 % interval | images | remark |", "|---|---|---|---|---|"]
    for row in rows:
        value = "-" if row["value"] is None else str(row["value"])
        ends = "-" if row["low"] is None else f"{row['low']:.4g} to {row['high']:.4g}"
        beside = " ".join(remark(row).replace("|", "/").split())
        lines.append(f"| {row['metric']} | {value} | {ends} | {row['n']} | {beside} |")
    return text("scores", "\n".join(lines), "as results.jsonl has them")


def _curves(
    row: Mapping[str, Any], predictions: Predictions, classes: Sequence[str]
) -> "Iterable[Summary]":
    """Yield a PR curve of each class that has test images and was trained; the confusion matrix."""
    from torch.utils.tensorboard.summary import pr_curve

    from maskedclip.engine.whole_events import image

    if predictions.kind == "number":
        return
    label_B, probability_BY = predictions.label_B, predictions.probability_BY
    task = f"{row['dataset']} {row['task']}"
    for y, name in enumerate(classes):
        positive_B = label_B[:, y] if predictions.kind == "labels" else label_B == y
        if y not in predictions.untrained and positive_B.any():
            probability_B = np.clip(probability_BY[:, y], 0.0, 1.0)
            yield pr_curve(f"{task}/{name}", positive_B.astype(bool), probability_B)
    if predictions.kind == "class":
        png, size = confusion_png(confusion(len(classes), label_B, probability_BY), classes)
        yield image(f"{task}/confusion", png, size, "test images by true and predicted class")
