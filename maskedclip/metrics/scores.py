"""Six metrics of class probabilities, each with an interval from a bootstrap over patients.

AUROC and average precision are macro one-vs-rest as RETFound's code computes them; the predicted
class is the one of the highest probability, so no threshold is ever chosen. A class without images
is left out of a mean over classes and named: scikit-learn's own answers there are nan and 0. So is
a class without training images, of which a classifier can know nothing.

The bootstrap computes a metric for many resamples at once: an image counts as often as it was
drawn. Axes: B images, Y classes, R resamples, T thresholds, P positives, K bins of confidence,
E edges of segments.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from sklearn.metrics import average_precision_score, roc_auc_score

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
BINS = 15  # of the expected calibration error, of equal width
_VALUES = 2_000_000  # of one table of weights, to bound the memory
_SCIKIT_LEARN: dict[str, Callable[..., float]] = {
    "auroc": roc_auc_score,
    "average_precision": average_precision_score,
}


class Score(NamedTuple):
    """One metric of one test split, 0 to 1, with its 95 % interval; None where undefined.

    The one word for a measured number: a row of results.jsonl holds one, a cell of a report's
    tables the mean of several.
    """

    value: float | None
    low: float | None
    high: float | None
    n: int  # images
    absent: Sequence[int] = ()  # classes without images
    note: str = ""  # what the value leaves out, or why there is none
    untrained: Sequence[int] = ()  # classes with images that have no training image


def point(
    metric: str,
    label_B: np.ndarray,
    probability_BY: np.ndarray,
    untrained: Collection[int] = (),
) -> tuple[float | None, list[int]]:
    """Return a metric, None where it is undefined, and the classes without images.

    It is undefined where the labels are of one class and it needs two, and where it is a mean over
    classes and none that has images was trained. Raises ValueError where there is no image, or a
    probability is not finite.

    Args:
        untrained: classes without training images, left out of a mean over classes; their images
            stay among "the rest".
    """
    label_B, probability_BY = _checked(label_B, probability_BY)
    present = np.unique(label_B).tolist()
    absent = [y for y in range(probability_BY.shape[1]) if y not in present]
    kept = [y for y in present if y not in untrained]
    too_few = len(present) < 2 and metric in NEED_TWO_CLASSES
    if too_few or (not kept and metric in OVER_CLASSES):
        return None, absent
    if metric in _SCIKIT_LEARN:
        one = _SCIKIT_LEARN[metric]
        return float(np.mean([one(label_B == y, probability_BY[:, y]) for y in kept])), absent
    once_BR = np.ones((len(label_B), 1))
    return float(resampled(metric, label_B, probability_BY, once_BR, untrained)[0]), absent


def macro(
    metric: str,
    label_B: np.ndarray,
    probability_BY: np.ndarray,
    untrained: Collection[int] = (),
) -> tuple[float, list[int]]:
    """Return a metric and the absent classes; ValueError where `point` has none."""
    value, absent = point(metric, label_B, probability_BY, untrained)
    if value is None:
        raise ValueError(
            f"scores: {len(label_B)} images of one class have no {metric}; two classes are needed, "
            f"one of them trained"
        )
    return value, absent


def score(
    metric: str,
    label_B: np.ndarray,
    probability_BY: np.ndarray,
    unit_B: Sequence[str] | None = None,
    *,
    untrained: Collection[int] = (),
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Score:
    """Return a metric with its bootstrap interval; the same input, the same interval.

    Resamples in which the metric is undefined are dropped. There is no interval (None) where
    there is one unit only, or no resample has the metric.

    Args:
        unit_B: what is drawn with replacement, such as patients; images where not given.
        untrained: classes without training images, as in `point`.
    """
    value, absent = point(metric, label_B, probability_BY, untrained)
    n = len(label_B)
    found = Score(value, None, None, n, absent, untrained=sorted({*untrained} - {*absent}))
    if value is None or len(set(range(n) if unit_B is None else unit_B)) < 2:
        return found
    label_B, probability_BY = _checked(label_B, probability_BY)
    value_R = np.concatenate(
        [
            resampled(metric, label_B, probability_BY, weight_BR, untrained)
            for weight_BR in draws(unit_B, n, seed=seed, resamples=resamples)
        ]
    )
    value_R = value_R[np.isfinite(value_R)]
    if not len(value_R):
        return found
    low, high = np.percentile(_centred(metric, value, value_R), [2.5, 97.5]).tolist()
    lowest = -1.0 if metric == "quadratic_kappa" else 0.0
    low, high = max(lowest, min(low, value)), min(1.0, max(high, value))
    return found._replace(low=low, high=high)


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


def draws(
    unit_B: Sequence[str] | None, images: int, *, seed: int, resamples: int
) -> Iterator[np.ndarray]:
    """Yield tables weight_BR: how often each of R resamples of the units holds each image.

    Args:
        unit_B: what is drawn with replacement, such as patients; images where None.
    """
    names = np.arange(images) if unit_B is None else np.asarray(unit_B)
    _, index_B = np.unique(names, return_inverse=True)
    units = int(index_B.max()) + 1
    generator = np.random.default_rng(seed)
    step = max(1, _VALUES // images)
    for first in range(0, resamples, step):
        rows = min(step, resamples - first)
        drawn_RU = generator.multinomial(units, np.full(units, 1 / units), size=rows)
        yield np.ascontiguousarray(drawn_RU.T, dtype=np.float64)[index_B]


def resampled(
    metric: str,
    label_B: np.ndarray,
    probability_BY: np.ndarray,
    weight_BR: np.ndarray,
    untrained: Collection[int] = (),
) -> np.ndarray:
    """Return the metric of each column of weights; nan where it has too few classes for it."""
    if metric == "quadratic_kappa":
        return _quadratic_kappa(label_B, probability_BY, weight_BR)
    if metric == "calibration_error":
        return _calibration_error(label_B, probability_BY, weight_BR)
    if metric in ("macro_f1", "balanced_accuracy"):
        value_YR = _by_class(metric, label_B, probability_BY, weight_BR)
        return _mean_of_defined(np.delete(value_YR, list(untrained), axis=0))
    one = {"auroc": _auroc, "average_precision": _average_precision}[metric]
    columns = [y for y in np.unique(label_B) if y not in untrained]
    return _mean_of_defined(
        np.array([one(label_B == y, probability_BY[:, y], weight_BR) for y in columns])
    )


def _mean_of_defined(value_YR: np.ndarray) -> np.ndarray:
    defined_YR = np.isfinite(value_YR)
    return _divided(np.where(defined_YR, value_YR, 0.0).sum(axis=0), defined_YR.sum(axis=0))


def _divided(above: np.ndarray, below: np.ndarray, where: np.ndarray | None = None) -> np.ndarray:
    """Return above / below, nan where that is not defined."""
    defined = below > 0 if where is None else where
    return np.divide(above, below, out=np.full(above.shape, np.nan), where=defined)


def _by_class(
    metric: str, label_B: np.ndarray, probability_BY: np.ndarray, weight_BR: np.ndarray
) -> np.ndarray:
    """Return F1 or recall of each class (YR), nan for a class that has no image."""
    classes = np.arange(probability_BY.shape[1])[:, None]
    is_YB = label_B == classes
    predicted_YB = probability_BY.argmax(axis=1) == classes
    hit_YR = (is_YB & predicted_YB) @ weight_BR
    true_YR = is_YB @ weight_BR
    if metric == "balanced_accuracy":
        return _divided(hit_YR, true_YR)
    return _divided(2 * hit_YR, true_YR + predicted_YB @ weight_BR, true_YR > 0)


def _quadratic_kappa(
    label_B: np.ndarray, probability_BY: np.ndarray, weight_BR: np.ndarray
) -> np.ndarray:
    """Return 1 - observed / expected squared distance, as sums over images: no table of classes."""
    predicted_B = probability_BY.argmax(axis=1)
    moment_MB = np.stack(
        [label_B, predicted_B, label_B**2, predicted_B**2, (label_B - predicted_B) ** 2]
    )
    label_R, predicted_R, label2_R, predicted2_R, distance_R = moment_MB @ weight_BR
    count_R = weight_BR.sum(axis=0)
    expected_R = count_R * (label2_R + predicted2_R) - 2 * label_R * predicted_R
    two_classes_R = count_R * label2_R > label_R**2
    return 1 - _divided(count_R * distance_R, expected_R, two_classes_R)


def _calibration_error(
    label_B: np.ndarray, probability_BY: np.ndarray, weight_BR: np.ndarray
) -> np.ndarray:
    """Return the mean over images of |accuracy - confidence| of their bin of confidence."""
    confidence_B = probability_BY.max(axis=1)
    edges = np.linspace(0, 1, BINS + 1)
    bin_B = np.digitize(confidence_B, edges[1:-1], right=True)  # as usual, (low, high]
    gap_B = (probability_BY.argmax(axis=1) == label_B) - confidence_B
    gap_KR = (gap_B * (bin_B == np.arange(BINS)[:, None])) @ weight_BR
    return np.abs(gap_KR).sum(axis=0) / weight_BR.sum(axis=0)


def _at_positives(
    positive_B: np.ndarray, probability_B: np.ndarray, weight_BR: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return weights (TR) at each of the T thresholds that a positive has, highest first.

    They are of the positives at the threshold, of all images above it, and of all down to it.
    """
    order_B = np.argsort(-probability_B, kind="stable")
    sorted_B, ordered_BR = -probability_B[order_B], weight_BR[order_B]
    index_P = np.flatnonzero(positive_B[order_B])
    value_T, first_T = np.unique(sorted_B[index_P], return_index=True)
    true_TR = np.add.reduceat(ordered_BR[index_P], first_T, axis=0)
    above_T, down_T = (np.searchsorted(sorted_B, value_T, side) for side in ("left", "right"))
    # what lies between the thresholds is summed once: a table as long as B would cost the time
    edge_E = np.unique(np.concatenate([[0], above_T, down_T]))
    edge_E = edge_E[edge_E < len(order_B)]
    segment_ER = np.add.reduceat(ordered_BR, edge_E, axis=0)
    sum_ER = np.concatenate([np.zeros_like(segment_ER[:1]), np.cumsum(segment_ER, axis=0)])
    above_TR, down_TR = (sum_ER[np.searchsorted(edge_E, index_T)] for index_T in (above_T, down_T))
    return true_TR, above_TR, down_TR


