"""Discs on a dark frame, and their bytes in a file: what the tests of photographs are made of."""

import io

import numpy as np
from PIL import Image


def disc(
    height: int, width: int, radius: float, *, centre: tuple[float, float] | None = None,
    light: float = 1.0, frame: int = 0,
) -> np.ndarray:  # fmt: skip
    """Return an orange disc with a bright spot, on a noisy dark frame."""
    y, x = centre or ((height - 1) / 2, (width - 1) / 2)
    grid_HW = np.hypot(*(np.mgrid[:height, :width] - np.array([y, x]).reshape(2, 1, 1)))
    noise_HWC = np.random.default_rng(0).integers(0, 5, (height, width, 3))
    field_HWC = np.array([200, 110, 60]) * light * (1 - 0.3 * (grid_HW / radius) ** 2)[..., None]
    image_HWC = np.where((grid_HW < radius)[..., None], field_HWC, frame) + noise_HWC
    spot_HW = np.hypot(
        *(np.mgrid[:height, :width] - np.array([y, x + radius / 2]).reshape(2, 1, 1))
    )
    image_HWC[spot_HW < radius / 8] = 240 * light
    return image_HWC.clip(0, 255).astype(np.uint8)


def png(image: Image.Image, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG", **options)
    return file.getvalue()


def jpeg(image_HWC: np.ndarray, **options: object) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image_HWC).save(file, "JPEG", quality=95, **options)
    return file.getvalue()
