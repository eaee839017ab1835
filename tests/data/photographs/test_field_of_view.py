import cv2
import numpy as np
import pytest
from PIL import Image

from maskedclip.data.photographs.field_of_view import crop_field, find_field, reduced, square_field
from tests.pictures import disc


@pytest.mark.parametrize("frame", [0, 14])
def test_a_disc_in_the_middle_is_cropped_to_its_edge(frame: int) -> None:
    square_HWC = crop_field(disc(600, 900, 250, frame=frame))
    assert square_HWC.shape[0] == square_HWC.shape[1]
    assert 500 <= len(square_HWC) <= 530


def test_a_disc_off_the_middle_is_found() -> None:
    box = find_field(disc(600, 900, 200, centre=(260, 600)))
    assert abs(box.top + box.height / 2 - 260) < 8
    assert abs(box.left + box.width / 2 - 600) < 8


def test_a_disc_cut_at_top_and_bottom_stays_round() -> None:
    image_HWC = disc(500, 900, 300)
    square_HWC = crop_field(image_HWC)
    assert 600 <= len(square_HWC) <= 630
    top = (len(square_HWC) - 500) // 2
    assert not square_HWC[: top - 1].any()
    assert (square_HWC[top : top + 500].max(axis=2) > 60).sum() == (
        image_HWC.max(axis=2) > 60
    ).sum()


def test_a_small_disc_is_found() -> None:
    assert 240 <= len(crop_field(disc(600, 900, 120))) <= 260


def test_a_speck_is_not_taken_for_the_field() -> None:
    assert crop_field(disc(600, 900, 20)).shape == (900, 900, 3)


def test_a_picture_without_a_frame_comes_out_whole() -> None:
    image_HWC = disc(600, 600, 200)[150:450, 150:450]
    np.testing.assert_array_equal(crop_field(image_HWC), image_HWC)


@pytest.mark.parametrize("level", [2, 250])
def test_an_even_picture_comes_out_whole(level: int) -> None:
    image_HWC = np.full((40, 60, 3), level, np.uint8)
    square_HWC = crop_field(image_HWC)
    assert square_HWC.shape == (60, 60, 3)
    np.testing.assert_array_equal(square_HWC[10:50], image_HWC)


def test_a_dark_disc_is_not_cut() -> None:
    assert len(crop_field(disc(600, 900, 250, light=0.15))) >= 500


def test_an_over_exposed_disc_is_cropped() -> None:
    assert 500 <= len(crop_field(disc(600, 900, 250, light=3))) <= 530


def ellipse(height: int, width: int) -> np.ndarray:
    """Return a round field that someone squeezed: `height` by `width`, in a frame of its own."""
    return cv2.resize(disc(600, 600, 280), (width, height), interpolation=cv2.INTER_AREA)


@pytest.mark.parametrize(("height", "width"), [(400, 600), (600, 400)])
def test_a_squeezed_field_keeps_its_proportions(height: int, width: int) -> None:
    square_HWC = crop_field(ellipse(height, width))
    lit_HW = square_HWC.max(axis=2) > 40
    high, wide = lit_HW.any(axis=1).sum(), lit_HW.any(axis=0).sum()
    assert square_HWC.shape[0] == square_HWC.shape[1]
    assert abs(high / wide - height / width) < 0.02


def test_a_field_that_was_cropped_before_is_not_cropped_again() -> None:
    once = crop_field(disc(600, 900, 250))
    twice = crop_field(once)
    assert abs(len(twice) - len(once)) <= 0.02 * len(once)


def test_a_dark_eye_with_a_bright_disc_is_not_cut_down_to_the_disc() -> None:
    image_HWC = disc(600, 900, 250, light=0.12)
    spot_HW = np.hypot(*(np.mgrid[:600, :900] - np.array([300, 560]).reshape(2, 1, 1))) < 35
    image_HWC[spot_HW] = 200
    assert len(crop_field(image_HWC)) >= 500


def test_letters_in_a_corner_do_not_widen_the_field() -> None:
    image_HWC = disc(600, 900, 250)
    image_HWC[10:24, 10:120] = 255
    assert 500 <= len(crop_field(image_HWC)) <= 530


def test_a_reduced_field_is_the_same_as_the_whole_one_made_smaller() -> None:
    image_HWC = disc(1200, 1500, 560)
    box = find_field(image_HWC)
    small_HWC = square_field(image_HWC, box, 256)
    whole_HWC = square_field(image_HWC, box, 1500)
    reference_HWC = np.asarray(Image.fromarray(whole_HWC).resize((256, 256), Image.Resampling.BOX))
    assert np.abs(small_HWC.astype(int) - reference_HWC).mean() < 1.5


def test_halving_stops_before_the_side_asked_for() -> None:
    image_HWC = disc(300, 1000, 140)
    assert max(reduced(image_HWC, 256).shape) == 500
    assert reduced(image_HWC, 1000) is image_HWC
    assert reduced(np.zeros((1, 900, 3), np.uint8), 64).shape == (1, 900, 3)
