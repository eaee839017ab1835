"""The predictions of cross-validation: pooled to one value, beside the value of each fold."""

import re
import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np

from maskedclip.metrics.results import Predictions, written
from maskedclip.metrics.scores import point

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


def with_spread(row: dict[str, Any], tests: Sequence[Predictions]) -> dict[str, Any]:
    """Return a row with the value of each fold by itself, and their spread in words."""
    values = [
        point(row["metric"], one.label_B, one.probability_BY, one.untrained)[0] for one in tests
    ]
    if row["value"] is None:
        return row | {"fold_values": values}
    defined = [value for value in values if value is not None]
    each = ", ".join("-" if one is None else written(row["metric"], one) for one in values)
    note = f"pooled over {len(tests)} folds; by themselves {each}"
    if len(defined) > 1:
        note += f", standard deviation {written(row['metric'], statistics.stdev(defined))}"
    joined = "; ".join(filter(None, (row["note"], note)))
    return row | {"fold_values": values, "spread": note, "note": joined}
