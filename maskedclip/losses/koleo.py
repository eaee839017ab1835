"""KoLeo: features of different images keep apart (Sablayrolles et al., 2018)."""

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional as F

from maskedclip.losses.gathering import group_of, of_all_ranks_with_gradient


def koleo_loss(row_GBD: Tensor, group: dist.ProcessGroup | None = None) -> Tensor:
    """Return -log of the distance to the nearest other image, mean over images, summed over crops.

    row_GBD holds this rank's rows of G crops an image. The nearest is sought among the rows of the
    same crop on all ranks (DINOv2: of one rank), so that the mean over ranks is the value
    and gradient of one process.
    """
    unit_BGD = F.normalize(row_GBD.float(), dim=-1, eps=1e-8).transpose(0, 1)
    all_AGD = of_all_ranks_with_gradient(unit_BGD.contiguous(), group)
    ranks = group_of(group)
    first = len(unit_BGD) * (dist.get_rank(ranks) if ranks is not None else 0)
    with torch.no_grad():
        cosine_GBA = torch.einsum("bgd,agd->gba", unit_BGD, all_AGD)
        # each with itself; a number put at indices would be copied to a GPU, and waited for
        cosine_GBA.diagonal(first, dim1=1, dim2=2).fill_(-2.0)
        nearest_GB = cosine_GBA.argmax(dim=-1)
    terms = [
        F.pairwise_distance(unit_BGD[:, crop], all_AGD[nearest_B, crop], eps=1e-8)
        for crop, nearest_B in enumerate(nearest_GB)
    ]
    return -torch.stack([(distance_B + 1e-8).log().mean() for distance_B in terms]).sum()
