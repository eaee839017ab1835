"""Any image to upright 8-bit RGB: the one way for files, PIL images and the JPEGs of tars.

Content decides the format, not the name. Only the formats listed here are tried: each further one
is a further parser that a hostile file could reach. What was read other than the file states it
(a bit depth, a warning of libjpeg) is a remark of the result. DICOM is read by `dicom.py`.
"""

import io
import re
import struct
import sys
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import simplejpeg
from PIL import Image, ImageFile, features
from PIL.TiffImagePlugin import TiffImageFile

from maskedclip.data.photographs.dicom import NoPicture, is_dicom, read_picture

# a larger image is refused before it is decoded: one of 8 bits takes up to 10 bytes a pixel on its
# way to RGB (0.8 GB), one of 16 bits a colour up to 28 (1.1 GB), measured with its file beside it
PIXEL_LIMIT = 80_000_000
DEEP_PIXEL_LIMIT = 40_000_000  # of 16 bits a colour
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
_PART = 1 << 20  # pixels composed at a time
_PHOTOMETRIC, _ORIENTATION, _GPS = 0x0106, 0x0112, 0x8825  # tags of TIFF and EXIF
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
# what Pillow and libjpeg raise on broken files; all of it means that the file is no good
_BROKEN = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    IndexError,
    KeyError,
    TypeError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)
# warnings of libjpeg after which pixels are wrong or missing; the others are of segments that hold
# none, and Pillow's decoder, which refuses what is cut short, gives the whole picture
_PIXELS_LOST = re.compile(
    "remature end|bad Huffman|bad arithmetic|instead of RST|progression sequence"
    "|extraneous bytes before marker 0xd[0-9]"
)
_STRAY_AT_END = re.compile("([0-9]+) extraneous bytes before marker 0xd9")
_OTHER_ORDER = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}  # of bytes
_TURNS = {2: (1, 0), 3: (0, 2), 4: (1, 2), 5: (1, 1), 6: (0, 3), 7: (1, 3), 8: (0, 1)}


class UnreadableImage(ValueError):  # noqa: N818 - it is not the code that erred
    """A file that gives no photograph; the message is the reason, without the file."""


# kind and what: what was guessed or passed over to get the pixels
Remarks = tuple[tuple[str, str], ...]


class Decoded(NamedTuple):
    """An image, and what its file said of it beside the pixels."""

    image_HWC: np.ndarray  # uint8, red green blue, upright
    width: int  # of the original, in pixels, upright
    height: int
    carried: tuple[str, ...]  # EXIF, GPS position, comment ...: kinds, never their content
    remarks: Remarks = ()


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
            deep = any(re.search(r"LA;16|RGB\w?;16", _raw_mode(tile)) for tile in opened.tile)
            limit = DEEP_PIXEL_LIMIT if deep else PIXEL_LIMIT
            if opened.width * opened.height > limit:
                size = f"{opened.width}x{opened.height}{' of 16 bits a colour' if deep else ''}"
                raise UnreadableImage(f"{size} is over the limit of {limit:,} pixels")
            return _decoded(content, opened, shorter_side)
    except UnreadableImage:
        raise
    except Image.UnidentifiedImageError:
        if is_dicom(content):
            return _decoded_dicom(content, shorter_side)
        raise UnreadableImage("not an image of a known format") from None
    except _BROKEN as error:
        raise UnreadableImage(_does_not_decode(error)) from error


def decode_opened(image: Image.Image) -> Decoded:
    """Return a PIL image as `decode` returns its file: upright, at full size.

    An image as it was opened is decoded from its file. Of one that was changed (convert, resize)
    there is what Pillow kept: the orientation, 16 grey bits, but of 16 bits a colour the upper 8.

    Raises UnreadableImage.
    """
    try:
        content = _file_of(image)
        if content:
            decoded = decode(content, max(image.size))
            if {decoded.width, decoded.height} == set(image.size):  # no draft of another size
                return decoded
        image.load()
        rgb_HWC, remarks = _to_rgb(image, stated=False)
        image_HWC = _upright(rgb_HWC, _orientation(image))
    except UnreadableImage:
        raise
    except _BROKEN as error:
        raise UnreadableImage(_does_not_decode(error)) from error
    height, width = image_HWC.shape[:2]
    return Decoded(image_HWC, width, height, _carried(image), remarks)


