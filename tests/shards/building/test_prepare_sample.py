import io
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from maskedclip.data.photographs.decoding import UnreadableImage
from maskedclip.data.photographs.field_of_view import crop_field
from maskedclip.shards.building.prepare_sample import (
    Rejected,
    field_photograph,
    further_pages,
    perceptual_hash,
    prepare_photograph,
)
from maskedclip.shards.downloads.records import Record
from tests.pictures import disc, jpeg, png


@pytest.mark.parametrize(("height", "width"), [(2848, 4288), (600, 900), (400, 400)])
def test_the_photograph_has_the_size_asked_for_and_knows_the_original(
    height: int, width: int
) -> None:
    content = jpeg(disc(height, width, height * 0.45))
    found = field_photograph(content, 256)
    assert found.image_HWC.shape == (256, 256, 3)
    assert (found.width, found.height) == (width, height)


def test_a_small_field_in_a_large_picture_is_decoded_in_full() -> None:
    found = field_photograph(jpeg(disc(1600, 2400, 300)), 512)
    assert found.image_HWC.shape == (512, 512, 3)
    edge = cv2.Laplacian(found.image_HWC[..., 1], cv2.CV_64F).max()
    assert edge > 50  # the spot has a sharp edge, so nothing was enlarged


def test_a_small_original_is_not_enlarged() -> None:
    assert len(field_photograph(jpeg(disc(200, 200, 95)), 512).image_HWC) <= 200


def test_a_reduced_decode_shows_the_same_picture() -> None:
    image_HWC = disc(2000, 2000, 900)
    reduced = field_photograph(jpeg(image_HWC), 256).image_HWC
    whole = cv2.resize(crop_field(image_HWC), (256, 256), interpolation=cv2.INTER_AREA)
    assert np.abs(reduced.astype(int) - whole).mean() < 2


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
    with pytest.raises(UnreadableImage, match=reason):
        field_photograph(content, 128)


def test_content_decides_the_format_and_not_the_name(tmp_path: Path) -> None:
    path = tmp_path / "eye.png"
    path.write_bytes(WHOLE)
    assert field_photograph(path.read_bytes(), 128).image_HWC.shape == (128, 128, 3)


def test_the_perceptual_hash_changes_little_with_size_and_much_with_the_eye() -> None:
    def bits(image_HWC: np.ndarray) -> int:
        return int(perceptual_hash(image_HWC), 16)

    rough = np.random.default_rng(0).integers(0, 255, (12, 12, 3), np.uint8)
    one = cv2.resize(rough, (512, 512), interpolation=cv2.INTER_CUBIC)
    small = cv2.resize(one, (256, 256), interpolation=cv2.INTER_AREA)
    assert len(perceptual_hash(one)) == 16
    assert (bits(one) ^ bits(small)).bit_count() <= 4
    assert (bits(one) ^ bits(one[:, ::-1].copy())).bit_count() >= 12


@pytest.mark.parametrize("format", ["TIFF", "GIF", "MPO", "WEBP"])
def test_pages_behind_the_first_are_counted(format: str) -> None:
    pages = [Image.fromarray(disc(64, 64, 28 - n)) for n in range(3)]
    file = io.BytesIO()
    pages[0].save(file, format, save_all=True, append_images=pages[1:])
    assert further_pages(file.getvalue()) == (("further_pages_not_read", "2 behind the first"),)
    single = io.BytesIO()
    pages[0].save(single, "JPEG" if format == "MPO" else format)
    assert further_pages(single.getvalue()) == ()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "is a pointer of Git LFS"),
        (b"\n <!DOCTYPE html><html><body>Sign in</body></html>", "is a web page, not the file"),
        (b"", "the file is empty"),
        (b"plain words", "not an image of a known format"),
    ],
)
def test_what_is_called_jpg_and_is_none_is_called_what_it_is(
    content: bytes, reason: str, tmp_path: Path
) -> None:
    (tmp_path / "1.jpg").write_bytes(content)
    prepare = partial(
        prepare_photograph, name="x", size=64, quality=90, key=b"k" * 16, anonymise=False
    )
    found = prepare(Record("1.jpg", tmp_path / "1.jpg"))
    assert isinstance(found, Rejected)
    assert found.reason.startswith(reason)
