import io
import struct
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from maskedclip.data.photographs import decoding
from maskedclip.data.photographs.decoding import UnreadableImage, decode
from tests.pictures import disc, jpeg, png


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
    image_HWC, width, height = decode(file.getvalue(), 96)[:3]
    assert (width, height) == (64, 96)
    assert image_HWC.shape == (96, 64, 3)
    assert np.abs(image_HWC[24, 16].astype(int) - [255, 0, 0]).max() < 4
    assert np.abs(image_HWC[24, 48].astype(int) - [0, 255, 0]).max() < 4


COLOUR_HWC = np.zeros((96, 96, 3), np.uint8)
COLOUR_HWC[20:76, 20:76] = 200, 110, 60
SIXTEEN_HWC = (COLOUR_HWC.astype(np.uint16) << 8) | 0x11


def written(image: Image.Image, form: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def sixteen_bits(ending: str) -> bytes:
    return bytes(cv2.imencode(ending, SIXTEEN_HWC[..., ::-1])[1])


@pytest.mark.parametrize(
    ("content", "tolerance"),
    [
        (written(Image.fromarray(COLOUR_HWC), "PNG"), 0),
        (written(Image.fromarray(COLOUR_HWC), "BMP"), 0),
        (written(Image.fromarray(COLOUR_HWC), "PPM"), 0),
        (written(Image.fromarray(COLOUR_HWC), "TIFF"), 0),
        (written(Image.fromarray(COLOUR_HWC), "TIFF", compression="tiff_lzw"), 0),
        (written(Image.fromarray(COLOUR_HWC), "TIFF", compression="jpeg"), 4),
        (written(Image.fromarray(COLOUR_HWC).convert("RGBA"), "PNG"), 0),
        (written(Image.fromarray(COLOUR_HWC).convert("P"), "PNG"), 20),
        (written(Image.fromarray(COLOUR_HWC).quantize(8), "BMP"), 4),
        (written(Image.fromarray(COLOUR_HWC).convert("CMYK"), "JPEG", quality=95), 4),
        (written(Image.fromarray(COLOUR_HWC).convert("CMYK"), "TIFF"), 4),
        (written(Image.fromarray(COLOUR_HWC).convert("YCbCr"), "TIFF"), 4),
        (written(Image.fromarray(COLOUR_HWC), "JPEG", quality=95), 4),
        (sixteen_bits(".png"), 1),
        (sixteen_bits(".tiff"), 1),
        (sixteen_bits(".ppm"), 1),
    ],
)
def test_the_colours_of_every_kind_of_file_are_the_same(content: bytes, tolerance: int) -> None:
    decoded_HWC = decode(content, 96).image_HWC
    assert decoded_HWC.shape == (96, 96, 3)
    assert decoded_HWC.dtype == np.uint8
    assert np.abs(decoded_HWC[48, 48].astype(int) - [200, 110, 60]).max() <= tolerance
    assert decoded_HWC[3, 3].max() <= tolerance


GREY_HW = COLOUR_HWC[..., 0]


@pytest.mark.parametrize(
    "content",
    [
        jpeg(GREY_HW),
        png(Image.fromarray(GREY_HW)),
        png(Image.fromarray(GREY_HW).convert("LA")),
        png(Image.fromarray((GREY_HW.astype(np.uint16) << 8) | 0x11)),
        png(Image.fromarray(GREY_HW.astype(np.uint16) << 4)),  # 12 of 16 bits in use
        written(Image.fromarray(GREY_HW.astype(np.uint16) << 8), "TIFF"),
        written(Image.fromarray(GREY_HW.astype(np.float32) / 255), "TIFF"),
        written(Image.fromarray(GREY_HW.astype(np.int32)), "TIFF"),
    ],
)
def test_grey_of_any_depth_keeps_its_level(content: bytes) -> None:
    decoded_HWC = decode(content, 96).image_HWC
    assert np.abs(decoded_HWC[48, 48].astype(int) - 200).max() <= 2
    assert decoded_HWC[3, 3].max() <= 2


def test_black_and_white_is_read() -> None:
    decoded_HWC = decode(png(Image.fromarray(GREY_HW).convert("1")), 96).image_HWC
    assert decoded_HWC[48, 48].tolist() == [255, 255, 255]


@pytest.mark.parametrize("factor", [1, 2, 4, 8])
def test_an_original_is_decoded_at_a_scale_that_holds_the_pixels_asked_for(factor: int) -> None:
    content = jpeg(disc(864, 1296, 400))
    decoded = decode(content, 864 // factor)
    assert (decoded.width, decoded.height) == (1296, 864)
    assert decoded.image_HWC.shape == (864 // factor, 1296 // factor, 3)
    assert decode(content, 864 // factor + 1).image_HWC.shape[0] == min(864, 1728 // factor)


def test_what_a_file_tells_beside_its_pixels_is_named_and_not_told() -> None:
    exif = Image.Exif()
    exif[0x010F] = "a camera"
    exif.get_ifd(0x8825)[0] = b"\2\3\0\0"  # the version alone is no position
    photograph = Image.fromarray(COLOUR_HWC)
    text = PngInfo()
    text.add_text("Patient", "Doe")
    assert decode(jpeg(COLOUR_HWC), 96).carried == ()
    assert decode(written(photograph, "JPEG", exif=exif), 96).carried == ("EXIF",)
    exif.get_ifd(0x8825)[2] = (47.0, 22.0, 0.0)
    assert decode(written(photograph, "JPEG", exif=exif), 96).carried == ("EXIF", "GPS position")
    assert decode(written(photograph, "JPEG", comment=b"Doe"), 96).carried == ("comment",)
    assert decode(png(photograph, pnginfo=text), 96).carried == ("text",)
    assert decode(png(photograph, icc_profile=b"x" * 200), 96).carried == ("colour profile",)
    assert decode(written(photograph, "TIFF"), 96).carried == ()
    assert decode(written(photograph, "TIFF", artist="Doe"), 96).carried == ("EXIF",)


def test_formats_that_no_camera_writes_are_not_tried() -> None:
    for form in ("TGA", "PCX"):
        with pytest.raises(UnreadableImage, match="not an image of a known format"):
            decode(written(Image.fromarray(COLOUR_HWC), form), 96)


def test_ink_colours_become_screen_colours() -> None:
    file = io.BytesIO()
    Image.fromarray(disc(96, 96, 44)).convert("CMYK").save(file, "JPEG", quality=95)
    decoded_HWC = decode(file.getvalue(), 96).image_HWC
    red, green, blue = decoded_HWC[48, 40].tolist()
    assert red > green > blue


def test_what_is_transparent_is_frame() -> None:
    image = Image.new("RGBA", (64, 64), (255, 255, 255, 0))
    image.paste((200, 100, 50, 255), (16, 16, 48, 48))
    decoded_HWC = decode(png(image), 64).image_HWC
    assert not decoded_HWC[4, 4].any()
    assert decoded_HWC[32, 32].tolist() == [200, 100, 50]


def test_an_image_that_is_composed_in_parts_is_the_one_of_pillow(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(decoding, "_PART", 96 * 7)
    rng = np.random.default_rng(1)
    rgba_HWC = rng.integers(0, 256, (96, 96, 4)).astype(np.uint8)
    rgba = Image.fromarray(rgba_HWC)
    black = Image.new("RGBA", rgba.size, (0, 0, 0, 255))
    whole_HWC = np.asarray(Image.alpha_composite(black, rgba).convert("RGB"))
    assert np.array_equal(decode(png(rgba), 96).image_HWC, whole_HWC)
    for mode in ("L", "P", "1", "LA"):
        other = rgba.convert("RGB").convert(mode) if mode != "LA" else rgba.convert(mode)
        layered = other.convert("RGBA")
        whole_HWC = np.asarray(Image.alpha_composite(black, layered).convert("RGB"))
        assert np.array_equal(decode(png(other), 96).image_HWC, whole_HWC), mode
    through = written(rgba.convert("RGB").quantize(16), "PNG", transparency=3)
    layered = Image.open(io.BytesIO(through)).convert("RGBA")
    whole_HWC = np.asarray(Image.alpha_composite(black, layered).convert("RGB"))
    assert np.array_equal(decode(through, 96).image_HWC, whole_HWC)


def header_of(width: int, height: int, bits: int) -> bytes:
    """Return a PNG of three colours that states its size, with a file's first pixels alone."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        crc = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + crc

    size = struct.pack(">IIBBBBB", width, height, bits, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + chunk(b"IDAT", zlib.compress(b"\0"))


def test_the_limit_of_pixels_is_by_what_they_take() -> None:
    with pytest.raises(UnreadableImage, match="9000x9000 is over the limit of 80,000,000 pixels"):
        decode(header_of(9000, 9000, 8), 96)
    with pytest.raises(UnreadableImage, match="6400x6400 of 16 bits a colour is over the limit"):
        decode(header_of(6400, 6400, 16), 96)
