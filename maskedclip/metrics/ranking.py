"""ROC and precision-recall curves of one class against the rest, to the bit as scikit-learn's.

scikit-learn spends most of the time on checking what it is given; a report scores a class of a run
some ten times.
"""

import numpy as np


def counts_by_threshold(own_B: np.ndarray, score_B: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return how many others, and how many own images, are at or above each score, falling."""
    order_B = np.argsort(-score_B, kind="stable")
    last_K = np.append(np.flatnonzero(np.diff(score_B[order_B])), len(own_B) - 1)
    true_K = np.cumsum(own_B[order_B], dtype=np.float64)[last_K]
    return 1 + last_K - true_K, true_K


def roc(own_B: np.ndarray, score_B: np.ndarray) -> np.ndarray:
    """Return rates_K2: false and true positive rate from (0, 0) on, where the curve turns."""
    false_K, true_K = counts_by_threshold(own_B, score_B)
    turning_K = np.ones(len(true_K), bool)
    turning_K[1:-1] = (np.diff(true_K, 2) != 0) | (np.diff(false_K, 2) != 0)
    rates_K2 = np.stack([false_K / false_K[-1], true_K / true_K[-1]], axis=1)[turning_K]
    return np.vstack([[0.0, 0.0], rates_K2])


def precision_recall(own_B: np.ndarray, score_B: np.ndarray) -> np.ndarray:
    """Return recall and precision at each score, falling, as rows of two."""
    false_K, true_K = counts_by_threshold(own_B, score_B)
    return np.stack([true_K / true_K[-1], true_K / (true_K + false_K)], axis=1)


def auroc(own_B: np.ndarray, score_B: np.ndarray) -> float:
    """Return the area under the ROC curve; own and other images are there."""
    rates_K2 = roc(own_B, score_B)
    return float(np.trapezoid(rates_K2[:, 1], rates_K2[:, 0]))


def average_precision(own_B: np.ndarray, score_B: np.ndarray) -> float:
    """Return the mean precision over the steps of recall; own images are there."""
    recall_K, precision_K = precision_recall(own_B, score_B)[::-1].T
    steps_K = np.diff(np.append(recall_K, 0.0))
    return float(max(0.0, -np.sum(steps_K * precision_K)))  # summed as scikit-learn does
