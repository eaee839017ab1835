"""From the teacher's logits to its prototype assignments, kept from collapsing to one.

Every sum runs over all ranks, so that the targets are those of one process.
"""

import torch
import torch.distributed as dist
from torch import Tensor

from maskedclip.losses.gathering import group_of


def centred(logit_BK: Tensor, centre_K: Tensor, temperature: float) -> Tensor:
    """Return target_BK: the softmax of what exceeds the centre, a mean of earlier logits (DINO)."""
    return ((logit_BK.float() - centre_K) / temperature).softmax(dim=-1)


def sinkhorn(
    logit_BK: Tensor, temperature: float, rounds: int = 3, group: dist.ProcessGroup | None = None
) -> Tensor:
    """Return target_BK: every row sums to 1, and prototypes are used equally often (SwAV).

    Logits are cosines, as those of a head are: the exponents stay within fp32. Ranks may bring
    different numbers of rows, none among them.
    """
    share_BK = (logit_BK.float() / temperature).exp()
    for _ in range(rounds):
        share_BK = share_BK / _over_ranks(share_BK.sum(dim=0), group)
        share_BK = share_BK / share_BK.sum(dim=1, keepdim=True)
    return share_BK


def mean_logits(logit_BK: Tensor, group: dist.ProcessGroup | None = None) -> Tensor:
    """Return mean_K over the rows of all ranks: what a centre moves to; there is one at least."""
    rows = logit_BK.new_full((1,), len(logit_BK), dtype=torch.float32)
    sum_K = _over_ranks(torch.cat([logit_BK.float().sum(dim=0), rows]), group)
    return sum_K[:-1] / sum_K[-1]


def _over_ranks(sum_K: Tensor, group: dist.ProcessGroup | None) -> Tensor:
    ranks = group_of(group)
    if ranks is not None:
        dist.all_reduce(sum_K, group=ranks)
    return sum_K
