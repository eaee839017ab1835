"""Is one run better than another? Differences on the same images, with intervals and p-values."""

from collections.abc import Mapping, Sequence
from statistics import fmean, stdev
from typing import NamedTuple

import numpy as np

from maskedclip.metrics.bootstrap import draws, resampled
from maskedclip.metrics.results import Measured
from maskedclip.metrics.scores import LOWER_IS_BETTER, macro

RESAMPLES = 2000  # a p-value below 0.001 needs more than an interval does


class Difference(NamedTuple):
    """A difference, its 95 % interval and two-sided p-value; None where they are undefined."""

    value: float
    low: float | None
    high: float | None
    p: float | None


class Best(NamedTuple):
    """The best of several methods, and how each of the others differs from it (other - best)."""

    name: str
    others: dict[str, Difference]  # p-values are Holm's, for as many comparisons
    differing: list[str]  # those whose p-value is below the level


def paired_bootstrap(
    metric: str, a: Measured, b: Measured, *, seed: int = 0, resamples: int = RESAMPLES
) -> Difference:
    """Return a metric of `a` minus that of `b`: patients are drawn, the same ones for both.

    The p-value is two-sided; one patient has none, and no interval. Raises ValueError where the
    two are not of the same images, labels and patients, or all are of one class.
    """
    return paired_means(metric, [a], [b], seed=seed, resamples=resamples)


def paired_means(
    metric: str,
    a: Sequence[Measured],
    b: Sequence[Measured],
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Difference:
    """Return what `paired_bootstrap` does of the means of several runs, one a seed, on each side.

    It says what other patients would change, not what other seeds would.
    """
    runs = [[_aligned(run, a[0]) for run in side] for side in (a, b)]
    value = [_mean(metric, side) for side in runs]
    value_NR = [_resamples(metric, side, seed, resamples) for side in runs]
    return _difference(value[0], value[1], *value_NR)


def differing_from_best(
    metric: str,
    found: Mapping[str, Sequence[Measured]],
    *,
    level: float = 0.05,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Best:
    """Return the method of the best mean over its seeds, and which others differ from it.

    The p-values say what other patients would change, not what other seeds would.

    Args:
        found: of each method, its runs (one a seed) on one and the same test split.

    Raises ValueError where they are not of the same images, labels and patients.
    """
    if not found or not all(found.values()):
        raise ValueError("compare: a method has no run; give at least one method and run")
    first = next(iter(found.values()))[0]
    runs = {name: [_aligned(run, first) for run in every] for name, every in found.items()}
    value = {name: _mean(metric, every) for name, every in runs.items()}
    best = (min if metric in LOWER_IS_BETTER else max)(value, key=lambda name: value[name])
    value_R = {name: _resamples(metric, every, seed, resamples) for name, every in runs.items()}
    others = {
        name: _difference(value[name], value[best], value_R[name], value_R[best])
        for name in found
        if name != best
    }
    p = {name: each.p for name, each in others.items() if each.p is not None}
    p = dict(zip(p, holm(list(p.values())), strict=True))
    others = {name: each._replace(p=p.get(name)) for name, each in others.items()}
    return Best(best, others, [name for name in p if p[name] < level])


def holm(p: Sequence[float]) -> list[float]:
    """Return p-values adjusted for their number, by Holm's step-down rule."""
    adjusted, largest = [0.0] * len(p), 0.0
    for rank, place in enumerate(sorted(range(len(p)), key=lambda i: p[i])):
        largest = max(largest, min(1.0, (len(p) - rank) * p[place]))
        adjusted[place] = largest
    return adjusted


def over_seeds(values: Sequence[float]) -> tuple[float, float | None]:
    """Return the mean and the sample standard deviation, None of a single value."""
    if not values:
        raise ValueError("compare: no value to take the mean of; give one a seed")
    return fmean(values), stdev(values) if len(values) > 1 else None


def _aligned(found: Measured, model: Measured) -> Measured:
    """Return the rows of `found` in the order of `model`'s."""
    place = {key: i for i, key in enumerate(found.keys)}
    if len(place) != len(found.keys) or sorted(place) != sorted(model.keys):
        raise ValueError(
            f"compare: {len(found.keys)} images of one run are not the {len(model.keys)} of the "
            f"other; compare runs on the same test split"
        )
    order_B = np.array([place[key] for key in model.keys])
    units = [found.units[i] for i in order_B]
    again = Measured(list(model.keys), units, found.label_B[order_B], found.probability_BY[order_B])
    if not np.array_equal(again.label_B, model.label_B) or units != list(model.units):
        raise ValueError("compare: the same images have other labels or patients in the two runs")
    if again.probability_BY.shape != model.probability_BY.shape:
        raise ValueError("compare: the two runs have not the same number of classes")
    return again


def _mean(metric: str, runs: Sequence[Measured]) -> float:
    return fmean(macro(metric, run.label_B, run.probability_BY)[0] for run in runs)


def _resamples(metric: str, runs: Sequence[Measured], seed: int, resamples: int) -> np.ndarray:
    """Return the mean over runs of the metric of each resample; none where there is one unit."""
    if len(set(runs[0].units)) < 2:
        return np.empty(0)
    tables = draws(runs[0].units, len(runs[0].keys), seed=seed, resamples=resamples)
    return np.concatenate(
        [
            np.mean([resampled(metric, r.label_B, r.probability_BY, w_BR) for r in runs], axis=0)
            for w_BR in tables
        ]
    )


def _difference(a: float, b: float, a_R: np.ndarray, b_R: np.ndarray) -> Difference:
    value = a - b
    value_R = a_R - b_R
    value_R = value_R[np.isfinite(value_R)]
    if not len(value_R):
        return Difference(value, None, None, None)
    value_R -= value_R.mean() - value  # what bias the two do not share
    low, high = np.percentile(value_R, [2.5, 97.5])
    tail = min((value_R <= 0).sum(), (value_R >= 0).sum())
    p = min(1.0, 2 * (tail + 1) / (len(value_R) + 1))
    return Difference(value, float(low), float(high), float(p))
