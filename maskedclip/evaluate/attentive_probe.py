"""The attentive probe: a learnt query over frozen patch tokens, and a linear layer.

The head is AIM's (El-Nouby et al., 2024; apple/ml-aim 3762121, aim-v1/aim/v1/torch/layers.py):
standardised tokens, keys and values by a linear layer each, one query of several heads, a linear
layer on what it sees. Attentive probing is of CAE (Chen et al., 2022); V-JEPA (Bardes et al., 2024)
has a whole block in its place, and its second version tries rates and decays at once, as here.

With one query no key or value of a token is needed: the query goes through the keys' matrix once,
and the values' matrix is applied to the weighted mean, which is the same for any attention
(Psomas et al., 2025). So a step costs a product of the tokens with one row a head.
"""

from collections.abc import Callable
from functools import partial
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from maskedclip.engine.optimizer import warmup_cosine
from maskedclip.metrics.probes import Labelled, Probe, best_of, few_threads, of_two_classes

RATES = (3e-4, 1e-3, 3e-3, 1e-2)
DECAYS = (0.4, 0.01)
HEAD_WIDTH, _HEADS = 64, 12  # channels of a head at least, heads at most
_EPOCHS, _WARMUP, _BATCH = 30, 3, 32
_SPREAD = 0.02  # of the query's first values, as AIM's
_LEAST = 1e-6  # deviation of a channel

Tokens = Callable[[np.ndarray], Tensor]  # token_BND, float32, of the samples of these numbers


class Standard(NamedTuple):
    """Mean and deviation of the training tokens, by channel."""

    mean_D: Tensor
    std_D: Tensor


class QueryHead(NamedTuple):
    """The trained tensors of one probe; A channels a head, H heads."""

    query_HA: Tensor
    key_HAD: Tensor
    value_HAD: Tensor
    map_DY: Tensor
    bias_Y: Tensor

    def logits(self, token_BND: Tensor, standard: Standard) -> Tensor:
        """Return logit_BY."""
        channels = self.query_HA.shape[1]
        query_HD = torch.einsum("ha,had->hd", self.query_HA, self.key_HAD) / channels**0.5
        # the mean of the tokens adds the same to all scores of a head, which softmax does not see
        score_BNH = token_BND @ (query_HD / standard.std_D).T
        seen_BHD = score_BNH.softmax(dim=1).transpose(1, 2) @ token_BND
        seen_BHD = (seen_BHD - standard.mean_D) / standard.std_D
        value_BHA = torch.einsum("bhd,had->bha", seen_BHD, self.value_HAD)
        return value_BHA.flatten(1) @ self.map_DY + self.bias_Y


def attentive(
    tokens: Tokens,
    train: Labelled,
    validation: Labelled,
    test_B: np.ndarray,
    num_classes: int,
    *,
    seed: int,
) -> Probe:
    """Train the probe by AdamW; its learning rate and weight decay are chosen together.

    30 epochs of batches of 32, 3 of them warm-up, then half a cosine; of labels each has a sigmoid
    and binary cross-entropy. All candidates begin alike and learn at once from the same batches. A
    pure function of its arguments. Raises ValueError where training labels are of one class.

    Args:
        tokens: reads those of samples; a batch is in memory at a time.
        train, validation, test_B: numbers of samples in place of features.
    """
    number_B, label_array = of_two_classes(train)
    label_B = torch.from_numpy(label_array)
    several = label_B.ndim > 1
    loss_of = F.binary_cross_entropy_with_logits if several else F.cross_entropy
    label_B = label_B.float() if several else label_B
    generator = torch.Generator().manual_seed(seed)
    batches = -(-len(number_B) // _BATCH)
    shape = tokens(number_B[:1]).shape
    images = (2 + _EPOCHS) * len(number_B)  # two passes for the standard, then the epochs
    with (
        few_threads(_BATCH * shape[1] * shape[2]),
        tqdm(total=images, desc=f"attentive probe, seed {seed}", unit=" images") as bar,
    ):
        standard = _standard(tokens, number_B, bar)
        first = _first(shape[2], num_classes, generator)
        knobs = list(product(RATES, DECAYS))
        heads = [QueryHead(*(tensor.clone().requires_grad_() for tensor in first)) for _ in knobs]
        groups = [
            {"params": head, "lr": 0.0, "weight_decay": decay}
            for head, (_, decay) in zip(heads, knobs, strict=True)
        ]
        optimizer = torch.optim.AdamW(groups, fused=True)  # of 2,048 channels a sixth of the time
        for step in range(_EPOCHS * batches):
            if step % batches == 0:
                order = torch.randperm(len(label_B), generator=generator).tensor_split(batches)
            index_B = order[step % batches]
            token_BND = tokens(number_B[index_B.numpy()])
            losses = [loss_of(head.logits(token_BND, standard), label_B[index_B]) for head in heads]
            for group, (rate, _) in zip(optimizer.param_groups, knobs, strict=True):
                group["lr"] = rate * warmup_cosine(step / batches, _WARMUP, _EPOCHS)
            optimizer.zero_grad()
            torch.stack(losses).sum().backward()
            optimizer.step()
            bar.update(len(index_B))

        candidates = {
            f"lr={rate:g} decay={decay:g}": partial(_probabilities, head, tokens, standard, several)
            for head, (rate, decay) in zip(heads, knobs, strict=True)
        }
        return best_of(candidates, train, validation, test_B)


@torch.no_grad()
def _probabilities(
    head: QueryHead, tokens: Tokens, standard: Standard, several: bool, numbers: np.ndarray
) -> np.ndarray:
    """Return probability_BY, or that of each label on its own where an image has several."""
    parts = np.array_split(numbers, -(-len(numbers) // _BATCH))
    logits = [head.logits(tokens(part), standard) for part in parts]
    logit_BY = torch.cat(logits).double()
    return (logit_BY.sigmoid() if several else logit_BY.softmax(dim=-1)).numpy()


def attentive_settings() -> list[Any]:
    """Return what decides the numbers of a probe beside its arguments."""
    return [RATES, DECAYS, HEAD_WIDTH, _HEADS, _EPOCHS, _WARMUP, _BATCH, _SPREAD, _LEAST]


def _standard(tokens: Tokens, number_B: np.ndarray, bar: "tqdm[Any]") -> Standard:
    """Return mean and deviation over all training tokens, in two passes."""

    def mean(of: Callable[[Tensor], Tensor]) -> Tensor:
        means = []
        for one in np.split(number_B, len(number_B)):
            means.append(of(tokens(one)).double().mean(dim=(0, 1)))
            bar.update()
        return torch.stack(means).mean(dim=0).float()

    mean_D = mean(lambda token_BND: token_BND)
    variance_D = mean(lambda token_BND: (token_BND - mean_D).square())
    return Standard(mean_D, variance_D.sqrt().clamp(min=_LEAST))


def _first(width: int, num_classes: int, generator: torch.Generator) -> QueryHead:
    """Return the tensors that training begins with, as AIM's and torch's linear layers do."""
    most = min(_HEADS, max(1, width // HEAD_WIDTH))
    heads = max(h for h in range(1, most + 1) if width % h == 0)
    channels = width // heads

    def uniform(*shape: int) -> Tensor:
        return (2 * torch.rand(*shape, generator=generator) - 1) * width**-0.5

    return QueryHead(
        torch.randn(heads, channels, generator=generator) * _SPREAD,
        uniform(heads, channels, width),
        uniform(heads, channels, width),
        uniform(width, num_classes),
        torch.zeros(num_classes),
    )
