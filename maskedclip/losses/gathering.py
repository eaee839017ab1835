"""Rows of all ranks, one rank's after another's, for losses that compare rows with rows."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def group_of(group: dist.ProcessGroup | None) -> dist.ProcessGroup | None:
    """Return the group to exchange with: None where this process is alone.

    group None means the default group where torch.distributed runs.
    """
    if group is None and dist.is_available() and dist.is_initialized():
        group = dist.group.WORLD
    return group if group is not None and group.size() > 1 else None


class _Rows(torch.autograd.Function):
    """Gather rows, and sum the gradients of all ranks back, with one exchange under way at a time.

    torch's own functional collective lets several be under way; on gloo, which carries them out in
    two threads, that corrupts the heap (torch 2.14.1; docs/lab_notes.md, 2026-11-24).
    """

    @staticmethod
    def forward(ctx: Any, row_BD: Tensor, group: dist.ProcessGroup) -> Tensor:
        ctx.group = group
        return of_all_ranks(row_BD, group)

    @staticmethod
    def backward(ctx: Any, *gradient: Tensor) -> tuple[Tensor, None]:
        (gradient_AD,) = gradient
        own = len(gradient_AD) // ctx.group.size()
        gradient_BD = gradient_AD.new_empty((own, *gradient_AD.shape[1:]))
        dist.reduce_scatter_single(gradient_BD, gradient_AD.contiguous(), group=ctx.group)
        return gradient_BD, None


def of_all_ranks_with_gradient(row_BD: Tensor, group: dist.ProcessGroup | None) -> Tensor:
    """Return row_AD of all ranks; the gradients of all ranks come back summed."""
    ranks = group_of(group)
    return row_BD if ranks is None else _Rows.apply(row_BD, ranks)  # type: ignore[no-any-return]


def of_all_ranks(row_B: Tensor, group: dist.ProcessGroup | None) -> Tensor:
    """Return row_A of all ranks, of any type, without gradients."""
    ranks = group_of(group)
    if ranks is None:
        return row_B
    shape = (len(row_B) * ranks.size(), *row_B.shape[1:])
    row_A = torch.empty(shape, dtype=row_B.dtype, device=row_B.device)
    dist.all_gather_single(row_A, row_B.contiguous(), group=ranks)
    return row_A
