import io
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from maskedclip.data import fundus


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


@pytest.mark.parametrize("frame", [0, 14])
def test_a_disc_in_the_middle_is_cropped_to_its_edge(frame: int) -> None:
    square_HWC = fundus.crop_field(disc(600, 900, 250, frame=frame))
    assert square_HWC.shape[0] == square_HWC.shape[1]
    assert 500 <= len(square_HWC) <= 530


def test_a_disc_off_the_middle_is_found() -> None:
    box = fundus.find_field(disc(600, 900, 200, centre=(260, 600)))
    assert abs(box.top + box.height / 2 - 260) < 8
    assert abs(box.left + box.width / 2 - 600) < 8


def test_a_disc_cut_at_top_and_bottom_stays_round() -> None:
    image_HWC = disc(500, 900, 300)
    square_HWC = fundus.crop_field(image_HWC)
    assert 600 <= len(square_HWC) <= 630
    top = (len(square_HWC) - 500) // 2
    assert not square_HWC[: top - 1].any()
    assert (square_HWC[top : top + 500].max(axis=2) > 60).sum() == (
        image_HWC.max(axis=2) > 60
    ).sum()


def test_a_small_disc_is_found() -> None:
    assert 240 <= len(fundus.crop_field(disc(600, 900, 120))) <= 260


def test_a_speck_is_not_taken_for_the_field() -> None:
    assert fundus.crop_field(disc(600, 900, 20)).shape == (900, 900, 3)


def test_a_picture_without_a_frame_comes_out_whole() -> None:
    image_HWC = disc(600, 600, 200)[150:450, 150:450]
    np.testing.assert_array_equal(fundus.crop_field(image_HWC), image_HWC)


@pytest.mark.parametrize("level", [2, 250])
def test_an_even_picture_comes_out_whole(level: int) -> None:
    image_HWC = np.full((40, 60, 3), level, np.uint8)
    square_HWC = fundus.crop_field(image_HWC)
    assert square_HWC.shape == (60, 60, 3)
    np.testing.assert_array_equal(square_HWC[10:50], image_HWC)


def test_a_dark_disc_is_not_cut() -> None:
    assert len(fundus.crop_field(disc(600, 900, 250, light=0.15))) >= 500


def test_an_over_exposed_disc_is_cropped() -> None:
    assert 500 <= len(fundus.crop_field(disc(600, 900, 250, light=3))) <= 530


@pytest.mark.parametrize(("height", "width"), [(2848, 4288), (600, 900), (400, 400)])
def test_the_photograph_has_the_size_asked_for_and_knows_the_original(
    height: int, width: int
) -> None:
    content = jpeg(disc(height, width, height * 0.45))
    found = fundus.photograph(content, 256)
    assert found.image_HWC.shape == (256, 256, 3)
    assert (found.width, found.height) == (width, height)


def test_a_small_field_in_a_large_picture_is_decoded_in_full() -> None:
    found = fundus.photograph(jpeg(disc(1600, 2400, 300)), 512)
    assert found.image_HWC.shape == (512, 512, 3)
    edge = cv2.Laplacian(found.image_HWC[..., 1], cv2.CV_64F).max()
    assert edge > 50  # the spot has a sharp edge, so nothing was enlarged


def test_a_small_original_is_not_enlarged() -> None:
    assert len(fundus.photograph(jpeg(disc(200, 200, 95)), 512).image_HWC) <= 200


