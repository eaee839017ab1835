"""What a run scored: results.jsonl, a row a score, and the predictions that the scores follow from.

Predictions are two CSV files: the probabilities of each image, and its patient.
"""

import csv
import io
import json
import logging
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from maskedclip.metrics.few_images import few_among, few_images
from maskedclip.metrics.file_lock import locked
from maskedclip.metrics.known_patients import counted, drawn_in_words, drawn_lines
from maskedclip.metrics.operating_points import OPERATING, at_threshold
from maskedclip.metrics.scores import (
    KINDS,
    NOT_IN_PER_CENT,
    OVER_CLASSES,
    Score,
    metrics_of,
    scores,
)
from maskedclip.metrics.seen_images import in_words, input_lines

logger = logging.getLogger(__name__)
RESULTS = "results.jsonl"
_JOIN = "|"  # between the labels of an image, as in shards
DAGGER = "\u2020"  # beside values of images that were in pre-training
_SOURCE = "source"  # a column, before that of the label
_UNTRAINED = "training images all without or all with"
_NAMED = 8  # classes in a note
IDENTITY = ("run", "dataset", "task", "protocol", "fraction", "seed", "metric")
# of the tables on the terminal: there is no room for more
_PER_CENT = {"auroc": "AUROC [95 %]", "average_precision": "AP [95 %]"}
_COLUMNS = {
    "class": _PER_CENT | {"quadratic_kappa": "kappa", "macro_f1": "F1"},
    "labels": _PER_CENT | {"macro_f1": "macro F1", "micro_f1": "micro F1", "odir_score": "ODIR"},
    "number": {"mae": "MAE [95 %]", "r2": "R2 [95 %]", "pearson": "Pearson [95 %]"},
}


class Predictions(NamedTuple):
    """The images of a test split, and the probabilities that were predicted for them."""

    keys: list[str]
    units: list[str]  # what the bootstrap draws: the patient where known
    label_B: np.ndarray  # of kind "labels" rows of 0 and 1, label_BY; of kind "number" the numbers
    probability_BY: np.ndarray  # of kind "number" one column, the numbers that were predicted
    ordered: bool | None = None  # whether the classes are grades in their order; None: not known
    untrained: tuple[int, ...] = ()  # classes without training images
    kind: str = "class"
    thresholds: tuple[float, ...] = ()  # of kind "labels", chosen on validation; none: 0.5
    sources: tuple[str, ...] = ()  # paths in the download, as the shards have them; none: not known


def save_and_score(
    identity: dict[str, Any],
    classes: Sequence[str],
    predictions: Predictions,
    run: Path,
    *,
    method: str,
    shards: Path,
    variant: str = "",
    validation: Predictions | None = None,
) -> list[dict[str, Any]]:
    """Write the predictions under `run` and return a row a metric, for `write_rows`.

    Args:
        identity: the fields of IDENTITY without the metric.
        method: name of the encoder's weights, a row of the tables.
        shards: directory of the dataset.
        variant: what else sets the file of predictions apart, such as the size of the images.
        validation: those of the validation split, kept beside: thresholds are chosen on them.
    """
    name = _name(identity, run, variant)
    path, beside = (Path("predictions") / f"{name}-{split}.csv" for split in ("test", "val"))
    write_test_split(run / path, classes, predictions)
    if validation is not None:
        write_test_split(run / beside, classes, validation)
    files: dict[str, Any] = {
        "method": method,
        "predictions": path.as_posix(),
        **({} if validation is None else {"validation": beside.as_posix()}),
        "shards": str(shards.resolve()),
        "ordered": predictions.ordered,
        "untrained": [classes[label] for label in predictions.untrained],
        **counted(predictions.keys, predictions.units),
    }
    files["few_images"] = few_among(classes, predictions.label_B, predictions.kind)
    if predictions.kind != "class":  # rows of classes stay as they are
        files["kind"] = predictions.kind
    if predictions.kind == "labels":
        files["thresholds"] = list(predictions.thresholds)
    rows = []
    for metric, one in scores_of(metrics_of(predictions.kind), predictions, classes).items():
        own = identity | {"metric": metric}
        rows.append(row(own, one, classes, predictions.kind) | files)
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
        f"give --classes_order=LOWEST,...,HIGHEST"
    )


