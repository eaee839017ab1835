"""The pointing game on maps and circles small enough to check by eye."""

import numpy as np
import pytest

from maskedclip.explain.pointing_game import near_patches, pointing


def test_a_patch_is_near_where_its_centre_is_within_the_tolerance_of_a_circle() -> None:
    # patches of 8 pixels: centres at 3.5, 11.5, 19.5, 27.5
    circles_K3 = np.array([[11.5, 3.5, 2.0], [27.5, 24.0, 1.0]])
    near_RC = near_patches(circles_K3, grid=4, patch=8, tolerance=4.0)
    assert np.argwhere(near_RC).tolist() == [[0, 1], [2, 3], [3, 3]]
    near_RC = near_patches(circles_K3, grid=4, patch=8, tolerance=6.0)
    assert np.argwhere(near_RC).tolist() == [[0, 0], [0, 1], [0, 2], [1, 1], [2, 3], [3, 3]]


def one_hot(place: int) -> np.ndarray:
    map_N = np.zeros(16)
    map_N[place] = 1.0
    return map_N.reshape(4, 4)


def test_maps_that_point_where_each_lesion_is_hit_and_those_of_others_do_not() -> None:
    places = list(range(12))
    near = [one_hot(place) > 0 for place in places]
    found = pointing([one_hot(place) for place in places], near)
    assert (found.hit, found.low, found.high) == (1.0, 1.0, 1.0)
    assert (found.chance, found.shuffled, found.gain) == (1 / 16, 0.0, 1.0)
    assert found.images == 12


def test_a_map_that_is_the_same_for_every_image_gains_nothing_whatever_it_hits() -> None:
    near = [one_hot(5) > 0] * 9 + [one_hot(2) > 0] * 3
    found = pointing([one_hot(5)] * 12, near)
    assert found.hit == pytest.approx(0.75)
    assert found.low < 0.75 < found.high
    assert found.shuffled == pytest.approx(0.75)
    assert (found.gain, found.gain_low, found.gain_high) == (0.0, 0.0, 0.0)


def test_the_maps_of_others_are_each_tried_on_each_image() -> None:
    maps, near = [one_hot(0), one_hot(1), one_hot(1)], [one_hot(p) > 0 for p in (0, 1, 2)]
    found = pointing(maps, near)
    assert found.hit == pytest.approx(2 / 3)
    # image 0: of maps 1, 1 none; image 1: of maps 0, 1 one; image 2: none
    assert found.shuffled == pytest.approx(0.5 / 3)
