"""Whether two photographs are one exposure: laid over each other, their vessels must agree."""

from typing import NamedTuple

import cv2
import numpy as np

from maskedclip.data.descriptors import field_of, placement, structure, well_inside

COARSE, FINE = 64, 192  # pixels
_BLOCKS = 8  # a side, each of which must agree by itself
_LEVELS = 42  # of int8 for one unit of structure
_PROMISING_COARSE, _PROMISING_FINE = 0.4, 0.12  # medians that no copy was seen below


class Fine(NamedTuple):
    """A photograph for the second, exact comparison."""

    band_HW: np.ndarray  # float32, vessel-sized structure as a share of the local brightness
    inside_HW: np.ndarray  # uint8, well inside the field
    field_HW: np.ndarray  # uint8, in the field
    frame_HW: np.ndarray  # uint8, black, in a corner of the box around the field


class Agreement(NamedTuple):
    """How well two photographs agree where they overlap."""

    score: float  # correlation of vessels in the worst quarter of the blocks; 1 for copies
    correlation: float  # of all vessels at once
    detail: float  # contrast of the vessels of the poorer one, a share of the brightness
    overlap: float  # share of the smaller field that both show
    shift: float  # area of the crescents where only one shows retina, a share of the field
    matrix_23: np.ndarray  # from pixels of the second to those of the first, at FINE


def coarse(image_HWC: np.ndarray) -> np.ndarray:
    """Return structure_HW, int8, at COARSE pixels."""
    small_HWC = cv2.resize(image_HWC, (COARSE, COARSE), interpolation=cv2.INTER_AREA)
    return np.round(structure(small_HWC).detail_HW * _LEVELS).astype(np.int8)


def fine(image_HWC: np.ndarray) -> Fine:
    """Return what is compared of a photograph of FINE pixels."""
    field_HW = field_of(image_HWC)
    green_HW = image_HWC[..., 1].astype(np.float32)
    narrow_HW = cv2.GaussianBlur(green_HW, (0, 0), 1.2)
    wide_HW = cv2.GaussianBlur(green_HW, (0, 0), 4)
    inside_HW = well_inside(field_HW, 12)  # three times the wide blur
    band_HW = np.clip((narrow_HW - wide_HW) / (wide_HW + 8), -0.3, 0.3) * inside_HW
    frame_HW = np.zeros_like(field_HW)
    x, y, width, height = cv2.boundingRect(field_HW)
    # Beyond this box the picture may have been cut: black there says nothing of the field.
    frame_HW[y : y + height, x : x + width] = 1 - field_HW[y : y + height, x : x + width]
    return Fine(band_HW, inside_HW, field_HW, frame_HW)


def coarse_alignment(
    first_HW: np.ndarray, second_HW: np.ndarray, variant: int
) -> np.ndarray | None:
    """Return matrix_23, at COARSE, that lays the first over the second, begun at a variant.

    None where even then they are unlike.
    """
    first_HW, second_HW = first_HW.astype(np.float32), second_HW.astype(np.float32)
    matrix_23 = _aligned(first_HW, second_HW, placement(variant, COARSE), steps=15)
    moved_HW = _moved(first_HW, matrix_23)
    median = _local(moved_HW, second_HW, (moved_HW != 0) & (second_HW != 0), 0.5)
    return matrix_23 if median >= _PROMISING_COARSE else None


def agreement(first: Fine, second: Fine, coarse_23: np.ndarray) -> Agreement | None:
    """Return how well two photographs agree, aligned exactly; None where they clearly do not."""
    matrix_23 = _enlarged(coarse_23, FINE / COARSE)
    moved_HW, both_HW = _overlaid(first, second, matrix_23)
    if _local(moved_HW, second.band_HW, both_HW, 0.5) < _PROMISING_FINE:
        return None
    matrix_23 = _aligned(first.band_HW, second.band_HW, matrix_23, steps=30)
    moved_HW, both_HW = _overlaid(first, second, matrix_23)
    score = _local(moved_HW, second.band_HW, both_HW, 0.25)
    if score <= 0:
        return None
    one_P, other_P = moved_HW[both_HW], second.band_HW[both_HW]
    one_P, other_P = one_P - one_P.mean(), other_P - other_P.mean()
    lengths = float(np.linalg.norm(one_P) * np.linalg.norm(other_P))
    ratio = abs(float(np.linalg.det(matrix_23[:, :2])))  # of areas, first to second
    smaller = min(float(second.inside_HW.sum()), float(first.inside_HW.sum()) / ratio)
    return Agreement(
        score=score,
        correlation=float(one_P @ other_P) / (lengths + 1e-9),
        detail=float(min(one_P.std(), other_P.std())),
        overlap=float(both_HW.sum()) / smaller,
        shift=_shift(first, second, matrix_23),
        matrix_23=matrix_23,
    )


