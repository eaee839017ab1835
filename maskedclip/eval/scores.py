"""Macro one-vs-rest AUROC and average precision as RETFound computes them, with an interval.

A class without positives (or without negatives) has no curve. It is left out of the mean and named:
scikit-learn's own answers there are nan for one metric and 0 for the other.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from sklearn.metrics import average_precision_score, roc_auc_score

METRICS = ("auroc", "average_precision")
_POINTS: dict[str, Callable[..., float]] = {
    "auroc": roc_auc_score,
    "average_precision": average_precision_score,
}
_VALUES = 2_000_000  # of one bootstrap table, to bound the memory


class Score(NamedTuple):
    """A mean over classes, its 95 % interval, and the classes that could not be scored."""

    value: float
    low: float
    high: float
    n: int  # images
    absent: list[int]


def macro(metric: str, label_B: np.ndarray, probability_BY: np.ndarray) -> tuple[float, list[int]]:
    """Return the unweighted mean over classes, and the classes left out of it.

    Raises ValueError where fewer than two classes are among the labels, or a value is not finite.
    """
    label_B, probability_BY = _checked(label_B, probability_BY)
    absent = [y for y in range(probability_BY.shape[1]) if not (label_B == y).any()]
    kept = [y for y in range(probability_BY.shape[1]) if y not in absent]
    values = [_POINTS[metric](label_B == y, probability_BY[:, y]) for y in kept]
    return float(np.mean(values)), absent


def score(
    metric: str,
    label_B: np.ndarray,
    probability_BY: np.ndarray,
    unit_B: Sequence[str] | None = None,
    *,
    seed: int = 0,
    resamples: int = 500,
) -> Score:
    """Return the macro mean with a percentile bootstrap interval.

    Args:
        unit_B: what is drawn with replacement, such as patients; images where not given.
    """
    value, absent = macro(metric, label_B, probability_BY)
    label_B, probability_BY = _checked(label_B, probability_BY)
    names = np.asarray(range(len(label_B)) if unit_B is None else unit_B)
    _, place_B = np.unique(names, return_inverse=True)
    units = int(place_B.max()) + 1
    generator = np.random.default_rng(seed)
    means: list[float] = []
    step = max(1, _VALUES // len(label_B))
    for first in range(0, resamples, step):
        rows = min(step, resamples - first)
        drawn_RU = generator.multinomial(units, np.full(units, 1 / units), size=rows)
        means += _weighted_means(metric, label_B, probability_BY, drawn_RU[:, place_B])
    low, high = np.percentile(means, [2.5, 97.5])
    return Score(value, float(low), float(high), len(label_B), absent)


def _checked(label_B: np.ndarray, probability_BY: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    label_B, probability_BY = np.asarray(label_B), np.asarray(probability_BY, dtype=np.float64)
    assert len(label_B) == len(probability_BY)
    if not np.isfinite(probability_BY).all():
        raise ValueError("scores: a probability is not finite; the network has diverged")
    if len(np.unique(label_B)) < 2:
        raise ValueError(
            f"scores: {len(label_B)} images of one class have no AUROC; two classes are needed"
        )
    return label_B, probability_BY


def _weighted_means(
    metric: str, label_B: np.ndarray, probability_BY: np.ndarray, weight_RB: np.ndarray
) -> list[float]:
    """Return the macro mean of each row of weights that has at least two classes."""
    one = _weighted_auroc if metric == "auroc" else _weighted_average_precision
    value_YR = np.array(
        [one(label_B == y, probability_BY[:, y], weight_RB) for y in range(probability_BY.shape[1])]
    )
    defined_YR = np.isfinite(value_YR)
    count_R = defined_YR.sum(axis=0)
    sum_R = np.where(defined_YR, value_YR, 0.0).sum(axis=0)
    return (sum_R[count_R > 0] / count_R[count_R > 0]).tolist()


def _by_threshold(
    positive_B: np.ndarray, probability_B: np.ndarray, weight_RB: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the weights of positives and of negatives at each threshold, highest first."""
    order_B = np.argsort(-probability_B, kind="stable")
    start_K = np.flatnonzero(np.diff(probability_B[order_B], prepend=np.inf))
    weight_RB, positive_B = weight_RB[:, order_B].astype(np.float64), positive_B[order_B]
    true_RK = np.add.reduceat(weight_RB * positive_B, start_K, axis=1)
    return true_RK, np.add.reduceat(weight_RB * ~positive_B, start_K, axis=1)


def _weighted_auroc(
    positive_B: np.ndarray, probability_B: np.ndarray, weight_RB: np.ndarray
) -> np.ndarray:
    true_RK, false_RK = _by_threshold(positive_B, probability_B, weight_RB)
    above_RK = np.cumsum(true_RK, axis=1) - true_RK / 2  # ties count half
    pairs_R = true_RK.sum(axis=1) * false_RK.sum(axis=1)
    won_R = (false_RK * above_RK).sum(axis=1)
    return np.divide(won_R, pairs_R, out=np.full_like(won_R, np.nan), where=pairs_R > 0)


def _weighted_average_precision(
    positive_B: np.ndarray, probability_B: np.ndarray, weight_RB: np.ndarray
) -> np.ndarray:
    true_RK, false_RK = _by_threshold(positive_B, probability_B, weight_RB)
    found_RK = np.cumsum(true_RK, axis=1)
    shown_RK = found_RK + np.cumsum(false_RK, axis=1)
    precision_RK = np.divide(found_RK, shown_RK, out=np.zeros_like(found_RK), where=shown_RK > 0)
    total_R, shown_R = found_RK[:, -1], shown_RK[:, -1]
    sum_R = (true_RK * precision_RK).sum(axis=1)
    both_R = (total_R > 0) & (total_R < shown_R)  # as for AUROC: positives and negatives
    return np.divide(sum_R, total_R, out=np.full_like(sum_R, np.nan), where=both_R)
