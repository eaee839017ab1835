"""MAE's linear probe: a linear layer on frozen features, trained by SGD."""

from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import trange

from maskedclip.engine.optimizer import warmup_cosine
from maskedclip.metrics.probes import Labelled, Probe, best_of, few_threads, of_two_classes

RATES = (0.01, 0.03, 0.1, 0.3, 1.0)  # learning rates
_EPOCHS, _WARMUP, _BATCH, _MOMENTUM = 90, 10, 256, 0.9  # epochs as MAE's
_SPREAD = 0.01  # of the first weights
_BRIEF = 2.0  # seconds without a progress bar


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
    feature_BD, label_B = (torch.from_numpy(array) for array in of_two_classes(train))
    several = label_B.ndim > 1
    label_B = label_B.to(feature_BD.dtype) if several else label_B
    loss_of = F.binary_cross_entropy_with_logits if several else F.cross_entropy
    generator = torch.Generator().manual_seed(seed)
    norm = nn.BatchNorm1d(feature_BD.shape[1], affine=False, eps=1e-6)
    first_DY = torch.randn(feature_BD.shape[1], num_classes, generator=generator) * _SPREAD
    heads = [(first_DY.clone().requires_grad_(), torch.zeros(num_classes, requires_grad=True))
             for _ in RATES]  # fmt: skip
    groups = [{"params": head, "lr": 0.0} for head in heads]
    optimizer = torch.optim.SGD(groups, momentum=_MOMENTUM)
    batches = -(-len(label_B) // _BATCH)
    with few_threads(_BATCH * feature_BD.shape[1]):
        for step in trange(_EPOCHS * batches, desc=f"linear probe, seed {seed}", delay=_BRIEF):
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
    return best_of(candidates, train, validation, test_BD)


def linear_settings() -> list[Any]:
    """Return what decides the numbers of a probe beside its arguments."""
    return [RATES, _EPOCHS, _WARMUP, _BATCH, _MOMENTUM, _SPREAD]
