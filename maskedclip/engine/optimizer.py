"""AdamW and the schedules of its values, pure functions of the step."""

import math
from collections.abc import Callable
from typing import Any

from torch import nn
from torch.optim import AdamW, Optimizer


def adamw(model: nn.Module, *, betas: tuple[float, float], weight_decay: float) -> AdamW:
    """Return fused AdamW; matrices decay, vectors (biases, norms, tau) do not.

    The learning rate is set at each step.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return AdamW(groups, lr=0.0, betas=betas, fused=True)


def scaled_adamw(
    model: nn.Module,
    lr_scale: Callable[[str], float],
    *,
    betas: tuple[float, float],
    slow: tuple[str, ...],
) -> AdamW:
    """Return fused AdamW whose learning rate and decay are set at each step, group by group.

    A group has `lr_scale` (share of the learning rate, by the parameter's name), `decays` (1.0 of
    matrices, 0.0 of vectors) and `prototypes` (1.0 where the name ends in one of `slow`).
    """
    groups: dict[tuple[float, float, float], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        key = lr_scale(name), float(parameter.ndim > 1), float(name.endswith(slow))
        group: dict[str, Any] = dict(zip(("lr_scale", "decays", "prototypes"), key, strict=True))
        groups.setdefault(key, group | {"params": []})["params"].append(parameter)
    return AdamW(groups.values(), lr=0.0, betas=betas, fused=True)


def forget_gradients(optimizer: Optimizer) -> None:
    """Have the next backward pass begin at no gradients.

    On a CPU they keep their memory, as touching new memory takes ten times as long as filling old;
    on a GPU their memory is free for the forward pass.
    """
    on_cpu = optimizer.param_groups[0]["params"][0].device.type == "cpu"
    optimizer.zero_grad(set_to_none=not on_cpu)


def warmup_cosine(step: float, warmup: float, total: float) -> float:
    """Return the share of the peak at `step`: linear from 0, then half a cosine to 0 at `total`.

    MAE's util/lr_sched.py with the epoch counted in fractions: exactly 0 at step 0.
    """
    if step < warmup:
        return step / warmup
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warmup) / (total - warmup))))


def cosine(first: float, last: float, share: float) -> float:
    """Return the value at a `share` of the way from `first` to `last` along half a cosine."""
    return last + (first - last) * 0.5 * (1 + math.cos(math.pi * share))