def test_a_reduced_decode_shows_the_same_picture() -> None:
    image_HWC = disc(2000, 2000, 900)
    reduced = fundus.photograph(jpeg(image_HWC), 256).image_HWC
    whole = cv2.resize(fundus.crop_field(image_HWC), (256, 256), interpolation=cv2.INTER_AREA)
    assert np.abs(reduced.astype(int) - whole).mean() < 2


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["JPEG", "PNG"])
def test_the_orientation_of_the_camera_is_applied(orientation: int, form: str) -> None:
    upright = Image.new("RGB", (64, 96))
    upright.paste((255, 0, 0), (0, 0, 32, 48))
    upright.paste((0, 255, 0), (32, 0, 64, 48))
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM, 5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }  # fmt: skip
    stored = upright.transpose(undo[orientation]) if orientation > 1 else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    stored.save(file, form, exif=exif)
    image_HWC, width, height = fundus.decode(file.getvalue(), 96)
    assert (width, height) == (64, 96)
    assert image_HWC.shape == (96, 64, 3)
    assert np.abs(image_HWC[24, 16].astype(int) - [255, 0, 0]).max() < 4
    assert np.abs(image_HWC[24, 48].astype(int) - [0, 255, 0]).max() < 4


def test_every_mode_becomes_colour() -> None:
    image_HWC = disc(96, 96, 44)
    colour = Image.fromarray(image_HWC)
    sixteen_bits = (image_HWC[..., 0].astype(np.uint16) << 8) | 0x11
    for content in (
        png(colour),
        png(colour.convert("L")),
        png(colour.convert("P")),
        png(colour.convert("1")),
        png(colour.convert("RGBA")),
        png(Image.fromarray(sixteen_bits)),
        jpeg(image_HWC[..., 0]),
    ):
        decoded_HWC, _, _ = fundus.decode(content, 96)
        assert decoded_HWC.shape == (96, 96, 3)
        assert decoded_HWC.dtype == np.uint8
        assert decoded_HWC[48, 48].max() > 100
        assert decoded_HWC[2, 2].max() < 60


def test_ink_colours_become_screen_colours() -> None:
    file = io.BytesIO()
    Image.fromarray(disc(96, 96, 44)).convert("CMYK").save(file, "JPEG", quality=95)
    decoded_HWC, _, _ = fundus.decode(file.getvalue(), 96)
    red, green, blue = decoded_HWC[48, 40].tolist()
    assert red > green > blue


def test_what_is_transparent_is_frame() -> None:
    image = Image.new("RGBA", (64, 64), (255, 255, 255, 0))
    image.paste((200, 100, 50, 255), (16, 16, 48, 48))
    decoded_HWC, _, _ = fundus.decode(png(image), 64)
    assert not decoded_HWC[4, 4].any()
    assert decoded_HWC[32, 32].tolist() == [200, 100, 50]


WHOLE = jpeg(disc(300, 300, 140))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "the file is empty"),
        (b"<html>not found</html>", "not an image"),
        (WHOLE[: len(WHOLE) // 2], "does not decode"),
        (png(Image.fromarray(disc(300, 300, 140)))[:9000], "does not decode"),
        (png(Image.new("1", (9000, 9000))), "over the limit"),
        (png(Image.new("RGB", (64, 64))), "blank"),
        (png(Image.fromarray(disc(20, 20, 9))), "only 20 pixels"),
    ],
)
def test_a_bad_file_says_why(content: bytes, reason: str) -> None:
    with pytest.raises(fundus.UnreadableImage, match=reason):
        fundus.photograph(content, 128)


def test_content_decides_the_format_and_not_the_name(tmp_path: Path) -> None:
    path = tmp_path / "eye.png"
    path.write_bytes(WHOLE)
    assert fundus.photograph(path.read_bytes(), 128).image_HWC.shape == (128, 128, 3)


def test_the_perceptual_hash_changes_little_with_size_and_much_with_the_eye() -> None:
    def bits(image_HWC: np.ndarray) -> int:
        return int(fundus.perceptual_hash(image_HWC), 16)

    rough = np.random.default_rng(0).integers(0, 255, (12, 12, 3), np.uint8)
    one = cv2.resize(rough, (512, 512), interpolation=cv2.INTER_CUBIC)
    small = cv2.resize(one, (256, 256), interpolation=cv2.INTER_AREA)
    assert len(fundus.perceptual_hash(one)) == 16
    assert (bits(one) ^ bits(small)).bit_count() <= 4
    assert (bits(one) ^ bits(one[:, ::-1].copy())).bit_count() >= 12