def is_plain_jpeg(jpeg: bytes) -> bool:
    """Return whether any decoder gives the upright RGB of a JPEG, as of those in our shards.

    That is grey or three colours, and no EXIF or XMP, which may turn it.
    """
    offset = 2
    while offset + 10 <= len(jpeg) and jpeg[offset] == 0xFF:
        marker = jpeg[offset + 1]
        if marker == 0xE1:
            return False
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # the header of a frame
            components = jpeg[offset + 9]
            if components not in (1, 3):
                return False
        if marker == 0xDA:  # the image data begin
            return True
        offset += 2 + int.from_bytes(jpeg[offset + 2 : offset + 4], "big")
    return False


def _does_not_decode(error: Exception) -> str:
    return f"does not decode: {' '.join(str(error).split()) or type(error).__name__}"


def _file_of(image: Image.Image) -> bytes:
    """Return the file that a PIL image is the unchanged first frame of, else nothing.

    Of an image that was loaded it is returned where Pillow has kept less than the file has: the
    upper 8 of 16 bits a colour, and a jumble of a TIFF that it maps from disk and turns.
    """
    if not isinstance(image, ImageFile.ImageFile) or image.tell():
        return b""
    if image.format not in (*FORMATS, "MPO"):
        return b""
    if image.tile:
        return _content_of(image)
    if image.format not in ("PNG", "TIFF", "PPM") or not (content := _content_of(image)):
        return b""
    with Image.open(image.filename or io.BytesIO(content), formats=FORMATS) as again:
        turned = isinstance(again, TiffImageFile) and again.tag_v2.get(_ORIENTATION, 1) > 4
        if not turned and not any(";16" in _raw_mode(tile) for tile in again.tile):
            return b""
        return content if np.array_equal(np.asarray(again), np.asarray(image)) else b""


def _content_of(image: ImageFile.ImageFile) -> bytes:
    if image.fp is None or image.fp.closed:
        path = Path(str(image.filename)) if image.filename else None
        return path.read_bytes() if path and path.is_file() else b""
    position = image.fp.tell()
    image.fp.seek(0)
    content = image.fp.read()
    image.fp.seek(position)
    return content


def _decoded(content: bytes, opened: ImageFile.ImageFile, shorter_side: int) -> Decoded:
    tiles = list(opened.tile)  # the EXIF of a PNG may be behind its pixels: they are loaded for it
    carried, orientation = _carried(opened), _orientation(opened)
    remarks: Remarks = ()
    if opened.format in ("JPEG", "MPO") and opened.mode in ("RGB", "L"):
        width, height = opened.size[::-1] if orientation > 4 else opened.size
        try:
            stored_HWC = _decode_jpeg(content, opened.size, shorter_side)
        except ValueError as error:
            content = _without_stray_bytes(content, str(error))
            opened = Image.open(io.BytesIO(content), formats=FORMATS)
            stored_HWC = np.asarray(opened.convert("RGB"))
            remarks = (("jpegs_with_a_warning", " ".join(str(error).split())),)
        return Decoded(_upright(stored_HWC, orientation), width, height, carried, remarks)
    values = _sixteen_bits(content, tiles)
    opened.load()
    if values is None:
        rgb_HWC, remarks = _to_rgb(opened, stated=_states_its_highest(tiles))
    else:
        rgb_HWC, remarks = _colour_to_rgb(opened, values)
    # Pillow turns a TIFF as it loads it, and forgets its orientation
    image_HWC = _upright(rgb_HWC, _orientation(opened))
    height, width = image_HWC.shape[:2]
    return Decoded(image_HWC, width, height, carried, remarks)


def _decoded_dicom(content: bytes, shorter_side: int) -> Decoded:
    try:
        picture = read_picture(content, PIXEL_LIMIT)
    except NoPicture as error:
        raise UnreadableImage(str(error)) from None
    if picture.value_HWC is None:
        decoded = decode(picture.jpeg, shorter_side)
        image_HWC, remarks = decoded.image_HWC, decoded.remarks
        height, width = decoded.height, decoded.width
    else:
        byte_HWC, remarks = _scaled(picture.value_HWC, picture.bits), ()
        height, width = byte_HWC.shape[:2]
        image_HWC = np.broadcast_to(byte_HWC, (height, width, 3))
    if picture.negative:
        image_HWC = 255 - image_HWC
    remarks += picture.remarks
    return Decoded(np.ascontiguousarray(image_HWC), width, height, ("DICOM header",), remarks)


