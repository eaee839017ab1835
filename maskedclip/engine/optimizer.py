"""AdamW over two groups: matrices decay, vectors (biases, norms, tau) do not."""

from collections.abc import Callable
from typing import Any

from torch import nn
from torch.optim import AdamW


def adamw(model: nn.Module, *, betas: tuple[float, float], weight_decay: float) -> AdamW:
    """Return fused AdamW; the learning rate is set at each step."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return AdamW(groups, lr=0.0, betas=betas, fused=True)


def paced_adamw(
    model: nn.Module,
    pace: Callable[[str], float],
    *,
    betas: tuple[float, float],
    slow: tuple[str, ...],
) -> AdamW:
    """Return fused AdamW over groups that the step sets rate and decay of by their facts.

    A group has `pace` (share of the learning rate, of the parameter's name), `decays` (1.0 of
    matrices, 0.0 of vectors) and `prototypes` (1.0 where the name ends in one of `slow`).
    """
    groups: dict[tuple[float, float, float], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        facts = pace(name), float(parameter.ndim > 1), float(name.endswith(slow))
        group: dict[str, Any] = dict(zip(("pace", "decays", "prototypes"), facts, strict=True))
        groups.setdefault(facts, group | {"params": []})["params"].append(parameter)
    return AdamW(groups.values(), lr=0.0, betas=betas, fused=True)
