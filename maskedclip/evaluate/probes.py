"""Classifiers on frozen features.

Each has one knob, chosen by the macro AUROC on validation features (of numbers by the mean absolute
error); none of them is given test labels. Labels (label_BY of 0 and 1, any number an image) are
told one against the rest, with one knob for all; their thresholds are chosen on validation, too.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits
from torch import Tensor, nn
from torch.nn import functional as F

from maskedclip.engine.optimizer import warmup_cosine
from maskedclip.metrics.scores import LOWER_IS_BETTER, chosen_thresholds, macro

STRENGTHS = (0.001, 0.01, 0.1, 1.0, 10.0)  # C of scikit-learn: the inverse of the penalty
ALPHAS = (1.0, 10.0, 100.0, 1000.0, 10000.0)  # of ridge regression: the penalty
NEIGHBOURS = (50, 20, 10, 5)  # k
RATES = (0.01, 0.03, 0.1, 0.3, 1.0)  # learning rates of SGD
_ITERATIONS = 2000  # of logistic regression, at most
_TEMPERATURE = 0.07  # of the votes (DINOv2)
_EPOCHS, _WARMUP, _BATCH, _MOMENTUM = 90, 10, 256, 0.9  # of the linear probe; epochs as MAE's
_SMALL = 4_000_000  # values of a training set, below which threads cost more than they give
_ROWS = 2048  # compared with all training rows at a time

Labelled = tuple[np.ndarray, np.ndarray]  # (feature_BD, label_B, or label_BY, or numbers)
Predict = Callable[[np.ndarray], np.ndarray]


class Probe(NamedTuple):
    """Probabilities for the test features, and the knob chosen on the validation features."""

    probability_BY: np.ndarray
    chosen: str  # such as "C=0.1"
    validation_score: float  # macro AUROC, or of numbers the mean absolute error
    validation_BY: np.ndarray  # what is predicted for the validation features
    thresholds: tuple[float, ...] = ()  # of labels


def logistic(train: Labelled, validation: Labelled, test_BD: np.ndarray, num_classes: int) -> Probe:
    """Fit standardised features by logistic regression; its penalty is chosen.

    A class that has no training label gets probability 0, and so does a label that all or none of
    the training images have. Raises ValueError where training labels are of one class.
    """
    feature_BD, label_B = _checked(train)
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
    with _threads(feature_BD.size):
        return _best({f"C={c:g}": one(c) for c in STRENGTHS}, train, validation, test_BD)


def ridge(train: Labelled, validation: Labelled, test_BD: np.ndarray) -> Probe:
    """Fit numbers to standardised features by ridge regression; its penalty is chosen."""
    feature_BD, value_B = train

    def fit(alpha: float) -> Predict:
        model = make_pipeline(StandardScaler(), Ridge(alpha)).fit(feature_BD, value_B)
        return lambda rows_BD: model.predict(rows_BD)[:, None]

    with _threads(feature_BD.size):
        found = {f"alpha={alpha:g}": fit(alpha) for alpha in reversed(ALPHAS)}
        return _best(found, train, validation, test_BD, "mae")


def nearest(train: Labelled, validation: Labelled, test_BD: np.ndarray, num_classes: int) -> Probe:
    """Let the k nearest training features vote, weighted as in DINOv2; k is chosen.

    The weight is exp(cosine / 0.07). Numbers are averaged so. Raises ValueError where training
    labels are of one class.
    """
    feature_BD, label_B = _checked(train)
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
    return _best({f"k={k}": vote(k) for k in NEIGHBOURS}, train, validation, test_BD, metric)


def linear(
    train: Labelled,
    validation: Labelled,
    test_BD: np.ndarray,
    num_classes: int,
    *,
    seed: int,
) -> Probe:
    """Train MAE's linear probe by SGD on cached features; the learning rate is chosen.

    That is a batch norm without weights and a linear layer, for 90 epochs with 10 of warm-up and
    half a cosine, no decay; of labels each has a sigmoid and binary cross-entropy. All rates learn
    at once from the same batches. A pure function of its arguments. Raises ValueError where
    training labels are of one class.
    """
    feature_BD, label_B = (torch.from_numpy(array) for array in _checked(train))
    several = label_B.ndim > 1
    label_B = label_B.to(feature_BD.dtype) if several else label_B
    loss_of = F.binary_cross_entropy_with_logits if several else F.cross_entropy
    generator = torch.Generator().manual_seed(seed)
    norm = nn.BatchNorm1d(feature_BD.shape[1], affine=False, eps=1e-6)
    first_DY = torch.randn(feature_BD.shape[1], num_classes, generator=generator) * 0.01
    heads = [(first_DY.clone().requires_grad_(), torch.zeros(num_classes, requires_grad=True))
             for _ in RATES]  # fmt: skip
    groups = [{"params": head, "lr": 0.0} for head in heads]
    optimizer = torch.optim.SGD(groups, momentum=_MOMENTUM)
    batches = -(-len(label_B) // _BATCH)
    with _threads(_BATCH * feature_BD.shape[1]):
        for step in range(_EPOCHS * batches):
            if step % batches == 0:  # equal parts: batch norm cannot do with one row
                order = torch.randperm(len(label_B), generator=generator).tensor_split(batches)
            index_B = order[step % batches]
            row_BD = norm(feature_BD[index_B])
            loss = torch.stack([loss_of(row_BD @ w + b, label_B[index_B]) for w, b in heads])
            for group, rate in zip(optimizer.param_groups, RATES, strict=True):
                group["lr"] = rate * warmup_cosine(step / batches, _WARMUP, _EPOCHS)
            optimizer.zero_grad()
            loss.sum().backward()
            optimizer.step()
    norm.eval()

    @torch.no_grad()
    def probabilities(head: tuple[Tensor, Tensor], rows_BD: np.ndarray) -> np.ndarray:
        logit_BY = norm(torch.from_numpy(rows_BD)) @ head[0] + head[1]
        logit_BY = logit_BY.double()
        return (logit_BY.sigmoid() if several else logit_BY.softmax(dim=-1)).numpy()

    candidates = {
        f"lr={rate:g}": partial(probabilities, head)
        for rate, head in zip(RATES, heads, strict=True)
    }
    return _best(candidates, train, validation, test_BD)


def _best(
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
def _threads(values: int) -> Iterator[None]:
    """Use one thread where so few values are worked on at a time."""
    before = torch.get_num_threads()
    few = values < _SMALL
    with threadpool_limits(1 if few else None):
        torch.set_num_threads(1 if few else before)
        try:
            yield
        finally:
            torch.set_num_threads(before)


def _checked(train: Labelled) -> Labelled:
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
