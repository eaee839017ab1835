"""SigLIP's contrast: a binary classification of every image-text pair.

With labels, all pairs of one label are positives. Written per rank as contrastive.py is: own images
against everybody's texts, so that the mean over ranks is the value and gradient of one process.
"""

import torch.distributed as dist
from torch import Tensor
from torch.nn import functional as F

from maskedclip.losses.gathering import of_all_ranks, of_all_ranks_with_gradient


def sigmoid_clip_loss(
    image_BD: Tensor,
    text_BD: Tensor,
    labels_B: Tensor,
    logit_scale: Tensor,
    logit_bias: Tensor,
    group: dist.ProcessGroup | None = None,
) -> Tensor:
    """Return -log sigmoid(z (scale x . t + bias)), summed over texts, mean over images.

    z is 1 for pairs of one label (labels_B, int64; a pair without a label needs an id of its own)
    and -1 for all others (Zhai et al., 2023). Shapes and group as in label_guided_clip_loss;
    logit_bias has shape (1,).
    """
    image_BD, text_BD = image_BD.float(), text_BD.float()
    all_text_AD = of_all_ranks_with_gradient(text_BD, group)
    positive_BA = labels_B[:, None] == of_all_ranks(labels_B, group)[None, :]
    logit_BA = logit_scale.float() * image_BD @ all_text_AD.T + logit_bias.float()
    return -F.logsigmoid(logit_BA.where(positive_BA, -logit_BA)).sum(dim=1).mean()
