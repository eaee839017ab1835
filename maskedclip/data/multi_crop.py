"""Multi-crop: two large crops of an image and several small ones, and what is masked of the large.

Every draw is a function of (seed, epoch, sample, crop number); which of an image's two large crops
is masked, and where, of (seed, epoch, sample). Colours are changed on the device, as torchvision
does but in a fixed order and from given draws, so that a crop is the same on any number of ranks.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from maskedclip.data.order import number, uniform
from maskedclip.data.transforms import TRIES, constant

GLOBALS = 2  # large crops
COLOUR_DRAWS = 9  # numbers drawn for a crop's colours and blur
_BLOCKS, _LEAST, _ASPECT = 16, 4, 0.3  # blocks tried, their patches and their aspect (DINOv2)
_JITTER, _GREY = 0.8, 0.2  # probabilities of a crop
_STRENGTH, _HUE = (0.4, 0.4, 0.2), 0.1
_KERNEL, _SIGMA = 9, (0.1, 2.0)
_GREYS = (0.2989, 0.587, 0.114)


@dataclass(frozen=True)
class MultiCrop:
    """What is cut from an image besides the first crop of `View`."""

    local_crops: int
    local_size: int  # pixels
    local_area: tuple[float, float]  # share of the image
    mask_ratio: tuple[float, float]  # share of the patches of the one large crop that is masked
    drops: int  # numbers drawn a crop, for the depth that it passes

    @property
    def crops(self) -> int:
        return GLOBALS + self.local_crops

    def bytes(self, image_size: int) -> int:
        """Return the length of an image's slot: its crops, one after another."""
        return 3 * (GLOBALS * image_size**2 + self.local_crops * self.local_size**2)

    def slots(self, flat_L: np.ndarray, image_size: int) -> list[np.ndarray]:
        """Return where in its slot each crop of an image goes."""
        sizes = [image_size] * GLOBALS + [self.local_size] * self.local_crops
        ends = np.cumsum([3 * size**2 for size in sizes])[:-1]
        parts = np.split(flat_L, ends)
        return [part.reshape(size, size, 3) for part, size in zip(parts, sizes, strict=True)]

    def areas(self, large: tuple[float, float]) -> list[tuple[float, float]]:
        """Return the share of the image that each crop shows."""
        return [large] * GLOBALS + [self.local_area] * self.local_crops


class CropDraws(NamedTuple):
    """What chance decides of an image's crops; all in [0, 1)."""

    flip_X: np.ndarray
    crop_XEF: np.ndarray
    colour_XF: np.ndarray
    drop_XF: np.ndarray
    mask_F: np.ndarray


class Crops(NamedTuple):
    """The crops of a batch; G large and S small ones an image, V together."""

    image_BL: Tensor  # uint8, all crops of an image behind one another: one copy to the device
    flip_BX: Tensor  # bool
    colour_BXF: Tensor  # for augment_colours
    drop_BXF: Tensor
    hidden_BGN: Tensor  # bool, True where hidden from the student
    masked_M: Tensor  # indices of the hidden patches, crop 0 of all images before crop 1
    sizes: tuple[int, int]  # pixels of the large and of the small ones

    def large_crops(self) -> Tensor:
        """Return image_BGHWC, not yet mirrored nor coloured."""
        large = self.sizes[0]
        end = 3 * GLOBALS * large**2
        return self.image_BL[:, :end].view(len(self.image_BL), GLOBALS, large, large, 3)

    def small_crops(self) -> Tensor:
        """Return image_BSHWC, as `large_crops`."""
        large, small = self.sizes
        rest_BL = self.image_BL[:, 3 * GLOBALS * large**2 :]
        number = rest_BL.shape[1] // (3 * small**2)
        return rest_BL.view(len(rest_BL), number, small, small, 3)


def crop_draws(
    seed: int, epochs: Sequence[int], names: Sequence[str], crops: MultiCrop, patches: int
) -> list[CropDraws]:
    """Return the draws of samples."""
    samples = list(zip(epochs, names, strict=True))
    keys = [number(seed, e, name, "crop", v) for e, name in samples for v in range(crops.crops)]
    ends = np.cumsum([1, 4 * TRIES, COLOUR_DRAWS])
    value_RF = uniform(np.array(keys, dtype=np.uint64), int(ends[-1]) + crops.drops)
    value_BXF = value_RF.reshape(len(names), crops.crops, -1)
    flip, crop, colour, drop = np.split(value_BXF, ends, axis=2)
    masks = [number(seed, e, name, "mask") for e, name in samples]
    mask_BF = uniform(np.array(masks, dtype=np.uint64), 2 + 4 * _BLOCKS + patches)
    crop_BXEF = crop.reshape(len(names), crops.crops, TRIES, 4)
    return list(map(CropDraws, flip[:, :, 0] < 0.5, crop_BXEF, colour, drop, mask_BF))


