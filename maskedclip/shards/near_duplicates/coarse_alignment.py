"""Align many pairs of small images at once, and measure how well they agree block by block."""

from collections.abc import Sequence

import cv2
import numpy as np

from maskedclip.shards.near_duplicates.descriptors import placement

COARSE = 64  # pixels
_BLOCKS = 8  # a side, each compared by itself
_EVERY = 2  # pixels between samples: the image is smoothed, and a quarter of its pixels is enough
_STEPS = 3
_SAMPLES = COARSE // _EVERY


def _bases() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return to_unit_33, to_unit_of_sample_33, and 1, x, y and their products at the samples.

    Units are half the side, from the middle.
    """
    half, middle = COARSE / 2, (COARSE - 1) / 2
    to_unit = np.array([[1 / half, 0, -middle / half], [0, 1 / half, -middle / half], [0, 0, 1]])
    offset = (_EVERY - 1) / 2
    to_pixel = np.array([[_EVERY, 0, offset], [0, _EVERY, offset], [0, 0, 1]])
    row_HW, column_HW = np.mgrid[:_SAMPLES, :_SAMPLES]
    index_3P = np.stack([column_HW.ravel(), row_HW.ravel(), np.ones(_SAMPLES**2)])
    x, y, one = (to_unit @ to_pixel @ index_3P).astype(np.float32)
    linear_P3 = np.stack([one, x, y], axis=1)
    return to_unit, to_unit @ to_pixel, linear_P3, np.stack([one, x, y, x * x, x * y, y * y], 1)


_TO_UNIT, _SAMPLE_TO_UNIT, _LINEAR_P3, _SQUARE_P6 = _bases()
_TO_PIXEL = np.linalg.inv(_TO_UNIT)
_PRODUCT_33 = np.array([[0, 1, 2], [1, 3, 4], [2, 4, 5]])  # column of _SQUARE_P6 for i times j


def aligned(first_BHW: np.ndarray, second_BHW: np.ndarray, variants: Sequence[int]) -> np.ndarray:
    """Return matrix_B23, at COARSE, that align each first image with its second one.

    Affine Gauss-Newton steps from a variant, by the mean gradient of both images (Benhimane and
    Malis 2004): near enough to tell most pairs apart, in a quarter of the time that ECC takes.
    """
    start_B23 = np.stack([placement(variant, COARSE) for variant in variants])
    matrix_B33 = _TO_UNIT @ _square(start_B23) @ _TO_PIXEL
    first_BHW3, second_BHW3 = (
        list(map(_with_gradient, images)) for images in (first_BHW, second_BHW)
    )
    second_3BP = _sampled(second_BHW3, np.broadcast_to(np.eye(3), matrix_B33.shape))
    for _ in range(_STEPS):
        step_B33 = _step(_sampled(first_BHW3, matrix_B33), second_3BP, matrix_B33)
        matrix_B33 = matrix_B33 @ np.linalg.inv(step_B33)
    return np.asarray((_TO_PIXEL @ matrix_B33 @ _TO_UNIT)[:, :2], np.float32)


def _square(matrix_B23: np.ndarray) -> np.ndarray:
    last_B13 = np.broadcast_to(np.array([[[0.0, 0, 1]]]), (len(matrix_B23), 1, 3))
    return np.concatenate([matrix_B23, last_B13], axis=1)


def _with_gradient(image_HW: np.ndarray) -> np.ndarray:
    """Return smooth_HW3: the image, smoothed, and its slope a unit to the right and downwards."""
    smooth_HW = cv2.GaussianBlur(image_HW.astype(np.float32), (5, 5), 0)
    slopes = [cv2.Sobel(smooth_HW, -1, *at, ksize=1, scale=COARSE / 4) for at in ((1, 0), (0, 1))]
    return np.asarray(cv2.merge([smooth_HW, *slopes]))


def _sampled(images: Sequence[np.ndarray], matrix_B33: np.ndarray) -> np.ndarray:
    """Return value_3BP: images of `_with_gradient` at the samples, which the matrices move."""
    place_B23 = (_TO_PIXEL @ matrix_B33 @ _SAMPLE_TO_UNIT)[:, :2]
    value_BHW3 = np.empty((len(images), _SAMPLES, _SAMPLES, 3), np.float32)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    for image_HW3, place_23, out_HW3 in zip(images, place_B23, value_BHW3, strict=True):
        cv2.warpAffine(image_HW3, place_23, (_SAMPLES, _SAMPLES), dst=out_HW3, flags=flags)
    return np.moveaxis(value_BHW3.reshape(len(images), -1, 3), 2, 0).copy()


def _step(first_3BP: np.ndarray, second_3BP: np.ndarray, matrix_B33: np.ndarray) -> np.ndarray:
    """Return step_B33: the affine motion of the second image that explains the difference."""
    (one_BP, *slope), (other_BP, *other_slope) = first_3BP, second_3BP
    both_BP = (one_BP != 0) & (other_BP != 0)
    one_BP, other_BP = one_BP * both_BP, other_BP * both_BP
    power_B, other_power_B = (np.einsum("bp,bp->b", v, v) for v in (one_BP, other_BP))
    gain_B1 = np.sqrt(other_power_B / (power_B + 1e-6))[:, None]
    turn_B22 = matrix_B33[:, :2, :2].astype(np.float32)
    half_BP = np.float32(0.5) * both_BP
    along = [  # the mean slope of both images in the second one's directions
        (other_slope[k] + gain_B1 * (slope[0] * turn_B22[:, :1, k] + slope[1] * turn_B22[:, 1:, k]))
        * half_BP
        for k in (0, 1)
    ]
    difference_BP = gain_B1 * one_BP - other_BP
    normal_B66 = np.empty((len(one_BP), 6, 6))
    for k, m in ((0, 0), (0, 1), (1, 0), (1, 1)):
        moments_B6 = (along[k] * along[m]) @ _SQUARE_P6
        normal_B66[:, 3 * k : 3 * k + 3, 3 * m : 3 * m + 3] = moments_B6[:, _PRODUCT_33]
    damping_B = 1e-3 / 6 * np.trace(normal_B66, axis1=1, axis2=2) + 1e-6
    normal_B66 += damping_B[:, None, None] * np.eye(6)
    slope_B6 = np.concatenate([(v * difference_BP) @ _LINEAR_P3 for v in along], axis=1)
    motion_B23 = np.linalg.solve(normal_B66, slope_B6[:, :, None]).reshape(-1, 2, 3)
    step_B33 = np.tile(np.eye(3), (len(one_BP), 1, 1))
    step_B33[:, :2] += motion_B23[:, :, [1, 2, 0]]
    return step_B33


def similarities(
    first_BHW: np.ndarray, second_BHW: np.ndarray, matrix_B23: np.ndarray
) -> np.ndarray:
    """Return similarity_B: the mean correlation of the blocks of images that the matrices align.

    Images are 0 where nothing is known; -1 where few blocks are whole.
    """
    first_BHW, second_BHW = first_BHW.astype(np.float32), second_BHW.astype(np.float32)
    moved_BHW = np.empty_like(first_BHW)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    for image_HW, matrix_23, out_HW in zip(first_BHW, matrix_B23, moved_BHW, strict=True):
        cv2.warpAffine(image_HW, matrix_23, image_HW.shape[::-1], dst=out_HW, flags=flags)
    value_BK, whole_BK = block_correlations(
        moved_BHW, second_BHW, (moved_BHW != 0) & (second_BHW != 0)
    )
    count_B = whole_BK.sum(axis=1)
    mean_B = (value_BK * whole_BK).sum(axis=1) / np.maximum(count_B, 1)
    return np.where(count_B < LEAST_WHOLE, -1, mean_B)


LEAST_WHOLE = 6  # blocks


def block_correlations(
    first_BHW: np.ndarray, second_BHW: np.ndarray, both_BHW: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the correlation of every block, and whether enough of it counts.

    One bright disc or reflection makes whole images correlate, but only its own block.
    """
    both_BHW = both_BHW.astype(np.float32)
    first_BHW, second_BHW = first_BHW * both_BHW, second_BHW * both_BHW
    share_BK = _block_means(both_BHW)
    scale_BK = 1 / np.maximum(share_BK, 1e-6)
    one_BK, other_BK = _block_means(first_BHW) * scale_BK, _block_means(second_BHW) * scale_BK
    power_BK = _block_means(first_BHW * first_BHW) * scale_BK - one_BK**2
    other_power_BK = _block_means(second_BHW * second_BHW) * scale_BK - other_BK**2
    common_BK = _block_means(first_BHW * second_BHW) * scale_BK - one_BK * other_BK
    powers_BK = np.maximum(power_BK, 1e-9) * np.maximum(other_power_BK, 1e-9)
    return common_BK / np.sqrt(powers_BK), share_BK > 0.4


def _block_means(value_BHW: np.ndarray) -> np.ndarray:
    """Return mean_BK of _BLOCKS x _BLOCKS blocks."""
    side = value_BHW.shape[1] // _BLOCKS
    part_BHSWS = value_BHW.reshape(-1, _BLOCKS, side, _BLOCKS, side)
    return np.asarray(part_BHSWS.sum(axis=2).sum(axis=3).reshape(-1, _BLOCKS**2) / side**2)
