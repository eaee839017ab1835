"""The best weights so far, as a network that is saved and restored with the one that trains."""

import copy
import math
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

Network = TypeVar("Network", bound=nn.Module)


class Best(nn.Module, Generic[Network]):
    """A copy of a network with the highest score offered; of equal ones the earlier."""

    model: Network
    score: Tensor

    def __init__(self, model: Network) -> None:
        super().__init__()
        self.model = copy.deepcopy(model).requires_grad_(False).eval()
        self.register_buffer("score", torch.tensor(-math.inf, dtype=torch.float64))

    def offer(self, score: float, model: Network) -> bool:
        """Copy the weights of `model` where its score is higher; return whether it was."""
        if score <= self.score.item():
            return False
        self.model.load_state_dict(model.state_dict())
        self.score.fill_(score)
        return True
