"""The picture of the fixed samples: a row an image, with what the networks make of it."""

import textwrap
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn import functional as F

from maskedclip.data.transforms import denormalise
from maskedclip.models.patches import masked_and_filled
from maskedclip.pretrain.fixed_samples import FixedSamples
from maskedclip.pretrain.methods.protocol import Shown

_TILE, _GAP, _LINE, _FONT = 144, 8, 17, 13  # pixels
_WORDS, _ACROSS = 400, 58  # pixels and characters of the column of captions
_LINES = 2  # of a caption, at most
_NEAREST = 3
_INK, _SOFT, _RIGHT, _PAPER = (27, 39, 51), (110, 122, 134), (26, 127, 55), (255, 255, 255)
_LOW, _HIGH = (38, 34, 98), (255, 231, 92)  # of a map


class _Column(NamedTuple):
    """Tiles of all images, and a line below each."""

    title: str
    tile_BCHW: Tensor  # 0 to 1, of any size
    lines: Sequence[str]


def sheet(fixed: FixedSamples, shown: Shown, patch_size: int, normalised: bool) -> Tensor:
    """Return picture_CHW, uint8: input, mask, reconstruction, maps of cosines, nearest captions.

    A column is left out where the method has none. Of a map the lowest cosine of the image is dark
    and the highest bright; both stand below it.

    Args:
        shown: of the fixed samples, on any device.
        normalised: whether predicted pixels are those of patches at mean 0 and variance 1.
    """
    shown = Shown._make(None if x is None else x.float().cpu() for x in shown)
    columns = [_Column("input", denormalise(shown.image_BCHW), fixed.datasets)]
    if shown.pixel_BMP is not None and shown.hidden_BM is not None:
        masked, filled = masked_and_filled(
            shown.image_BCHW, shown.pixel_BMP, shown.hidden_BM.long(), patch_size, normalised
        )
        share = shown.hidden_BM.shape[1] / fixed.batch.hidden_BN.shape[1]
        none = [""] * len(fixed.datasets)
        columns.append(_Column(f"{share:.0%} hidden", denormalise(masked), none))
        columns.append(_Column("reconstruction", denormalise(filled), none))
    if shown.teacher_cosine_BN is not None:
        columns.append(_map("D_F to the teacher", shown.teacher_cosine_BN))
    image_BD = shown.patch_BND.mean(dim=1, keepdim=True)
    columns.append(
        _map("patch to its image", F.cosine_similarity(shown.patch_BND, image_BD, dim=-1))
    )
    nearest = _nearest(fixed, shown)
    return _drawn(columns, nearest)


def _map(title: str, cosine_BN: Tensor) -> _Column:
    """Return cosines in colours; grey where a patch has none (NaN)."""
    images, patches = cosine_BN.shape
    side = round(patches**0.5)
    low_B1 = cosine_BN.nan_to_num(2.0).amin(dim=1, keepdim=True)
    high_B1 = cosine_BN.nan_to_num(-2.0).amax(dim=1, keepdim=True)
    share_BN1 = ((cosine_BN - low_B1) / (high_B1 - low_B1).clamp(min=1e-6))[:, :, None]
    low_C, high_C = (torch.tensor(colour) / 255 for colour in (_LOW, _HIGH))
    colour_BNC = (low_C + share_BN1 * (high_C - low_C)).nan_to_num(0.8)
    tile_BCHW = colour_BNC.transpose(1, 2).reshape(images, 3, side, side)
    ends = zip(low_B1.flatten().tolist(), high_B1.flatten().tolist(), strict=True)
    return _Column(title, tile_BCHW, [f"{low:.2f} to {high:.2f}" for low, high in ends])


class _Line(NamedTuple):
    words: str
    colour: tuple[int, int, int]


def _nearest(fixed: FixedSamples, shown: Shown) -> list[list[_Line]]:
    """Return the own captions of each image and the nearest of all; none without a text tower."""
    if shown.image_BD is None or shown.text_CD is None or not fixed.captions:
        return []
    cosine_BC = shown.image_BD @ shown.text_CD[: len(fixed.captions)].T
    lines = []
    for own, cosine_C in zip(fixed.own, cosine_BC, strict=True):
        told = "; ".join(words.removeprefix(fixed.prefix) for words in own)
        told = f"own: {told}" if own else "unpaired"
        of_image = [_Line(line, _INK) for line in _wrapped(told)]
        top = cosine_C.topk(min(_NEAREST, len(cosine_C)))
        for value, index in zip(top.values.tolist(), top.indices.tolist(), strict=True):
            caption = fixed.captions[index]
            colour = _RIGHT if caption in own else _SOFT
            words = f"{value:+.2f}  {caption.removeprefix(fixed.prefix)}"
            of_image += [_Line(line, colour) for line in _wrapped(words)]
        lines.append(of_image)
    return lines


def _wrapped(words: str) -> list[str]:
    return textwrap.wrap(words, _ACROSS, max_lines=_LINES, placeholder=" ...")


def _drawn(columns: Sequence[_Column], nearest: Sequence[Sequence[_Line]]) -> Tensor:
    font = ImageFont.load_default(_FONT)
    images = len(columns[0].tile_BCHW)
    step, row = _TILE + _GAP, _TILE + _LINE + _GAP
    width = _GAP + step * len(columns) + (_WORDS if nearest else 0)
    picture = Image.new("RGB", (width, _LINE + _GAP + row * images), _PAPER)
    draw = ImageDraw.Draw(picture)
    for number, column in enumerate(columns):
        left = _GAP + number * step
        draw.text((left, 4), column.title, _INK, font)
        for place, (tile_CHW, words) in enumerate(zip(column.tile_BCHW, column.lines, strict=True)):
            top = _LINE + _GAP + place * row
            picture.paste(_enlarged(tile_CHW), (left, top))
            draw.text((left, top + _TILE + 1), words[:22], _SOFT, font)
    left = _GAP + step * len(columns)
    if nearest:
        draw.text((left, 4), "nearest captions (green: its own)", _INK, font)
    for place, lines in enumerate(nearest):
        for number, line in enumerate(lines):
            top = _LINE + _GAP + place * row + number * _LINE
            draw.text((left, top), line.words, line.colour, font)
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)


def _enlarged(tile_CHW: Tensor) -> Image.Image:
    """Return a tile at the size of the sheet; of a map each patch is a square."""
    tile_HWC = (255 * tile_CHW).round().to(torch.uint8).permute(1, 2, 0).numpy()
    filters = Image.Resampling
    way = filters.NEAREST if len(tile_HWC) < _TILE // 4 else filters.BICUBIC
    return Image.fromarray(tile_HWC).resize((_TILE, _TILE), way)
