"""Six metrics of class probabilities, each with an interval that draws patients, not images.

AUROC and average precision are macro one-vs-rest as RETFound's code computes them; the class that
an image is called is the likeliest one, so that no threshold is ever chosen. A class without images
is left out of a mean over classes and named: scikit-learn's own answers there are nan and 0.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from sklearn.metrics import average_precision_score, roc_auc_score

from maskedclip.metrics.bootstrap import draws, resampled

METRICS = (
    "auroc",
    "average_precision",
    "quadratic_kappa",  # takes the classes in their order
    "macro_f1",
    "balanced_accuracy",
    "calibration_error",  # of the likeliest class, in 15 bins
)
OVER_CLASSES = ("auroc", "average_precision", "macro_f1", "balanced_accuracy")  # are means
NEED_TWO_CLASSES = ("auroc", "average_precision", "quadratic_kappa")
LOWER_IS_BETTER = ("calibration_error",)
RESAMPLES = 500
_SCIKIT_LEARN: dict[str, Callable[..., float]] = {
    "auroc": roc_auc_score,
    "average_precision": average_precision_score,
}


class Score(NamedTuple):
    """A metric, its 95 % interval (None where undefined), and the classes without images."""

    value: float | None
    low: float | None
    high: float | None
    n: int  # images
    absent: list[int]


def point(
    metric: str, label_B: np.ndarray, probability_BY: np.ndarray
) -> tuple[float | None, list[int]]:
    """Return a metric, None where the labels are of one class and it needs two, and absent classes.

    Raises ValueError where there is no image, or a probability is not finite.
    """
    label_B, probability_BY = _checked(label_B, probability_BY)
    kept = np.unique(label_B).tolist()
    absent = [y for y in range(probability_BY.shape[1]) if y not in kept]
    if len(kept) < 2 and metric in NEED_TWO_CLASSES:
        return None, absent
    if metric in _SCIKIT_LEARN:
        one = _SCIKIT_LEARN[metric]
        return float(np.mean([one(label_B == y, probability_BY[:, y]) for y in kept])), absent
    once_BR = np.ones((len(label_B), 1))
    return float(resampled(metric, label_B, probability_BY, once_BR)[0]), absent


def macro(metric: str, label_B: np.ndarray, probability_BY: np.ndarray) -> tuple[float, list[int]]:
    """Return a metric and the absent classes; ValueError where the labels are of one class."""
    value, absent = point(metric, label_B, probability_BY)
    if value is None:
        raise ValueError(
            f"scores: {len(label_B)} images of one class have no {metric}; two classes are needed"
        )
    return value, absent


def score(
    metric: str,
    label_B: np.ndarray,
    probability_BY: np.ndarray,
    unit_B: Sequence[str] | None = None,
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Score:
    """Return a metric with its bootstrap interval; the same input, the same interval.

    Resamples in which the metric is undefined play no part. There is no interval (None) where
    there is one unit only, or no resample has the metric.

    Args:
        unit_B: what is drawn with replacement, such as patients; images where not given.
    """
    value, absent = point(metric, label_B, probability_BY)
    n = len(label_B)
    if value is None or len(set(range(n) if unit_B is None else unit_B)) < 2:
        return Score(value, None, None, n, absent)
    label_B, probability_BY = _checked(label_B, probability_BY)
    value_R = np.concatenate(
        [
            resampled(metric, label_B, probability_BY, weight_BR)
            for weight_BR in draws(unit_B, n, seed=seed, resamples=resamples)
        ]
    )
    value_R = value_R[np.isfinite(value_R)]
    if not len(value_R):
        return Score(value, None, None, n, absent)
    low, high = np.percentile(_centred(metric, value, value_R), [2.5, 97.5]).tolist()
    lowest = -1.0 if metric == "quadratic_kappa" else 0.0
    return Score(value, max(lowest, min(low, value)), min(1.0, max(high, value)), n, absent)


def _centred(metric: str, value: float, value_R: np.ndarray) -> np.ndarray:
    """Return the resamples without their bias: their percentiles are the limits of the interval.

    Copies of an image make average precision larger, the more so the rarer a class is: the mean of
    the resamples is moved onto the value. In the calibration error each bin's noise is counted as
    error, in the test split and once more in a resample: mirrored about the value, both are taken
    out.
    """
    if metric == "calibration_error":
        return 2 * value - value_R
    return value_R - (value_R.mean() - value)


def _checked(label_B: np.ndarray, probability_BY: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    label_B, probability_BY = np.asarray(label_B), np.asarray(probability_BY, dtype=np.float64)
    assert len(label_B) == len(probability_BY)
    if not len(label_B):
        raise ValueError("scores: no image to score; the test split is empty or unreadable")
    if not np.isfinite(probability_BY).all():
        raise ValueError("scores: a probability is not finite; the network has diverged")
    return label_B, probability_BY
