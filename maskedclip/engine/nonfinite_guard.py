"""Steps that must not be taken: found on the device, held back there, told of at the next log step.

From the first fault on, the optimizer and the teacher stand still, so that the weights are those
before the faulty step when the host comes to hear of it; nothing waits for the device before that.
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor
from torch.optim import Optimizer

_USUAL = 50  # steps that the mean gradient norm looks back over, and that come before it is used


class Fault(NamedTuple):
    """The first step held back, and its values; `terms` are those that are to blame."""

    step: int
    terms: list[str]
    values: dict[str, float]


class Guard:
    """Watches the losses and the gradient norm of each step, the same numbers on every rank."""

    def __init__(self, optimizer: Optimizer, device: torch.device, *, spike: float) -> None:
        """A gradient norm above `spike` times the mean of those before is a fault; 0: none is."""
        self.held = torch.zeros((), device=device)  # 1 from the first fault on
        optimizer.found_inf = self.held  # type: ignore[attr-defined]  # fused AdamW then stands still
        self._spike = spike
        self._step = torch.zeros((), dtype=torch.int64, device=device)
        self._values: Tensor | None = None
        self._names: list[str] = []
        self._mean_norm, self._count = torch.zeros_like(self.held), torch.zeros_like(self.held)

    def admit(self, step: int, values: Mapping[str, Tensor]) -> None:
        """Look at the values of a step, `grad_norm` among them, before the optimizer moves."""
        self._names = list(values)
        found = torch.stack([value.detach().float().reshape(()) for value in values.values()])
        norm = found[self._names.index("grad_norm")]
        fault = ~found.isfinite().all()
        if self._spike:
            fault = fault | self._is_spike(norm)
        first = fault & (self.held == 0)
        before = torch.zeros_like(found) if self._values is None else self._values
        self._values = torch.where(first, found, before)
        self._step = torch.where(first, step, self._step)
        self.held.copy_(torch.maximum(self.held, fault.float()))
        if self._spike:
            self._count += 1 - self.held
            moved = self._mean_norm.lerp(norm, 1 / self._count.clamp(1, _USUAL))
            self._mean_norm = torch.where(self.held == 0, moved, self._mean_norm)

    def _is_spike(self, norm: Tensor) -> Tensor:
        return (self._count >= _USUAL) & (norm > self._spike * self._mean_norm)

    def fault(self) -> Fault | None:
        """Return the fault that holds the run, if any; this waits for the device."""
        if not self.held.item():
            return None
        assert self._values is not None
        values = dict(zip(self._names, self._values.tolist(), strict=True))
        terms = [name for name, value in values.items() if not math.isfinite(value)]
        return Fault(int(self._step), terms or ["grad_norm"], values)

    def release(self) -> None:
        """Let the run go on."""
        self.held.zero_()