def _shift(first: Fine, second: Fine, matrix_23: np.ndarray) -> float:
    """Return the area of the smaller of two crescents, as a share of the field.

    Another exposure of an eye shows a little more of it on one side and a little less on the
    other. A field that is found larger, or cut, in one of two copies gives one crescent alone.
    """
    field_HW = _moved(first.field_HW, matrix_23, cv2.INTER_NEAREST)
    frame_HW = _moved(first.frame_HW, matrix_23, cv2.INTER_NEAREST)
    area = min(float(field_HW.sum()), float(second.field_HW.sum()))
    gained = float((field_HW & second.frame_HW).sum())
    lost = float((frame_HW & second.field_HW).sum())
    return min(gained, lost) / max(area, 1.0)


def _aligned(
    first_HW: np.ndarray, second_HW: np.ndarray, matrix_23: np.ndarray, steps: int
) -> np.ndarray:
    criteria = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, steps, 1e-4)
    start_23, affine = matrix_23.copy(), cv2.MOTION_AFFINE
    try:
        _, found_23 = cv2.findTransformECC(second_HW, first_HW, start_23, affine, criteria, None, 5)
    except cv2.error:  # its way of saying that nothing fits
        return matrix_23
    return np.asarray(found_23)


def _moved(image_HW: np.ndarray, matrix_23: np.ndarray, flag: int = cv2.INTER_LINEAR) -> np.ndarray:
    size = (image_HW.shape[1], image_HW.shape[0])
    return cv2.warpAffine(image_HW, matrix_23, size, flags=cv2.WARP_INVERSE_MAP | flag)


def _overlaid(first: Fine, second: Fine, matrix_23: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    inside_HW = _moved(first.inside_HW, matrix_23, cv2.INTER_NEAREST)
    return _moved(first.band_HW, matrix_23), (inside_HW & second.inside_HW).astype(bool)


def _local(first_HW: np.ndarray, second_HW: np.ndarray, both_HW: np.ndarray, at: float) -> float:
    """Return the quantile `at` of the correlations block by block; -1 where few blocks are whole.

    One bright disc or reflection makes whole pictures correlate, but only its own block.
    """
    share = _block_means(both_HW.astype(np.float32))
    whole = share > 0.4
    if whole.sum() < 6:
        return -1.0
    share = np.maximum(share, 1e-6)
    first_HW, second_HW = first_HW * both_HW, second_HW * both_HW
    one, other = _block_means(first_HW) / share, _block_means(second_HW) / share
    power_one = _block_means(first_HW * first_HW) / share - one**2
    power_other = _block_means(second_HW * second_HW) / share - other**2
    common = _block_means(first_HW * second_HW) / share - one * other
    powers = np.maximum(power_one, 1e-9) * np.maximum(power_other, 1e-9)
    return float(np.quantile((common / np.sqrt(powers))[whole], at))


def _block_means(value_HW: np.ndarray) -> np.ndarray:
    return cv2.resize(value_HW, (_BLOCKS, _BLOCKS), interpolation=cv2.INTER_AREA)


def _enlarged(matrix_23: np.ndarray, ratio: float) -> np.ndarray:
    """Return the matrix for pictures that are `ratio` times as large."""
    found_23 = matrix_23.astype(np.float64)
    middle_2 = np.full(2, (ratio - 1) / 2)  # pixel 0 of the small one, seen in the large one
    found_23[:, 2] = ratio * found_23[:, 2] + middle_2 - found_23[:, :2] @ middle_2
    return found_23.astype(np.float32)
