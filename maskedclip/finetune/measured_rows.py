"""The rows of a run as tables show them; older ones do not say whether their classes are grades."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from maskedclip.data.class_order import is_ordered
from maskedclip.metrics.results import Predictions, no_order, predictions_of, read_rows


def measured_rows(run: Path) -> list[dict[str, Any]]:
    """Return the rows of a run, quadratic kappa without a value where classes have no order.

    Raises ValueError as `read_rows` does.
    """
    return [_with_meaning(run, row) for row in read_rows(run)]


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
