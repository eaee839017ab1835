"""A metric of many resamples at once: of images, each counted as often as its weight says."""

from collections.abc import Iterator, Sequence

import numpy as np

BINS = 15  # of the expected calibration error, of equal width
_VALUES = 2_000_000  # of one table of weights, to bound the memory


def draws(
    unit_B: Sequence[str] | None, images: int, *, seed: int, resamples: int
) -> Iterator[np.ndarray]:
    """Yield tables weight_RB: how often each of R resamples of the units holds each image.

    Args:
        unit_B: what is drawn with replacement, such as patients; images where None.
    """
    names = np.arange(images) if unit_B is None else np.asarray(unit_B)
    _, place_B = np.unique(names, return_inverse=True)
    units = int(place_B.max()) + 1
    generator = np.random.default_rng(seed)
    step = max(1, _VALUES // images)
    for first in range(0, resamples, step):
        rows = min(step, resamples - first)
        drawn_RU = generator.multinomial(units, np.full(units, 1 / units), size=rows)
        yield drawn_RU.astype(np.float64)[:, place_B]


def resampled(
    metric: str, label_B: np.ndarray, probability_BY: np.ndarray, weight_RB: np.ndarray
) -> np.ndarray:
    """Return the metric of each row of weights; nan where that row has too few classes for it."""
    if metric == "quadratic_kappa":
        return _quadratic_kappa(label_B, probability_BY, weight_RB)
    if metric == "calibration_error":
        return _calibration_error(label_B, probability_BY, weight_RB)
    if metric in ("macro_f1", "balanced_accuracy"):
        return _mean_of_defined(_by_class(metric, label_B, probability_BY, weight_RB))
    one = {"auroc": _auroc, "average_precision": _average_precision}[metric]
    columns = range(probability_BY.shape[1])
    return _mean_of_defined(
        np.array([one(label_B == y, probability_BY[:, y], weight_RB) for y in columns])
    )


def _mean_of_defined(value_YR: np.ndarray) -> np.ndarray:
    defined_YR = np.isfinite(value_YR)
    return _divided(np.where(defined_YR, value_YR, 0.0).sum(axis=0), defined_YR.sum(axis=0))


def _divided(above: np.ndarray, below: np.ndarray, where: np.ndarray | None = None) -> np.ndarray:
    """Return above / below, nan where that is not defined."""
    defined = below > 0 if where is None else where
    return np.divide(above, below, out=np.full(above.shape, np.nan), where=defined)


def _by_class(
    metric: str, label_B: np.ndarray, probability_BY: np.ndarray, weight_RB: np.ndarray
) -> np.ndarray:
    """Return F1 or recall of each class (YR), nan for a class that has no image."""
    classes = np.arange(probability_BY.shape[1])
    is_BY = label_B[:, None] == classes
    called_BY = probability_BY.argmax(axis=1)[:, None] == classes
    hit_RY = weight_RB @ (is_BY & called_BY)
    true_RY = weight_RB @ is_BY
    if metric == "balanced_accuracy":
        return _divided(hit_RY, true_RY).T
    called_RY = weight_RB @ called_BY
    return _divided(2 * hit_RY, true_RY + called_RY, true_RY > 0).T


def _quadratic_kappa(
    label_B: np.ndarray, probability_BY: np.ndarray, weight_RB: np.ndarray
) -> np.ndarray:
    """Return 1 - observed / expected squared distance, as sums over images: no table of classes."""
    called_B = probability_BY.argmax(axis=1)
    moment_BM = np.stack(
        [label_B, called_B, label_B**2, called_B**2, (label_B - called_B) ** 2], axis=1
    )
    label_R, called_R, label2_R, called2_R, distance_R = (weight_RB @ moment_BM).T
    count_R = weight_RB.sum(axis=1)
    expected_R = count_R * (label2_R + called2_R) - 2 * label_R * called_R
    two_classes_R = count_R * label2_R > label_R**2
    return 1 - _divided(count_R * distance_R, expected_R, two_classes_R)


def _calibration_error(
    label_B: np.ndarray, probability_BY: np.ndarray, weight_RB: np.ndarray
) -> np.ndarray:
    """Return the mean over images of |accuracy - confidence| of their bin of confidence."""
    confidence_B = probability_BY.max(axis=1)
    edges = np.linspace(0, 1, BINS + 1)
    bin_B = np.digitize(confidence_B, edges[1:-1], right=True)  # as usual, (low, high]
    gap_B = (probability_BY.argmax(axis=1) == label_B) - confidence_B
    gap_RK = weight_RB @ (gap_B[:, None] * (bin_B[:, None] == np.arange(BINS)))
    return np.abs(gap_RK).sum(axis=1) / weight_RB.sum(axis=1)


def _by_threshold(
    positive_B: np.ndarray, probability_B: np.ndarray, weight_RB: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the weights of positives and of negatives at each threshold, highest first."""
    order_B = np.argsort(-probability_B, kind="stable")
    start_K = np.flatnonzero(np.diff(probability_B[order_B], prepend=np.inf))
    weight_RB, positive_B = weight_RB[:, order_B].astype(np.float64), positive_B[order_B]
    true_RK = np.add.reduceat(weight_RB * positive_B, start_K, axis=1)
    return true_RK, np.add.reduceat(weight_RB * ~positive_B, start_K, axis=1)


def _auroc(positive_B: np.ndarray, probability_B: np.ndarray, weight_RB: np.ndarray) -> np.ndarray:
    true_RK, false_RK = _by_threshold(positive_B, probability_B, weight_RB)
    above_RK = np.cumsum(true_RK, axis=1) - true_RK / 2  # ties count half
    return _divided((false_RK * above_RK).sum(axis=1), true_RK.sum(axis=1) * false_RK.sum(axis=1))


def _average_precision(
    positive_B: np.ndarray, probability_B: np.ndarray, weight_RB: np.ndarray
) -> np.ndarray:
    true_RK, false_RK = _by_threshold(positive_B, probability_B, weight_RB)
    found_RK = np.cumsum(true_RK, axis=1)
    shown_RK = found_RK + np.cumsum(false_RK, axis=1)
    precision_RK = np.divide(found_RK, shown_RK, out=np.zeros_like(found_RK), where=shown_RK > 0)
    total_R, shown_R = found_RK[:, -1], shown_RK[:, -1]
    both_R = (total_R > 0) & (total_R < shown_R)  # as for AUROC: positives and negatives
    return _divided((true_RK * precision_RK).sum(axis=1), total_R, both_R)
