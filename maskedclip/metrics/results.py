"""What a run scored: results.jsonl, a row a score, and the predictions that the scores follow from.

Predictions are two CSV files: the probabilities of each image, and its patient.
"""

import csv
import io
import json
import logging
import math
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from maskedclip.metrics.file_lock import locked
from maskedclip.metrics.scores import METRICS, OVER_CLASSES, Score, score
from maskedclip.metrics.seen_images import in_words, input_lines

logger = logging.getLogger(__name__)
RESULTS = "results.jsonl"
_NAMED = 8  # classes in a note
IDENTITY = ("run", "dataset", "task", "protocol", "fraction", "seed", "metric")
_COLUMNS = {  # of the table on the terminal: there is no room for more
    "auroc": "AUROC [95 %]",
    "average_precision": "AP [95 %]",
    "quadratic_kappa": "kappa",
    "macro_f1": "F1",
}


class Predictions(NamedTuple):
    """The images of a test split, and the probabilities that were predicted for them."""

    keys: list[str]
    units: list[str]  # what the bootstrap draws: the patient where known
    label_B: np.ndarray
    probability_BY: np.ndarray
    ordered: bool | None = None  # whether the classes are grades in their order; None: not known
    untrained: tuple[int, ...] = ()  # classes without training images


def save_and_score(
    identity: dict[str, Any],
    classes: Sequence[str],
    predictions: Predictions,
    run: Path,
    *,
    method: str,
    shards: Path,
    variant: str = "",
) -> list[dict[str, Any]]:
    """Write the predictions under `run` and return a row a metric, for `write_rows`.

    Args:
        identity: the fields of IDENTITY without the metric.
        method: name of the encoder's weights, a row of the tables.
        shards: directory of the dataset.
        variant: what else sets the file of predictions apart, such as the size of the images.
    """
    path = Path("predictions") / f"{_name(identity, run, variant)}.csv"
    write_test_split(run / path, classes, predictions)
    files = {
        "method": method,
        "predictions": path.as_posix(),
        "shards": str(shards.resolve()),
        "ordered": predictions.ordered,
        "untrained": [classes[label] for label in predictions.untrained],
    }
    rows = []
    for metric in METRICS:
        one = score_of(metric, predictions, classes)
        rows.append(row(identity | {"metric": metric}, one, classes) | files)
    notes = dict.fromkeys(new["note"] for new in rows if new["note"])
    notes.pop(no_order(classes), None)  # of a task: its caller says it once
    for note in notes:
        logger.warning("%s: %s", identity["dataset"], note)
    return rows


def no_order(classes: Sequence[str]) -> str:
    """Return why classes have no quadratic kappa, and what gives them one."""
    names = ", ".join(classes[:_NAMED]) + (", ..." if len(classes) > _NAMED else "")
    return (
        f"no quadratic kappa: the order of classes {names} is not known; where they are grades, "
        f"build the shards with --classes_order, the lowest first"
    )


def score_of(metric: str, predictions: Predictions, classes: Sequence[str]) -> Score:
    """Return a metric of predictions; quadratic kappa has no value for classes without an order."""
    found = score(
        metric, predictions.label_B, predictions.probability_BY, predictions.units,
        untrained=predictions.untrained,
    )  # fmt: skip
    if metric != "quadratic_kappa" or found.value is None or predictions.ordered is not False:
        return found
    return Score(None, None, None, found.n, found.absent, no_order(classes))


def _name(identity: dict[str, Any], run: Path, variant: str) -> str:
    """Return the predictions' file name: with the run's, where a directory holds several runs."""
    several = "" if run.resolve().name == identity["run"] else identity["run"]
    labels, seed = f"{identity['fraction']:g}", f"seed{identity['seed']}"
    split = (identity[key] for key in ("dataset", "task", "protocol"))
    return file_name(several, *split, labels, seed, variant, "test")


def row(identity: dict[str, Any], one: Score, classes: Sequence[str]) -> dict[str, Any]:
    """Return a row of results.jsonl without its files; identity holds the fields of IDENTITY."""
    assert tuple(identity) == IDENTITY
    note = _note(identity["metric"], one, classes)
    numbers = {"value": one.value, "n": one.n, "low": one.low, "high": one.high}
    return identity | numbers | {"note": note}


