"""The same picture is the same tensor by every entrance: files, PIL images, tars, shards."""

import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import simplejpeg
from PIL import Image

from maskedclip.data.labelled_views import preparation, sample_image
from maskedclip.data.photographs.decoding import UnreadableImage, decode
from maskedclip.data.storage.shards import Shards
from maskedclip.data.transforms import TRIES, crop_box, crop_of
from maskedclip.data.transforms import decode as decode_member
from maskedclip.inference import read_image
from maskedclip.shards.building.prepare_sample import field_photograph
from maskedclip.shards.make import ShardRequest, build
from tests.pictures import disc, jpeg

# four colours, so that palettes hold them; on blocks of 16 pixels, so that JPEG keeps them
QUARTERS_HWC = np.zeros((96, 64, 3), np.uint8)
QUARTERS_HWC[:48, :32], QUARTERS_HWC[:48, 32:] = (200, 110, 60), (30, 160, 90)
QUARTERS_HWC[48:, :32], QUARTERS_HWC[48:, 32:] = (90, 20, 140), (240, 230, 210)
STORED_AS = {  # how a camera held so stores an upright picture
    1: lambda x: x,
    2: np.fliplr,
    3: lambda x: np.rot90(x, 2),
    4: np.flipud,
    5: lambda x: np.swapaxes(x, 0, 1),
    6: lambda x: np.rot90(x, 1),
    7: lambda x: np.swapaxes(np.rot90(x, 2), 0, 1),
    8: lambda x: np.rot90(x, -1),
}
FORMATS = {
    "JPEG": ("JPEG", ("L", "RGB", "CMYK"), {"quality": 95}),
    "PNG": ("PNG", ("L", "RGB", "RGBA", "P", "I;16"), {}),
    "TIFF": ("TIFF", ("L", "RGB", "RGBA", "P", "CMYK", "I;16"), {}),
    "compressed TIFF": (
        "TIFF", ("L", "RGB", "RGBA", "P", "CMYK", "I;16"), {"compression": "tiff_lzw"},
    ),
    "PPM": ("PPM", ("L", "RGB", "I;16"), {}),
    "BMP": ("BMP", ("L", "RGB", "RGBA", "P"), {}),
    "GIF": ("GIF", ("L", "RGB", "P"), {}),
    "WEBP": ("WEBP", ("L", "RGB", "RGBA"), {"lossless": True}),
}  # fmt: skip
WITHOUT_EXIF = ("PPM", "BMP", "GIF")


def in_mode(image_HWC: np.ndarray, mode: str) -> Image.Image:
    image = Image.fromarray(np.ascontiguousarray(image_HWC))
    if mode == "I;16":
        return Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
    if mode == "P":
        return image.quantize(4)
    return image.convert(mode)


def written(image: Image.Image, form: str, orientation: int = 1, **options: object) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    image.save(file, form, exif=exif, **options)
    return file.getvalue()


def loaded(image: Image.Image) -> Image.Image:
    image.load()
    return image


def from_tar(content: bytes, folder: Path) -> Image.Image:
    folder.mkdir()
    with tarfile.open(folder / "x.tar", "w") as tar:
        info = tarfile.TarInfo("a.jpg")
        info.size = len(content)
        tar.addfile(info, io.BytesIO(content))
    return sample_image(Shards(folder), 0)


@pytest.mark.parametrize("name", FORMATS)
def test_every_mode_and_orientation_of_a_format_is_one_tensor_by_every_entrance(
    name: str, tmp_path: Path
) -> None:
    form, modes, options = FORMATS[name]
    grey_HWC = np.asarray(Image.fromarray(QUARTERS_HWC).convert("L"))[..., None].repeat(3, axis=2)
    prepare = preparation(32)
    for mode in modes:
        upright_HWC = grey_HWC if mode in ("L", "I;16") else QUARTERS_HWC
        for orientation in [1] if form in WITHOUT_EXIF else STORED_AS:
            case = f"{mode}-{orientation}"
            stored = in_mode(STORED_AS[orientation](QUARTERS_HWC), mode)
            content = written(stored, form, orientation, **options)
            path = tmp_path / case
            path.write_bytes(content)
            by_build = decode(content, 96)
            assert (by_build.width, by_build.height) == (64, 96), case
            assert by_build.remarks == (), case
            entrances = {
                "path": read_image(path, field_of_view=False),
                "PIL": read_image(Image.open(path), field_of_view=False),
                "PIL of bytes": read_image(Image.open(io.BytesIO(content)), field_of_view=False),
                "PIL, loaded": read_image(loaded(Image.open(path)), field_of_view=False),
            }
            if form == "JPEG":
                entrances["tar"] = from_tar(content, tmp_path / f"{case}.tars")
            tensor_CHW = prepare(Image.fromarray(np.ascontiguousarray(by_build.image_HWC)))
            for entrance, image in entrances.items():
                assert prepare(image).equal(tensor_CHW), (case, entrance)
            off_HWC = np.abs(by_build.image_HWC.astype(int) - upright_HWC)
            off_HWC[44:52], off_HWC[:, 28:36] = 0, 0  # JPEG blurs edges of colours
            assert off_HWC.max() <= (5 if form == "JPEG" else 1), case


