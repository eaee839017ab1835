"""Eqs. 2-4: image-text contrast in which pairs of the same label are positives.

Written per rank: each rank scores its own rows against everybody's columns, so memory is linear in
the number of ranks, and the mean over ranks of value and gradient is that of one process.
"""

import torch.distributed as dist
from torch import Tensor
from torch.nn import functional as F

from maskedclip.losses.gathering import of_all_ranks, of_all_ranks_with_gradient


def label_guided_clip_loss(
    image_BD: Tensor,
    text_BD: Tensor,
    labels_B: Tensor,
    logit_scale: Tensor,
    group: dist.ProcessGroup | None = None,
) -> Tensor:
    """Return the loss of this rank's rows against the pairs of all ranks (eqs. 2-4, negated).

    image_BD and text_BD hold this rank's rows, of unit length; labels_B int64, equal where two
    pairs are positives of each other (a pair without a label needs an id that no other pair of the
    global batch has); logit_scale is the multiplier itself, of shape (1,). group None means the
    default group where torch.distributed runs, else this process alone. Every rank must bring the
    same number of rows.
    """
    image_BD, text_BD, scale = image_BD.float(), text_BD.float(), logit_scale.float()
    all_image_AD = of_all_ranks_with_gradient(image_BD, group)
    all_text_AD = of_all_ranks_with_gradient(text_BD, group)
    all_labels_A = of_all_ranks(labels_B, group)

    # P(x) holds x itself, so no row is empty
    positive_BA = (labels_B[:, None] == all_labels_A[None, :]).float()
    target_BA = positive_BA / positive_BA.sum(dim=1, keepdim=True)
    image_to_text = F.cross_entropy(scale * image_BD @ all_text_AD.T, target_BA)
    text_to_image = F.cross_entropy(scale * text_BD @ all_image_AD.T, target_BA)
    return (image_to_text + text_to_image) / 2
