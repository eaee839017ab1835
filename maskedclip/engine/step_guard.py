"""Skip non-finite or spiking optimizer steps without a host sync; report at the next log step.

From the first fault on, optimizer and teacher skip every step on the device, so that the weights
are those before the faulty step when the host learns of it.
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor
from torch.optim import Optimizer

_WINDOW = 50  # steps of the running mean of the gradient norm, and before it is used


class Fault(NamedTuple):
    """The first step that was skipped, with its values; `terms` are the faulty ones."""

    step: int
    terms: list[str]
    values: dict[str, float]


class StepGuard:
    """Checks the losses and the gradient norm of each step, the same numbers on every rank."""

    def __init__(self, optimizer: Optimizer, device: torch.device, *, spike: float) -> None:
        """A gradient norm above `spike` times its running mean is a fault; 0: none is."""
        self.skip = torch.zeros((), device=device)  # 1 from the first fault on
        optimizer.found_inf = self.skip  # type: ignore[attr-defined]  # fused AdamW then does nothing
        self._spike = spike
        self._step = torch.zeros((), dtype=torch.int64, device=device)
        self._values: Tensor | None = None
        self._names: list[str] = []
        self._mean_norm, self._count = torch.zeros_like(self.skip), torch.zeros_like(self.skip)

    def check(self, step: int, values: Mapping[str, Tensor]) -> None:
        """Check the values of a step, `grad_norm` among them, before the optimizer's step."""
        self._names = list(values)
        now = torch.stack([value.detach().float().reshape(()) for value in values.values()])
        norm = now[self._names.index("grad_norm")]
        fault = ~now.isfinite().all()
        if self._spike:
            fault = fault | self._is_spike(norm)
        first = fault & (self.skip == 0)
        before = torch.zeros_like(now) if self._values is None else self._values
        self._values = torch.where(first, now, before)
        self._step = torch.where(first, step, self._step)
        self.skip.copy_(torch.maximum(self.skip, fault.float()))
        if self._spike:
            self._count += 1 - self.skip
            mean = self._mean_norm.lerp(norm, 1 / self._count.clamp(1, _WINDOW))
            self._mean_norm = torch.where(self.skip == 0, mean, self._mean_norm)

    def _is_spike(self, norm: Tensor) -> Tensor:
        return (self._count >= _WINDOW) & (norm > self._spike * self._mean_norm)

    def fault(self) -> Fault | None:
        """Return the fault since which steps are skipped, if any; this waits for the device."""
        if not self.skip.item():
            return None
        assert self._values is not None
        values = dict(zip(self._names, self._values.tolist(), strict=True))
        terms = [name for name, value in values.items() if not math.isfinite(value)]
        return Fault(int(self._step), terms or ["grad_norm"], values)

    def resume(self) -> None:
        """Skip no more steps."""
        self.skip.zero_()
