"""Training images blended with one another, and their labels with them."""

import torch
from timm.data import Mixup
from torch import Tensor
from torch.nn import functional as F

from maskedclip.data.labelled_views import seeded


def mixed(
    image_BCHW: Tensor, label_B: Tensor, *, classes: int, mixup: float, cutmix: float, key: int
) -> tuple[Tensor, Tensor]:
    """Return image_BCHW, each blended with another one of the batch, and target_BY.

    timm's Mixup as RETFound and MAE call it: one share a batch, drawn from Beta(alpha, alpha), and
    where both are on, mixup or cutmix by the toss of a coin. All draws follow from `key`. timm asks
    for pairs: the last image of an odd batch stays as it is.

    Args:
        mixup, cutmix: the alphas; 0 is off, one of them is on.
    """
    target_BY = F.one_hot(label_B, classes).to(image_BCHW.dtype)
    pairs = len(label_B) // 2 * 2
    if not pairs:
        return image_BCHW, target_BY
    # the labels are smoothed by the loss
    mix = Mixup(mixup_alpha=mixup, cutmix_alpha=cutmix, label_smoothing=0.0, num_classes=classes)
    with seeded(key):
        image_PCHW, target_PY = mix(image_BCHW[:pairs].clone(), label_B[:pairs])
    return (
        torch.cat([image_PCHW, image_BCHW[pairs:]]),
        torch.cat([target_PY.to(target_BY.dtype), target_BY[pairs:]]),
    )
