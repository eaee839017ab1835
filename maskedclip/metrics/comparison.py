"""Is one run better than another? Differences on the same images, with intervals and p-values.

A paired bootstrap by patient for every metric, DeLong's test for the AUROC of one class. Axes: B
images, Y classes, R resamples, N the two runs, U units, K tied groups, Q negatives.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from statistics import NormalDist, fmean, stdev
from typing import NamedTuple

import numpy as np

from maskedclip.metrics.prediction_files import Predictions
from maskedclip.metrics.scores import LOWER_IS_BETTER, draws, macro, resampled_each

RESAMPLES = 2000  # a p-value below 0.001 needs more than an interval does
_KEPT = 4_000_000  # values of the tables that are kept, 32 MB
_NO_VARIANCE = 1e-18  # what rounding leaves of none
_ROUNDING = 1e-12  # of a difference, as a share of what differs


class Difference(NamedTuple):
    """A difference, its 95 % interval and two-sided p-value; None where they are undefined."""

    value: float
    low: float | None
    high: float | None
    p: float | None


def paired_bootstrap(
    metric: str,
    a: Sequence[Predictions],
    b: Sequence[Predictions],
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Difference:
    """Return the mean of a metric over the runs `a` (one a seed) minus that over the runs `b`.

    Patients are drawn, the same ones for all runs: the two-sided p-value says what other patients
    would change, not what other seeds would. One patient has no p-value and no interval. Raises
    ValueError where the runs are not of the same images, labels and patients, or all images are of
    one class.
    """
    runs = [[_aligned(run, a[0]) for run in side] for side in leaving_out_untrained(a, b)]
    value = [_mean(metric, side) for side in runs]
    value_NR = [_resamples([metric], side, seed, resamples)[metric] for side in runs]
    return _difference(value[0], value[1], *value_NR)


def against_best(
    metrics: Sequence[str],
    runs: Mapping[str, Sequence[Predictions]],
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> dict[str, tuple[str, dict[str, Difference]]]:
    """Return by metric the method of the best mean over its seeds, and how each other differs.

    A difference is other - best, as `paired_bootstrap` has it; the p-values are adjusted for the
    number of methods (Holm).

    Args:
        runs: of each method, its runs (one a seed) on one and the same test split.

    Raises ValueError where they are not of the same images, labels and patients.
    """
    if not runs or not all(runs.values()):
        raise ValueError("compare: a method has no run; give at least one method and run")
    first = next(iter(runs.values()))[0]
    sides = leaving_out_untrained(*runs.values())
    runs = {
        name: [_aligned(run, first) for run in own] for name, own in zip(runs, sides, strict=True)
    }
    resampled = {name: _resamples(metrics, own, seed, resamples) for name, own in runs.items()}
    found = {}
    for metric in metrics:
        value = {name: _mean(metric, own) for name, own in runs.items()}
        best = (min if metric in LOWER_IS_BETTER else max)(value, key=lambda name: value[name])
        others = {
            name: _difference(
                value[name], value[best], resampled[name][metric], resampled[best][metric]
            )
            for name in runs
            if name != best
        }
        found[metric] = best, _adjusted(others)
    return found


def _adjusted(others: Mapping[str, Difference]) -> dict[str, Difference]:
    p = {name: other.p for name, other in others.items() if other.p is not None}
    adjusted = dict(zip(p, holm(list(p.values())), strict=True))
    return {name: other._replace(p=adjusted.get(name)) for name, other in others.items()}


def holm(p: Sequence[float]) -> list[float]:
    """Return p-values adjusted for their number, by Holm's step-down rule."""
    adjusted, largest = [0.0] * len(p), 0.0
    for rank, i in enumerate(sorted(range(len(p)), key=lambda i: p[i])):
        largest = max(largest, min(1.0, (len(p) - rank) * p[i]))
        adjusted[i] = largest
    return adjusted


def over_seeds(values: Sequence[float]) -> tuple[float, float | None]:
    """Return the mean and the sample standard deviation, None of a single value."""
    if not values:
        raise ValueError("compare: no value to take the mean of; give one a seed")
    return fmean(values), stdev(values) if len(values) > 1 else None


def _aligned(run: Predictions, first: Predictions) -> Predictions:
    """Return the predictions of `run` in the order of the images of `first`."""
    index = {key: i for i, key in enumerate(run.keys)}
    if len(index) != len(run.keys) or sorted(index) != sorted(first.keys):
        raise ValueError(
            f"compare: {len(run.keys)} images of one run are not the {len(first.keys)} of the "
            f"other; compare runs on the same test split"
        )
    order_B = np.array([index[key] for key in first.keys])
    units = [run.units[i] for i in order_B]
    label_B, probability_BY = run.label_B[order_B], run.probability_BY[order_B]
    if not np.array_equal(label_B, first.label_B) or units != list(first.units):
        raise ValueError("compare: the same images have other labels or patients in the two runs")
    if probability_BY.shape != first.probability_BY.shape:
        raise ValueError("compare: the two runs have not the same number of classes")
    return run._replace(
        keys=list(first.keys), units=units, label_B=label_B, probability_BY=probability_BY
    )


def leaving_out_untrained(*sides: Sequence[Predictions]) -> list[list[Predictions]]:
    """Return the runs so that all leave out the classes which one of them was not trained on."""
    labels = tuple(sorted({label for side in sides for run in side for label in run.untrained}))
    return [[run._replace(untrained=labels) for run in side] for side in sides]


def _mean(metric: str, runs: Sequence[Predictions]) -> float:
    return fmean(
        macro(metric, r.label_B, r.probability_BY, r.untrained, r.thresholds)[0] for r in runs
    )