@pytest.mark.parametrize("orientation", STORED_AS)
def test_a_random_crop_of_a_turned_jpeg_is_cut_from_the_upright_picture(orientation: int) -> None:
    stored = in_mode(STORED_AS[orientation](QUARTERS_HWC), "RGB")
    content = written(stored, "JPEG", orientation, quality=95)
    upright_HWC = decode(content, 96).image_HWC
    draw_EF = np.random.default_rng(orientation).random((TRIES, 4))
    top, left, height, width = crop_box(96, 64, 32, (0.2, 0.6), draw_EF)
    cut = Image.fromarray(np.ascontiguousarray(upright_HWC)).crop(
        (left, top, left + width, top + height)
    )
    by_hand_HWC = np.asarray(cut.resize((32, 32), Image.Resampling.BICUBIC))
    assert np.array_equal(crop_of(content, 32, (0.2, 0.6), draw_EF, "exact"), by_hand_HWC)
    fast_HWC = crop_of(content, 32, (0.2, 0.6), draw_EF, "fast")
    assert np.abs(fast_HWC.astype(int) - by_hand_HWC).mean() < 2


def test_a_field_of_view_is_the_same_of_a_turned_file() -> None:
    eye_HWC = disc(200, 300, 90, centre=(90, 130))
    fields = [
        field_photograph(
            written(Image.fromarray(np.ascontiguousarray(stored(eye_HWC))), "PNG", turn), 64
        ).image_HWC
        for turn, stored in STORED_AS.items()
    ]
    assert all(np.array_equal(field_HWC, fields[0]) for field_HWC in fields)


def deep(ending: str, value_HWC: np.ndarray) -> bytes:
    return bytes(cv2.imencode(ending, value_HWC[..., ::-1])[1])


@pytest.mark.parametrize("ending", [".png", ".tiff", ".ppm"])
@pytest.mark.parametrize("bits", [10, 12, 14])
def test_colours_of_fewer_bits_than_sixteen_keep_their_level_and_are_named(
    ending: str, bits: int, tmp_path: Path
) -> None:
    value_HWC = QUARTERS_HWC.astype(np.uint16) << (bits - 8)
    decoded = decode(deep(ending, value_HWC), 96)
    assert np.abs(decoded.image_HWC.astype(int) - QUARTERS_HWC).max() <= 1
    remark = f"{bits} bits in use, by the highest value"
    assert decoded.remarks == (("bit_depths_guessed", remark),)
    path = tmp_path / f"a{ending}"
    path.write_bytes(deep(ending, value_HWC))
    for opened in (Image.open(path), loaded(Image.open(path))):
        assert np.array_equal(np.asarray(read_image(opened, False)), decoded.image_HWC)


def test_alpha_and_interlaced_rows_of_sixteen_bits_are_read() -> None:
    value_HWC = QUARTERS_HWC.astype(np.uint16) << 4
    alpha_HW1 = np.full((96, 64, 1), 65535, np.uint16)
    alpha_HW1[:48] = 0
    content = bytes(cv2.imencode(".png", np.concatenate([value_HWC[..., ::-1], alpha_HW1], 2))[1])
    image_HWC = decode(content, 96).image_HWC
    assert not image_HWC[:48].any()
    assert np.abs(image_HWC[48:].astype(int) - QUARTERS_HWC[48:]).max() <= 1


