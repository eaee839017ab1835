"""From JPEG bytes to a crop on the host, and from uint8 to normalised values on the device."""

import math
import threading
from collections.abc import Sequence
from functools import cache

import numpy as np
import simplejpeg
import torch
from PIL import Image
from torch import Tensor

from maskedclip.data.photographs.decoding import PIXEL_LIMIT, is_plain_jpeg
from maskedclip.data.photographs.decoding import decode as decode_file

# ImageNet's, over RGB in 0..1: what MAE, RETFound and timm's fine-tuning use
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
ASPECT = (3 / 4, 4 / 3)
TRIES = 10  # boxes drawn, of which the first that lies in the image is cut
# how much larger than the image a crop must be at the scale it is decoded at: with a quarter more
# the worst of 500 crops of photographs keeps 50 dB to the full scale, with nothing more 45 dB
_ROOM = {"fine": 1.25, "fast": 1.0}
# functional.interpolate of antialias=True, which cannot write to where a row belongs: Pillow's
# bicubic filter but for rounding, at a fifth of its time
_bicubic = torch.ops.aten._upsample_bicubic2d_aa.out


def decode(jpeg: bytes) -> np.ndarray:
    """Return image_HWC, uint8 RGB, upright.

    ValueError where the bytes are no whole JPEG, or too large.
    """
    return _decode(jpeg, *_opened(jpeg), 1, None)[0]


def size_of(jpeg: bytes) -> tuple[int, int]:
    """Return (height, width) of the upright image; ValueError where the JPEG has none, or lies."""
    return _opened(jpeg)[0]


def _opened(jpeg: bytes) -> tuple[tuple[int, int], np.ndarray | None]:
    """Return (height, width), and the image where only photographs/decoding.py may read it.

    Those in our shards are plain and are decoded here, at the scale that is wanted. Others may
    have an orientation or four colours. PIXEL_LIMIT is the largest image that is decoded: a bomb
    says its size and is small.
    """
    size = _plain_size(jpeg) if is_plain_jpeg(jpeg) else None
    if size is not None:
        return size, None
    image_HWC = decode_file(jpeg, PIXEL_LIMIT).image_HWC
    return image_HWC.shape[:2], image_HWC


def _plain_size(jpeg: bytes) -> tuple[int, int] | None:
    try:
        height, width, _, _ = simplejpeg.decode_jpeg_header(jpeg)
    except ValueError:  # damaged, or a warning that concerns no pixel
        return None
    if height * width > PIXEL_LIMIT:
        raise ValueError(f"{width} x {height} pixels, more than {PIXEL_LIMIT:,}")
    return height, width


def crop_of(
    jpeg: bytes,
    image_size: int,
    crop_area: tuple[float, float],
    draw_EF: np.ndarray,
    fidelity: str,
) -> np.ndarray:
    """Return image_HWC, uint8 RGB: a random resized crop of a JPEG, `image_size` pixels square.

    Args:
        crop_area: lowest and highest share of the image that the crop shows.
        draw_EF: TRIES x 4 numbers drawn in [0, 1).
        fidelity: "exact" has the bits of torchvision's resized_crop of a Pillow image, bicubic;
            "fine" decodes at a scale that keeps some 50 dB to that, "fast" at the smallest that
            holds the crop, some 45 at worst (docs/stream.md). The box is the same in all three.

    Raises ValueError where the bytes are no whole JPEG or the image has over PIXEL_LIMIT pixels.
    """
    image_HWC = np.empty((image_size, image_size, 3), np.uint8)
    write_crop(image_HWC, jpeg, crop_area, draw_EF, fidelity)
    return image_HWC


def write_crop(
    out_HWC: np.ndarray,
    jpeg: bytes,
    crop_area: tuple[float, float],
    draw_EF: np.ndarray,
    fidelity: str,
) -> None:
    """Write what `crop_of` returns to a row of a batch, which is contiguous."""
    _resize(out_HWC, cut(jpeg, len(out_HWC), crop_area, draw_EF, fidelity), fidelity)