def score_of(metric: str, predictions: Predictions, classes: Sequence[str]) -> Score:
    """Return a metric of predictions; quadratic kappa has no value for classes without an order."""
    return scores_of([metric], predictions, classes)[metric]


def scores_of(
    metrics: Sequence[str], predictions: Predictions, classes: Sequence[str]
) -> dict[str, Score]:
    """Return what `score_of` does, of several metrics on the same resamples."""
    found = scores(
        metrics, predictions.label_B, predictions.probability_BY, predictions.units,
        untrained=predictions.untrained, thresholds=predictions.thresholds,
    )  # fmt: skip
    kappa = found.get("quadratic_kappa")
    if kappa is not None and kappa.value is not None and predictions.ordered is False:
        without = Score(None, None, None, kappa.n, kappa.absent, no_order(classes))
        found["quadratic_kappa"] = without
    return found


def is_complete(out: Path, rows: Sequence[dict[str, Any]], metrics: Sequence[str]) -> bool:
    """Return whether every metric of an evaluation is stored, and its predictions."""
    tables = [out / str(row.get("predictions")) for row in rows]
    files = tables + [table.with_suffix(".units.csv") for table in tables]
    return {row["metric"] for row in rows} >= set(metrics) and all(file.is_file() for file in files)


def _name(identity: dict[str, Any], run: Path, variant: str) -> str:
    """Return the predictions' file name: with the run's, where a directory holds several runs."""
    several = "" if run.resolve().name == identity["run"] else identity["run"]
    labels, seed = f"{identity['fraction']:g}", f"seed{identity['seed']}"
    split = (identity[key] for key in ("dataset", "task", "protocol"))
    return file_name(several, *split, labels, seed, variant)


def row(
    identity: dict[str, Any], one: Score, classes: Sequence[str], kind: str = "class"
) -> dict[str, Any]:
    """Return a row of results.jsonl without its files; identity holds the fields of IDENTITY."""
    assert tuple(identity) == IDENTITY
    note_of = {"class": _note, "labels": _note_of_labels, "number": _note_of_number}[kind]
    note = note_of(identity["metric"], one, classes)
    if identity["protocol"] == "zeroshot":  # which trains on no label
        note = note.replace(_UNTRAINED, "the expert dictionary has no words for")
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
        notes.append("no interval: too few patients (or images, where unknown) in the test split")
    return "; ".join(notes)


def _note_of_labels(metric: str, one: Score, classes: Sequence[str]) -> str:
    missing = ", ".join(classes[label] for label in one.absent)
    untrained = ", ".join(classes[label] for label in one.untrained)
    if one.value is None:
        return f"undefined: no trained label has positives and negatives among {one.n} test images"
    notes = []
    if missing and metric in OVER_CLASSES:
        notes.append(f"test images all without or all with {missing}: mean of the other labels")
    if untrained:
        notes.append(f"{_UNTRAINED} {untrained}: left out")
    if one.low is None:
        notes.append("no interval: too few patients (or images, where unknown) in the test split")
    return "; ".join(notes)


def _note_of_number(metric: str, one: Score, classes: Sequence[str]) -> str:  # noqa: ARG001
    if one.value is None:
        return f"undefined: the numbers of {one.n} test images, or those predicted, are all alike"
    return (
        ""
        if one.low is not None
        else "no interval: too few patients (or images, where unknown) in the test split"
    )


def recomputed(run: Path, row: dict[str, Any]) -> Score:
    """Return a row's score computed again from the predictions in the run directory alone.

    Raises ValueError as `predictions_of` does.
    """
    predictions, classes = predictions_of(run, row)
    if row["metric"] not in OPERATING:
        return score_of(row["metric"], predictions, classes)
    positive = classes.index(row["positive"])
    called_B = predictions.probability_BY[:, positive] >= row["threshold"]
    scores = at_threshold(predictions.label_B == positive, called_B, predictions.units)
    return scores[row["metric"]]