@pytest.mark.parametrize("ending", [".png", ".tiff", ".ppm"])
def test_all_sixteen_bits_of_a_colour_are_no_guess(ending: str) -> None:
    decoded = decode(deep(ending, QUARTERS_HWC.astype(np.uint16) * 257), 96)
    assert np.array_equal(decoded.image_HWC, QUARTERS_HWC)
    assert decoded.remarks == ()


def test_a_dark_ppm_that_states_its_highest_value_stays_dark() -> None:
    value_HW = np.full((32, 32), 400, ">u2")
    decoded = decode(b"P5 32 32 4095\n" + value_HW.tobytes(), 32)
    assert decoded.image_HWC.max() == round(400 / 4095 * 255)
    assert decoded.remarks == ()


def test_a_grey_negative_of_sixteen_bits_is_turned_to_a_positive() -> None:
    grey_HW = QUARTERS_HWC[..., 0].astype(np.uint16) * 257
    file = io.BytesIO()
    Image.fromarray(65535 - grey_HW).save(file, "TIFF", tiffinfo={262: 0})
    assert np.array_equal(decode(file.getvalue(), 96).image_HWC[..., 0], QUARTERS_HWC[..., 0])


WHOLE = jpeg(disc(96, 96, 44))
TABLE = WHOLE.index(b"\xff\xdb")
SCAN = WHOLE.index(b"\xff\xda")
SOUND = {
    "stray bytes before a table": WHOLE[:TABLE] + bytes(3) + WHOLE[TABLE:],
    "stray bytes before the end": WHOLE[:-2] + b"\x12\x00\x56" * 9 + WHOLE[-2:],
    "an unknown revision": WHOLE[:11] + b"\7" + WHOLE[12:],
    "a bad colour profile": WHOLE[:2]
    + b"\xff\xe2\0\x14ICC_PROFILE\0\2\3abcd"
    + WHOLE[2:],
    "bad parameters of the scan": WHOLE[: SCAN + 11] + bytes(3) + WHOLE[SCAN + 14 :],
    "a broken EXIF": WHOLE[:2] + b"\xff\xe1\0\x12Exif\0\0abcdefghij" + WHOLE[2:],
}  # fmt: skip


@pytest.mark.parametrize("content", SOUND.values(), ids=list(SOUND))
@pytest.mark.parametrize("entrance", [lambda c: decode(c, 96).image_HWC, decode_member])
def test_a_warning_that_concerns_no_pixel_costs_no_picture(
    content: bytes, entrance: Callable[[bytes], np.ndarray]
) -> None:
    assert np.array_equal(entrance(content), simplejpeg.decode_jpeg(WHOLE, "RGB"))
    draw_EF = np.full((TRIES, 4), 0.5)
    crops = [crop_of(jpg, 16, (0.9, 1.0), draw_EF, "exact") for jpg in (content, WHOLE)]
    assert np.array_equal(*crops)


@pytest.mark.parametrize(
    "content",
    [WHOLE[:-200], WHOLE[:-200] + WHOLE[-2:], WHOLE[:-40] + b"\0" * 9 + WHOLE[-2:]],
    ids=["cut", "cut before its end", "other bytes at its end"],
)
def test_a_jpeg_whose_pixels_are_missing_is_refused(content: bytes) -> None:
    with pytest.raises(UnreadableImage, match="does not decode"):
        decode(content, 96)
    with pytest.raises(ValueError, match="does not decode"):
        decode_member(content)


def test_a_build_names_what_it_guessed_and_what_it_passed_over(tmp_path: Path) -> None:
    root = tmp_path / "download"
    root.mkdir()
    eye_HWC = disc(96, 96, 44)
    (root / "deep.png").write_bytes(deep(".png", eye_HWC.astype(np.uint16) << 4))
    (root / "stray.jpg").write_bytes(SOUND["stray bytes before a table"])
    (root / "whole.jpg").write_bytes(WHOLE)
    request = ShardRequest(
        dataset="folder", root=root, out=tmp_path / "out", name="toy", size=64, workers=1
    )
    remarks = build(request, progress=False).manifest["remarks"]
    assert remarks["bit_depths_guessed"] == ["deep.png: 12 bits in use, by the highest value"]
    assert remarks["jpegs_with_a_warning"] == [
        "stray.jpg: Corrupt JPEG data: 3 extraneous bytes before marker 0xdb"
    ]