def hidden_blocks(mask_F: np.ndarray, ratio: tuple[float, float], patches: int) -> np.ndarray:
    """Return hidden_GN: of one of the two large crops a share of the patches, mostly in blocks.

    The share is uniform in `ratio`. Blocks of an aspect from 0.3 to 1 / 0.3 are laid as long as
    they fit into what is left (DINOv2); what no block fills are the patches of the lowest draws.
    """
    side = math.isqrt(patches)
    count = round(patches * (ratio[0] + mask_F[1] * (ratio[1] - ratio[0])))
    count = max(count, ratio[1] > 0)  # at least one, unless none is asked for
    hidden_NN = np.zeros((side, side), dtype=bool)
    for size, form, down, right in mask_F[2 : 2 + 4 * _BLOCKS].reshape(-1, 4).tolist():
        left = count - int(hidden_NN.sum())
        if left < _LEAST:
            break
        area = _LEAST + size * (left - _LEAST)
        aspect = math.exp((2 * form - 1) * math.log(_ASPECT))
        high, wide = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if not (0 < high < side and 0 < wide < side):
            continue
        top, start = int(down * (side - high + 1)), int(right * (side - wide + 1))
        block_HW = hidden_NN[top : top + high, start : start + wide]
        if high * wide - block_HW.sum() <= left:
            block_HW[:] = True
    hidden_N = hidden_NN.reshape(-1)
    draw_N = np.where(hidden_N, 2.0, mask_F[2 + 4 * _BLOCKS :])
    hidden_N[np.argsort(draw_N, kind="stable")[: count - int(hidden_N.sum())]] = True
    hidden_GN = np.zeros((GLOBALS, patches), dtype=bool)
    hidden_GN[int(mask_F[0] * GLOBALS)] = hidden_N
    return hidden_GN


def collate_crops(
    flat_BL: Tensor,
    rows: Sequence[tuple[CropDraws, np.ndarray]],
    crops: MultiCrop,
    image_size: int,
) -> Crops:
    """Return the crops of a batch; rows holds the draws and the hidden_GN of each image."""
    hidden_BGN = torch.from_numpy(np.stack([hidden_GN for _, hidden_GN in rows]))
    draws = [draws for draws, _ in rows]
    return Crops(
        image_BL=flat_BL,
        flip_BX=torch.from_numpy(np.stack([one.flip_X for one in draws])),
        colour_BXF=torch.from_numpy(np.stack([one.colour_XF for one in draws])).float(),
        drop_BXF=torch.from_numpy(np.stack([one.drop_XF for one in draws])).float(),
        hidden_BGN=hidden_BGN,
        masked_M=hidden_BGN.transpose(0, 1).flatten().nonzero().flatten(),
        sizes=(image_size, crops.local_size),
    )


def augment_colours(
    image_BCHW: Tensor, draw_BF: Tensor, *, blur_B: Tensor, solarise_B: Tensor
) -> Tensor:
    """Return images in 0..1 with jittered colours, some grey, blurred or solarised (DINOv2).

    draw_BF holds 9 numbers in [0, 1) an image; blur_B and solarise_B are probabilities.
    """
    draws_FB111 = draw_BF.T[:, :, None, None, None]
    jitter, bright, contrast, saturation, hue, grey, blur, sigma, solarise = draws_FB111
    x = image_BCHW
    for name, draw, strength in zip("bcs", (bright, contrast, saturation), _STRENGTH, strict=True):
        factor = 1 + strength * (2 * draw - 1)
        anchor = torch.zeros_like(factor) if name == "b" else _grey(x)
        anchor = anchor.mean(dim=(2, 3), keepdim=True) if name == "c" else anchor
        x = (anchor + factor * (x - anchor)).clamp(0, 1)
    x = torch.where(jitter < _JITTER, _hue_shifted(x, _HUE * (2 * hue - 1)), image_BCHW)
    x = torch.where(grey < _GREY, _grey(x).expand_as(x), x)
    sigma_B = _SIGMA[0] + sigma.flatten() * (_SIGMA[1] - _SIGMA[0])
    x = torch.where(blur < blur_B[:, None, None, None], _blurred(x, sigma_B), x)
    solarises = (solarise < solarise_B[:, None, None, None]) & (x >= 0.5)
    return torch.where(solarises, 1 - x, x)


def _grey(image_BCHW: Tensor) -> Tensor:
    weight_C11 = constant(_GREYS, image_BCHW.device).view(3, 1, 1)
    return (image_BCHW * weight_C11).sum(dim=1, keepdim=True)


def _hue_shifted(image_BCHW: Tensor, shift_B111: Tensor) -> Tensor:
    """Return the images with all hues shifted, by a share of the colour circle."""
    high, low = image_BCHW.amax(dim=1), image_BCHW.amin(dim=1)
    chroma = high - low
    red, green, blue = image_BCHW.unbind(dim=1)
    part = chroma.clamp(min=1e-8)
    hue = torch.where(
        high == red,
        (green - blue) / part,
        torch.where(high == green, 2 + (blue - red) / part, 4 + (red - green) / part),
    )
    hue = hue + 6 * shift_B111[:, 0]
    sixths = [(start + hue) % 6 for start in (5.0, 3.0, 1.0)]
    return torch.stack([high - chroma * torch.minimum(k, 4 - k).clamp(0, 1) for k in sixths], dim=1)


def _blurred(image_BCHW: Tensor, sigma_B: Tensor) -> Tensor:
    images, colours, high, wide = image_BCHW.shape
    offset = torch.arange(_KERNEL, device=sigma_B.device) - _KERNEL // 2
    kernel_BJ = (-0.5 * (offset / sigma_B[:, None]).square()).exp()
    kernel_BJ = kernel_BJ / kernel_BJ.sum(dim=1, keepdim=True)
    kernel_QJ = kernel_BJ.repeat_interleave(colours, dim=0)
    edge = _KERNEL // 2
    x = F.pad(image_BCHW, (edge, edge, edge, edge), mode="reflect").view(
        1, -1, high + 2 * edge, wide + 2 * edge
    )
    x = F.conv2d(x, kernel_QJ[:, None, None, :], groups=images * colours)
    x = F.conv2d(x, kernel_QJ[:, None, :, None], groups=images * colours)
    return x.view(image_BCHW.shape)
