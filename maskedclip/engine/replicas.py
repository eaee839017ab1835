"""Copies of the weights on several ranks are alike to the bit: one that is not is another's fault.

Where weights lie whole on each rank, or whole on each node, nothing else would show a bit that
memory has changed on one of them: the gradients of all would be a little wrong from then on.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, Shard
from torch.optim import Optimizer

from maskedclip.engine.distributed import gathered, local

_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def check_replicas(
    step: int, model: nn.Module, teacher: nn.Module | None, optimizer: Optimizer
) -> None:
    """Compare the copies of weights, teacher and moments; every rank calls it.

    RuntimeError on all ranks, naming the first tensor that differs and the ranks, where they do.
    """
    named = dict(_named(model, teacher, optimizer))
    if not _is_copied(named.values()):
        return
    sums = torch.stack([_sum_of_bits(local(tensor)) for tensor in named.values()]).tolist()
    places = [_place(tensor) for tensor in named.values()]
    of_ranks = [json.loads(line) for line in gathered([json.dumps([places, sums])])]
    for number, name in enumerate(named):
        copies: dict[str, dict[int, list[int]]] = {}
        for rank, (their_places, their_sums) in enumerate(of_ranks):
            alike = copies.setdefault(str(their_places[number]), {})
            alike.setdefault(their_sums[number], []).append(rank)
        for alike in copies.values():
            if len(alike) > 1:
                groups = sorted(alike.values(), key=len)
                raise RuntimeError(
                    f"step {step}: {name} is another on rank {_listed(groups[0])} than on rank "
                    f"{_listed(chain.from_iterable(groups[1:]))}: memory or a card has changed "
                    f"bits; this step is not saved. Run the same command: it goes on from the "
                    f"last checkpoint; where it happens again, leave that node out"
                )


def _named(
    model: nn.Module, teacher: nn.Module | None, optimizer: Optimizer
) -> Iterator[tuple[str, Tensor]]:
    for module in model.modules():  # a forward pass without a backward leaves the root gathered
        if isinstance(module, FSDPModule):
            module.reshard()
    names: dict[Tensor, str] = {weight: name for name, weight in model.named_parameters()}
    yield from ((name, parameter) for parameter, name in names.items())
    for parameter, moments in optimizer.state.items():
        for kind, value in moments.items():
            if isinstance(value, Tensor) and value.ndim:
                yield f"{kind} of {names[parameter]}", value
    if teacher is not None:
        yield from ((f"teacher's {name}", p) for name, p in teacher.named_parameters())


def _is_copied(tensors: Iterable[Tensor]) -> bool:
    """Return whether more than one rank holds the same part of any of them."""

    def copied(tensor: Tensor) -> bool:
        if not isinstance(tensor, DTensor):
            return dist.get_world_size() > 1
        mesh = zip(tensor.placements, tensor.device_mesh.shape, strict=True)
        return any(size > 1 and not isinstance(placed, Shard) for placed, size in mesh)

    return any(map(copied, tensors))


def _place(tensor: Tensor) -> list[int]:
    """Return which part of a tensor this rank holds; of a copy, as its original."""
    if not isinstance(tensor, DTensor):
        return []
    at: Sequence[int] = tensor.device_mesh.get_coordinate() or ()
    return [c for c, placed in zip(at, tensor.placements, strict=True) if isinstance(placed, Shard)]


def _sum_of_bits(values: Tensor) -> Tensor:
    """Return a number that any one flipped bit changes."""
    flat = values.detach().contiguous().reshape(-1)
    return flat.view(_INTEGERS[flat.element_size()]).sum(dtype=torch.int64)


def _listed(ranks: Iterable[int]) -> str:
    return ", ".join(map(str, ranks))