def _exif(image: Image.Image) -> Image.Exif:
    """Return the EXIF of an image, an empty one where it is broken: the pixels are whole."""
    try:
        return image.getexif()
    except _BROKEN:
        return Image.Exif()


def _orientation(image: Image.Image) -> int:
    try:
        orientation = _exif(image).get(_ORIENTATION, 1)
    except _BROKEN:
        return 1
    return orientation if orientation in _TURNS else 1


def _upright(stored_HWC: np.ndarray, orientation: int) -> np.ndarray:
    mirrored, quarters = _TURNS.get(orientation, (0, 0))
    return np.rot90(stored_HWC[:, ::-1] if mirrored else stored_HWC, quarters)


def _carried(opened: Image.Image) -> tuple[str, ...]:
    exif = _exif(opened)
    kinds = {_CARRIERS[name] for name in _CARRIERS if opened.info.get(name)}
    tags = set(exif) & _TELLING if opened.format == "TIFF" else set(exif)
    kinds |= {"EXIF"} if tags else set()
    try:
        # some programs write a block of GPS that holds no more than its own version
        kinds |= {"GPS position"} if exif.get_ifd(_GPS).keys() & {2, 4} else set()
    except _BROKEN:
        kinds |= {"EXIF"}
    kinds |= {"text"} if getattr(opened, "text", None) else set()  # chunks of a PNG
    return tuple(sorted(kinds))


def _decode_jpeg(content: bytes, size: tuple[int, int], shorter_side: int) -> np.ndarray:
    # libjpeg-turbo has fast transforms for these scales alone: 7/8 takes five times as long as 1/1
    factor = max(n for n in (1, 2, 4, 8) if n == 1 or min(size) >= n * shorter_side)
    return simplejpeg.decode_jpeg(
        content, "RGB", min_width=size[0] // factor, min_height=size[1] // factor, min_factor=1
    )


def _without_stray_bytes(content: bytes, warning: str) -> bytes:
    """Return a JPEG that libjpeg warns of, without stray bytes at its end.

    Raises ValueError where pixels are wrong or missing.
    """
    stray = _STRAY_AT_END.search(warning)
    end = content.rfind(b"\xff\xd9")
    if stray and end > int(stray[1]):
        # only the last warning is known: without those bytes an earlier one would show
        content = content[: end - int(stray[1])] + b"\xff\xd9"
        simplejpeg.decode_jpeg(content, "RGB")
    elif _PIXELS_LOST.search(warning):
        raise ValueError(warning)
    return content


def _states_its_highest(tiles: Sequence[ImageFile._Tile]) -> bool:
    """Return whether the file says which value is white, as a PPM may."""
    return any(
        tile.codec_name.startswith("ppm") and isinstance(tile.args, tuple) and tile.args[-1] < 65535
        for tile in tiles
    )


def _sixteen_bits(content: bytes, tiles: Sequence[ImageFile._Tile]) -> np.ndarray | None:
    """Return value_HWC, uint16, of a file of 16 bits a colour; None of any other.

    Pillow keeps the upper byte of each: read as of the other byte order, it keeps the lower.
    """
    raws = {_raw_mode(tile) for tile in tiles}
    raw = raws.pop() if len(raws) == 1 else ""
    if raw == "LA;16B":  # a pixel has four bytes, two of its grey
        byte_HWC = _read_as(content, "RGBA")
        return ((byte_HWC[..., 0::2] << 8) | byte_HWC[..., 1::2])[..., [0, 0, 0, 1]]
    bands, _, order = raw.partition(";16")
    if bands not in ("RGB", "RGBA", "RGBX") or order not in _OTHER_ORDER:
        return None
    lower_HWC = _read_as(content, f"{bands};16{_OTHER_ORDER[order]}")
    return (_read_as(content, raw) << 8) | lower_HWC


