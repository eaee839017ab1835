"""Metrics of class probabilities, labels and numbers, with intervals from a bootstrap by patient.

AUROC and average precision are macro one-vs-rest as RETFound's code computes them; the predicted
class is the one of the highest probability, so no threshold is ever chosen. A class without images
is left out of a mean over classes and named: scikit-learn's own answers there are nan and 0. So is
a class without training images, of which a classifier can know nothing.

Where an image has any number of labels (label_BY of 0 and 1), each is judged by itself: AUROC and
average precision are means over the labels that have both positives and negatives, F1 is at
thresholds that were chosen on validation images. Of numbers (label_B with one column of
predictions) there are the mean absolute error, R2 and Pearson's correlation.

The bootstrap computes a metric for many resamples at once: an image counts as often as it was
drawn. Axes: B images, Y classes, R resamples, T thresholds, P positives, K bins of confidence,
E edges of segments.
"""

import math
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from maskedclip.metrics.ranking import auroc, average_precision
from maskedclip.metrics.resampled_areas import AREAS, ranked, resampled_areas

METRICS = (
    "auroc",
    "average_precision",
    "quadratic_kappa",  # takes the classes in their order
    "macro_f1",
    "balanced_accuracy",
    "calibration_error",  # of the likeliest class, in 15 bins
)
LABELS_METRICS = (
    "auroc",
    "average_precision",
    "macro_f1",
    "micro_f1",  # over all answers of the trained labels
    "odir_score",  # of the ODIR-2019 challenge: the mean of kappa, F1 and AUROC of all answers
)
NUMBER_METRICS = ("mae", "r2", "pearson")
_OF_KIND = {"class": METRICS, "labels": LABELS_METRICS, "number": NUMBER_METRICS}
KINDS = tuple(_OF_KIND)  # of tasks
OVER_CLASSES = ("auroc", "average_precision", "macro_f1", "balanced_accuracy")  # are means
NEED_TWO_CLASSES = ("auroc", "average_precision", "quadratic_kappa")
LOWER_IS_BETTER = ("calibration_error", "mae")
NOT_IN_PER_CENT = NUMBER_METRICS  # the error is in the number's own unit
HALF = 0.5  # a label's threshold where none was chosen
RESAMPLES = 500
_RANGES = {  # of values; others lie between 0 and 1
    "quadratic_kappa": (-1.0, 1.0), "pearson": (-1.0, 1.0), "odir_score": (-1.0, 1.0),
    "r2": (-math.inf, 1.0), "mae": (0.0, math.inf),
}  # fmt: skip
BINS = 15  # of the expected calibration error, of equal width
_NO_SPREAD = 1e-12  # share of the sum of squares that is rounding
_VALUES = 2_000_000  # of one table of weights, to bound the memory
_OF_A_CLASS: dict[str, Callable[..., float]] = {
    "auroc": auroc,
    "average_precision": average_precision,
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


def metrics_of(kind: str) -> tuple[str, ...]:
    """Return the metrics of a task's kind, the first the one that others are chosen by."""
    return _OF_KIND[kind]


def protocols_of_kind(kind: str, protocols: Sequence[str]) -> list[str]:
    """Return the protocols of frozen encoders that score a kind of task, of those that are named.

    Logistic regression becomes ridge regression where the task is a number, and the reverse.
    """
    if kind == "number":
        own = ("ridge" if name == "logistic" else name for name in protocols)
        return list(dict.fromkeys(name for name in own if name in ("ridge", "knn")))
    return list(dict.fromkeys("logistic" if name == "ridge" else name for name in protocols))


def point(
    metric: str,
    label_B: np.ndarray,
    probability_BY: np.ndarray,
    untrained: Collection[int] = (),
    thresholds: Sequence[float] = (),
) -> tuple[float | None, list[int]]:
    """Return a metric, None where it is undefined, and the classes without images.

    It is undefined where the labels are of one class and it needs two, and where it is a mean over
    classes and none that has images was trained; of numbers R2 and the correlation where all are
    one. Raises ValueError where there is no image, or a probability is not finite.

    Args:
        untrained: classes without training images, left out of a mean over classes; their images
            stay among "the rest".
        thresholds: of labels: each is called from this probability on; 0.5 where not given.
    """
    label_B, probability_BY = _checked(label_B, probability_BY)
    if metric in NUMBER_METRICS:
        value = float(resampled(metric, label_B, probability_BY, np.ones((len(label_B), 1)))[0])
        return (value if np.isfinite(value) else None), []
    if label_B.ndim == 2:
        return _point_of_labels(metric, label_B, probability_BY, untrained, thresholds)
    present = np.unique(label_B).tolist()
    absent = [y for y in range(probability_BY.shape[1]) if y not in present]
    kept = [y for y in present if y not in untrained]
    too_few = len(present) < 2 and metric in NEED_TWO_CLASSES
    if too_few or (not kept and metric in OVER_CLASSES):
        return None, absent
    if metric in _OF_A_CLASS:
        one = _OF_A_CLASS[metric]
        return float(np.mean([one(label_B == y, probability_BY[:, y]) for y in kept])), absent
    once_BR = np.ones((len(label_B), 1))
    return float(resampled(metric, label_B, probability_BY, once_BR, untrained)[0]), absent


def _point_of_labels(
    metric: str,
    label_BY: np.ndarray,
    probability_BY: np.ndarray,
    untrained: Collection[int],
    thresholds: Sequence[float],
) -> tuple[float | None, list[int]]:
    positives_Y = label_BY.sum(axis=0)
    both_Y = (positives_Y > 0) & (positives_Y < len(label_BY))
    absent = np.flatnonzero(~both_Y).tolist()
    kept = [y for y in np.flatnonzero(both_Y).tolist() if y not in untrained]
    if not kept:
        return None, absent
    if metric in _OF_A_CLASS:
        one = _OF_A_CLASS[metric]
        return float(np.mean([one(label_BY[:, y], probability_BY[:, y]) for y in kept])), absent
    once_BR = np.ones((len(label_BY), 1))
    value_R = resampled(metric, label_BY, probability_BY, once_BR, untrained, thresholds)
    return float(value_R[0]), absent


def macro(
    metric: str,
    label_B: np.ndarray,
    probability_BY: np.ndarray,
    untrained: Collection[int] = (),
    thresholds: Sequence[float] = (),
) -> tuple[float, list[int]]:
    """Return a metric and the absent classes; ValueError where `point` has none."""
    value, absent = point(metric, label_B, probability_BY, untrained, thresholds)
    if value is None and metric in NUMBER_METRICS:
        raise ValueError(
            f"scores: {len(label_B)} images have no {metric}; their numbers, or those predicted, "
            f"are all the same"
        )
    if value is None and np.ndim(label_B) == 2:
        raise ValueError(
            f"scores: {len(label_B)} images have no {metric}; a trained label with positives and "
            f"negatives is needed"
        )
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
    thresholds: Sequence[float] = (),
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Score:
    """Return a metric with its bootstrap interval; the same input, the same interval.

    Resamples in which the metric is undefined are dropped. There is no interval (None) where
    there is one unit only, or no resample has the metric.

    Args:
        unit_B: what is drawn with replacement, such as patients; images where not given.
        untrained, thresholds: as in `point`.
    """
    return scores(
        [metric], label_B, probability_BY, unit_B, untrained=untrained, thresholds=thresholds,
        seed=seed, resamples=resamples,
    )[metric]  # fmt: skip


def scores(
    metrics: Sequence[str],
    label_B: np.ndarray,
    probability_BY: np.ndarray,
    unit_B: Sequence[str] | None = None,
    *,
    untrained: Collection[int] = (),
    thresholds: Sequence[float] = (),
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> dict[str, Score]:
    """Return what `score` does, of several metrics on the same resamples."""
    n = len(label_B)
    found = {}
    for metric in metrics:
        value, absent = point(metric, label_B, probability_BY, untrained, thresholds)
        left_out = sorted({*untrained} - {*absent})
        found[metric] = Score(value, None, None, n, absent, untrained=left_out)
    defined = [metric for metric in metrics if found[metric].value is not None]
    if not defined or len(set(range(n) if unit_B is None else unit_B)) < 2:
        return found
    label_B, probability_BY = _checked(label_B, probability_BY)
    tables = [
        resampled_each(defined, label_B, probability_BY, weight_BR, untrained, thresholds)
        for weight_BR in draws(unit_B, n, seed=seed, resamples=resamples)
    ]
    for metric in defined:
        value_R = np.concatenate([value_by_metric[metric] for value_by_metric in tables])
        found[metric] = _with_interval(metric, found[metric], value_R)
    return found


def _with_interval(metric: str, one: Score, value_R: np.ndarray) -> Score:
    value_R = value_R[np.isfinite(value_R)]
    if not len(value_R):
        return one
    value = float(one.value or 0.0)
    low, high = np.percentile(_centred(metric, value, value_R), [2.5, 97.5]).tolist()
    lowest, highest = _RANGES.get(metric, (0.0, 1.0))
    return one._replace(low=max(lowest, min(low, value)), high=min(highest, max(high, value)))


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
    thresholds: Sequence[float] = (),
) -> np.ndarray:
    """Return the metric of each column of weights; nan where it has too few classes for it."""
    each = resampled_each([metric], label_B, probability_BY, weight_BR, untrained, thresholds)
    return each[metric]


def resampled_each(
    metrics: Sequence[str],
    label_B: np.ndarray,
    probability_BY: np.ndarray,
    weight_BR: np.ndarray,
    untrained: Collection[int] = (),
    thresholds: Sequence[float] = (),
) -> dict[str, np.ndarray]:
    """Return what `resampled` does of several metrics; scores are ranked once for all of them."""
    found = {}
    if areas := [metric for metric in metrics if metric in AREAS]:
        found = _areas(areas, label_B, probability_BY, weight_BR, untrained)
    for metric in metrics:
        if metric in found:
            continue
        if metric in NUMBER_METRICS:
            found[metric] = _of_numbers(metric, label_B, probability_BY[:, 0], weight_BR)
        elif label_B.ndim == 2:
            found[metric] = _of_labels(
                metric, label_B, probability_BY, weight_BR, untrained, thresholds
            )
        elif metric == "quadratic_kappa":
            found[metric] = _quadratic_kappa(label_B, probability_BY, weight_BR)
        elif metric == "calibration_error":
            found[metric] = _calibration_error(label_B, probability_BY, weight_BR)
        else:
            value_YR = _by_class(metric, label_B, probability_BY, weight_BR)
            found[metric] = _mean_of_defined(np.delete(value_YR, list(untrained), axis=0))
    return found


def _areas(
    metrics: Sequence[str],
    label_B: np.ndarray,
    probability_BY: np.ndarray,
    weight_BR: np.ndarray,
    untrained: Collection[int],
) -> dict[str, np.ndarray]:
    if label_B.ndim == 2:
        columns = _with_both(label_B, untrained)
        positives = [label_B[:, y] == 1 for y in columns]
    else:
        columns = [y for y in np.unique(label_B).tolist() if y not in untrained]
        positives = [label_B == y for y in columns]
    rankings = [
        ranked(own_B, probability_BY[:, y]) for own_B, y in zip(positives, columns, strict=True)
    ]
    found = resampled_areas(metrics, rankings, weight_BR)
    return {metric: _mean_of_defined(value_YR) for metric, value_YR in found.items()}


def _with_both(label_BY: np.ndarray, untrained: Collection[int]) -> list[int]:
    """Return the trained labels that some images have and others do not."""
    positives_Y = label_BY.sum(axis=0)
    both_Y = (positives_Y > 0) & (positives_Y < len(label_BY))
    return [y for y in np.flatnonzero(both_Y).tolist() if y not in untrained]


def _of_labels(
    metric: str,
    label_BY: np.ndarray,
    probability_BY: np.ndarray,
    weight_BR: np.ndarray,
    untrained: Collection[int],
    thresholds: Sequence[float],
) -> np.ndarray:
    trained = [y for y in range(label_BY.shape[1]) if y not in untrained]
    if metric == "odir_score":
        return _odir_score(label_BY[:, trained], probability_BY[:, trained], weight_BR)
    called_BY = probability_BY >= (np.asarray(thresholds) if len(thresholds) else HALF)
    columns = _with_both(label_BY, untrained) if metric == "macro_f1" else trained
    is_YB, called_YB = label_BY.T[columns] == 1, called_BY.T[columns]
    hit_YR, true_YR = (is_YB & called_YB) @ weight_BR, is_YB @ weight_BR
    both_YR = true_YR + called_YB @ weight_BR
    if metric == "macro_f1":
        return _mean_of_defined(_divided(2 * hit_YR, both_YR, true_YR > 0))
    return _divided(2 * hit_YR.sum(axis=0), both_YR.sum(axis=0))


def _odir_score(
    label_BY: np.ndarray, probability_BY: np.ndarray, weight_BR: np.ndarray
) -> np.ndarray:
    """Return the mean of kappa, F1 and AUROC of all answers as one row, called above 0.5.

    So does the script of the challenge, with f1_score(average="micro") of yes and no, which is the
    share of answers that are right.
    """
    images, columns = label_BY.shape
    is_BY, called_BY = label_BY == 1, probability_BY > HALF
    all_R = columns * weight_BR.sum(axis=0)
    right_R = (is_BY == called_BY).sum(axis=1) @ weight_BR / all_R
    yes_R, called_R = (
        is_BY.sum(axis=1) @ weight_BR / all_R,
        called_BY.sum(axis=1) @ weight_BR / all_R,
    )
    chance_R = yes_R * called_R + (1 - yes_R) * (1 - called_R)
    kappa_R = _divided(right_R - chance_R, 1 - chance_R)
    image_A = np.repeat(np.arange(images), columns)
    ranking = ranked(is_BY.reshape(-1), probability_BY.reshape(-1), image_A)
    auroc_R = resampled_areas(["auroc"], [ranking], weight_BR)["auroc"][0]
    return (kappa_R + right_R + auroc_R) / 3


def _of_numbers(
    metric: str, value_B: np.ndarray, predicted_B: np.ndarray, weight_BR: np.ndarray
) -> np.ndarray:
    count_R = weight_BR.sum(axis=0)
    if metric == "mae":
        return np.abs(value_B - predicted_B) @ weight_BR / count_R
    # around their mean: sums of squares of large numbers would lose digits
    middle = value_B.mean()
    value_B, predicted_B = value_B - middle, predicted_B - middle
    mean_R, mean_predicted_R = value_B @ weight_BR / count_R, predicted_B @ weight_BR / count_R
    spread_R = value_B**2 @ weight_BR - count_R * mean_R**2
    varied_R = spread_R > _NO_SPREAD * (value_B**2 @ weight_BR)
    if metric == "r2":
        return 1 - _divided((value_B - predicted_B) ** 2 @ weight_BR, spread_R, varied_R)
    spread_predicted_R = predicted_B**2 @ weight_BR - count_R * mean_predicted_R**2
    varied_R &= spread_predicted_R > _NO_SPREAD * (predicted_B**2 @ weight_BR)
    together_R = (value_B * predicted_B) @ weight_BR - count_R * mean_R * mean_predicted_R
    return _divided(together_R, np.sqrt(np.abs(spread_R * spread_predicted_R)), varied_R)


def chosen_thresholds(
    label_BY: np.ndarray, probability_BY: np.ndarray, untrained: Collection[int] = ()
) -> tuple[float, ...]:
    """Return for each label the threshold of the highest F1 on these (validation) images.

    It lies half-way between the lowest probability that is called and the next lower one; of equal
    F1 the highest. A label that is not trained, or has no positive here, has 0.5.
    """
    thresholds = []
    for y in range(label_BY.shape[1]):
        is_B, probability_B = label_BY[:, y] == 1, probability_BY[:, y]
        if y in untrained or not is_B.any():
            thresholds.append(HALF)
            continue
        value_T = np.unique(probability_B)
        # called from each of them on: hits, and all that are called
        order_B = np.argsort(probability_B, kind="stable")
        first_T = np.searchsorted(probability_B[order_B], value_T, side="left")
        missed_B = np.concatenate([[0], np.cumsum(is_B[order_B])])
        hit_T = is_B.sum() - missed_B[first_T]
        called_T = len(is_B) - first_T
        f1_T = 2 * hit_T / (is_B.sum() + called_T)
        best = int(np.flatnonzero(f1_T == f1_T.max())[-1])
        below, value = value_T[max(0, best - 1)], value_T[best]
        middle = (below + value) / 2
        thresholds.append(float(middle if middle > below else value))
    return tuple(thresholds)


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
