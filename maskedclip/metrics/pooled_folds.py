"""The predictions of cross-validation: pooled to one value, beside the value of each fold."""

import re
import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np

from maskedclip.metrics.prediction_files import Predictions
from maskedclip.metrics.results import written
from maskedclip.metrics.scores import point

FOLDS = "pooled over "  # how the values of single folds begin in words
_ONE_FOLD = re.compile(r", fold \d+ of \d+$")


def folds_protocol(protocol: str, folds: int) -> str:
    """Return what rows of pooled predictions have as protocol: no table mixes them with others."""
    return f"{protocol}, {folds} folds"


def fold_protocol(protocol: str, fold: int, folds: int) -> str:
    """Return what the rows of one fold (1 to `folds`) by itself have as protocol."""
    return f"{protocol}, fold {fold} of {folds}"


def is_one_fold(protocol: str) -> bool:
    """Return whether a protocol is that of one fold by itself, a part of a pooled value."""
    return bool(_ONE_FOLD.search(protocol))


def pooled(tests: Sequence[Predictions]) -> Predictions:
    """Return the predictions of all folds; a class that one of them never trained is untrained."""
    return tests[0]._replace(
        keys=[key for one in tests for key in one.keys],
        units=[unit for one in tests for unit in one.units],
        label_B=np.concatenate([one.label_B for one in tests]),
        probability_BY=np.concatenate([one.probability_BY for one in tests]),
        untrained=tuple(sorted({label for one in tests for label in one.untrained})),
        sources=tuple(source for one in tests for source in one.sources),
    )


def of_folds(row: dict[str, Any], every: Predictions, classes: Sequence[str]) -> list[Predictions]:
    """Return the predictions of each fold, as `pooled` joined them; none of a row without folds."""
    tests, start = [], 0
    never = row.get("fold_untrained") or [[] for _ in row.get("fold_images", ())]
    for images, names in zip(row.get("fold_images", ()), never, strict=True):
        own = slice(start, start + images)
        tests.append(
            every._replace(
                keys=every.keys[own],
                units=every.units[own],
                label_B=every.label_B[own],
                probability_BY=every.probability_BY[own],
                untrained=tuple(classes.index(name) for name in names),
                sources=every.sources[own],
            )
        )
        start += images
    return tests


def with_spread(
    row: dict[str, Any], tests: Sequence[Predictions], classes: Sequence[str]
) -> dict[str, Any]:
    """Return a row with the value of each fold by itself, and their spread in words.

    A row without a value, such as kappa of classes without an order, has none of a fold either.
    """
    row = row | {"fold_images": [len(one.keys) for one in tests]}
    if any(one.untrained for one in tests):
        row["fold_untrained"] = [[classes[y] for y in one.untrained] for one in tests]
    if row["value"] is None:
        return row
    values = [_value(row["metric"], one) for one in tests]
    defined = [value for value in values if value is not None]
    each = ", ".join("-" if one is None else written(row["metric"], one) for one in values)
    note = f"{FOLDS}{len(tests)} folds; by themselves {each}"
    if len(defined) > 1:
        note += f", standard deviation {written(row['metric'], statistics.stdev(defined))}"
    joined = "; ".join(filter(None, (row["note"], note)))
    return row | {"fold_values": values, "spread": note, "note": joined}


def _value(metric: str, one: Predictions) -> float | None:
    if not one.keys:  # all images of the fold are of classes that a group leaves out
        return None
    return point(metric, one.label_B, one.probability_BY, one.untrained)[0]
