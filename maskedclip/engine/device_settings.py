"""What a process asks of CUDA before it trains: memory in segments that grow, and TF32."""

import os
from collections.abc import MutableMapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

# read by torch in this order, once, when CUDA is initialised
ALLOCATOR_VARIABLES = ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_HIP_ALLOC_CONF", "PYTORCH_ALLOC_CONF")
GROWING = "expandable_segments:True"
_FIRST_WITH_TF32 = (8, 0)  # compute capability: Ampere


def grow_segments(environment: MutableMapping[str, str] = os.environ) -> None:
    """Have CUDA's allocator extend its segments, unless the user has set how it allocates.

    Captions of other lengths are allocations of other sizes at each step: pieces of fixed segments
    would be left between them. torch warns, and goes on, where a platform has no such segments.
    """
    if not any(name in environment for name in ALLOCATOR_VARIABLES):
        environment[ALLOCATOR_VARIABLES[0]] = GROWING


def allocator_settings() -> dict[str, str]:
    """Return what is set of the allocator, for the provenance."""
    return {name: os.environ[name] for name in ALLOCATOR_VARIABLES if name in os.environ}


def use_tf32(asked: bool, compute: "torch.dtype", capability: tuple[int, int]) -> bool:
    """Set whether fp32 products and convolutions of a card round to TF32; return whether they do.

    capability: of the card, (0, 0) of a processor, where nothing is changed.
    """
    import torch

    if compute != torch.float32 or capability < _FIRST_WITH_TF32:
        return False
    torch.set_float32_matmul_precision("high" if asked else "highest")
    torch.backends.cudnn.allow_tf32 = asked
    return asked
