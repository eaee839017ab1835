"""Any image file to upright 8-bit RGB, and a note of what else the file holds.

Content decides the format, not the name. Only the formats listed here are tried: each further one
is a further parser that a hostile file could reach.
"""

import io
import struct
import zlib
from typing import NamedTuple

import numpy as np
import simplejpeg
from PIL import Image, ImageOps, features

PIXEL_LIMIT = 80_000_000  # a larger image is refused before it is decoded
ENDINGS_OF = {  # formats that are tried, and the endings that their files have
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"),
    "PNG": (".png",),
    "TIFF": (".tif", ".tiff"),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
    "BMP": (".bmp",),
    "GIF": (".gif",),
    "WEBP": (".webp",),
    "JPEG2000": (".jp2", ".j2k", ".jpx", ".j2c", ".jpf"),
}
if not features.check("jpg_2000"):  # Pillow may be built without it
    del ENDINGS_OF["JPEG2000"]
FORMATS = tuple(ENDINGS_OF)
_ORIENTATION, _GPS = 0x0112, 0x8825  # tags of EXIF
# of the tags that make up every TIFF, those that tell of a camera, a time or a person
_TELLING = {0x010E, 0x010F, 0x0110, 0x0131, 0x0132, 0x013B, 0x8298, 0x8769, _GPS}
# what Pillow names in `info` and what a reader of the note knows it by
_CARRIERS = {
    "comment": "comment",
    "xmp": "XMP",
    "XML:com.adobe.xmp": "XMP",
    "icc_profile": "colour profile",
    "photoshop": "Photoshop block",
}


class UnreadableImage(ValueError):  # noqa: N818 - it is not the code that erred
    """A file that gives no photograph; the message is the reason, without the file."""


class Decoded(NamedTuple):
    """An image, and what its file said of it beside the pixels."""

    image_HWC: np.ndarray  # uint8, red green blue, upright
    width: int  # of the original, in pixels
    height: int
    carried: tuple[str, ...]  # EXIF, GPS position, comment ...: kinds, never their content


def decode(content: bytes, shorter_side: int) -> Decoded:
    """Return the image of an image file.

    Args:
        shorter_side: pixels; a JPEG may be decoded at a half, a quarter or an eighth of its size,
            but not below this.

    Raises UnreadableImage where the file is empty, cut short, too large or no image.
    """
    if not content:
        raise UnreadableImage("the file is empty")
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as opened:
            if opened.width * opened.height > PIXEL_LIMIT:
                size = f"{opened.width}x{opened.height}"
                raise UnreadableImage(f"{size} is over the limit of {PIXEL_LIMIT:,} pixels")
            turned = opened.getexif().get(_ORIENTATION, 1) in (5, 6, 7, 8)
            width, height = opened.size[::-1] if turned else opened.size
            carried = _carried(opened)
            if opened.format in ("JPEG", "MPO") and opened.mode in ("RGB", "L"):
                image_HWC = _decode_jpeg(content, opened, shorter_side)
            else:
                image_HWC = np.asarray(_to_rgb(ImageOps.exif_transpose(opened)))
    except UnreadableImage:
        raise
    except Image.UnidentifiedImageError:
        raise UnreadableImage("not an image of a known format") from None
    # What Pillow and libjpeg raise on broken files; all of it means that the file is no good.
    except (
        OSError,
        SyntaxError,
        ValueError,
        EOFError,
        IndexError,
        TypeError,
        struct.error,
        zlib.error,
        Image.DecompressionBombError,
    ) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UnreadableImage(f"does not decode: {reason}") from error
    return Decoded(image_HWC, width, height, carried)


def _carried(opened: Image.Image) -> tuple[str, ...]:
    exif = opened.getexif()
    kinds = {_CARRIERS[name] for name in _CARRIERS if opened.info.get(name)}
    tags = set(exif) & _TELLING if opened.format == "TIFF" else set(exif)
    kinds |= {"EXIF"} if tags else set()
    # some programs write a block of GPS that holds no more than its own version
    kinds |= {"GPS position"} if exif.get_ifd(_GPS).keys() & {2, 4} else set()
    kinds |= {"text"} if getattr(opened, "text", None) else set()  # chunks of a PNG
    return tuple(sorted(kinds))


def _decode_jpeg(content: bytes, opened: Image.Image, shorter_side: int) -> np.ndarray:
    # libjpeg-turbo has fast transforms for these scales alone: 7/8 takes five times as long as 1/1
    factor = max(n for n in (1, 2, 4, 8) if n == 1 or min(opened.size) >= n * shorter_side)
    image_HWC = simplejpeg.decode_jpeg(
        content,
        "RGB",
        min_width=opened.width // factor,
        min_height=opened.height // factor,
        min_factor=1,
    )
    turns = {2: (1, 0), 3: (0, 2), 4: (1, 2), 5: (1, 1), 6: (0, 3), 7: (1, 3), 8: (0, 1)}
    mirrored, quarters = turns.get(opened.getexif().get(_ORIENTATION, 1), (0, 0))
    return np.rot90(image_HWC[:, ::-1] if mirrored else image_HWC, quarters)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith(("I", "F")):
        image = Image.fromarray(_eight_bits(np.asarray(image)))
    if image.has_transparency_data:  # what shows through is the frame, and the frame is black
        layered = image.convert("RGBA")
        black = Image.new("RGBA", layered.size, (0, 0, 0, 255))
        return Image.alpha_composite(black, layered).convert("RGB")
    return image.convert("RGB")


def _eight_bits(value_HW: np.ndarray) -> np.ndarray:
    """Return grey values of 8, 10, 12, 14 or 16 bits, or of 0..1, as uint8.

    A file does not say how many of its bits the camera filled: the fewest that hold its highest.
    """
    highest = float(value_HW.max())
    if highest <= 1 and value_HW.dtype.kind == "f":
        scale = 255.0
    else:
        scale = 255.0 / next((t for n in (8, 10, 12, 14) if (t := 2**n - 1) >= highest), 65535)
    return np.asarray((value_HW.astype(np.float32) * scale).round().clip(0, 255), dtype=np.uint8)
