"""Any image file to a square photograph of the field of view.

Content decides the format, not the name. JPEG is decoded at the smallest scale that still holds
twice the pixels needed, which is most of the speed on originals of 12 megapixels.
"""

import io
import struct
import zlib
from typing import NamedTuple

import cv2
import numpy as np
import simplejpeg
from PIL import Image, ImageOps

PIXEL_LIMIT = 80_000_000  # a larger picture is refused before it is decoded
SMALLEST_FIELD = 32  # pixels
MARGIN = 0.01  # of the field's longer side, kept around it


class UnreadableImage(ValueError):  # noqa: N818 - it is not the code that erred
    """A file that gives no photograph; the message is the reason, without the file."""


class Photograph(NamedTuple):
    """A square of the field of view, and the size of the picture it was cut from."""

    image_HWC: np.ndarray  # uint8, red green blue
    width: int
    height: int


class Box(NamedTuple):
    """A rectangle in pixels."""

    top: int
    left: int
    height: int
    width: int


def photograph(content: bytes, size: int) -> Photograph:
    """Decode a file, crop its field of view to a square and bring it to `size` pixels at most.

    A smaller field keeps its own size: enlarging adds bytes and no information.
    Raises UnreadableImage with the reason.
    """
    image_HWC, width, height = decode(content, 2 * size)
    square_HWC = crop_field(image_HWC)
    if len(square_HWC) < size and image_HWC.shape[0] * image_HWC.shape[1] < width * height:
        image_HWC, width, height = decode(content, max(width, height))  # the field is a small part
        square_HWC = crop_field(image_HWC)
    if len(square_HWC) < SMALLEST_FIELD:
        raise UnreadableImage(f"the field of view is only {len(square_HWC)} pixels wide")
    if int(np.ptp(_small(square_HWC, 64))) < 4:
        raise UnreadableImage("blank: the same value everywhere")
    if len(square_HWC) > size:
        square_HWC = cv2.resize(square_HWC, (size, size), interpolation=cv2.INTER_AREA)
    return Photograph(np.ascontiguousarray(square_HWC), width, height)


def decode(content: bytes, shorter_side: int) -> tuple[np.ndarray, int, int]:
    """Return a file's image_HWC (uint8 RGB, upright) and the width and height of the original.

    Args:
        shorter_side: pixels; a JPEG may be decoded smaller than it is, but not below this.

    Raises UnreadableImage where the file is empty, cut short, too large or no image.
    """
    if not content:
        raise UnreadableImage("the file is empty")
    try:
        with Image.open(io.BytesIO(content)) as opened:
            if opened.width * opened.height > PIXEL_LIMIT:
                found = f"{opened.width}x{opened.height}"
                raise UnreadableImage(f"{found} is over the limit of {PIXEL_LIMIT:,} pixels")
            turned = opened.getexif().get(0x0112, 1) in (5, 6, 7, 8)
            width, height = opened.size[::-1] if turned else opened.size
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
    return image_HWC, width, height


def _decode_jpeg(content: bytes, opened: Image.Image, shorter_side: int) -> np.ndarray:
    scale = min(1.0, shorter_side / min(opened.size))
    image_HWC = simplejpeg.decode_jpeg(
        content,
        "RGB",
        min_width=int(opened.width * scale),
        min_height=int(opened.height * scale),
        min_factor=1,
    )
    turns = {2: (1, 0), 3: (0, 2), 4: (1, 2), 5: (1, 1), 6: (0, 3), 7: (1, 3), 8: (0, 1)}
    mirrored, quarters = turns.get(opened.getexif().get(0x0112, 1), (0, 0))
    return np.rot90(image_HWC[:, ::-1] if mirrored else image_HWC, quarters)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith(("I", "F")):  # 16 or more bits of grey
        values_HW = np.asarray(image, dtype=np.float32)
        highest = 65535.0 if values_HW.max() > 255 else 255.0
        image = Image.fromarray((values_HW.clip(0, highest) * (255 / highest)).astype(np.uint8))
    if image.has_transparency_data:  # what shows through is the frame, and the frame is black
        layered = image.convert("RGBA")
        black = Image.new("RGBA", layered.size, (0, 0, 0, 255))
        return Image.alpha_composite(black, layered).convert("RGB")
    return image.convert("RGB")


