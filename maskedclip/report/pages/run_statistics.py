"""What a page of one run shows, counted from its predictions."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from sklearn.metrics import (
    average_precision_score,
    precision_recall_curve,
    roc_auc_score,
    roc_curve,
)

BINS = 15  # of the confidence, equally wide
_POINTS = 200  # of a drawn curve


class ClassCurve(NamedTuple):
    """One class against all others; curves are None where one of the two is absent."""

    name: str
    images: int
    correct: int  # of the images, how many are called by this name
    called: int  # images that are called by this name
    auroc: float | None
    average_precision: float | None
    roc_K2: np.ndarray | None  # false positive rate, true positive rate
    precision_K2: np.ndarray | None  # recall, precision


class Bin(NamedTuple):
    """Images whose highest probability lies between low and high."""

    low: float
    high: float
    images: int
    confidence: float  # mean
    accuracy: float


class Mistake(NamedTuple):
    """An image that is called by another name than its own."""

    key: str
    label: int
    called: int
    confidence: float


def class_curves(
    classes: Sequence[str], label_B: np.ndarray, probability_BY: np.ndarray
) -> list[ClassCurve]:
    """Return the curves of each class against the rest."""
    called_B = probability_BY.argmax(axis=1)
    found = []
    for label, name in enumerate(classes):
        own_B, probability_B = label_B == label, probability_BY[:, label]
        images, calls = int(own_B.sum()), int((called_B == label).sum())
        correct = int((own_B & (called_B == label)).sum())
        if images in (0, len(label_B)):
            found.append(ClassCurve(name, images, correct, calls, None, None, None, None))
            continue
        false_K, true_K, _ = roc_curve(own_B, probability_B)
        precision_K, recall_K, _ = precision_recall_curve(own_B, probability_B)
        found.append(
            ClassCurve(
                name, images, correct, calls,
                float(roc_auc_score(own_B, probability_B)),
                float(average_precision_score(own_B, probability_B)),
                _thinned(np.stack([false_K, true_K], axis=1)),
                _thinned(_from_first(np.stack([recall_K, precision_K], axis=1)[::-1])),
            )
        )  # fmt: skip
    return found


def _from_first(curve_K2: np.ndarray) -> np.ndarray:
    """Return the curve with the first threshold's precision where scikit-learn begins with 1."""
    curve_K2 = curve_K2.copy()
    curve_K2[0, 1] = curve_K2[1, 1]
    return curve_K2


def _thinned(curve_K2: np.ndarray) -> np.ndarray:
    """Return at most some hundred of the points, both ends among them."""
    if len(curve_K2) <= _POINTS:
        return curve_K2
    return curve_K2[np.linspace(0, len(curve_K2) - 1, _POINTS).round().astype(int)]


def confusion(classes: int, label_B: np.ndarray, probability_BY: np.ndarray) -> np.ndarray:
    """Return the number of images of class (row) that are called class (column)."""
    count_YY = np.zeros((classes, classes), dtype=np.int64)
    np.add.at(count_YY, (label_B, probability_BY.argmax(axis=1)), 1)
    return count_YY


def reliability(label_B: np.ndarray, probability_BY: np.ndarray) -> tuple[list[Bin], float]:
    """Return the bins that hold images, and the expected calibration error of the top class."""
    confidence_B = probability_BY.max(axis=1)
    correct_B = probability_BY.argmax(axis=1) == label_B
    edges = np.linspace(0, 1, BINS + 1)
    place_B = np.digitize(confidence_B, edges[1:-1], right=True)  # low < confidence <= high
    bins, error = [], 0.0
    for place in np.unique(place_B):
        here_B = place_B == place
        confidence, accuracy = float(confidence_B[here_B].mean()), float(correct_B[here_B].mean())
        bins.append(Bin(place / BINS, (place + 1) / BINS, int(here_B.sum()), confidence, accuracy))
        error += here_B.mean() * abs(confidence - accuracy)
    return bins, float(error)


def worst(
    keys: Sequence[str], label_B: np.ndarray, probability_BY: np.ndarray, most: int
) -> list[Mistake]:
    """Return the mistakes of the highest confidence, the surest first."""
    called_B, confidence_B = probability_BY.argmax(axis=1), probability_BY.max(axis=1)
    wrong = np.flatnonzero(called_B != label_B)
    order = wrong[np.argsort(-confidence_B[wrong], kind="stable")][:most]
    return [
        Mistake(keys[i], int(label_B[i]), int(called_B[i]), float(confidence_B[i])) for i in order
    ]