def _note(metric: str, one: Score, classes: Sequence[str]) -> str:
    """Return in words what a value leaves out, or why there is none."""
    if one.note:
        return one.note
    missing = ", ".join(classes[label] for label in one.absent)
    untrained = ", ".join(classes[label] for label in one.untrained)
    if one.value is None:
        present = [name for label, name in enumerate(classes) if label not in one.absent]
        if len(present) > 1:
            return f"undefined: all {one.n} test images are of classes never trained, {untrained}"
        return f"undefined: all {one.n} test images are of one class, {present[0]}"
    notes = []
    if missing and metric in OVER_CLASSES:
        notes.append(f"no test image of {missing}: mean of the other classes")
    if untrained and metric in OVER_CLASSES:
        notes.append(f"no training image of {untrained}: mean of the other classes")
    elif untrained:
        notes.append(f"no training image of {untrained}: its test images count as errors")
    if one.low is None:
        notes.append("no interval: too few patients in the test split")
    return "; ".join(notes)


def recomputed(run: Path, row: dict[str, Any]) -> Score:
    """Return a row's score computed again from the predictions in the run directory alone.

    Raises ValueError as `predictions_of` does.
    """
    return score_of(row["metric"], *predictions_of(run, row))


def predictions_of(run: Path, row: dict[str, Any]) -> tuple[Predictions, list[str]]:
    """Return the predictions behind a row of a run, and the classes.

    Raises ValueError where they are missing, damaged, or outside of the run.
    """
    name = row.get("predictions")
    if not isinstance(name, str) or Path(name).is_absolute() or ".." in Path(name).parts:
        raise ValueError(
            f"{run / RESULTS}: predictions {name!r} are not of this run; measure again"
        )
    predictions, classes = read_test_split(run / name)
    never = row.get("untrained") or ()
    labels = tuple(label for label, one in enumerate(classes) if one in never)
    stated = row.get("ordered")
    ordered = stated if isinstance(stated, bool) else None
    return predictions._replace(ordered=ordered, untrained=labels), classes


def read_rows(directory: Path) -> list[dict[str, Any]]:
    """Return the rows of a run, none where it has none; ValueError for a damaged file."""
    path = directory / RESULTS
    if not path.exists():
        return []
    try:
        return [json.loads(line) for line in path.read_text().splitlines() if line]
    except ValueError as error:
        raise ValueError(f"{path}: a line is not JSON ({error}); remove it and rerun") from None


