"""Gradients of a single rank on processors: kept where the backward pass has put them."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn


class KeptGradients:
    """What FSDP2 calls in place of a reduce-scatter, for one unit of a group of one rank.

    FSDP asks for memory to reduce from, then for memory to reduce to, and copies the one to the
    other. Here both are the same memory, for which the copy is none, and it serves the next step
    again: to touch new memory takes a processor ten times as long as to fill what was touched
    before. Gradients that are still there, as those of an accumulation, keep what they have.
    """

    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        self._parameters = parameters
        self._kept: Tensor | None = None
        self._given: Tensor | None = None  # between FSDP's two questions

    def allocate(self, size: Sequence[int], *, dtype: torch.dtype, device: torch.device) -> Tensor:
        """Return the memory of this unit's gradients."""
        if self._given is not None:
            given, self._given = self._given, None
            return given
        if any(parameter.grad is not None for parameter in self._parameters):
            self._given = torch.empty(*size, dtype=dtype, device=device)
            return self._given
        if self._kept is None or self._kept.shape != torch.Size(size):
            self._kept = torch.empty(*size, dtype=dtype, device=device)
        self._given = self._kept
        return self._kept

    def __call__(self, **_: Any) -> None:
        """Never called: on one rank there is nothing to exchange."""
        raise AssertionError
