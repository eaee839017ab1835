"""Rows of sensitivity and specificity, and of classes joined into two, from stored predictions."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from maskedclip.data.class_order import positive_of_two
from maskedclip.finetune.measured_rows import measured_predictions
from maskedclip.metrics import results
from maskedclip.metrics.class_groups import ClassGroup, grouped
from maskedclip.metrics.operating_points import OPERATING, OperatingPoint, operating_point
from maskedclip.metrics.pooled_folds import of_folds, with_spread
from maskedclip.metrics.prediction_files import Predictions
from maskedclip.metrics.results import IDENTITY, validation_of

_OF_FOLDS = ("fold_images", "fold_untrained", "fold_values", "spread")  # of the classes
_OF_A_ROW = ("value", "n", "low", "high", "note", "metric")


def point_of(
    classes: Sequence[str],
    validation: Predictions,
    test: Predictions,
    at_sensitivity: float,
) -> tuple[OperatingPoint, str]:
    """Return the operating point of a task of two classes, and which of them is the positive one.

    Raises ValueError where validation images are of one class.
    """
    positive = positive_of_two(classes)
    sides = [
        (one.label_B == positive, one.probability_BY[:, positive]) for one in (validation, test)
    ]
    point = operating_point(sides[0], sides[1], test.units, at_sensitivity)
    return point, classes[positive]


def threshold_rows(
    run: Path, row: Mapping[str, Any], at_sensitivity: float = 0.0
) -> list[dict[str, Any]]:
    """Return the rows of OPERATING beside a row of a task of two classes; none of other tasks.

    Raises ValueError where there are no predictions of the validation split.
    """
    test, classes = measured_predictions(run, row)
    if len(classes) != 2 or test.kind != "class" or row.get("folds"):  # each has its own threshold
        return []
    validation = validation_of(run, row, classes)
    shared = {name: value for name, value in row.items() if name not in _OF_A_ROW}
    identity = {name: row.get(name) for name in IDENTITY}
    try:
        point, positive = point_of(classes, validation, test, at_sensitivity)
    except ValueError as error:
        note = {"note": f"undefined: {error}"}
        empty = {"value": None, "low": None, "high": None, "n": row["n"]} | note
        return [shared | identity | {"metric": name} | empty for name in OPERATING]
    facts = {"threshold": point.threshold, "rule": point.in_words, "positive": positive}
    return [
        shared | results.row(identity | {"metric": name}, point.scores[name], classes) | facts
        for name in OPERATING
    ]


def group_rows(run: Path, row: Mapping[str, Any], group: ClassGroup) -> list[dict[str, Any]]:
    """Return the rows of a task whose classes are joined, as a task of its own; they are written.

    Raises ValueError where there are no predictions of the validation split.
    """
    test, classes = measured_predictions(run, row)
    validation = None if row.get("folds") else validation_of(run, row, classes)
    names, task = group.names(classes), str(row["task"])
    identity = {name: row.get(name) for name in IDENTITY[:-1]} | {"task": group.task(task)}
    new = results.save_and_score(
        identity, names, grouped(test, group), run, method=str(row["method"]),
        shards=Path(str(row["shards"])),
        validation=None if validation is None else grouped(validation, group),
        variant=f"{row['image_size']}px" if row.get("resized") else "",
    )  # fmt: skip
    shared = {name: value for name, value in row.items() if name not in {*new[0], *_OF_FOLDS}}
    facts = shared | {"inputs": "", "group": group.text, "group_of": task}
    if group.left_out and facts.get("seen"):
        facts["seen_images"] = None  # it was counted with the images that are left out
    note = left_out_note(group, classes, test)
    facts |= {"left_out": note} if note else {}
    joined = [one | facts | {"note": "; ".join(filter(None, (one["note"], note)))} for one in new]
    if tests := [grouped(one, group) for one in of_folds(dict(row), test, classes)]:
        joined = [with_spread(one, tests, names) for one in joined]
    results.write_rows(run, joined)
    return joined


def left_out_note(group: ClassGroup, classes: Sequence[str], test: Predictions) -> str:
    """Return which classes of neither group are left out, and how many images are of them."""
    if not group.left_out:
        return ""
    images = sum(label in group.left_out for label in test.label_B.tolist())
    names = ", ".join(classes[y] for y in group.left_out)
    return f"in neither group, left out: {names} ({images} test images)"
