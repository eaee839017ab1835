"""AUROC and average precision of a class against the rest, of many resamples at once.

Scores are ranked once. A resample is how often each image was drawn: a sparse table of 0 and 1
times these counts gives how many images lie at each threshold and between two. Axes: B images, A
answers, Y classes, R resamples, T thresholds (the scores that a positive has, highest first), S
rows of a table.
"""

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from scipy.sparse import csr_array

AREAS = ("auroc", "average_precision")
_PART = 512  # resamples at a time, so that their tables stay in the processor's cache
_EXACT = 2**24  # up to here float32 holds every whole number


class Ranking(NamedTuple):
    """Which images are where among the thresholds.

    Attributes:
        table: rows by images B. T rows of the positives at each threshold; T + 1 of the negatives
            above it, down from the one before, and below the last; T of the negatives at it, where
            there are such ties.
        thresholds: T.
    """

    table: "csr_array"
    thresholds: int


def ranked(
    positive_A: np.ndarray, score_A: np.ndarray, image_A: np.ndarray | None = None
) -> Ranking:
    """Return how the scores rank; one at least is of a positive.

    Args:
        image_A: the image of each answer; answer i is of image i where not given.
    """
    image_A = np.arange(len(score_A)) if image_A is None else image_A
    images = int(image_A.max()) + 1
    falling_A = -score_A
    threshold_T = np.unique(falling_A[positive_A])
    count = len(threshold_T)
    at_A = np.searchsorted(threshold_T, falling_A)  # `count`: below the last threshold
    tied_A = np.append(threshold_T, np.nan)[at_A] == falling_A
    first_A = np.where(positive_A, 0, np.where(tied_A, 2 * count + 1, count))
    rows = 2 * count + 1 + count * bool((tied_A & ~positive_A).any())
    ones_A = np.ones(len(score_A), np.float32)
    from scipy.sparse import csr_array  # which launchers do without

    table = csr_array((ones_A, (first_A + at_A, image_A)), shape=(rows, images))
    return Ranking(table, count)


def resampled_areas(
    metrics: Collection[str], rankings: Sequence[Ranking], weight_BR: np.ndarray
) -> dict[str, np.ndarray]:
    """Return for each metric (of AREAS) value_YR; nan where positives or negatives are absent.

    Args:
        rankings: one a class.
        weight_BR: how often each resample has each image.
    """
    resamples = weight_BR.shape[1]
    found = {metric: np.full((len(rankings), resamples), np.nan) for metric in metrics}
    for start in range(0, resamples, _PART):
        part = slice(start, start + _PART)
        part_BR = np.ascontiguousarray(weight_BR[:, part], dtype=np.float32)
        for y, ranking in enumerate(rankings):
            for metric, value_R in _areas(metrics, ranking, part_BR).items():
                found[metric][y, part] = value_R
    return found


def _areas(
    metrics: Collection[str], ranking: Ranking, weight_BR: np.ndarray
) -> dict[str, np.ndarray]:
    row_SR, count = ranking.table @ weight_BR, ranking.thresholds
    true_TR, false_SR, tied_TR = np.split(row_SR, [count, 2 * count + 1])
    np.cumsum(false_SR, axis=0, out=false_SR)  # negatives above a threshold, and at last all
    if len(tied_TR):
        false_SR[1:] += np.cumsum(tied_TR, axis=0)
    else:
        tied_TR = np.zeros_like(row_SR[:1])
    false_TR, hits_TR = false_SR[:-1], np.cumsum(true_TR, axis=0)
    positives_R, negatives_R = (own_R.astype(np.float64) for own_R in (hits_TR[-1], false_SR[-1]))
    assert (positives_R + negatives_R).max(initial=0) < _EXACT
    both_R = (positives_R > 0) & (negatives_R > 0)
    found = {}
    if "auroc" in metrics:
        pairs_R = positives_R * negatives_R
        # a tie counts half; products of counts pass what float32 holds
        lost_TR = np.multiply(true_TR, 2 * false_TR + tied_TR, dtype=np.float64)
        found["auroc"] = _divided(pairs_R - lost_TR.sum(axis=0) / 2, pairs_R, both_R)
    if "average_precision" in metrics:
        down_TR = false_TR + tied_TR + hits_TR
        precision_TR = np.zeros(down_TR.shape)
        np.divide(hits_TR, down_TR, out=precision_TR, where=down_TR > 0, dtype=np.float64)
        precision_TR *= true_TR
        found["average_precision"] = _divided(precision_TR.sum(axis=0), positives_R, both_R)
    return found


def _divided(above_R: np.ndarray, below_R: np.ndarray, defined_R: np.ndarray) -> np.ndarray:
    return np.divide(above_R, below_R, out=np.full(above_R.shape, np.nan), where=defined_R)
