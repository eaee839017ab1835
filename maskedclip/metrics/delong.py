"""DeLong's test: do two scores of the same images have the same AUROC?"""

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np

from maskedclip.metrics.comparison import Difference

_NO_VARIANCE = 1e-18  # what rounding leaves of none


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
    all_B = _midranks(score_B)
    positives, negatives = positive_B.sum(), (~positive_B).sum()
    placement_B[positive_B] = (all_B[positive_B] - _midranks(score_B[positive_B])) / negatives
    below_N = all_B[~positive_B] - _midranks(score_B[~positive_B])
    placement_B[~positive_B] = 1 - below_N / positives
    return placement_B


def _midranks(score_B: np.ndarray) -> np.ndarray:
    """Return ranks from 1; equal scores share the mean of theirs."""
    _, place_B, count_K = np.unique(score_B, return_inverse=True, return_counts=True)
    return (np.cumsum(count_K) - (count_K - 1) / 2)[place_B]


def _variance(placement_B: np.ndarray, positive_B: np.ndarray, unit_B: np.ndarray) -> float:
    """Return the variance of the mean placement of positives, units being independent."""
    _, place_B = np.unique(unit_B, return_inverse=True)
    sums, kinds = [], []  # a row for positives, one for negatives: a value a unit
    for chosen_B in (positive_B, ~positive_B):
        centred_B = placement_B[chosen_B] - placement_B[chosen_B].mean()
        sums.append(np.bincount(place_B[chosen_B], centred_B, place_B.max() + 1) / chosen_B.sum())
        kinds.append(len(np.unique(place_B[chosen_B])))
    units = place_B.max() + 1
    if min(*kinds, units) < 2:
        return math.nan
    own = sum((sum_U**2).sum() * k / (k - 1) for sum_U, k in zip(sums, kinds, strict=True))
    return float(own + 2 * (sums[0] * sums[1]).sum() * units / (units - 1))