def write_rows(directory: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Add rows to a run's results; a row replaces an earlier one of the same identity."""
    for new in rows:
        assert new["value"] is None or math.isfinite(new["value"])
    directory.mkdir(parents=True, exist_ok=True)
    replaced = {_identity(new) for new in rows}
    lock = directory / ".results.lock"
    with locked(lock, wait=True, without="do not write two results at a time"):
        kept = [old for old in read_rows(directory) if _identity(old) not in replaced]
        lines = [json.dumps(line, allow_nan=False) + "\n" for line in [*kept, *rows]]
        temporary = directory / (RESULTS + ".tmp")
        temporary.write_text("".join(lines))
        temporary.replace(directory / RESULTS)


def _identity(row: dict[str, Any]) -> tuple[Any, ...]:
    resized = row.get("image_size") if row.get("resized") else None
    return (*(row.get(name) for name in IDENTITY), resized)


def file_name(*parts: str) -> str:
    """Return the parts joined by '-', with nothing in them that a file name should not have."""
    return "-".join(re.sub(r"[^\w.=]+", "_", part) for part in parts if part)


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Return rows as text, in per cent: a line a test split, with two of the intervals.

    Below stands how the images were seen; where sizes differ, each line has its own.
    """
    sizes = len({row["image_size"] for row in rows if row.get("image_size")})
    pixels = ("px",) if sizes > 1 else ()
    head = ("dataset", "task", "protocol", "labels", "seed", *pixels, *_COLUMNS.values(), "n")
    splits: dict[tuple[Any, ...], dict[str, dict[str, Any]]] = {}
    for row in rows:
        split = (row["dataset"], row["task"], row["protocol"], row["fraction"], row["seed"])
        own = (str(row.get("image_size") or "-"),) if pixels else ()
        splits.setdefault((*split, *own), {})[row["metric"]] = row
    lines = [head]
    for (dataset, task, protocol, fraction, seed, *size), by_metric in splits.items():
        scores = [_cell(by_metric.get(m), interval="[" in _COLUMNS[m]) for m in _COLUMNS]
        n = max(row["n"] for row in by_metric.values())
        lines.append(
            (dataset, task, protocol, f"{100 * fraction:.3g}%", str(seed), *size, *scores, str(n))
        )
    below = input_lines((_line_name(row), in_words(row)) for row in rows)
    return in_columns(lines) + "".join(f"{line}\n" for line in below)


def _line_name(row: dict[str, Any]) -> str:
    return f"{row['dataset']} {row['task']} {row['protocol']}"


def in_columns(lines: Sequence[Sequence[str]]) -> str:
    """Return lines of cells as text, each column as wide as its widest cell."""
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        + "\n"
        for line in lines
    )


def _cell(row: dict[str, Any] | None, *, interval: bool) -> str:
    if row is None or row["value"] is None:
        return "-"
    value = f"{100 * row['value']:.1f}"
    if not interval or row["low"] is None:
        return value
    return f"{value} [{100 * row['low']:.1f}, {100 * row['high']:.1f}]"


def write_predictions(
    path: Path,
    classes: Sequence[str],
    keys: Iterable[str],
    label_B: np.ndarray,
    probability_BY: np.ndarray,
) -> None:
    """Write a CSV of id, label and one probability a class: the scores follow from it alone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    with temporary.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["id", "label", *classes])
        for key, label, probability_Y in zip(keys, label_B, probability_BY, strict=True):
            writer.writerow([key, classes[label], *(repr(float(p)) for p in probability_Y)])
    temporary.replace(path)


def write_test_split(path: Path, classes: Sequence[str], predictions: Predictions) -> None:
    """Write the predictions, and beside them NAME.units.csv of id and unit."""
    write_predictions(
        path, classes, predictions.keys, predictions.label_B, predictions.probability_BY
    )
    temporary = path.with_suffix(".tmp")
    with temporary.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["id", "unit"])
        writer.writerows(zip(predictions.keys, predictions.units, strict=True))
    temporary.replace(path.with_suffix(".units.csv"))


def read_predictions(path: Path) -> tuple[list[str], list[str], np.ndarray, np.ndarray]:
    """Return (ids, classes, label_B, probability_BY) of what `write_predictions` wrote.

    Raises ValueError, in one line, where the file is not there or is no such table.
    """
    header, lines = _read_table(path)
    classes = header[2:]
    try:
        label_B = np.array([classes.index(line[1]) for line in lines], dtype=np.int64)
        probability_BY = np.array([[float(value) for value in line[2:]] for line in lines])
    except ValueError as error:
        raise ValueError(f"{path}: no table of predictions ({error}); measure again") from None
    return [line[0] for line in lines], classes, label_B, probability_BY


def read_test_split(path: Path) -> tuple[Predictions, list[str]]:
    """Return what `write_test_split` wrote, and the classes; ValueError where it is not whole."""
    keys, classes, label_B, probability_BY = read_predictions(path)
    _, lines = _read_table(path.with_suffix(".units.csv"))
    if [line[0] for line in lines] != keys:
        raise ValueError(f"{path.with_suffix('.units.csv')}: other ids than {path.name}'s")
    return Predictions(keys, [line[1] for line in lines], label_B, probability_BY), classes


def _read_table(path: Path) -> tuple[list[str], list[list[str]]]:
    try:
        header, *lines = csv.reader(io.StringIO(path.read_text("utf-8"), newline=""), strict=True)
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file; measure again") from None
    except (ValueError, csv.Error) as error:  # not UTF-8, empty, or no table
        raise ValueError(f"{path}: is not a CSV ({error}); measure again") from None
    if any(len(line) != len(header) for line in lines) or header[:1] != ["id"]:
        raise ValueError(f"{path}: a row is cut or the heading is lost; measure again")
    return header, lines
