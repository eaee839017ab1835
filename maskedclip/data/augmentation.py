"""Augmentations of fine-tuning: timm's transforms of an image, mixup and cutmix of a batch."""

import re
from collections.abc import Callable, Sequence

import torch
from PIL import Image
from timm.data import Mixup, create_transform
from torch import Tensor
from torch.nn import functional as F

from maskedclip.data.labelled_views import seeded
from maskedclip.data.transforms import MEAN, STD

RAND_AUGMENT, RE_PROB = "rand-m9-mstd0.5-inc1", 0.25  # of MAE and RETFound


def augmentation(
    image_size: int,
    words: str = RAND_AUGMENT,
    re_prob: float = RE_PROB,
    *,
    mean: Sequence[float] = MEAN,
    std: Sequence[float] = STD,
) -> Callable[[Image.Image], Tensor]:
    """Return a fine-tuning augmentation; it draws from the global generators.

    A random crop and flip, timm's augmentation of the name `words` (by default RETFound's and
    MAE's; empty: none), and with probability re_prob a rectangle of noise. Raises ValueError for a
    name that timm does not know.
    """
    unknown = ValueError(
        f"augmentation {words!r}: timm does not know it; use --augmentation={RAND_AUGMENT}"
    )
    for part in words.split("-")[1:]:
        if not part.startswith("t") and not re.search(r"\d", part):  # timm would ignore it
            raise unknown
    try:
        transform = create_transform(
            image_size,
            is_training=True,
            color_jitter=0.0,
            auto_augment=words or None,
            interpolation="bicubic",
            re_prob=re_prob,
            re_mode="pixel",
            re_count=1,
            mean=tuple(mean),
            std=tuple(std),
        )
    except (AssertionError, ValueError) as error:  # timm asserts its arguments
        raise unknown from error
    for part in transform.transforms:
        for operation in getattr(part, "ops", ()):
            # at 10 it keeps no bit: a black image, or an error where Pillow is 13 or newer
            if operation.name == "PosterizeIncreasing":
                operation.magnitude_max = 9.9
    return transform


def mixed(
    image_BCHW: Tensor, label_B: Tensor, *, classes: int, mixup: float, cutmix: float, key: int
) -> tuple[Tensor, Tensor]:
    """Return image_BCHW, each blended with another one of the batch, and target_BY.

    Targets that are rows already (labels of 0 and 1, numbers) are blended as they are.

    timm's Mixup as RETFound and MAE call it: one share a batch, drawn from Beta(alpha, alpha), and
    where both are on, mixup or cutmix with probability 1/2. All draws follow from `key`. timm needs
    pairs: the last image of an odd batch stays as it is.

    Args:
        mixup, cutmix: the alphas; 0 is off, one of them is on.
    """
    target_BY = label_B if label_B.ndim > 1 else F.one_hot(label_B, classes)
    target_BY = target_BY.to(image_BCHW.dtype)
    pairs = len(label_B) // 2 * 2
    if not pairs:
        return image_BCHW, target_BY
    # the labels are smoothed by the loss
    mix = Mixup(mixup_alpha=mixup, cutmix_alpha=cutmix, label_smoothing=0.0, num_classes=pairs)
    position_P = torch.arange(pairs, device=image_BCHW.device)
    with seeded(key):
        # each image as a class of its own: what comes back are the shares of the two in each
        image_PCHW, share_PP = mix(image_BCHW[:pairs].clone(), position_P)
    own, other = share_PP[0, 0], share_PP[0, -1]  # one share a batch; the last is the first's pair
    target_PY = target_BY[:pairs] * own + target_BY[:pairs].flip(0) * other
    return (
        torch.cat([image_PCHW, image_BCHW[pairs:]]),
        torch.cat([target_PY.to(target_BY.dtype), target_BY[pairs:]]),
    )
