"""Eq. 5: the teacher's features of the whole image, predicted from its visible patches."""

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional as F

from maskedclip.losses.gathering import group_of


def masked_feature_loss(prediction_BND: Tensor, target_BND: Tensor) -> Tensor:
    """Return minus the cosine, mean over all patches and images; the target takes no gradient.

    Shapes: both B, N, D, any length of D.
    """
    return -F.cosine_similarity(prediction_BND.float(), target_BND.detach().float(), dim=-1).mean()


@torch.no_grad()
def centred_features(target_BND: Tensor, group: dist.ProcessGroup | None = None) -> Tensor:
    """Return the features less their mean over the patches of all images of all ranks.

    What is left is what tells patches and images apart: no constant has a cosine to it. DINO's
    centring (Caron et al., 2021, eq. 4) without a memory; not the paper's.
    """
    mean_D = target_BND.float().mean(dim=(0, 1))
    ranks = group_of(group)
    if ranks is not None:  # each has equally many images
        dist.all_reduce(mean_D, group=ranks)
        mean_D /= ranks.size()
    return target_BND - mean_D.to(target_BND.dtype)
