from itertools import pairwise

import cv2
import numpy as np
import pytest

from maskedclip.shards.building.quality import (
    REASONS,
    SHOWN,
    Quality,
    candidates,
    quality_of,
    worst,
)
from maskedclip.shards.phantoms.phantom import draw

EYE = draw(3, 256).image_HWC


def cut(image_HWC: np.ndarray) -> np.ndarray:
    half_HWC = image_HWC.copy()
    half_HWC[:, 100:] = 0
    return half_HWC


@pytest.mark.parametrize(
    ("which", "spoilt_HWC"),
    [
        (0, (EYE * 0.2).astype(np.uint8)),
        (1, np.where(EYE.max(axis=2, keepdims=True) > 16, np.minimum(EYE * 3.0, 255), EYE)),
        (2, cv2.GaussianBlur(EYE, (0, 0), 6)),
        (3, cut(EYE)),
    ],
)
def test_each_fault_lowers_its_own_number(which: int, spoilt_HWC: np.ndarray) -> None:
    before, after = quality_of(EYE)[which], quality_of(spoilt_HWC.astype(np.uint8))[which]
    assert after < 0.7 * before


def test_a_black_picture_has_a_look() -> None:
    assert quality_of(np.zeros((64, 64, 3), np.uint8)) == Quality(0.0, 1.0, 0.0, 0.0)


def some_qualities(count: int, seed: int) -> list[tuple[str, Quality]]:
    value_NK = np.random.default_rng(seed).integers(0, 40, (count, 4)) / 40  # with ties
    return [(f"{number:04d}", Quality(*row)) for number, row in enumerate(value_NK.tolist())]


@pytest.mark.parametrize("seed", range(5))
def test_the_worst_of_the_parts_candidates_are_the_worst_of_all(seed: int) -> None:
    everyone = some_qualities(500, seed)
    parts = [everyone[first : first + 90] for first in range(0, 500, 90)]
    few = [entry for part in parts for entry in candidates(part)]
    assert worst(few) == worst(everyone) == worst(everyone[::-1])


def test_the_worst_are_the_lowest_of_each_kind_and_nobody_comes_twice() -> None:
    everyone = some_qualities(300, 9)
    found = worst(everyone)
    assert len({entry["key"] for entry in found}) == len(REASONS) * SHOWN
    darkest = [entry for entry in found if entry["reason"] == "dark"]
    assert [e["value"] for e in darkest] == sorted(quality.bright for _, quality in everyone)[
        :SHOWN
    ]
    for reason in REASONS:
        values = [entry["value"] for entry in found if entry["reason"] == reason]
        assert all(a <= b for a, b in pairwise(values))


def test_a_dataset_of_two_has_two_worst() -> None:
    assert len(worst(some_qualities(2, 0))) == 2