def _raw_mode(tile: ImageFile._Tile) -> str:
    """Return how Pillow unpacks the pixels of a part of an image, such as RGB;16B."""
    if tile.codec_name == "ppm" and tile.args == ("RGB", 65535):
        return "RGB;16B"
    return str(tile.args[0] if isinstance(tile.args, tuple) else tile.args)


def _read_as(content: bytes, raw: str) -> np.ndarray:
    with Image.open(io.BytesIO(content), formats=FORMATS) as image:
        tiles = []
        for tile in image.tile:
            if tile.codec_name == "ppm":
                tile = tile._replace(codec_name="raw", args=("", 0, 1))
            rest = tile.args[1:] if isinstance(tile.args, tuple) else None
            tiles.append(tile._replace(args=raw if rest is None else (raw, *rest)))
        image.tile = tiles
        return np.asarray(image).astype(np.uint16)


def _colour_to_rgb(opened: Image.Image, value_HWC: np.ndarray) -> tuple[np.ndarray, Remarks]:
    """Return 16 bits a colour as RGB of 8; `opened` is the same of the upper 8 bits."""
    bits = _bits_of(float(value_HWC[..., :3].max()))
    if bits == 16:
        return _composed(opened), ()
    byte_HWC = _scaled(value_HWC, bits)
    if byte_HWC.shape[2] == 4:
        byte_HWC[..., 3] = _scaled(value_HWC[..., 3], _bits_of(float(value_HWC[..., 3].max())))
    image = Image.fromarray(byte_HWC)
    return _composed(image), _guess(bits)


def _to_rgb(image: Image.Image, *, stated: bool) -> tuple[np.ndarray, Remarks]:
    """Return RGB of 8 bits, and a remark where a bit depth was guessed.

    Args:
        stated: whether the file says which value is its highest.
    """
    remarks: Remarks = ()
    if image.mode.startswith(("I", "F")):
        value_HW = np.nan_to_num(np.asarray(image))
        highest = float(value_HW.max())
        if highest <= 1 and value_HW.dtype.kind == "f":
            byte_HW = _scaled(value_HW, 0)
        else:
            bits = 16 if stated else _bits_of(highest)
            byte_HW, remarks = _scaled(value_HW, bits), _guess(bits) if bits < 16 else ()
        image = Image.fromarray(255 - byte_HW if _white_is_zero(image) else byte_HW)
    return _composed(image), remarks


def _white_is_zero(image: Image.Image) -> bool:
    """Return whether an image of more than 8 bits is a negative: Pillow turns those of 8 alone."""
    return isinstance(image, TiffImageFile) and image.tag_v2.get(_PHOTOMETRIC) == 0


def _composed(image: Image.Image) -> np.ndarray:
    """Return RGB, a part at a time: Pillow has four bytes a pixel of each step on the way there."""
    if image.mode == "RGB" and not image.has_transparency_data:
        return np.asarray(image)
    image_HWC = np.empty((image.height, image.width, 3), np.uint8)
    rows = max(1, _PART // image.width)
    for top in range(0, image.height, rows):
        part = image.crop((0, top, image.width, min(top + rows, image.height)))
        if image.has_transparency_data:  # what shows through is the frame, and the frame is black
            layered = part.convert("RGBA")
            black = Image.new("RGBA", layered.size, (0, 0, 0, 255))
            part = Image.alpha_composite(black, layered)
        image_HWC[top : top + rows] = np.asarray(part.convert("RGB"))
    return image_HWC


def _bits_of(highest: float) -> int:
    """Return how many of its bits a camera filled, which no file says: the fewest that hold it."""
    return next((bits for bits in (8, 10, 12, 14) if 2**bits - 1 >= highest), 16)


def _guess(bits: int) -> Remarks:
    return (("bit_depths_guessed", f"{bits} bits in use, by the highest value"),)


def _scaled(value: np.ndarray, bits: int) -> np.ndarray:
    """Return values of `bits` bits, of 0..1 for 0 bits, as uint8."""
    scale = 255.0 / (2**bits - 1) if bits else 255.0
    return np.asarray((value.astype(np.float32) * scale).round().clip(0, 255), dtype=np.uint8)
