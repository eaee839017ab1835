"""The numbers of a run's page, from its predictions. Axes: B images, Y classes, K points."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from sklearn.metrics import (
    average_precision_score,
    precision_recall_curve,
    roc_auc_score,
    roc_curve,
)

from maskedclip.metrics.scores import BINS

_POINTS = 200  # of a drawn curve


class ClassCurve(NamedTuple):
    """One class against all others; curves are None where one of the two is absent."""

    name: str
    images: int
    correct: int  # of the images, how many are predicted as this class
    predicted: int  # images of any class that are predicted as this one
    auroc: float | None
    average_precision: float | None
    roc_K2: np.ndarray | None  # false positive rate, true positive rate
    precision_K2: np.ndarray | None  # recall, precision


class ReliabilityBin(NamedTuple):
    """Images whose highest probability lies between low and high."""

    low: float
    high: float
    images: int
    confidence: float  # mean
    accuracy: float


class Mistake(NamedTuple):
    """An image that is predicted as another class than its own."""

    key: str
    label: int
    predicted: int
    confidence: float


def class_curves(
    classes: Sequence[str], label_B: np.ndarray, probability_BY: np.ndarray
) -> list[ClassCurve]:
    """Return the curves of each class against the rest."""
    predicted_B = probability_BY.argmax(axis=1)
    curves = []
    for label, name in enumerate(classes):
        own_B, probability_B = label_B == label, probability_BY[:, label]
        images, predicted = int(own_B.sum()), int((predicted_B == label).sum())
        correct = int((own_B & (predicted_B == label)).sum())
        if images in (0, len(label_B)):
            curves.append(ClassCurve(name, images, correct, predicted, None, None, None, None))
            continue
        false_K, true_K, _ = roc_curve(own_B, probability_B)
        precision_K, recall_K, _ = precision_recall_curve(own_B, probability_B)
        curves.append(
            ClassCurve(
                name, images, correct, predicted,
                float(roc_auc_score(own_B, probability_B)),
                float(average_precision_score(own_B, probability_B)),
                _thinned(np.stack([false_K, true_K], axis=1)),
                _thinned(_from_first(np.stack([recall_K, precision_K], axis=1)[::-1])),
            )
        )  # fmt: skip
    return curves


def _from_first(curve_K2: np.ndarray) -> np.ndarray:
    """Return the curve with the first threshold's precision where scikit-learn begins with 1."""
    curve_K2 = curve_K2.copy()
    curve_K2[0, 1] = curve_K2[1, 1]
    return curve_K2


def _thinned(curve_K2: np.ndarray) -> np.ndarray:
    """Return at most `_POINTS` of the points, both ends among them."""
    if len(curve_K2) <= _POINTS:
        return curve_K2
    return curve_K2[np.linspace(0, len(curve_K2) - 1, _POINTS).round().astype(int)]


def confusion(classes: int, label_B: np.ndarray, probability_BY: np.ndarray) -> np.ndarray:
    """Return the number of images of a class (row) that are predicted as a class (column)."""
    count_YY = np.zeros((classes, classes), dtype=np.int64)
    np.add.at(count_YY, (label_B, probability_BY.argmax(axis=1)), 1)
    return count_YY


def reliability(
    label_B: np.ndarray, probability_BY: np.ndarray
) -> tuple[list[ReliabilityBin], float]:
    """Return the bins that hold images, and the expected calibration error of the top class."""
    confidence_B = probability_BY.max(axis=1)
    correct_B = probability_BY.argmax(axis=1) == label_B
    edges = np.linspace(0, 1, BINS + 1)
    bin_B = np.digitize(confidence_B, edges[1:-1], right=True)  # low < confidence <= high
    bins, error = [], 0.0
    for i in np.unique(bin_B):
        in_B = bin_B == i
        confidence, accuracy = float(confidence_B[in_B].mean()), float(correct_B[in_B].mean())
        bins.append(ReliabilityBin(i / BINS, (i + 1) / BINS, int(in_B.sum()), confidence, accuracy))
        error += in_B.mean() * abs(confidence - accuracy)
    return bins, float(error)


def worst(
    keys: Sequence[str], label_B: np.ndarray, probability_BY: np.ndarray, most: int
) -> list[Mistake]:
    """Return the mistakes of the highest confidence, the most confident first."""
    predicted_B, confidence_B = probability_BY.argmax(axis=1), probability_BY.max(axis=1)
    wrong = np.flatnonzero(predicted_B != label_B)
    order = wrong[np.argsort(-confidence_B[wrong], kind="stable")][:most]
    return [
        Mistake(keys[i], int(label_B[i]), int(predicted_B[i]), float(confidence_B[i]))
        for i in order
    ]
