"""Which epoch's weights are kept: one number from validation, the larger the better."""

import copy
import math
from collections.abc import Collection
from typing import Generic, TypeVar

import numpy as np
import torch
from sklearn.metrics import cohen_kappa_score, f1_score
from torch import Tensor, nn

from maskedclip.metrics.scores import macro

_ROUNDING = 1e-9  # two orders of the same sum are equal scores
Network = TypeVar("Network", bound=nn.Module)


def selection_score(
    kind: str,
    label_B: np.ndarray,
    probability_BY: np.ndarray,
    untrained: Collection[int] = (),
) -> float:
    """Return the macro AUROC, or for kind `retfound` its mean with macro F1 and Cohen's kappa.

    The latter is RETFound's score of 2025: F1 over all classes, 0 for one without images or
    predictions, and kappa without weights, which asks for no order of the classes. Raises
    RuntimeError where the score is undefined.

    Args:
        untrained: classes without training images, left out of the AUROC.
    """
    value, _ = macro("auroc", label_B, probability_BY, untrained)
    if kind == "retfound":
        chosen_B, classes = probability_BY.argmax(axis=1), range(probability_BY.shape[1])
        f1 = f1_score(label_B, chosen_B, labels=classes, average="macro", zero_division=0)
        value = (f1 + value + cohen_kappa_score(label_B, chosen_B)) / 3
    if not math.isfinite(value):
        raise RuntimeError(
            f"validation: {len(label_B)} images of {len(set(label_B.tolist()))} classes give no "
            f"score to select an epoch by; check the shards, or use another --split"
        )
    return float(value)


class BestWeights(nn.Module, Generic[Network]):
    """A copy of the weights of the highest score so far; of equal scores the earlier.

    It is a module, so that it is saved and restored with the network that trains.
    """

    model: Network
    score: Tensor

    def __init__(self, model: Network) -> None:
        super().__init__()
        self.model = copy.deepcopy(model).requires_grad_(False).eval()
        self.register_buffer("score", torch.tensor(-math.inf, dtype=torch.float64))

    def offer(self, score: float, model: Network) -> bool:
        """Copy the weights of `model` where its score is higher; return whether it was."""
        if score <= self.score.item() + _ROUNDING:
            return False
        self.model.load_state_dict(model.state_dict())
        self.score.fill_(score)
        return True
