"""AdamW and the schedules of its values, pure functions of the step."""

import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.optim import AdamW, Optimizer

_AT_ONCE = 1 << 24  # numbers whose gradients are widened together


class Pace(NamedTuple):
    """How a group of parameters follows the learning rate of the step."""

    lr_scale: float = 1.0  # share of it
    frozen_epochs: float = 0.0  # without a change, before a warm-up of its own


class WideningAdamW(AdamW):
    """AdamW that also takes gradients narrower than their weights, and then forgets them.

    They are cast to the type of the weights a part at a time: the bits are those of gradients that
    were cast in the backward pass, without their memory.
    """

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        weights = [w for group in self.param_groups for w in group["params"] if w.grad is not None]
        if all(weight.grad.dtype == weight.dtype for weight in weights):
            return super().step(closure)
        gradients = {}
        for weight in weights:
            gradients[weight], weight.grad, weight.grad_dtype = weight.grad, None, weight.dtype
        # the largest last, where the memory of the others is free again
        for part in _parts(sorted(weights, key=torch.numel)):
            for weight in part:
                weight.grad = gradients.pop(weight).to(weight.dtype)
            super().step()
            for weight in part:
                weight.grad = None
        return None


def _parts(weights: Sequence[nn.Parameter]) -> Iterator[list[nn.Parameter]]:
    part: list[nn.Parameter] = []
    for weight in weights:
        if part and sum(one.numel() for one in part) + weight.numel() > _AT_ONCE:
            yield part
            part = []
        part.append(weight)
    if part:
        yield part


def adamw(
    model: nn.Module,
    *,
    betas: tuple[float, float],
    weight_decay: float,
    eps: float = 1e-8,
    pace_of: Callable[[str], Pace] | None = None,
) -> AdamW:
    """Return fused AdamW; matrices decay, vectors (biases, norms, tau) do not.

    `set_rates` sets the learning rate at each step, by the pace that a parameter's name has.
    """
    groups: dict[tuple[Pace | None, bool], list[nn.Parameter]] = {
        (Pace() if pace_of else None, True): [], (Pace() if pace_of else None, False): [],
    }  # fmt: skip
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            key = pace_of(name) if pace_of else None, parameter.ndim > 1
            groups.setdefault(key, []).append(parameter)
    return WideningAdamW(
        [
            # without a pace nothing else is in a group, as in checkpoints from before there was one
            {"params": parameters, "weight_decay": weight_decay if decays else 0.0}
            | (pace._asdict() if pace else {})
            for (pace, decays), parameters in groups.items()
            if parameters
        ],
        lr=0.0, betas=betas, eps=eps, fused=True,
    )  # fmt: skip


def set_rates(
    optimizer: Optimizer, lr: float, *, epoch: float = 0.0, warmup_epochs: float = 0.0
) -> None:
    """Set the learning rate of each group, `lr` where it has no pace.

    A group that was frozen begins with a warm-up of its own: AdamW's averages are warm then, and
    would take its first steps at the full rate.
    """
    for group in optimizer.param_groups:
        frozen = group.get("frozen_epochs", 0.0)
        rise = 1.0
        if frozen:
            since = epoch - frozen
            rise = min(1.0, since / warmup_epochs) if warmup_epochs else float(since >= 0)
        group["lr"] = lr * group.get("lr_scale", 1.0) * max(0.0, rise)


_BLOCK = re.compile(r"(encoder\.blocks|text\.bert\.encoder\.layer)\.(\d+)\.")
_FIRST = (
    "encoder.patch_embed.", "encoder.cls_token", "encoder.reg_token", "mask_token",
    "text.bert.embeddings.",
)  # fmt: skip


def layer_scale(names: Iterable[str], decay: float) -> Callable[[str], float]:
    """Return what gives a parameter's share of the rate: decay ^ blocks between it and the heads.

    Patch embedding, tokens and word embeddings lie before the first block (BEiT, MAE).
    """
    depth: dict[str, int] = {}
    for name in names:
        if found := _BLOCK.match(name):
            depth[found[1]] = max(depth.get(found[1], 0), int(found[2]) + 1)

    def scale(name: str) -> float:
        tower = "text.bert.encoder.layer" if name.startswith("text.") else "encoder.blocks"
        if found := _BLOCK.match(name):
            return float(decay ** (depth[tower] - int(found[2])))
        return float(decay ** (depth[tower] + 1)) if name.startswith(_FIRST) else 1.0

    return scale


def scaled_adamw(
    model: nn.Module,
    lr_scale: Callable[[str], float],
    *,
    betas: tuple[float, float],
    eps: float,
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
    return AdamW(groups.values(), lr=0.0, betas=betas, eps=eps, fused=True)


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