def predictions_of(run: Path, row: dict[str, Any]) -> tuple[Predictions, list[str]]:
    """Return the predictions behind a row of a run, and the classes.

    Raises ValueError where they are missing, damaged, or outside of the run.
    """
    name = row.get("predictions")
    if not isinstance(name, str) or Path(name).is_absolute() or ".." in Path(name).parts:
        raise ValueError(
            f"{run / RESULTS}: predictions {name!r} are not of this run; measure again"
        )
    kind, thresholds = row.get("kind") or "class", row.get("thresholds") or []
    if kind not in KINDS or not isinstance(thresholds, list):
        raise ValueError(f"{run / RESULTS}: kind {kind!r} is not known; measure again")
    predictions, classes = read_test_split(run / name, kind)
    never = row.get("untrained") or ()
    labels = tuple(label for label, one in enumerate(classes) if one in never)
    stated = row.get("ordered")
    ordered = stated if isinstance(stated, bool) else None
    if thresholds and len(thresholds) != len(classes):
        raise ValueError(f"{run / RESULTS}: thresholds are not of {name}; measure again")
    chosen = tuple(map(float, thresholds))
    predictions = predictions._replace(ordered=ordered, untrained=labels, thresholds=chosen)
    return predictions, classes


def validation_of(run: Path, row: Mapping[str, Any], classes: Sequence[str]) -> Predictions:
    """Return the predictions of the validation split behind a row.

    Raises ValueError where an older version has kept none, or they are damaged.
    """
    name = row.get("validation")
    if not isinstance(name, str) or not name or Path(name).is_absolute() or ".." in name:
        raise ValueError(
            f"{run / RESULTS}: no predictions of the validation split are kept, so no threshold; "
            f"measure again"
        )
    predictions, own = read_test_split(run / name, str(row.get("kind") or "class"))
    if list(own) != list(classes):
        raise ValueError(f"{run / name}: other classes than the test split's; measure again")
    return predictions


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
    """Return rows as text: a line a test split, in per cent, but numbers in their own unit.

    Tasks of another kind have a table of their own. Below stands how the images were seen, and what
    intervals draw where patients are unknown; where sizes differ, each line has its own.
    """
    by_kind: dict[str, list[dict[str, Any]]] = {}
    for one in rows:
        by_kind.setdefault(str(one.get("kind") or "class"), []).append(one)
    tables = [_table(own, _COLUMNS[kind]) for kind, own in by_kind.items()]
    below = input_lines((_line_name(row), in_words(row)) for row in rows)
    below += drawn_lines((f"{row['dataset']} {row['task']}", drawn_in_words(row)) for row in rows)
    few = ((f"{row['dataset']} {row['task']}", str(row.get("few_images") or "")) for row in rows)
    below += drawn_lines(few)
    below += drawn_lines((f"{row['dataset']} {row['task']}", _group_note(row)) for row in rows)
    first = {"mae": "MAE", "auroc": "AUROC"}  # of numbers, and of classes
    below += [
        f"{_labels(row)}: {_line_name(row)}, {first[row['metric']]} {row['spread']}."
        for row in rows
        if row["metric"] in first and row.get("spread")
    ]
    return "\n".join(tables) + "".join(f"{line}\n" for line in below)


def _group_note(row: Mapping[str, Any]) -> str:
    words = row.get("left_out")  # of a transfer counts by class, which its note has in words
    return words if isinstance(words, str) else ""


def _table(rows: Sequence[dict[str, Any]], columns: Mapping[str, str]) -> str:
    sizes = len({row["image_size"] for row in rows if row.get("image_size")})
    pixels = ("px",) if sizes > 1 else ()
    head = ("dataset", "task", "protocol", "labels", "seed", *pixels, *columns.values(), "n")
    splits: dict[tuple[Any, ...], dict[str, dict[str, Any]]] = {}
    for row in rows:
        split = (row["dataset"], row["task"], row["protocol"], row["fraction"], row["seed"])
        own = (str(row.get("image_size") or "-"),) if pixels else ()
        splits.setdefault((*split, *own), {})[row["metric"]] = row
    lines, notes = [head], dict[str, None]()
    for (dataset, task, protocol, fraction, seed, *size), by_metric in splits.items():
        scores = [_cell(by_metric.get(m), interval="[" in columns[m]) for m in columns]
        notes |= dict.fromkeys(
            f"{note}\n" for row in by_metric.values() if (note := seen_line(row))
        )
        n = max(row["n"] for row in by_metric.values())
        lines.append(
            (dataset, task, protocol, f"{100 * fraction:.3g}%", str(seed), *size, *scores, str(n))
        )
    points = [_point_line(by_metric) for by_metric in splits.values() if OPERATING[0] in by_metric]
    return in_columns(lines) + "".join([*points, *notes])