def crop_field(image_HWC: np.ndarray) -> np.ndarray:
    """Return the field of view in a square; what the camera cut off is padded with black."""
    box = find_field(image_HWC)
    side = max(box.height, box.width)
    field_HWC = image_HWC[box.top : box.top + box.height, box.left : box.left + box.width]
    square_HWC = np.zeros((side, side, 3), np.uint8)
    top, left = (side - box.height) // 2, (side - box.width) // 2
    square_HWC[top : top + box.height, left : left + box.width] = field_HWC
    return square_HWC


def find_field(image_HWC: np.ndarray) -> Box:
    """Return the box around the lit part; the whole picture where no dark frame stands out."""
    height, width = image_HWC.shape[:2]
    whole = Box(0, 0, height, width)
    value_HW = _brightest_channel(_small(image_HWC, 256))
    frame = _frame_level(value_HW)
    bright = float(np.percentile(value_HW, 97))  # the field may be a twentieth of the picture
    if bright - frame < 12:  # all dark, or all bright: nothing tells field from frame
        return whole
    threshold = frame + max(4.0, 0.06 * (bright - frame))
    above_HW = (value_HW > threshold).astype(np.uint8)
    lit_HW = cv2.morphologyEx(above_HW, cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
    count, _, boxes, _ = cv2.connectedComponentsWithStats(lit_HW)
    if count < 2:
        return whole
    left, top, box_width, box_height, area = boxes[1 + boxes[1:, cv2.CC_STAT_AREA].argmax()]
    if area < 0.05 * lit_HW.size:  # a reflection or a label, not the field
        return whole
    scale = max(height, width) / max(value_HW.shape)
    margin = 1 + MARGIN * max(box_width, box_height)
    x0, y0 = max(0, int((left - margin) * scale)), max(0, int((top - margin) * scale))
    x1 = min(width, int((left + box_width + margin) * scale))
    y1 = min(height, int((top + box_height + margin) * scale))
    return Box(y0, x0, y1 - y0, x1 - x0)


def _brightest_channel(image_HWC: np.ndarray) -> np.ndarray:
    red_HW, green_HW, blue_HW = cv2.split(image_HWC)  # max(axis=2) takes thirty times as long
    return np.asarray(cv2.medianBlur(cv2.max(cv2.max(red_HW, green_HW), blue_HW), 5))


def _frame_level(value_HW: np.ndarray) -> float:
    """Return the level of the black frame, from the darkest corner: other corners hold labels."""
    side = max(2, min(value_HW.shape) // 24)
    corners = [value_HW[rows, columns] for rows in _ends(side) for columns in _ends(side)]
    return float(min(np.median(corner) for corner in corners))


def _ends(side: int) -> tuple[slice, slice]:
    return slice(0, side), slice(-side, None)


def _small(image_HWC: np.ndarray, side: int) -> np.ndarray:
    # A whole factor: INTER_AREA is several times slower between pixels.
    factor = min(max(image_HWC.shape[:2]) // side, *image_HWC.shape[:2])
    if factor < 2:
        return image_HWC
    height, width = (n // factor * factor for n in image_HWC.shape[:2])
    whole_HWC = image_HWC[:height, :width]
    size = (max(1, width // factor), max(1, height // factor))
    return cv2.resize(whole_HWC, size, interpolation=cv2.INTER_AREA)


def encode(image_HWC: np.ndarray, quality: int) -> bytes:
    """Return JPEG bytes of halved colour resolution.

    At 512 pixels and quality 95 full resolution would give 45 in place of 42 dB, and cost 40 %
    more bytes and 1.8 times the decoding at every epoch (measured on IDRiD).
    """
    return bytes(
        simplejpeg.encode_jpeg(image_HWC, quality=quality, colorspace="RGB", colorsubsampling="420")
    )


def perceptual_hash(image_HWC: np.ndarray) -> str:
    """Return 64 bits in hex that change little with size and compression (signs of a DCT).

    Of the square inside the round field: the edge of the field is alike in all photographs. Still,
    two eyes may be 2 bits apart and copies of one picture 4, so a match asks for a second look.
    """
    edge = round(0.15 * len(image_HWC))
    inside_HWC = image_HWC[edge : len(image_HWC) - edge, edge : len(image_HWC) - edge]
    grey_HW = cv2.cvtColor(inside_HWC, cv2.COLOR_RGB2GRAY)
    grey_HW = cv2.resize(grey_HW, (32, 32), interpolation=cv2.INTER_AREA).astype(np.float32)
    low_HW = cv2.dct(grey_HW)[:8, :8]
    bits = (low_HW > np.median(low_HW)).astype(np.uint8)
    return bytes(np.packbits(bits)).hex()
