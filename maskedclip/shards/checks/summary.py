"""What a dataset consists of: tables of classes, sizes and patients."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np

from maskedclip.shards.checks.shard import Stored

_SHARES = (0, 5, 25, 50, 75, 95, 100)  # percent


def tables(samples: Sequence[Stored]) -> dict[str, Any]:
    """Return counts by split, by class and split, and quantiles of sizes in pixels."""
    splits = Counter(sample.metadata.split or "none" for sample in samples)
    labels: defaultdict[str, defaultdict[str, Counter[str]]] = defaultdict(
        lambda: defaultdict(Counter)
    )
    for sample in samples:
        for task, value in sample.metadata.labels.items():
            labels[task][value][sample.metadata.split or "none"] += 1
    return {
        "samples": len(samples),
        "patients": len({sample.metadata.patient for sample in samples} - {None}),
        "without_patient": sum(sample.metadata.patient is None for sample in samples),
        "with_caption": sum(sample.metadata.captioned for sample in samples),
        "splits": dict(sorted(splits.items())),
        "labels": {
            task: {value: dict(sorted(found.items())) for value, found in sorted(classes.items())}
            for task, classes in sorted(labels.items())
        },
        "original_width": _quantiles([sample.metadata.width for sample in samples]),
        "original_height": _quantiles([sample.metadata.height for sample in samples]),
        "stored_side": _quantiles([sample.side for sample in samples]),
    }


def _quantiles(values: Sequence[int]) -> dict[str, int]:
    """Return the values below which these percents of all lie."""
    if not values:
        return {}
    found = np.percentile(values, _SHARES, method="nearest")
    return {str(share): int(value) for share, value in zip(_SHARES, found, strict=True)}