def _point_line(by_metric: Mapping[str, dict[str, Any]]) -> str:
    """Return sensitivity and specificity of a line of the table, and at which threshold."""
    first = by_metric[OPERATING[0]]
    name = f"{_line_name(first)}, {_labels(first)}"
    if "threshold" not in first:
        return f"{name}: no sensitivity and specificity, {first['note']}\n"
    words = zip(OPERATING, ("sensitivity", "specificity", "PPV", "NPV"), strict=True)
    scores = [f"{word} {_cell(by_metric.get(metric), interval=True)}" for metric, word in words]
    return (
        f"{name}: {', '.join(scores)} of {first['positive']} at a probability of "
        f"{first['threshold']:.4g} or more ({first['rule']})\n"
    )


def seen_line(row: Mapping[str, Any]) -> str:
    """Return what a row says of test images among those of pre-training, "" where there are none.

    With a dagger where there are: its values have one too.
    """
    words = seen_words(
        row.get("seen") or "", row.get("seen_images"), row["n"], row.get("seen_note") or ""
    )
    mark = f"{DAGGER} " if row.get("seen") else ""
    return f"{mark}{row['dataset']}: {words}" if words else ""


def seen_words(names: str, images: int | None, of: int, note: str) -> str:
    """Return in words how many of a test split's images were in pre-training.

    Args:
        names: the datasets of pre-training that have them, or the form of third-party weights.
        images: their number; None where it is not known.
        note: why it is not, or why there may be more.
    """
    if names and images is None:
        why = f" ({note})" if note else ""
        return (
            f"weights were trained on images of this dataset ({names}); how many of its {of} test "
            f"images were in pre-training is not known{why.replace('not known: ', '')}"
        )
    if names:
        more = f"; {note}" if note else ""
        return f"{images} of {of} test images were in pre-training ({names}){more}"
    return f"whether test images were in pre-training is {note}" if note else ""


def _line_name(row: dict[str, Any]) -> str:
    return f"{row['dataset']} {row['task']} {row['protocol']}"


def _labels(row: Mapping[str, Any]) -> str:
    return f"{100 * row['fraction']:.3g}% of labels, seed {row['seed']}"


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
    value = written(row["metric"], row["value"]) + (DAGGER if row.get("seen") else "")
    if not interval or row["low"] is None:
        return value
    ends = (written(row["metric"], row[end]) for end in ("low", "high"))
    return f"{value} [{', '.join(ends)}]"


def written(metric: str, value: float | None, sign: str = "") -> str:
    """Return a value as tables write it, a dash for none: in per cent, or of numbers as it is."""
    if value is None:
        return "-"
    if metric not in NOT_IN_PER_CENT:
        return f"{100 * value:{sign}.1f}"
    digits = 3 if metric != "mae" or abs(value) < 1 else 2 if abs(value) < 10 else 1
    return f"{value:{sign}.{digits}f}"


def write_predictions(
    path: Path,
    classes: Sequence[str],
    keys: Iterable[str],
    label_B: np.ndarray,
    probability_BY: np.ndarray,
    sources: Sequence[str] = (),
) -> None:
    """Write a CSV of id, source, label and one probability a class: the scores follow from it.

    Rows of labels are written joined by "|", and numbers (floats) as they are. Without sources
    there is no such column, as in tables of before 2026-11-28.
    """
    if label_B.ndim == 2:
        texts = [
            _JOIN.join(classes[y] for y in np.flatnonzero(row_Y).tolist()) for row_Y in label_B
        ]
    elif label_B.dtype.kind == "f":
        texts = [repr(float(value)) for value in label_B]
    else:
        texts = [classes[label] for label in label_B]
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    with temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["id", *([_SOURCE] if sources else []), "label", *classes])
        named = zip(keys, sources, strict=True) if sources else ((key,) for key in keys)
        for names, text, probability_Y in zip(named, texts, probability_BY, strict=True):
            writer.writerow([*names, text, *(repr(float(p)) for p in probability_Y)])
    temporary.replace(path)


def write_test_split(path: Path, classes: Sequence[str], predictions: Predictions) -> None:
    """Write the predictions, and beside them NAME.units.csv of id and unit."""
    write_predictions(
        path, classes, predictions.keys, predictions.label_B, predictions.probability_BY,
        predictions.sources,
    )  # fmt: skip
    temporary = path.with_suffix(".tmp")
    with temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["id", "unit"])
        writer.writerows(zip(predictions.keys, predictions.units, strict=True))
    temporary.replace(path.with_suffix(".units.csv"))


