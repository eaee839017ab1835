"""The numbers of a run's page, from its predictions. Axes: B images, Y classes, K points."""

from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np

from maskedclip.metrics.prediction_files import Predictions
from maskedclip.metrics.ranking import auroc, average_precision, precision_recall, roc
from maskedclip.metrics.scores import BINS, HALF, Score, score

FEW = 10  # test images of a label
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


class LabelScores(NamedTuple):
    """One label of several by itself: its curve, its threshold, and intervals by patient."""

    curve: ClassCurve
    threshold: float
    trained: bool  # whether training images with and without it were there
    auroc: Score
    average_precision: Score
    calibration_error: Score  # of its probabilities, in bins; without an interval

    @property
    def note(self) -> str:
        """What is to be known beside its values."""
        notes = []
        if not self.trained:
            notes.append("left out of the means: the note of the scores says why")
        elif self.auroc.value is None:
            notes.append("none or all of the test images have it: left out of the means")
        if 0 < self.curve.images < FEW:
            notes.append(f"only {self.curve.images} test images: the values say little")
        return "; ".join(notes)


class ReliabilityBin(NamedTuple):
    """Images whose highest probability (or answers whose probability) is between low and high."""

    low: float
    high: float
    images: int  # or answers: an image is one for each label
    confidence: float  # mean
    accuracy: float  # share that is right, of answers the share that has the label


class Mistake(NamedTuple):
    """An image that is predicted as another class than its own."""

    key: str
    label: int
    predicted: int
    confidence: float
    answer: str = ""  # of labels and numbers: what the dataset says
    words: str = ""  # of labels and numbers: what went wrong


def class_curves(
    classes: Sequence[str], label_B: np.ndarray, probability_BY: np.ndarray
) -> list[ClassCurve]:
    """Return the curves of each class against the rest."""
    predicted_B = probability_BY.argmax(axis=1)
    return [
        _curve(name, label_B == label, predicted_B == label, probability_BY[:, label])
        for label, name in enumerate(classes)
    ]


def _curve(
    name: str, own_B: np.ndarray, predicted_B: np.ndarray, probability_B: np.ndarray
) -> ClassCurve:
    images, predicted = int(own_B.sum()), int(predicted_B.sum())
    correct = int((own_B & predicted_B).sum())
    if images in (0, len(own_B)):
        return ClassCurve(name, images, correct, predicted, None, None, None, None)
    stepped_K2 = precision_recall(own_B, probability_B)
    return ClassCurve(
        name, images, correct, predicted,
        auroc(own_B, probability_B),
        average_precision(own_B, probability_B),
        _thinned(roc(own_B, probability_B)),
        # scikit-learn's begins with a precision of 1, ours with the first threshold's
        _thinned(np.vstack([[0.0, stepped_K2[0, 1]], stepped_K2])),
    )  # fmt: skip


def label_scores(classes: Sequence[str], found: Predictions) -> list[LabelScores]:
    """Return what each of several labels scores by itself; untrained ones have no values."""
    thresholds = found.thresholds or (HALF,) * len(classes)
    scores = []
    for y, (name, threshold) in enumerate(zip(classes, thresholds, strict=True)):
        own_B, probability_B = found.label_B[:, y] == 1, found.probability_BY[:, y]
        curve = _curve(name, own_B, probability_B >= threshold, probability_B)
        trained = y not in found.untrained
        one = found.label_B[:, [y]], found.probability_BY[:, [y]], found.units
        values = [
            score(metric, *one) if trained else Score(None, None, None, len(own_B))
            for metric in ("auroc", "average_precision")
        ]
        error = _binned(own_B, probability_B)[1] if trained else None
        values.append(Score(error, None, None, len(own_B)))
        scores.append(LabelScores(curve, threshold, trained, *values))
    return scores


def _thinned(curve_K2: np.ndarray) -> np.ndarray:
    """Return at most `_POINTS` of the points, both ends among them."""
    if len(curve_K2) <= _POINTS:
        return curve_K2
    return curve_K2[np.linspace(0, len(curve_K2) - 1, _POINTS).round().astype(int)]


def reliability(
    label_B: np.ndarray, probability_BY: np.ndarray
) -> tuple[list[ReliabilityBin], float]:
    """Return the bins that hold images, and the expected calibration error of the top class."""
    return _binned(probability_BY.argmax(axis=1) == label_B, probability_BY.max(axis=1))


def reliability_of_labels(
    label_BY: np.ndarray, probability_BY: np.ndarray, untrained: Collection[int] = ()
) -> tuple[list[ReliabilityBin], float | None]:
    """Return the bins of all answers of trained labels, and the mean of the labels' own errors.

    One label that is called too often and another too seldom do not cancel in that mean.
    """
    trained = [y for y in range(label_BY.shape[1]) if y not in untrained]
    if not trained:
        return [], None
    own_BY, probability_BY = label_BY[:, trained] == 1, probability_BY[:, trained]
    errors = [_binned(own_BY[:, y], probability_BY[:, y])[1] for y in range(len(trained))]
    return _binned(own_BY.reshape(-1), probability_BY.reshape(-1))[0], float(np.mean(errors))


def _binned(true_B: np.ndarray, probability_B: np.ndarray) -> tuple[list[ReliabilityBin], float]:
    """Return the bins that hold something, and the mean gap of probability and share true."""
    edges = np.linspace(0, 1, BINS + 1)
    bin_B = np.digitize(probability_B, edges[1:-1], right=True)  # low < probability <= high
    bins, error = [], 0.0
    for i in np.unique(bin_B):
        in_B = bin_B == i
        confidence, accuracy = float(probability_B[in_B].mean()), float(true_B[in_B].mean())
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


def worst_of_labels(classes: Sequence[str], found: Predictions, most: int) -> list[Mistake]:
    """Return the wrong answers that are farthest on the wrong side of 0 to 1, a label an image."""
    thresholds = np.array(found.thresholds or (HALF,) * len(classes))
    wrong_BY = (found.probability_BY >= thresholds) != (found.label_B == 1)
    wrong_BY[:, list(found.untrained)] = False
    gap_BY = np.where(wrong_BY, np.abs(found.label_B - found.probability_BY), -1.0)
    label_B = gap_BY.argmax(axis=1)
    gap_B = gap_BY.max(axis=1)
    order = [i for i in np.argsort(-gap_B, kind="stable").tolist() if gap_B[i] >= 0][:most]
    mistakes = []
    for i in order:
        y = int(label_B[i])
        own = [name for name, has in zip(classes, found.label_B[i], strict=True) if has]
        percent = 100 * float(found.probability_BY[i, y])
        verb = "missed" if found.label_B[i, y] else "called"
        words = (
            f"{classes[y]} is {verb}: {percent:.1f} %, called from {100 * thresholds[y]:.1f} % on"
        )
        words += f"; the labels are {', '.join(own) or '-'}"
        answer = "|".join(own)
        mistakes.append(Mistake(found.keys[i], y, y, float(gap_B[i]), answer, words))
    return mistakes


def worst_of_numbers(found: Predictions, most: int) -> list[Mistake]:
    """Return the images whose number is missed by most."""
    predicted_B = found.probability_BY[:, 0]
    error_B = np.abs(predicted_B - found.label_B)
    return [
        Mistake(
            found.keys[i], 0, 0, float(error_B[i]), repr(float(found.label_B[i])),
            f"predicted {predicted_B[i]:.4g}; it is {found.label_B[i]:.4g}",
        )
        for i in np.argsort(-error_B, kind="stable").tolist()[:most]
    ]  # fmt: skip
