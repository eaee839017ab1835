"""How training images are changed, in timm's words."""

import re
from collections.abc import Callable, Sequence

from PIL import Image
from timm.data import create_transform
from torch import Tensor

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

    A random crop and flip, what `words` tell timm to do (as they are, RETFound's and MAE's; empty:
    nothing), and with probability re_prob a rectangle of noise. Raises ValueError for other words.
    """
    wrong = ValueError(
        f"augmentation {words!r}: timm does not know it; use --augmentation={RAND_AUGMENT}"
    )
    for part in words.split("-")[1:]:
        if not part.startswith("t") and not re.search(r"\d", part):  # timm would pass over it
            raise wrong
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
    except (AssertionError, ValueError) as error:  # timm asserts what it was told
        raise wrong from error
    for part in transform.transforms:
        for operation in getattr(part, "ops", ()):
            # at 10 it keeps no bit: a black picture, or an error where Pillow is 13 or newer
            if operation.name == "PosterizeIncreasing":
                operation.magnitude_max = 9.9
    return transform
