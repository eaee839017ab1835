"""Photographs for the benchmarks: phantoms with a camera's noise, or real ones resized."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from maskedclip.shards.downloads.cards import read_card
from maskedclip.shards.downloads.files import list_files
from maskedclip.shards.phantoms.phantom import draw

ORIGINAL = (2048, 1536)  # pixels, as many cameras write
_NOISE = 3.5  # levels: a JPEG of quality 92 then has the bytes of a camera's


def photographs(count: int, root: str = "") -> Iterator[Image.Image]:
    """Yield pictures of ORIGINAL pixels: phantoms with noise, or the first photographs of root."""
    if root:
        images = sorted(list_files(read_card("folder"), Path(root)).images)
        for source in images[:count]:
            yield Image.open(Path(root) / source).convert("RGB").resize(ORIGINAL)
        return
    width, height = ORIGINAL
    noise = np.random.default_rng(0)
    for seed in range(count):
        eye_HWC = draw(seed, height - 64).image_HWC
        picture_HWC = np.zeros((height, width, 3), np.int16)
        left = (width - len(eye_HWC)) // 2
        picture_HWC[32:-32, left : left + len(eye_HWC)] = eye_HWC
        picture_HWC += noise.normal(0, _NOISE, picture_HWC.shape).astype(np.int16)
        yield Image.fromarray(picture_HWC.clip(0, 255).astype(np.uint8))
