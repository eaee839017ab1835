"""Classifiers on frozen features.

Each has one knob, chosen by the macro AUROC on validation features; none of them is given test
labels.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits
from torch import Tensor, nn
from torch.nn import functional as F

from maskedclip.engine.optimizer import warmup_cosine
from maskedclip.metrics.scores import macro

STRENGTHS = (0.001, 0.01, 0.1, 1.0, 10.0)  # C of scikit-learn: the inverse of the penalty
NEIGHBOURS = (50, 20, 10, 5)  # k
RATES = (0.01, 0.03, 0.1, 0.3, 1.0)  # learning rates of SGD
_ITERATIONS = 2000  # of logistic regression, at most
_TEMPERATURE = 0.07  # of the votes (DINOv2)
_EPOCHS, _WARMUP, _BATCH, _MOMENTUM = 90, 10, 256, 0.9  # of the linear probe; epochs as MAE's
_SMALL = 4_000_000  # values of a training set, below which threads cost more than they give
_ROWS = 2048  # compared with all training rows at a time

Labelled = tuple[np.ndarray, np.ndarray]  # (feature_BD, label_B)


class Probe(NamedTuple):
    """Probabilities for the test features, and the knob chosen on the validation features."""

    probability_BY: np.ndarray
    chosen: str  # such as "C=0.1"
    validation_auroc: float


def logistic(train: Labelled, validation: Labelled, test_BD: np.ndarray, num_classes: int) -> Probe:
    """Fit standardised features by logistic regression; its penalty is chosen.

    A class that has no training label gets probability 0. Raises ValueError where training labels
    are of one class.
    """
    feature_BD, label_B = _checked(train)

    def fit(strength: float) -> Callable[[np.ndarray], np.ndarray]:
        model = make_pipeline(
            StandardScaler(), LogisticRegression(C=strength, max_iter=_ITERATIONS)
        )
        model.fit(feature_BD, label_B)
        return lambda rows_BD: _all_classes(
            model.predict_proba(rows_BD), model.classes_, num_classes
        )

    with _threads(feature_BD.size):
        return _best({f"C={c:g}": fit(c) for c in STRENGTHS}, train, validation, test_BD)


def nearest(train: Labelled, validation: Labelled, test_BD: np.ndarray, num_classes: int) -> Probe:
    """Let the k nearest training features vote, weighted as in DINOv2; k is chosen.

    The weight is exp(cosine / 0.07). Raises ValueError where training labels are of one class.
    """
    feature_BD, label_B = _checked(train)
    train_BD, vote_BY = _unit(feature_BD), torch.eye(num_classes, dtype=torch.float64)[label_B]

    def vote(k: int) -> Callable[[np.ndarray], np.ndarray]:
        def predict(rows_BD: np.ndarray) -> np.ndarray:
            chunks = []
            for unit_BD in _unit(rows_BD).split(_ROWS):
                cosine_BK, index_BK = (unit_BD @ train_BD.T).topk(min(k, len(train_BD)))
                weight_BK = (cosine_BK.double() / _TEMPERATURE).softmax(dim=1)
                chunks.append((weight_BK[:, :, None] * vote_BY[index_BK]).sum(dim=1))
            return torch.cat(chunks).numpy()

        return predict

    return _best({f"k={k}": vote(k) for k in NEIGHBOURS}, train, validation, test_BD)


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
    half a cosine, no decay. All rates learn at once from the same batches. A pure function of its
    arguments. Raises ValueError where training labels are of one class.
    """
    feature_BD, label_B = (torch.from_numpy(array) for array in _checked(train))
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
            loss = torch.stack(
                [F.cross_entropy(row_BD @ w + b, label_B[index_B]) for w, b in heads]
            )
            for group, rate in zip(optimizer.param_groups, RATES, strict=True):
                group["lr"] = rate * warmup_cosine(step / batches, _WARMUP, _EPOCHS)
            optimizer.zero_grad()
            loss.sum().backward()
            optimizer.step()
    norm.eval()

    @torch.no_grad()
    def probabilities(head: tuple[Tensor, Tensor], rows_BD: np.ndarray) -> np.ndarray:
        logit_BY = norm(torch.from_numpy(rows_BD)) @ head[0] + head[1]
        return logit_BY.double().softmax(dim=-1).numpy()

    candidates = {
        f"lr={rate:g}": partial(probabilities, head)
        for rate, head in zip(RATES, heads, strict=True)
    }
    return _best(candidates, train, validation, test_BD)


def _best(
    candidates: Mapping[str, Callable[[np.ndarray], np.ndarray]],
    train: Labelled,
    validation: Labelled,
    test_BD: np.ndarray,
) -> Probe:
    """Return the probe of the highest validation AUROC; of equal ones the first, the smoothest.

    Classes without training labels take no part in the AUROC.
    """
    untrained = np.setdiff1d(validation[1], train[1]).tolist()
    aurocs = {
        name: macro("auroc", validation[1], predict(validation[0]), untrained)[0]
        for name, predict in candidates.items()
    }
    name = max(aurocs, key=lambda name: aurocs[name])
    return Probe(candidates[name](test_BD), name, aurocs[name])


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
    if len(np.unique(train[1])) < 2:
        raise ValueError(f"probe: {len(train[1])} training labels of one class; use more")
    return train


def _unit(rows_BD: np.ndarray) -> Tensor:
    return F.normalize(torch.from_numpy(np.asarray(rows_BD, dtype=np.float32)), dim=1)


def _all_classes(trained: np.ndarray, classes: np.ndarray, num_classes: int) -> np.ndarray:
    """Return probability_BY with a column for every class, 0 for those without training labels."""
    probability_BY = np.zeros((len(trained), num_classes))
    probability_BY[:, classes] = trained
    return probability_BY
