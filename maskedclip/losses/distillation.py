"""Eq. 5: the teacher's features of the whole image, predicted from its visible patches."""

from torch import Tensor
from torch.nn import functional as F


def masked_feature_loss(prediction_BND: Tensor, target_BND: Tensor) -> Tensor:
    """Return minus the cosine, mean over all patches and images; the target takes no gradient.

    Shapes: both B, N, D, any length of D.
    """
    return -F.cosine_similarity(prediction_BND.float(), target_BND.detach().float(), dim=-1).mean()
