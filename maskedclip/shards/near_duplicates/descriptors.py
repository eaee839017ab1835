"""Descriptors of photographs, for the nearest-neighbour search of near-duplicates.

A descriptor is the low-resolution fine structure of the field: nearly invariant to brightness,
contrast and compression, but not to position. So one photograph has several descriptors, of
itself turned and cropped, and one of them is near that of a duplicate.
"""

from functools import cache
from typing import NamedTuple

import cv2
import numpy as np
import simplejpeg

SIDE = 96  # pixels, at which the structure is computed
GRID = 16  # cells a side, of which those in a circle count
ANGLES = (0, 15, 30, 45, 60, 75)  # degrees; quarter turns and mirroring are permutations
CROPS = (  # share of the side, left and top as shares of what is cut away
    (0.9, 0.5, 0.5),
    (0.8, 0.5, 0.5),
    (0.8, 0.1, 0.1),
    (0.8, 0.9, 0.1),
    (0.8, 0.1, 0.9),
    (0.8, 0.9, 0.9),
    (0.7, 0.5, 0.5),
)


class Structure(NamedTuple):
    """The fine structure of a field of view: zero on average, of even contrast, 0 outside."""

    detail_HW: np.ndarray  # float32
    inside_HW: np.ndarray  # uint8, 1 well inside the field


def decode_square(jpeg: bytes, side: int) -> np.ndarray:
    """Return image_HWC, `side` pixels, of a stored photograph; ValueError where it is damaged."""
    image_HWC = simplejpeg.decode_jpeg(jpeg, "RGB", min_width=side, min_height=side, min_factor=1)
    if image_HWC.shape[:2] != (side, side):
        image_HWC = cv2.resize(image_HWC, (side, side), interpolation=cv2.INTER_AREA)
    return image_HWC


