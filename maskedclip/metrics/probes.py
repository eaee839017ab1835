"""Classifiers on frozen features.

Each has one knob, chosen by the macro AUROC on validation features (of numbers by the mean absolute
error); none of them is given test labels. Labels (label_BY of 0 and 1, any number an image) are
told one against the rest, with one knob for all; their thresholds are chosen on validation, too.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from maskedclip.metrics.scores import LOWER_IS_BETTER, chosen_thresholds, macro

STRENGTHS = (0.001, 0.01, 0.1, 1.0, 10.0)  # C of scikit-learn: the inverse of the penalty
ALPHAS = (1.0, 10.0, 100.0, 1000.0, 10000.0)  # of ridge regression: the penalty
NEIGHBOURS = (50, 20, 10, 5)  # k
_ITERATIONS = 2000  # of logistic regression, at most
_TEMPERATURE = 0.07  # of the votes (DINOv2)
_SMALL = 4_000_000  # values of a training set, below which threads cost more than they give
_ROWS = 2048  # compared with all training rows at a time
_BRIEF = 2.0  # seconds without a progress bar

Labelled = tuple[np.ndarray, np.ndarray]  # (feature_BD, label_B, or label_BY, or numbers)
Predict = Callable[[np.ndarray], np.ndarray]


class Probe(NamedTuple):
    """Probabilities for the test features, and the knob chosen on the validation features."""

    probability_BY: np.ndarray
    chosen: str  # such as "C=0.1"
    validation_score: float  # macro AUROC, or of numbers the mean absolute error
    validation_BY: np.ndarray  # what is predicted for the validation features
    thresholds: tuple[float, ...] = ()  # of labels


def logistic(
    train: Labelled,
    validation: Labelled,
    test_BD: np.ndarray,
    num_classes: int,
    strengths: Sequence[float] = STRENGTHS,
) -> Probe:
    """Fit standardised features by logistic regression; its penalty is chosen of `strengths`.

    A class that has no training label gets probability 0, and so does a label that all or none of
    the training images have. Raises ValueError where training labels are of one class.
    """
    feature_BD, label_B = of_two_classes(train)
    scaler = StandardScaler().fit(feature_BD)
    scaled_BD = scaler.transform(feature_BD)

    def fit(strength: float) -> Predict:
        model = LogisticRegression(C=strength, max_iter=_ITERATIONS).fit(scaled_BD, label_B)
        return lambda rows_BD: _all_classes(
            model.predict_proba(scaler.transform(rows_BD)), model.classes_, num_classes
        )

    def fit_labels(strength: float) -> Predict:
        models = {
            label: LogisticRegression(C=strength, max_iter=_ITERATIONS).fit(scaled_BD, one_B)
            for label, one_B in enumerate(label_B.T)
            if len(np.unique(one_B)) > 1
        }

        def predict(rows_BD: np.ndarray) -> np.ndarray:
            probability_BY = np.zeros((len(rows_BD), num_classes))
            for label, model in models.items():
                own_BD = scaler.transform(rows_BD)
                probability_BY[:, label] = model.predict_proba(own_BD)[:, 1]
            return probability_BY

        return predict

    one = fit if label_B.ndim == 1 else fit_labels
    with few_threads(feature_BD.size):
        fits = tqdm(
            strengths, "logistic regression", unit=" fits", delay=_BRIEF, disable=len(strengths) < 2
        )
        return best_of({f"C={c:g}": one(c) for c in fits}, train, validation, test_BD)


def ridge(train: Labelled, validation: Labelled, test_BD: np.ndarray) -> Probe:
    """Fit numbers to standardised features by ridge regression; its penalty is chosen."""
    feature_BD, value_B = train

    def fit(alpha: float) -> Predict:
        model = make_pipeline(StandardScaler(), Ridge(alpha)).fit(feature_BD, value_B)
        return lambda rows_BD: model.predict(rows_BD)[:, None]

    with few_threads(feature_BD.size):
        found = {f"alpha={alpha:g}": fit(alpha) for alpha in reversed(ALPHAS)}
        return best_of(found, train, validation, test_BD, "mae")


def nearest(
    train: Labelled,
    validation: Labelled,
    test_BD: np.ndarray,
    num_classes: int,
    neighbours: Sequence[int] = NEIGHBOURS,
) -> Probe:
    """Let the k nearest training features vote, weighted as in DINOv2; k is chosen.

    The weight is exp(cosine / 0.07). Numbers are averaged so. Raises ValueError where training
    labels are of one class.
    """
    feature_BD, label_B = of_two_classes(train)
    is_number = label_B.dtype.kind == "f"
    if is_number:
        vote_BY = torch.from_numpy(label_B)[:, None]
    elif label_B.ndim == 1:
        vote_BY = torch.eye(num_classes, dtype=torch.float64)[label_B]
    else:
        vote_BY = torch.from_numpy(label_B).double()
    train_BD = _unit(feature_BD)

    def vote(k: int) -> Predict:
        def predict(rows_BD: np.ndarray) -> np.ndarray:
            chunks = []
            for unit_BD in _unit(rows_BD).split(_ROWS):
                cosine_BK, index_BK = (unit_BD @ train_BD.T).topk(min(k, len(train_BD)))
                weight_BK = (cosine_BK.double() / _TEMPERATURE).softmax(dim=1)
                chunks.append((weight_BK[:, :, None] * vote_BY[index_BK]).sum(dim=1))
            return torch.cat(chunks).numpy()

        return predict

    metric = "mae" if is_number else "auroc"
    return best_of({f"k={k}": vote(k) for k in neighbours}, train, validation, test_BD, metric)


def logistic_settings() -> list[Any]:
    """Return what decides the numbers of logistic regression beside its arguments."""
    return [STRENGTHS, _ITERATIONS]


def ridge_settings() -> list[Any]:
    """Return what decides the numbers of ridge regression beside its arguments."""
    return [ALPHAS]


def nearest_settings() -> list[Any]:
    """Return what decides the votes of neighbours beside the arguments."""
    return [NEIGHBOURS, _TEMPERATURE]


def best_of(
    candidates: Mapping[str, Predict],
    train: Labelled,
    validation: Labelled,
    test_BD: np.ndarray,
    metric: str = "auroc",
) -> Probe:
    """Return the probe of the best validation score; of equal ones the first, the smoothest.

    Classes without training labels take no part in the AUROC.
    """
    untrained = _untrained(train[1], validation[1]) if metric == "auroc" else []
    predicted = {name: predict(validation[0]) for name, predict in candidates.items()}
    scores = {
        name: macro(metric, validation[1], probability_BY, untrained)[0]
        for name, probability_BY in predicted.items()
    }
    name = (min if metric in LOWER_IS_BETTER else max)(scores, key=lambda name: scores[name])
    thresholds: tuple[float, ...] = ()
    if validation[1].ndim > 1:
        thresholds = chosen_thresholds(validation[1], predicted[name], untrained)
    return Probe(candidates[name](test_BD), name, scores[name], predicted[name], thresholds)


def _untrained(train: np.ndarray, validation: np.ndarray) -> list[int]:
    """Return the classes without training images, or the labels that all or none have."""
    if train.ndim > 1:
        count_Y = train.sum(axis=0)
        return [int(y) for y in np.flatnonzero((count_Y == 0) | (count_Y == len(train)))]
    return [int(label) for label in np.setdiff1d(validation, train)]


@contextmanager
def few_threads(values: int) -> Iterator[None]:
    """Use one thread where so few values are worked on at a time."""
    before = torch.get_num_threads()
    few = values < _SMALL
    with threadpool_limits(1 if few else None):
        torch.set_num_threads(1 if few else before)
        try:
            yield
        finally:
            torch.set_num_threads(before)


def of_two_classes(train: Labelled) -> Labelled:
    if len(np.unique(train[1], axis=0)) < 2:
        raise ValueError(f"probe: {len(train[1])} training labels of one class; use more")
    return train


def _unit(rows_BD: np.ndarray) -> Tensor:
    return F.normalize(torch.from_numpy(np.asarray(rows_BD, dtype=np.float32)), dim=1)


def _all_classes(trained: np.ndarray, classes: np.ndarray, num_classes: int) -> np.ndarray:
    """Return probability_BY with a column for every class, 0 for those without training labels."""
    probability_BY = np.zeros((len(trained), num_classes))
    probability_BY[:, classes] = trained
    return probability_BY
