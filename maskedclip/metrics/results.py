"""What a run scored: results.jsonl, a row a score, as text and computed again from predictions."""

import json
import logging
import math
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from maskedclip.metrics.few_images import few_among
from maskedclip.metrics.file_lock import locked
from maskedclip.metrics.known_patients import counted, drawn_in_words, drawn_lines
from maskedclip.metrics.operating_points import OPERATING, at_threshold
from maskedclip.metrics.prediction_files import (
    Predictions,
    read_test_split,
    write_test_split,
)
from maskedclip.metrics.result_record import RESULTS
from maskedclip.metrics.scores import (
    KINDS,
    NOT_IN_PER_CENT,
    OVER_CLASSES,
    Score,
    metrics_of,
    point,
    scores,
)
from maskedclip.metrics.seen_images import in_words, input_lines

logger = logging.getLogger(__name__)
Row = dict[str, Any]
DAGGER = "\u2020"  # beside values of images that were in pre-training
_UNTRAINED = "training images all without or all with"
_NAMED = 8  # classes in a note
_SAME = 1e-9  # of a value and the one computed again from the predictions
IDENTITY = ("run", "dataset", "task", "protocol", "fraction", "seed", "metric")
# of the tables on the terminal: there is no room for more
_PER_CENT = {"auroc": "AUROC [95 %]", "average_precision": "AP [95 %]"}
_COLUMNS = {
    "class": _PER_CENT | {"quadratic_kappa": "kappa", "macro_f1": "F1"},
    "labels": _PER_CENT | {"macro_f1": "macro F1", "micro_f1": "micro F1", "odir_score": "ODIR"},
    "number": {"mae": "MAE [95 %]", "r2": "R2 [95 %]", "pearson": "Pearson [95 %]"},
}


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


def is_complete(
    out: Path,
    rows: Sequence[dict[str, Any]],
    metrics: Sequence[str],
    names: Sequence[str] = ("predictions", "validation"),
) -> bool:
    """Return whether every metric of an evaluation is stored, and the predictions that give it.

    Those of the validation split, too, which older versions did not keep. Predictions that give
    another value are said, as one of both is damaged or of another run.
    """
    tables = [out / str(row.get(name)) for row in rows for name in names]
    files = tables + [table.with_suffix(".units.csv") for table in tables]
    if not {row["metric"] for row in rows} >= set(metrics) or not all(f.is_file() for f in files):
        return False
    if reason := contradiction(out, [row for row in rows if row["metric"] in metrics]):
        logger.warning("%s; measured again", reason)
    return not reason


def contradiction(run: Path, rows: Sequence[Mapping[str, Any]]) -> str:
    """Return in words which value of rows their predictions do not give, "" where they give all."""
    read: dict[str, Predictions] = {}
    for row in rows:
        name, metric = str(row.get("predictions")), row["metric"]
        try:
            found = read.setdefault(name, predictions_of(run, dict(row))[0])
            again = value_of(metric, found)
        except (KeyError, ValueError) as error:
            return " ".join(str(error).split())
        if not agree(again, row["value"]):
            return f"{run / name}: gives {metric} {again}, and {RESULTS} says {row['value']}"
    return ""


def agree(again: float | None, stored: float | None) -> bool:
    """Return whether a value computed again is the stored one, but for rounding."""
    if again is None or stored is None:
        return again is stored
    return abs(again - stored) < _SAME


def value_of(metric: str, predictions: Predictions) -> float | None:
    """Return a metric of predictions without its interval, None where it has no value."""
    value, _ = point(
        metric, predictions.label_B, predictions.probability_BY, predictions.untrained,
        predictions.thresholds,
    )  # fmt: skip
    without_order = metric == "quadratic_kappa" and predictions.ordered is False
    return None if without_order else value


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
    replaced = {row_identity(new) for new in rows}
    change_rows(
        directory, lambda old: [*(o for o in old if row_identity(o) not in replaced), *rows]
    )


def change_rows(directory: Path, change: Callable[[list[Row]], Iterable[Row]]) -> None:
    """Replace a run's rows by what `change` makes of them, in one rename and under a lock."""
    directory.mkdir(parents=True, exist_ok=True)
    lock = directory / ".results.lock"
    with locked(lock, wait=True, without="do not write two results at a time"):
        changed = change(read_rows(directory))
        lines = [json.dumps(line, allow_nan=False) + "\n" for line in changed]
        temporary = directory / f".{RESULTS}.{os.getpid()}.tmp"
        temporary.write_text("".join(lines))
        temporary.replace(directory / RESULTS)


def row_identity(row: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return what a row is of: one of the same replaces it."""
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
    below += drawn_lines((_line_name(row), str(row.get("unlearnt") or "")) for row in rows)
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


def remark(row: Mapping[str, Any]) -> str:
    """Return what is to stand beside a value: its own note, and that its run learnt nothing."""
    return "; ".join(filter(None, (str(row.get(name) or "") for name in ("note", "unlearnt"))))


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