def write_crops(
    out_XHWC: Sequence[np.ndarray],
    jpeg: bytes,
    areas_X: Sequence[tuple[float, float]],
    draw_XEF: np.ndarray,
    fidelity: str,
) -> None:
    """Write several crops, each as `write_crop` does, from one decoding: at the finest scale."""
    size, image_HWC = _opened(jpeg)
    boxes = [
        crop_box(*size, len(out_HWC), area, draw_EF)
        for out_HWC, area, draw_EF in zip(out_XHWC, areas_X, draw_XEF, strict=True)
    ]
    factor = min(
        _factor_of(box, len(out_HWC), fidelity)
        for box, out_HWC in zip(boxes, out_XHWC, strict=True)
    )
    image_HWC, factor = _decode(jpeg, size, image_HWC, factor, _scratch)
    for box, out_HWC in zip(boxes, out_XHWC, strict=True):
        top, left, height, width = (value // factor for value in box)
        _resize(out_HWC, image_HWC[top : top + height, left : left + width], fidelity)


def _resize(out_HWC: np.ndarray, crop_HWC: np.ndarray, fidelity: str) -> None:
    size = len(out_HWC)
    if fidelity == "exact":
        image = Image.fromarray(crop_HWC)
        out_HWC[:] = image.resize((size, size), Image.Resampling.BICUBIC)
    else:
        # numpy copies the crop: torch would start a team of threads for it in each of ours
        crop_BCHW = _channels_first(np.ascontiguousarray(crop_HWC))
        _bicubic(crop_BCHW, [size, size], False, None, None, out=_channels_first(out_HWC))


def _channels_first(image_HWC: np.ndarray) -> Tensor:
    """Return a view; numpy's strides tell torch "channels last" for a batch of one, torch's not."""
    return torch.from_numpy(image_HWC.reshape(1, *image_HWC.shape).transpose(0, 3, 1, 2))


def cut(
    jpeg: bytes,
    image_size: int,
    crop_area: tuple[float, float],
    draw_EF: np.ndarray,
    fidelity: str,
) -> np.ndarray:
    """Return the crop of `crop_of` before it is resized, at the scale that it is decoded at.

    It lies where this thread's next one will lie, too.
    """
    size, image_HWC = _opened(jpeg)
    box = crop_box(*size, image_size, crop_area, draw_EF)
    factor = _factor_of(box, image_size, fidelity)
    image_HWC, factor = _decode(jpeg, size, image_HWC, factor, _scratch)
    top, left, height, width = (value // factor for value in box)
    return image_HWC[top : top + height, left : left + width]


def _factor_of(box: tuple[int, int, int, int], image_size: int, fidelity: str) -> int:
    """Return how much smaller the image of a crop may be decoded."""
    return 1 if fidelity == "exact" else _factor(min(box[2:]) / image_size / _ROOM[fidelity])


def _factor(room: float) -> int:
    # libjpeg-turbo has fast transforms for these scales alone: 7/8 takes five times as long as 1/1
    return max(n for n in (1, 2, 4, 8) if n == 1 or n <= room)


def _decode(
    jpeg: bytes,
    size: tuple[int, int],
    image_HWC: np.ndarray | None,
    factor: int,
    scratch: "_Scratch | None",
) -> tuple[np.ndarray, int]:
    """Return what `_opened` opened, and by which factor it is smaller: `factor`, or 1."""
    if image_HWC is not None:
        return image_HWC, 1
    height, width = (-(-n // factor) for n in size)
    buffer = scratch.of(3 * height * width) if scratch else None
    try:
        return simplejpeg.decode_jpeg(
            jpeg, "RGB", min_height=height, min_width=width, buffer=buffer
        ), factor
    except ValueError:  # damaged, or a warning that concerns no pixel
        return decode_file(jpeg, PIXEL_LIMIT).image_HWC, 1


class _Scratch(threading.local):
    """Memory of a thread for decoded images: new memory for each costs page faults."""

    memory = np.empty(0, np.uint8)

    def of(self, size: int) -> np.ndarray:
        if len(self.memory) < size:
            self.memory = np.empty(size, np.uint8)
        return self.memory


_scratch = _Scratch()


def crop_box(
    height: int,
    width: int,
    image_size: int,
    area: tuple[float, float],
    draw_EF: np.ndarray,
) -> tuple[int, int, int, int]:
    """Return (top, left, height, width) in pixels of a random resized crop (Inception's).

    The share of the area is uniform in `area`, the aspect log-uniform in 3/4..4/3; after TRIES
    that do not fit, the largest crop of a fitting aspect in the middle. Where the crop is twice
    `image_size` or more, its edges are on multiples of 2 (of 4, of 8 ...): they are then between
    pixels of the image decoded at that scale, too.
    """
    high, wide = min(height, round(width / ASPECT[0])), min(width, round(height * ASPECT[1]))
    box = (height - high) // 2, (width - wide) // 2, high, wide
    for draw_F in draw_EF:
        share, log_aspect, down, right = draw_F.tolist()
        pixels = height * width * (area[0] + share * (area[1] - area[0]))
        aspect = math.exp(math.log(ASPECT[0]) + log_aspect * math.log(ASPECT[1] / ASPECT[0]))
        high, wide = round(math.sqrt(pixels / aspect)), round(math.sqrt(pixels * aspect))
        if 0 < high <= height and 0 < wide <= width:
            box = int(down * (height - high + 1)), int(right * (width - wide + 1)), high, wide
            break
    unit = _factor(min(box[2:]) / image_size)
    return (
        box[0] // unit * unit,
        box[1] // unit * unit,
        box[2] // unit * unit,
        box[3] // unit * unit,
    )


def hidden_patches(draw_BN: np.ndarray, ratio: float, unit: int = 1) -> np.ndarray:
    """Return hidden_BN, True for the round(ratio * N) patches of each row with the lowest draws.

    With a `unit` above 1 squares of unit x unit patches are hidden as one (SimMIM), by the first
    draws of each row; the side of the grid is a multiple of it.
    """
    images, patches = draw_BN.shape
    draw_BN = draw_BN[:, : patches // unit**2]
    hidden_BN = np.zeros(draw_BN.shape, dtype=bool)
    count = round(draw_BN.shape[1] * ratio)
    if count:
        lowest_BM = np.argpartition(draw_BN, count - 1)[:, :count]
        np.put_along_axis(hidden_BN, lowest_BM, True, axis=1)
    if unit == 1:
        return hidden_BN
    side = math.isqrt(draw_BN.shape[1])
    square = hidden_BN.reshape(images, side, side).repeat(unit, axis=1).repeat(unit, axis=2)
    return square.reshape(images, patches)


def normalise(
    image_BCHW: Tensor,
    flip_B: Tensor | None = None,
    *,
    mean: Sequence[float] = MEAN,
    std: Sequence[float] = STD,
) -> Tensor:
    """Return float32 images at ImageNet's mean and deviation, mirrored where flip_B is True.

    For uint8 images of any strides; all of it happens where the images are. Other weights than
    ours may want another mean and deviation, of values from 0 to 1.
    """
    device = image_BCHW.device
    mean_C11 = constant(tuple(mean), device).view(3, 1, 1) * 255
    std_C11 = constant(tuple(std), device).view(3, 1, 1) * 255
    x_BCHW = (image_BCHW.contiguous().float() - mean_C11) / std_C11
    if flip_B is None:
        return x_BCHW
    return torch.where(flip_B[:, None, None, None], x_BCHW.flip(-1), x_BCHW)


def denormalise(image_BCHW: Tensor) -> Tensor:
    """Return values in 0..1 of what `normalise` made, clipped."""
    mean_C11, std_C11 = (constant(v, image_BCHW.device).view(3, 1, 1) for v in (MEAN, STD))
    return (image_BCHW * std_C11 + mean_C11).clamp(0, 1)


def constant(values: tuple[float, ...], device: torch.device) -> Tensor:
    """Return values on a device, copied there once: such a copy waits for all that is queued.

    Those of a FakeTensorMode are its own: a real step has to have values.
    """
    return _kept(values, device, getattr(torch.empty(0), "fake_mode", None))


@cache
def _kept(values: tuple[float, ...], device: torch.device, _: object) -> Tensor:
    with torch.inference_mode(False):
        return torch.tensor(values, device=device)
