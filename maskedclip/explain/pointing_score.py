"""The pointing game: does the hottest patch of a map lie on what it should show?

Against two chances: a patch drawn at random, and the maps of the other images, which know where
such things usually lie but not where they lie in this image (Zhang et al., 2018, and more).
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

_DRAWS = 2000


class Pointing(NamedTuple):
    """Shares of 0..1 with 95 % intervals by image."""

    images: int
    hit: float  # of the images' own maps
    low: float
    high: float
    chance: float  # of a patch drawn at random
    shuffled: float  # of the other images' maps
    gain: float  # hit - shuffled
    gain_low: float
    gain_high: float


def near_patches(circles_K3: np.ndarray, grid: int, patch: int, tolerance: float) -> np.ndarray:
    """Return near_RC: the patches whose centre lies in one of the circles or near its edge.

    Args:
        circles_K3: x, y and radius in pixels, pixel centres at whole numbers.
        tolerance: pixels between the edge of a circle and the centre of a patch.
    """
    centre_R = np.arange(grid) * patch + (patch - 1) / 2
    y_RC, x_RC = np.meshgrid(centre_R, centre_R, indexing="ij")
    x_K11, y_K11, radius_K11 = (column[:, None, None] for column in circles_K3.T)
    away_KRC = np.hypot(x_RC - x_K11, y_RC - y_K11)
    return np.asarray((away_KRC <= radius_K11 + tolerance).any(axis=0))


def pointing(maps: Sequence[np.ndarray], near: Sequence[np.ndarray], seed: int = 0) -> Pointing:
    """Play the game on two images or more: a map_RC and a near_RC each, in the same order.

    An image is a draw of the bootstrap; the other images' maps are all those that take part.
    """
    assert len(maps) == len(near) > 1
    hottest_K = np.array([map_RC.argmax() for map_RC in maps])
    near_KN = np.stack([near_RC.ravel() for near_RC in near])
    hit_KK = near_KN[:, hottest_K].astype(float)  # image, map
    own_K = np.diagonal(hit_KK)
    others_K = (hit_KK.sum(axis=1) - own_K) / (len(maps) - 1)
    drawn = np.random.default_rng(seed).integers(0, len(maps), (_DRAWS, len(maps)))
    ends = np.quantile(own_K[drawn].mean(axis=1), (0.025, 0.975))
    gain_ends = np.quantile((own_K - others_K)[drawn].mean(axis=1), (0.025, 0.975))
    return Pointing(
        images=len(maps),
        hit=float(own_K.mean()),
        low=float(ends[0]),
        high=float(ends[1]),
        chance=float(near_KN.mean()),
        shuffled=float(others_K.mean()),
        gain=float((own_K - others_K).mean()),
        gain_low=float(gain_ends[0]),
        gain_high=float(gain_ends[1]),
    )
