"""Sensitivity and specificity at a threshold that was chosen on validation images.

A class is called where its probability is the threshold or more. Axes: B images, R resamples,
T thresholds.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from maskedclip.metrics.scores import RESAMPLES, Score, draws

OPERATING = ("sensitivity", "specificity", "ppv", "npv")  # ppv, npv: at the test split's prevalence
YOUDEN = "Youden's J"
_TAIL = 0.025


class OperatingPoint(NamedTuple):
    """A threshold, how it was chosen, and what it gives on the test split."""

    threshold: float
    rule: str
    images: int  # of the validation split
    positives: int  # of these
    scores: dict[str, Score]  # of OPERATING

    @property
    def in_words(self) -> str:
        return f"{self.rule} on {self.images} validation images, {self.positives} positive"


def rule_of(at_sensitivity: float) -> str:
    """Return the rule in words; 0 is Youden's."""
    return f"a sensitivity of {100 * at_sensitivity:g} %" if at_sensitivity else YOUDEN


def chosen_threshold(
    positive_B: np.ndarray, probability_B: np.ndarray, at_sensitivity: float = 0.0
) -> float:
    """Return the threshold of the largest sensitivity + specificity, the highest of equal ones.

    With a sensitivity to reach it is the highest threshold that reaches it. Raises ValueError where
    the images are all positive, or none is.
    """
    positive_B = np.asarray(positive_B).astype(bool)
    if positive_B.all() or not positive_B.any():
        raise ValueError(f"{len(positive_B)} validation images of one class choose no threshold")
    from sklearn.metrics import roc_curve  # 0.9 s that a pre-training need not wait for

    false_T, true_T, threshold_T = roc_curve(positive_B, probability_B, drop_intermediate=False)
    false_T, true_T, threshold_T = false_T[1:], true_T[1:], threshold_T[1:]  # the first is infinite
    if at_sensitivity:
        best = int(np.argmax(true_T >= at_sensitivity - 1e-12))
    else:  # as whole numbers: equal ones are equal
        positives, negatives = int(positive_B.sum()), int((~positive_B).sum())
        hits_T, alarms_T = np.rint(true_T * positives), np.rint(false_T * negatives)
        best = int(np.argmax(hits_T * negatives - alarms_T * positives))
    return float(threshold_T[best])


def operating_point(
    validation: tuple[np.ndarray, np.ndarray],
    test: tuple[np.ndarray, np.ndarray],
    unit_B: Sequence[str],
    at_sensitivity: float = 0.0,
) -> OperatingPoint:
    """Return the threshold that validation images choose, and its scores on the test images.

    Args:
        validation: (positive_B, probability_B).
        test: the same of the test images.
        unit_B: patients of the test images.

    Raises ValueError as `chosen_threshold` does.
    """
    positive_B = np.asarray(validation[0]).astype(bool)
    threshold = chosen_threshold(positive_B, validation[1], at_sensitivity)
    scores = at_threshold(test[0], np.asarray(test[1]) >= threshold, unit_B)
    return OperatingPoint(
        threshold, rule_of(at_sensitivity), len(positive_B), int(positive_B.sum()), scores
    )


def at_threshold(
    positive_B: np.ndarray,
    called_B: np.ndarray,
    unit_B: Sequence[str],
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> dict[str, Score]:
    """Return sensitivity, specificity, PPV and NPV with intervals from a bootstrap over units.

    Of a value of 0 or 1 all resamples are alike: its interval is the exact binomial one, of as many
    trials as there are units.
    """
    positive_B, called_B = np.asarray(positive_B).astype(bool), np.asarray(called_B).astype(bool)
    shares = {  # of which images, and which of them count
        "sensitivity": (positive_B, called_B),
        "specificity": (~positive_B, ~called_B),
        "ppv": (called_B, positive_B),
        "npv": (~called_B, ~positive_B),
    }
    among_4B = np.stack([among_B for among_B, _ in shares.values()]).astype(np.float64)
    hit_4B = np.stack([among_B & right_B for among_B, right_B in shares.values()]).astype(float)
    tables = list(draws(unit_B, len(positive_B), seed=seed, resamples=resamples))
    above_4R = np.concatenate([hit_4B @ weight_BR for weight_BR in tables], axis=1)
    below_4R = np.concatenate([among_4B @ weight_BR for weight_BR in tables], axis=1)
    units = np.asarray(unit_B)
    return {
        name: _share(
            hit_4B[i].sum(), among_4B[i].sum(), above_4R[i], below_4R[i],
            len(set(units[among_4B[i] > 0])), len(positive_B),
        )
        for i, name in enumerate(shares)
    }  # fmt: skip


def _share(
    above: float, below: float, above_R: np.ndarray, below_R: np.ndarray, units: int, n: int
) -> Score:
    if not below:
        return Score(None, None, None, n, note="no image that it is a share of")
    value = float(above / below)
    if value in (0.0, 1.0):
        margin = 1 - _TAIL ** (1 / units)
        return Score(value, max(0.0, value - margin), min(1.0, value + margin), n)
    if units < 2:
        return Score(value, None, None, n)
    defined_R = below_R > 0
    value_R = above_R[defined_R] / below_R[defined_R]
    value_R -= value_R.mean() - value
    low, high = np.percentile(value_R, [100 * _TAIL, 100 * (1 - _TAIL)]).tolist()
    return Score(value, max(0.0, min(low, value)), min(1.0, max(high, value)), n)
