"""The drawing surface of phantoms: unit positions to pixels, clouds, and line masks.

Shapes are drawn on a finer grid as 8-bit masks and reduced, so that a vessel half a pixel wide
comes out half as strong instead of one pixel wide.
"""

from typing import NamedTuple

import cv2
import numpy as np

FINE = 448  # pixels at least, of the grid that shapes are drawn on
SHIFT = 4  # binary places of a position given to OpenCV


class Canvas(NamedTuple):
    """Where unit positions lie in an image of `size` pixels; x_HW and y_HW are in units."""

    size: int
    scale: float  # pixels a unit, along y
    mirror: float  # 1 for right eyes, -1 for left ones
    x_HW: np.ndarray
    y_HW: np.ndarray

    @property
    def times(self) -> int:
        """How many times finer the grid of the shapes is."""
        return max(2, -(-FINE // self.size))

    def pixels(self, place_N2: np.ndarray) -> np.ndarray:
        """Return place_N2 in pixels of the image."""
        middle = (self.size - 1) / 2
        return middle + np.asarray(place_N2) * np.asarray((self.scale * self.mirror, self.scale))


def canvas(size: int, field: float, side: str) -> Canvas:
    """Return the surface of an image of `size` whose field spans `field` of it."""
    scale, mirror = field * size / 2, 1.0 if side == "R" else -1.0
    axis = ((np.arange(size) - (size - 1) / 2) / scale).astype(np.float32)
    x_HW, y_HW = np.meshgrid(axis * np.float32(mirror), axis)
    return Canvas(size, scale, mirror, x_HW, y_HW)


def cloud(rng: np.random.Generator, size: int, cells: int) -> np.ndarray:
    """Return smooth noise_HW of unit variance (about) with `cells` bumps a side."""
    grid = rng.standard_normal((cells, cells), dtype=np.float32)
    return cv2.resize(grid, (size, size), interpolation=cv2.INTER_CUBIC)


def edge(distance_HW: np.ndarray, softness: float) -> np.ndarray:
    """Return 1 where `distance_HW` is below 1, falling to 0 over about `softness`."""
    return np.clip((1 - distance_HW) / softness + 0.5, 0.0, 1.0)


class Mask:
    """A mask of shapes on the fine grid."""

    def __init__(self, surface: Canvas) -> None:
        """Start with an empty mask."""
        self.surface = surface
        fine = surface.size * surface.times
        self.fine_HW = np.zeros((fine, fine), dtype=np.uint8)

    def _fixed(self, place_N2: np.ndarray) -> np.ndarray:
        pixel_N2 = self.surface.pixels(place_N2) * self.surface.times + (self.surface.times - 1) / 2
        return np.rint(pixel_N2 * (1 << SHIFT)).astype(np.int32)

    def lines(self, place_VS2: np.ndarray, width_VS: np.ndarray, piece: int) -> None:
        """Draw paths in pieces of one width, the fainter the thinner, each up to its first nan."""
        fine = self.surface.scale * self.surface.times
        start_P = np.arange(0, place_VS2.shape[1] - 1, piece)
        wide_VP = width_VS[:, start_P]
        depth_VP = np.minimum(1.0, (wide_VP / 0.02) ** 0.6) * np.clip(wide_VP * fine, 0.3, 1.0)
        value_VP = (255 * depth_VP).astype(int).tolist()
        pixels_VP = np.maximum(1, np.rint(wide_VP * fine)).astype(int).tolist()
        end_V = np.isfinite(place_VS2[..., 0]).sum(axis=1).tolist()
        fixed_VS2 = self._fixed(np.nan_to_num(place_VS2))
        starts = start_P.tolist()
        for row in np.argsort(width_VS[:, 0], kind="stable").tolist():  # thick over thin
            for index, start in enumerate(starts):
                stop = min(start + piece + 1, end_V[row])
                if stop - start < 2:
                    break
                cv2.polylines(
                    self.fine_HW, [fixed_VS2[row, start:stop]], False, value_VP[row][index],
                    pixels_VP[row][index], cv2.LINE_AA, SHIFT,
                )  # fmt: skip

    def fill(self, place_N2: np.ndarray, value: float = 1.0) -> None:
        """Fill a polygon."""
        cv2.fillPoly(self.fine_HW, [self._fixed(place_N2)], int(255 * value), cv2.LINE_AA, SHIFT)

    def done(self, blur: float = 0.0) -> np.ndarray:
        """Return the mask_HW in [0, 1] at the size of the image, blurred by `blur` units."""
        size = self.surface.size
        small_HW = cv2.resize(self.fine_HW, (size, size), interpolation=cv2.INTER_AREA)
        mask_HW = small_HW.astype(np.float32) * np.float32(1 / 255)
        return blurred(mask_HW, blur * self.surface.scale)


def blurred(image: np.ndarray, sigma: float) -> np.ndarray:
    """Return `image` blurred by `sigma` pixels."""
    if sigma < 0.2:
        return image
    return cv2.GaussianBlur(image, (0, 0), sigma, borderType=cv2.BORDER_REFLECT_101)


def shade(image_HWC: np.ndarray, mask_HW: np.ndarray, share: tuple[float, float, float]) -> None:
    """Take `share` of each colour away where `mask_HW` is 1, as a pigment does; in place."""
    for colour in range(3):
        image_HWC[..., colour] *= 1 - mask_HW * np.float32(share[colour])


def cover(image_HWC: np.ndarray, mask_HW: np.ndarray, colour: tuple[float, float, float]) -> None:
    """Mix `colour` in where `mask_HW` is 1; in place."""
    for index in range(3):
        layer_HW = image_HWC[..., index]
        layer_HW += mask_HW * (np.float32(colour[index]) - layer_HW)