def read_predictions(
    path: Path, kind: str = "class"
) -> tuple[list[str], list[str], np.ndarray, np.ndarray]:
    """Return (ids, classes, label_B, probability_BY) of what `write_predictions` wrote.

    Raises ValueError, in one line, where the file is not there or is no such table.
    """
    keys, _, classes, label_B, probability_BY = _read_all(path, kind)
    return keys, classes, label_B, probability_BY


def _read_all(
    path: Path, kind: str
) -> tuple[list[str], tuple[str, ...], list[str], np.ndarray, np.ndarray]:
    """Return (ids, sources, classes, label_B, probability_BY); no sources of older tables."""
    header, lines = _read_table(path)
    sources: tuple[str, ...] = ()
    if header[1:3] == [_SOURCE, "label"]:
        sources = tuple(line.pop(1) for line in lines)
        del header[1]
    classes = header[2:]
    try:
        label_B = _answers([line[1] for line in lines], classes, kind)
        probability_BY = np.array([[float(value) for value in line[2:]] for line in lines])
    except ValueError as error:
        raise ValueError(f"{path}: no table of predictions ({error}); measure again") from None
    return [line[0] for line in lines], sources, classes, label_B, probability_BY


def _answers(texts: Sequence[str], classes: Sequence[str], kind: str) -> np.ndarray:
    if kind == "number":
        return np.array([float(text) for text in texts], dtype=np.float64)
    index = {name: label for label, name in enumerate(classes)}
    unknown = ValueError("a label that is no column")
    if kind == "class":
        if not index.keys() >= {*texts}:
            raise unknown
        return np.array([index[text] for text in texts], dtype=np.int64)
    label_BY = np.zeros((len(texts), len(classes)), dtype=np.int64)
    for row, text in enumerate(texts):
        labels = text.split(_JOIN) if text else []
        if not index.keys() >= {*labels}:
            raise unknown
        label_BY[row, [index[label] for label in labels]] = 1
    return label_BY


def patients_of(run: Path, row: Mapping[str, Any]) -> dict[str, int]:
    """Return the fields `patients` and `with_patient` of a row that an older version wrote.

    Nothing where its predictions cannot be read.
    """
    try:
        path = (run / str(row.get("predictions"))).with_suffix(".units.csv")
        return _patients_in(path, path.stat().st_mtime_ns)
    except (ValueError, OSError):  # what needs the predictions says what is wrong with them
        return {}


def few_images_of(run: Path, row: Mapping[str, Any]) -> str:
    """Return which classes of a row's test split have few images, counted in its predictions.

    "" where there are none, the task is a number, or the predictions cannot be read.
    """
    kind = str(row.get("kind") or "class")
    try:
        path = run / str(row.get("predictions"))
        return "" if kind == "number" else _few_in(path, kind, path.stat().st_mtime_ns)
    except (ValueError, OSError):  # what needs the predictions says what is wrong with them
        return ""


@lru_cache(maxsize=1024)  # the rows of a test split share it
def _few_in(path: Path, kind: str, _changed: int) -> str:
    header, lines = _read_table(path)
    column = header.index("label")
    texts = [line[column] for line in lines]
    if kind == "labels":
        texts = [one for text in texts for one in text.split(_JOIN)]
    return few_images(header[column + 1 :], Counter(texts), "classes" if kind == "class" else kind)


@lru_cache(maxsize=1024)  # the rows of a test split share it
def _patients_in(path: Path, _changed: int) -> dict[str, int]:
    _, lines = _read_table(path)
    return counted([line[0] for line in lines], [line[1] for line in lines])


def read_test_split(path: Path, kind: str = "class") -> tuple[Predictions, list[str]]:
    """Return what `write_test_split` wrote, and the classes; ValueError where it is not whole."""
    keys, sources, classes, label_B, probability_BY = _read_all(path, kind)
    _, lines = _read_table(path.with_suffix(".units.csv"))
    if [line[0] for line in lines] != keys:
        raise ValueError(f"{path.with_suffix('.units.csv')}: other ids than {path.name}'s")
    units = [line[1] for line in lines]
    found = Predictions(keys, units, label_B, probability_BY, kind=kind, sources=sources)
    return found, classes


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