def _auroc(positive_B: np.ndarray, probability_B: np.ndarray, weight_BR: np.ndarray) -> np.ndarray:
    true_TR, above_TR, down_TR = _at_positives(positive_B, probability_B, weight_BR)
    hits_TR = np.cumsum(true_TR, axis=0)
    # negatives above a threshold, and half of those at it: a tie counts half
    false_TR = (above_TR + down_TR - 2 * hits_TR + true_TR) / 2
    positives_R = hits_TR[-1]
    negatives_R = weight_BR.sum(axis=0) - positives_R
    pairs_R = positives_R * negatives_R
    return _divided(pairs_R - (true_TR * false_TR).sum(axis=0), pairs_R)


def _average_precision(
    positive_B: np.ndarray, probability_B: np.ndarray, weight_BR: np.ndarray
) -> np.ndarray:
    true_TR, _, down_TR = _at_positives(positive_B, probability_B, weight_BR)
    hits_TR = np.cumsum(true_TR, axis=0)
    positives_R = hits_TR[-1]
    precision_TR = np.divide(hits_TR, down_TR, out=np.zeros_like(hits_TR), where=down_TR > 0)
    both_R = (positives_R > 0) & (positives_R < weight_BR.sum(axis=0))  # as for AUROC
    return _divided((true_TR * precision_TR).sum(axis=0), positives_R, both_R)