def structure(image_HWC: np.ndarray) -> Structure:
    """Return the structure of a square photograph, from its green channel."""
    side = len(image_HWC)
    field_HW = field_of(image_HWC)
    weight_HW = field_HW.astype(np.float32)
    green_HW = image_HWC[..., 1].astype(np.float32) * weight_HW
    near, far = side // 3, 2 * side // 3  # pixels
    detail_HW = green_HW - _mean(green_HW, near) / (_mean(weight_HW, near) + 1e-3) * weight_HW
    power_HW = _mean(detail_HW * detail_HW, far) / (_mean(weight_HW, far) + 1e-3)
    detail_HW /= np.sqrt(power_HW) + 2
    inside_HW = well_inside(field_HW, side // 24)
    return Structure(np.clip(detail_HW, -3, 3) * inside_HW, inside_HW)


def _mean(value_HW: np.ndarray, width: int) -> np.ndarray:
    """Return local means; two boxes are as smooth as needed, and cost nothing like a Gaussian."""
    half = (width // 2, width // 2)
    border = cv2.BORDER_CONSTANT
    return cv2.blur(cv2.blur(value_HW, half, borderType=border), half, borderType=border)


def well_inside(field_HW: np.ndarray, margin: int) -> np.ndarray:
    """Return inside_HW, uint8: 1 where the edge is `margin` pixels away.

    The edge of the field is the same in all photographs of a camera: it must not count.
    """
    framed_HW = cv2.copyMakeBorder(field_HW, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    distance_HW = cv2.distanceTransform(framed_HW, cv2.DIST_L2, 3)[1:-1, 1:-1]
    return (distance_HW > margin).astype(np.uint8)


def brightest_channel(image_HWC: np.ndarray) -> np.ndarray:
    """Return value_HW, thirty times as fast as max(axis=2)."""
    red_HW, green_HW, blue_HW = cv2.split(image_HWC)
    return np.asarray(cv2.max(cv2.max(red_HW, green_HW), blue_HW))


def field_of(image_HWC: np.ndarray) -> np.ndarray:
    """Return field_HW, uint8: 1 in the field of view, 0 in the frame."""
    value_HW = brightest_channel(image_HWC)
    darkest_HW = cv2.bitwise_not(brightest_channel(cv2.bitwise_not(image_HWC)))
    white_HW = (darkest_HW > 248).astype(np.uint8)
    value_HW[cv2.dilate(white_HW, np.ones((7, 7), np.uint8)) > 0] = 0  # a white frame is one too
    value_HW = cv2.blur(value_HW, (3, 3))
    edge = max(2, len(value_HW) // 24)
    ends = (slice(0, edge), slice(-edge, None))
    frame = min(quantile(value_HW[rows, columns], 0.5) for rows in ends for columns in ends)
    bright = quantile(value_HW[::2, ::2], 0.97)
    field_HW = np.ones(value_HW.shape, np.uint8)
    if bright - frame < 12:
        return field_HW
    lit_HW = (value_HW > frame + max(4.0, 0.06 * (bright - frame))).astype(np.uint8)
    outlines, _ = cv2.findContours(lit_HW, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    if not outlines:
        return field_HW
    largest = max(outlines, key=cv2.contourArea)
    if cv2.contourArea(largest) < 0.2 * lit_HW.size:  # a reflection, not the field
        return field_HW
    field_HW[:] = 0
    cv2.fillConvexPoly(field_HW, cv2.convexHull(largest), 1)  # dark lesions lie inside as well
    return field_HW


def quantile(value: np.ndarray, at: float) -> float:
    """Return what np.quantile does, which takes ten times as long for so few values."""
    value_N = np.sort(value, axis=None)
    place = at * (len(value_N) - 1)
    below = int(place)
    low, high = float(value_N[below]), float(value_N[min(below + 1, len(value_N) - 1)])
    return low + (place - below) * (high - low)


def _circle() -> np.ndarray:
    row_HW, column_HW = np.mgrid[:GRID, :GRID] - (GRID - 1) / 2
    return row_HW**2 + column_HW**2 < (0.47 * GRID) ** 2


CIRCLE = _circle()
LENGTH = int(CIRCLE.sum())


def describe(image_HWC: np.ndarray) -> np.ndarray:
    """Return descriptor_VD, float32 of unit length: the photograph, turned, and cropped.

    Row 0 is of the photograph as it is; then come those of ANGLES[1:], then those of CROPS.
    """
    detail_HW = structure(image_HWC).detail_HW
    side = len(detail_HW)
    rows = []
    for angle in ANGLES:
        turn = cv2.getRotationMatrix2D(((side - 1) / 2, (side - 1) / 2), angle, 1.0)
        rows.append(_cells(cv2.warpAffine(detail_HW, turn, (side, side)) if angle else detail_HW))
    for share, left, top in CROPS:
        width = round(side * share)
        x, y = round((side - width) * left), round((side - width) * top)
        rows.append(_cells(detail_HW[y : y + width, x : x + width]))
    return np.stack(rows)


def _cells(detail_HW: np.ndarray) -> np.ndarray:
    blurred_HW = cv2.GaussianBlur(detail_HW, (0, 0), len(detail_HW) / 64)
    cell_D = cv2.resize(blurred_HW, (GRID, GRID), interpolation=cv2.INTER_AREA)[CIRCLE]
    cell_D = cell_D - cell_D.mean()
    return np.asarray(cell_D / (np.linalg.norm(cell_D) + 1e-6), np.float32)


@cache
def dihedral() -> np.ndarray:
    """Return order_8D: descriptor[order_8D[k]] is that of the photograph turned by k quarters.

    From 4 on it is mirrored left to right first. Turns are counter-clockwise.
    """
    index_HW = np.full((GRID, GRID), -1)
    index_HW[CIRCLE] = np.arange(LENGTH)
    return np.stack(
        [
            np.rot90(base, turns)[CIRCLE]
            for base in (index_HW, index_HW[:, ::-1])
            for turns in range(4)
        ]
    )


@cache
def inverse_orders() -> np.ndarray:
    """Return order_8D, which undo those of `dihedral`."""
    return dihedral().argsort(axis=1)


@cache
def placement(variant: int, side: int) -> np.ndarray:
    """Return matrix_23: from pixels of a variant, `side` wide, to those of the photograph itself.

    Variants are counted as the search does: VARIANTS of `describe`, each in 8 orders of `dihedral`.
    """
    kind, order = divmod(variant, 8)
    middle = (side - 1) / 2
    to_middle = np.array([[1, 0, -middle], [0, 1, -middle], [0, 0, 1]])
    quarters = np.linalg.matrix_power(np.array([[0, -1, 0], [1, 0, 0], [0, 0, 1]]), order % 4)
    mirror = np.diag([-1 if order >= 4 else 1, 1, 1])
    inner = np.linalg.inv(to_middle) @ mirror @ quarters @ to_middle
    if kind < len(ANGLES):
        turn = cv2.getRotationMatrix2D((middle, middle), ANGLES[kind], 1.0)
        outer = np.linalg.inv(np.vstack([turn, [0, 0, 1]]))
    else:
        share, left, top = CROPS[kind - len(ANGLES)]
        outer = np.array(
            [[share, 0, (1 - share) * left * side], [0, share, (1 - share) * top * side], [0, 0, 1]]
        )
    return np.asarray((outer @ inner)[:2], np.float32)


VARIANTS = len(ANGLES) + len(CROPS)
