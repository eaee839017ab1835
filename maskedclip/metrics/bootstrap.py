"""A metric of many resamples at once: of images, each counted as often as its weight says."""

from collections.abc import Iterator, Sequence

import numpy as np

BINS = 15  # of the expected calibration error, of equal width
_VALUES = 2_000_000  # of one table of weights, to bound the memory


def draws(
    unit_B: Sequence[str] | None, images: int, *, seed: int, resamples: int
) -> Iterator[np.ndarray]:
    """Yield tables weight_BR: how often each of R resamples of the units holds each image.

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
        yield np.ascontiguousarray(drawn_RU.T, dtype=np.float64)[place_B]


def resampled(
    metric: str, label_B: np.ndarray, probability_BY: np.ndarray, weight_BR: np.ndarray
) -> np.ndarray:
    """Return the metric of each column of weights; nan where it has too few classes for it."""
    if metric == "quadratic_kappa":
        return _quadratic_kappa(label_B, probability_BY, weight_BR)
    if metric == "calibration_error":
        return _calibration_error(label_B, probability_BY, weight_BR)
    if metric in ("macro_f1", "balanced_accuracy"):
        return _mean_of_defined(_by_class(metric, label_B, probability_BY, weight_BR))
    one = {"auroc": _auroc, "average_precision": _average_precision}[metric]
    columns = np.unique(label_B)
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
    called_YB = probability_BY.argmax(axis=1) == classes
    hit_YR = (is_YB & called_YB) @ weight_BR
    true_YR = is_YB @ weight_BR
    if metric == "balanced_accuracy":
        return _divided(hit_YR, true_YR)
    return _divided(2 * hit_YR, true_YR + called_YB @ weight_BR, true_YR > 0)


def _quadratic_kappa(
    label_B: np.ndarray, probability_BY: np.ndarray, weight_BR: np.ndarray
) -> np.ndarray:
    """Return 1 - observed / expected squared distance, as sums over images: no table of classes."""
    called_B = probability_BY.argmax(axis=1)
    moment_MB = np.stack([label_B, called_B, label_B**2, called_B**2, (label_B - called_B) ** 2])
    label_R, called_R, label2_R, called2_R, distance_R = moment_MB @ weight_BR
    count_R = weight_BR.sum(axis=0)
    expected_R = count_R * (label2_R + called2_R) - 2 * label_R * called_R
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
    """Return weights (KR) at each of the K thresholds that a positive has, highest first.

    They are of the positives at the threshold, of all images above it, and of all down to it.
    """
    order_B = np.argsort(-probability_B, kind="stable")
    sorted_B, ordered_BR = -probability_B[order_B], weight_BR[order_B]
    place_P = np.flatnonzero(positive_B[order_B])
    value_K, first_K = np.unique(sorted_B[place_P], return_index=True)
    true_KR = np.add.reduceat(ordered_BR[place_P], first_K, axis=0)
    above_K, down_K = (np.searchsorted(sorted_B, value_K, side) for side in ("left", "right"))
    # what lies between the thresholds is summed once: a table as long as B would cost the time
    edge_E = np.unique(np.concatenate([[0], above_K, down_K]))
    edge_E = edge_E[edge_E < len(order_B)]
    part_ER = np.add.reduceat(ordered_BR, edge_E, axis=0)
    sum_ER = np.concatenate([np.zeros_like(part_ER[:1]), np.cumsum(part_ER, axis=0)])
    above_KR, down_KR = (sum_ER[np.searchsorted(edge_E, place_K)] for place_K in (above_K, down_K))
    return true_KR, above_KR, down_KR


def _auroc(positive_B: np.ndarray, probability_B: np.ndarray, weight_BR: np.ndarray) -> np.ndarray:
    true_KR, above_KR, down_KR = _at_positives(positive_B, probability_B, weight_BR)
    found_KR = np.cumsum(true_KR, axis=0)
    # negatives above a threshold, and half of those at it: a tie counts half
    false_KR = (above_KR + down_KR - 2 * found_KR + true_KR) / 2
    positives_R = found_KR[-1]
    negatives_R = weight_BR.sum(axis=0) - positives_R
    pairs_R = positives_R * negatives_R
    return _divided(pairs_R - (true_KR * false_KR).sum(axis=0), pairs_R)


def _average_precision(
    positive_B: np.ndarray, probability_B: np.ndarray, weight_BR: np.ndarray
) -> np.ndarray:
    true_KR, _, down_KR = _at_positives(positive_B, probability_B, weight_BR)
    found_KR = np.cumsum(true_KR, axis=0)
    positives_R = found_KR[-1]
    precision_KR = np.divide(found_KR, down_KR, out=np.zeros_like(found_KR), where=down_KR > 0)
    both_R = (positives_R > 0) & (positives_R < weight_BR.sum(axis=0))  # as for AUROC
    return _divided((true_KR * precision_KR).sum(axis=0), positives_R, both_R)
