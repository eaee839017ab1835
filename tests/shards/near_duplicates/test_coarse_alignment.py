"""Many pairs are aligned at once, and a pair goes on only where enough of its blocks correlate."""

import cv2
import numpy as np
import pytest

from maskedclip.shards.near_duplicates.coarse_alignment import (
    COARSE,
    aligned,
    block_correlations,
    similarities,
)
from maskedclip.shards.near_duplicates.descriptors import (
    LENGTH,
    SIDE,
    VARIANTS,
    decode_square,
    placement,
)
from maskedclip.shards.near_duplicates.registration import coarse, vessels
from maskedclip.shards.near_duplicates.search import DescribedSet, _promising
from maskedclip.shards.phantoms.phantom import draw


def textures(count: int, side: int) -> np.ndarray:
    """Return texture_BHW, int8: smooth noise in a field, 0 outside."""
    noise_BHW = np.random.default_rng(0).normal(size=(count, side, side)).astype(np.float32)
    row_HW, column_HW = np.mgrid[:side, :side] - (side - 1) / 2
    field_HW = row_HW**2 + column_HW**2 < (0.48 * side) ** 2
    smooth = [cv2.GaussianBlur(noise_HW, (0, 0), side / 48) for noise_HW in noise_BHW]
    return np.stack([(30 * x / x.std()).clip(-90, 90) * field_HW for x in smooth])


def described(coarse_BHW: np.ndarray, vessel_BHW: np.ndarray) -> DescribedSet:
    descriptor_BVD = np.zeros((len(coarse_BHW), VARIANTS, LENGTH), np.float16)
    images = [x.round().astype(np.int8) for x in (coarse_BHW, vessel_BHW)]
    return DescribedSet(lambda _: b"", descriptor_BVD, *images)


def test_block_correlations_are_those_of_numpy_and_few_pixels_are_no_block() -> None:
    one_HW, other_HW = np.random.default_rng(1).normal(size=(2, 32, 32)).astype(np.float32)
    both_HW = np.ones((32, 32), bool)
    both_HW[:4, :4] = np.arange(4) < 1  # 4 of 16 pixels
    both_HW[4:8, :4] = np.arange(4) < 2  # 8 of 16
    value_1K, whole_1K = block_correlations(one_HW[None], other_HW[None], both_HW[None])
    for block in range(64):
        row, column = divmod(block, 8)
        at = slice(4 * row, 4 * row + 4), slice(4 * column, 4 * column + 4)
        counted = both_HW[at]
        expected = np.corrcoef(one_HW[at][counted], other_HW[at][counted])[0, 1]
        assert value_1K[0, block] == pytest.approx(expected, abs=1e-4)
        assert whole_1K[0, block] == (block != 0)


@pytest.mark.parametrize("variant", [0, 5, 8 * 2 + 3])
def test_a_moved_image_is_laid_on_its_original(variant: int) -> None:
    (texture_HW,) = textures(1, COARSE)
    move_33 = np.array([[1.04, -0.06, 0.5], [0.07, 0.95, -1.2], [0, 0, 1]])
    true_23 = (np.vstack([placement(variant, COARSE), [0, 0, 1]]) @ move_33)[:2]
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    moved_HW = cv2.warpAffine(texture_HW, true_23, texture_HW.shape, flags=flags)
    matrix_123 = aligned(texture_HW[None], moved_HW[None], [variant])
    corner_3P = np.array([[16, 48, 16, 48], [16, 16, 48, 48], [1, 1, 1, 1]])
    assert np.abs((matrix_123[0] - true_23) @ corner_3P).max() < 0.5  # pixels of 64
    assert similarities(texture_HW[None], moved_HW[None], matrix_123)[0] > 0.9


@pytest.mark.parametrize(("where", "limit"), [("coarse", 0.27), ("vessels", 0.09)])
def test_a_pair_goes_on_above_a_limit_and_ends_below_it(where: str, limit: float) -> None:
    """The second image is the first with as much noise as a correlation of its blocks needs.

    Alignment adds some by chance, so the pair below the limit has none of its own.
    """
    for correlation, goes_on in ((limit + 0.1, True), (0.0, False)):
        images = {}
        for name, side in (("coarse", COARSE), ("vessels", SIDE)):
            one_HW, noise_HW = textures(2, side)
            share = correlation if name == where else 0.9
            other_HW = share * one_HW + np.sqrt(1 - share**2) * noise_HW
            images[name] = one_HW[None], other_HW[None]
        (one_1HW, other_1HW), (vessel_1HW, other_vessel_1HW) = images.values()
        one, other = described(one_1HW, vessel_1HW), described(other_1HW, other_vessel_1HW)
        assert _promising([((one, 0), (other, 0))], [0]) == ([0] if goes_on else []), correlation


def test_poor_copies_of_drawn_eyes_stay_well_above_both_limits() -> None:
    """As far as real ones: of 2,297 found copies the poorest has 0.37, and of vessels 0.13."""
    images = [cv2.resize(draw(number, 192).image_HWC, (192, 192)) for number in range(4)]
    turn_23 = cv2.getRotationMatrix2D((95.5, 95.5), 7, 1 / 0.95)
    poor = [
        decode_square(
            cv2.imencode(".jpg", cv2.warpAffine(x, turn_23, (192, 192)), [1, 20])[1].tobytes(), 192
        )[..., ::-1]
        for x in images
    ]
    first, second = (
        described(
            np.stack([coarse(x) for x in those]),
            np.stack([vessels(cv2.resize(x, (SIDE, SIDE), interpolation=3)) for x in those]),
        )
        for those in (images, poor)
    )
    matrix_B23 = aligned(first.coarse_NHW, second.coarse_NHW, [0] * 4)
    assert similarities(first.coarse_NHW, second.coarse_NHW, matrix_B23).min() > 0.37
    sides = [((first, k), (second, k)) for k in range(4)]
    assert _promising(sides, [0] * 4) == list(range(4))
    others = [((first, k), (second, (k + 1) % 4)) for k in range(4)]
    assert len(_promising(others, [0] * 4)) <= 1
