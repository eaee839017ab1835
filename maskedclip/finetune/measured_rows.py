"""The rows of a run as tables show them, older ones with what they do not say themselves.

That is whether their classes are grades, how many test images were in pre-training, and of how many
the patient is known.
"""

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from maskedclip.data.class_order import is_ordered
from maskedclip.data.pretraining_images import PretrainingImages, SeenImages
from maskedclip.data.storage.shards import Shards
from maskedclip.metrics.prediction_files import Predictions, few_images_of, patients_of
from maskedclip.metrics.results import no_order, predictions_of, read_rows
from maskedclip.pretrain.trained_images import images_of_run


def measured_rows(run: Path) -> list[dict[str, Any]]:
    """Return the rows of a run, quadratic kappa without a value where classes have no order.

    Raises ValueError as `read_rows` does.
    """
    rows = [with_patients(run, _with_meaning(run, row)) for row in read_rows(run)]
    older = [row for row in rows if isinstance(row, dict) and _says_nothing_of_pretraining(row)]
    images = images_of_run(run) if older else None
    if images is None or images == PretrainingImages():
        return rows
    seen: dict[str, SeenImages] = {}
    for row in older:
        name = str(row.get("predictions"))
        if name not in seen:
            seen[name] = _seen(run, row, images)
        row |= seen[name].fields()
    return rows


def with_patients(run: Path, row: Any) -> Any:
    """Return a row with the fields that older ones lack and its predictions give.

    They are `patients` and `with_patient`, and `few_images`: the classes with few test images.
    """
    if not isinstance(row, dict) or not row.get("predictions"):
        return row
    if "few_images" not in row:
        row = row | {"few_images": few_images_of(run, row)}
    return row if "with_patient" in row else row | patients_of(run, row)


def _says_nothing_of_pretraining(row: Mapping[str, Any]) -> bool:
    """Return whether a row was written before such images were looked for in our own runs."""
    return "seen_images" not in row and not row.get("seen") and "n" in row


def _seen(run: Path, row: Mapping[str, Any], images: PretrainingImages) -> SeenImages:
    try:
        keys = predictions_of(run, dict(row))[0].keys
        dataset, index_of = _opened(str(row.get("shards")))
        return images.seen(dataset, [index_of[key] for key in keys])
    except (ValueError, OSError, LookupError):
        return SeenImages("", None, "not known: the shards that were tested on are not here")


@lru_cache(maxsize=8)
def _opened(directory: str) -> tuple[Shards, dict[str, int]]:
    dataset = Shards(Path(directory))
    return dataset, {dataset.key(index): index for index in range(len(dataset))}


def measured_predictions(run: Path, row: Mapping[str, Any]) -> tuple[Predictions, list[str]]:
    """Return the predictions behind a row and the classes; older rows are ordered by their names.

    Raises ValueError as `predictions_of` does.
    """
    predictions, classes = predictions_of(run, dict(row))
    if predictions.ordered is None:
        predictions = predictions._replace(ordered=is_ordered(classes))
    return predictions, classes


def _with_meaning(run: Path, row: Any) -> Any:
    if not isinstance(row, dict) or row.get("metric") != "quadratic_kappa":
        return row
    if row.get("value") is None or row.get("ordered") is not None:
        return row
    try:
        predictions, classes = measured_predictions(run, row)
    except (ValueError, OSError):
        return row  # what needs the predictions says what is wrong with them
    if predictions.ordered:
        return row
    return row | {"value": None, "low": None, "high": None, "note": no_order(classes)}
