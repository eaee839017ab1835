"""Colours, blur and solarising of crops, where the crops are: DINOv2's, from given numbers.

As torchvision's, but for two things: brightness, contrast, saturation and hue always come in this
order, and the numbers are given, so that a crop looks the same on any number of ranks.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

_JITTER, _GREY = 0.8, 0.2  # of all crops
_STRENGTH, _HUE = (0.4, 0.4, 0.2), 0.1
_KERNEL, _SIGMA = 9, (0.1, 2.0)
_GREYS = (0.2989, 0.587, 0.114)


def look(image_BCHW: Tensor, draw_BF: Tensor, *, blur_B: Tensor, solarise_B: Tensor) -> Tensor:
    """Return images in 0..1 as they are to be seen.

    draw_BF holds 9 numbers in [0, 1) an image; blur_B and solarise_B are the chances of these.
    """
    draws_FB111 = draw_BF.T[:, :, None, None, None]
    jitter, bright, contrast, saturation, hue, grey, blur, sigma, solarise = draws_FB111
    x = image_BCHW
    for name, draw, strength in zip("bcs", (bright, contrast, saturation), _STRENGTH, strict=True):
        factor = 1 + strength * (2 * draw - 1)
        anchor = torch.zeros_like(factor) if name == "b" else _grey(x)
        anchor = anchor.mean(dim=(2, 3), keepdim=True) if name == "c" else anchor
        x = (anchor + factor * (x - anchor)).clamp(0, 1)
    x = torch.where(jitter < _JITTER, _turned(x, _HUE * (2 * hue - 1)), image_BCHW)
    x = torch.where(grey < _GREY, _grey(x).expand_as(x), x)
    wide_B = _SIGMA[0] + sigma.flatten() * (_SIGMA[1] - _SIGMA[0])
    x = torch.where(blur < blur_B[:, None, None, None], _blurred(x, wide_B), x)
    solarises = (solarise < solarise_B[:, None, None, None]) & (x >= 0.5)
    return torch.where(solarises, 1 - x, x)


def _grey(image_BCHW: Tensor) -> Tensor:
    weight_C11 = image_BCHW.new_tensor(_GREYS).view(3, 1, 1)
    return (image_BCHW * weight_C11).sum(dim=1, keepdim=True)


def _turned(image_BCHW: Tensor, turn_B111: Tensor) -> Tensor:
    """Return the images with all hues turned, by shares of a circle."""
    high, low = image_BCHW.amax(dim=1), image_BCHW.amin(dim=1)
    chroma = high - low
    red, green, blue = image_BCHW.unbind(dim=1)
    part = chroma.clamp(min=1e-8)
    hue = torch.where(
        high == red,
        (green - blue) / part,
        torch.where(high == green, 2 + (blue - red) / part, 4 + (red - green) / part),
    )
    hue = hue + 6 * turn_B111[:, 0]
    places = [(start + hue) % 6 for start in (5.0, 3.0, 1.0)]
    return torch.stack([high - chroma * torch.minimum(k, 4 - k).clamp(0, 1) for k in places], dim=1)


def _blurred(image_BCHW: Tensor, sigma_B: Tensor) -> Tensor:
    images, colours, high, wide = image_BCHW.shape
    offset = torch.arange(_KERNEL, device=sigma_B.device) - _KERNEL // 2
    kernel_BK = (-0.5 * (offset / sigma_B[:, None]).square()).exp()
    kernel_BK = kernel_BK / kernel_BK.sum(dim=1, keepdim=True)
    kernel_RK = kernel_BK.repeat_interleave(colours, dim=0)
    edge = _KERNEL // 2
    x = F.pad(image_BCHW, (edge, edge, edge, edge), mode="reflect").view(
        1, -1, high + 2 * edge, wide + 2 * edge
    )
    x = F.conv2d(x, kernel_RK[:, None, None, :], groups=images * colours)
    x = F.conv2d(x, kernel_RK[:, None, :, None], groups=images * colours)
    return x.view(image_BCHW.shape)
