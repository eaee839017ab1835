"""How a model lies on the ranks: whole on one, whole on each, in shards, or in shards a node."""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

# of a trained weight: itself, its gradient and two moments in fp32, a copy in bf16; of a teacher's
TRAINED_BYTES, FOLLOWING_BYTES = 4 * 4 + 2, 4
_ROOM = 8  # a state that fits so many times into a card's memory lies whole on each of them


class Sharding(NamedTuple):
    """How weights, gradients and moments are divided, and how gradients are reduced."""

    kind: str  # none, replicate, shard or hybrid: of `chosen`
    nodes: int  # of all ranks; hybrid replicates over them
    reshard_after_forward: bool  # or a block's weights stay gathered for its backward pass
    reduce: torch.dtype  # of gradients on their way


def chosen(asked: str, *, world: int, nodes: int, state_bytes: float, card_bytes: float) -> str:
    """Return none, replicate, shard or hybrid; `asked` is one of them or auto.

    Raises ValueError where the ranks do not allow what is asked.

    Args:
        state_bytes: what lies on a GPU between two steps if nothing is sharded.
        card_bytes: memory of a GPU, 0 of processors.
    """
    even = nodes > 1 and world > nodes and world % nodes == 0
    if asked == "none" and world > 1:
        raise ValueError(
            f"engine.sharding none on {world} ranks: nothing would exchange their gradients; use "
            f"auto, replicate, shard or hybrid"
        )
    if asked == "hybrid" and not even:
        raise ValueError(
            f"engine.sharding hybrid on {world} ranks of {nodes} nodes: it shards within a node "
            f"and replicates over nodes, of as many ranks each; use shard"
        )
    if asked != "auto":
        return asked
    if world == 1:
        return "none"
    if card_bytes and _ROOM * state_bytes <= card_bytes:
        return "replicate"
    # processors (tests) are of one node whatever their number says
    return "hybrid" if even and card_bytes else "shard"


def cast_forward(
    modules: Iterable[nn.Module],
    others: Iterable[nn.Module],
    compute: torch.dtype,
    names: Iterable[str] = ("forward",),
    *,
    narrow_gradients: bool = False,
) -> None:
    """Have `modules` run in `compute`, their weights kept as they are.

    Args:
        others: modules that cast their own weights, or run in the type that these have.
        narrow_gradients: gradients stay in `compute` (see InType).
    """
    if compute == torch.float32:
        return
    units = set(others)
    for module in modules:
        inner = {part for other in units - {module} for part in other.modules()}
        own = [part for part in module.modules() if part not in inner or part is module]
        for name in names:
            setattr(module, name, InType(getattr(module, name), own, compute, narrow_gradients))


class InType:
    """A forward pass whose weights and inputs are cast first, as FSDP casts what it gathers.

    Gradients come back through the casts, in the type of the weights or, if narrow, as they are:
    the same values in half the memory where a weight is cast and its gradient taken once a step.
    """

    def __init__(
        self,
        forward: Callable[..., Any],
        parts: Iterable[nn.Module],
        compute: torch.dtype,
        narrow_gradients: bool,
    ) -> None:
        """parts: the modules whose own weights are cast."""
        self._forward, self._compute = forward, compute
        self._narrow = narrow_gradients
        self._places = [
            (part, name, parameter)
            for part in parts
            for name, parameter in part.named_parameters(recurse=False)
        ]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the forward pass."""
        args, kwargs = tree_map(self._cast, (args, kwargs))
        for part, name, parameter in self._places:
            part._parameters[name] = self._cast_weight(parameter)  # type: ignore[assignment]
        try:
            return self._forward(*args, **kwargs)
        finally:
            for part, name, parameter in self._places:
                part._parameters[name] = parameter

    def _cast_weight(self, parameter: nn.Parameter) -> Tensor:
        if not (self._narrow and parameter.requires_grad and torch.is_grad_enabled()):
            return parameter.to(self._compute)
        parameter.grad_dtype = self._compute
        cast: Tensor = _Narrowed.apply(parameter, self._compute)
        return cast

    def _cast(self, value: Any) -> Any:
        floating = isinstance(value, Tensor) and value.is_floating_point()
        return value.to(self._compute) if floating else value


class _Narrowed(torch.autograd.Function):
    """A cast whose gradient is not cast back."""

    @staticmethod
    def forward(_ctx: Any, weight: Tensor, compute: torch.dtype) -> Tensor:
        return weight.to(compute)

    @staticmethod
    def backward(_ctx: Any, slope: Tensor) -> tuple[Tensor, None]:
        return slope, None
