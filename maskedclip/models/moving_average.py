"""Teachers follow their student: an exponential moving average of weights, shard by shard."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn


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
    # three passes over all weights: lerp takes a weight on the device as a list of them, and is
    # then a kernel for each of some 340 parameters
    differences = torch._foreach_sub(sources, targets)
    torch._foreach_mul_(differences, (1 - momentum) * (1 - skip))
    torch._foreach_add_(targets, differences)


def _local(parameter: Tensor) -> Tensor:
    return parameter.to_local() if hasattr(parameter, "to_local") else parameter