def _tables(units: tuple[str, ...], seed: int, resamples: int) -> Iterable[np.ndarray]:
    """Return the tables of `draws`, once for all methods and metrics of one test split."""
    if len(units) * resamples > _KEPT:
        return draws(units, len(units), seed=seed, resamples=resamples)
    return _kept_tables(units, seed, resamples)


@lru_cache(maxsize=1)
def _kept_tables(units: tuple[str, ...], seed: int, resamples: int) -> list[np.ndarray]:
    return list(draws(units, len(units), seed=seed, resamples=resamples))


def _resamples(
    metrics: Sequence[str], runs: Sequence[Predictions], seed: int, resamples: int
) -> dict[str, np.ndarray]:
    """Return the mean over runs of each metric of each resample; none where there is one unit."""
    if len(set(runs[0].units)) < 2:
        return {metric: np.empty(0) for metric in metrics}
    parts: dict[str, list[np.ndarray]] = {metric: [] for metric in metrics}
    for weight_BR in _tables(tuple(runs[0].units), seed, resamples):
        each = [
            resampled_each(
                metrics, r.label_B, r.probability_BY, weight_BR, r.untrained, r.thresholds
            )
            for r in runs
        ]
        for metric, own in parts.items():
            own.append(np.mean([one[metric] for one in each], axis=0))
    return {metric: np.concatenate(own) for metric, own in parts.items()}


def _difference(a: float, b: float, a_R: np.ndarray, b_R: np.ndarray) -> Difference:
    value = a - b
    value_R = a_R - b_R
    value_R = value_R[np.isfinite(value_R)]
    if not len(value_R):
        return Difference(value, None, None, None)
    rounding = _ROUNDING * max(1.0, abs(a), abs(b))
    # a resample without an image that the two differ in speaks for neither, whatever the bias
    equal_R = np.abs(value_R) <= rounding
    value_R -= value_R.mean() - value  # what bias the two do not share
    # equal runs differ by what rounding leaves, and that of one sign would be a small p-value
    value_R[equal_R | (np.abs(value_R) <= rounding)] = 0.0
    low, high = np.percentile(value_R, [2.5, 97.5])
    tail = min((value_R <= 0).sum(), (value_R >= 0).sum())
    p = min(1.0, 2 * (tail + 1) / (len(value_R) + 1))
    return Difference(value, float(low), float(high), float(p))


def delong(
    label_B: np.ndarray,
    a_B: np.ndarray,
    b_B: np.ndarray,
    unit_B: Sequence[str] | None = None,
) -> Difference:
    """Return the AUROC of scores `a_B` minus that of `b_B`, by DeLong's test (1988).

    Midranks make it O(n log n) (Sun and Xu 2014). With units (patients of several images) the
    variance is Obuchowski's (1997), which is DeLong's where every unit has one image. Where it is
    zero (both curves perfect, say) there is no interval, nor a p-value unless the two are equal.

    Args:
        label_B: True or 1 for the class, False or 0 for the others.

    Raises ValueError where the labels are all alike.
    """
    positive_B = np.asarray(label_B).astype(bool)
    if positive_B.all() or not positive_B.any():
        raise ValueError("delong: the labels are all alike; positives and negatives are needed")
    placement_NB = np.stack([_placements(positive_B, np.asarray(s)) for s in (a_B, b_B)])
    auroc_N = placement_NB[:, positive_B].mean(axis=1)
    names = np.arange(len(positive_B)) if unit_B is None else np.asarray(unit_B)
    variance = _variance(placement_NB[0] - placement_NB[1], positive_B, names)
    value = float(auroc_N[0] - auroc_N[1])
    if not variance > _NO_VARIANCE:  # or not a number: one positive, or one unit
        return Difference(value, None, None, 1.0 if value == 0 else None)
    deviation = math.sqrt(variance)
    margin = NormalDist().inv_cdf(0.975) * deviation
    p = math.erfc(abs(value) / deviation / math.sqrt(2))
    return Difference(value, value - margin, value + margin, p)


def _placements(positive_B: np.ndarray, score_B: np.ndarray) -> np.ndarray:
    """Return for each image the share of the other kind that it is ranked rightly against."""
    placement_B = np.empty(len(score_B))
    rank_B = _midranks(score_B)
    positives, negatives = positive_B.sum(), (~positive_B).sum()
    placement_B[positive_B] = (rank_B[positive_B] - _midranks(score_B[positive_B])) / negatives
    below_Q = rank_B[~positive_B] - _midranks(score_B[~positive_B])
    placement_B[~positive_B] = 1 - below_Q / positives
    return placement_B


def _midranks(score_B: np.ndarray) -> np.ndarray:
    """Return ranks from 1; equal scores share the mean of theirs."""
    _, group_B, count_K = np.unique(score_B, return_inverse=True, return_counts=True)
    return (np.cumsum(count_K) - (count_K - 1) / 2)[group_B]


def _variance(placement_B: np.ndarray, positive_B: np.ndarray, unit_B: np.ndarray) -> float:
    """Return the variance of the mean placement of positives, units being independent."""
    _, index_B = np.unique(unit_B, return_inverse=True)
    units = index_B.max() + 1
    sums, with_images = [], []  # of positives, of negatives: a value a unit; units that have some
    for chosen_B in (positive_B, ~positive_B):
        centred_B = placement_B[chosen_B] - placement_B[chosen_B].mean()
        sums.append(np.bincount(index_B[chosen_B], centred_B, units) / chosen_B.sum())
        with_images.append(len(np.unique(index_B[chosen_B])))
    if min(*with_images, units) < 2:
        return math.nan
    own = sum((sum_U**2).sum() * k / (k - 1) for sum_U, k in zip(sums, with_images, strict=True))
    return float(own + 2 * (sums[0] * sums[1]).sum() * units / (units - 1))
