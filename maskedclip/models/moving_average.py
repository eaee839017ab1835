"""Teachers follow their student: an exponential moving average of weights, shard by shard."""

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor, nn

_AT_ONCE = 1 << 24  # numbers; of ViT-L 22 parts, of ViT-S two


@torch.no_grad()
def follow(pairs: Iterable[tuple[nn.Module, nn.Module]], momentum: float, skip: Tensor) -> None:
    """Move every weight of (ours, theirs) to momentum * itself + (1 - momentum) * theirs.

    Nothing changes where `skip`, a scalar on the device, is 1. Under FSDP both sides are sharded
    alike, so each rank updates its own shards and nothing is communicated.
    """
    both = list(pairs)
    # local shards where the parameters are DTensors, the parameters themselves elsewhere
    targets = [_local(parameter) for ours, _ in both for parameter in ours.parameters()]
    sources = [_local(parameter) for _, theirs in both for parameter in theirs.parameters()]
    share = (1 - momentum) * (1 - skip)
    # three passes over the weights: lerp takes a weight on the device as a list of them, and is
    # then a kernel for each of some 340 parameters
    for part in _parts([target.numel() for target in targets]):
        differences = torch._foreach_sub(sources[part], targets[part])
        torch._foreach_mul_(differences, share)
        torch._foreach_add_(targets[part], differences)


def _parts(numbers: Sequence[int]) -> Iterator[slice]:
    """Yield slices of tensors of so many `numbers`: new memory is of one slice, not of them all."""
    first, held = 0, 0
    for index, count in enumerate(numbers):
        if held and held + count > _AT_ONCE:
            yield slice(first, index)
            first, held = index, 0
        held += count
    yield slice(first, len(numbers))


def _local(parameter: Tensor) -> Tensor:
    return parameter.to_local() if hasattr(parameter, "to_local") else parameter
