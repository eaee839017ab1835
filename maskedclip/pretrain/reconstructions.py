"""The picture of reconstructions that TensorBoard shows."""

import torch
from torch import Tensor

from maskedclip.data.transforms import denormalise
from maskedclip.models.patches import masked_and_filled


@torch.no_grad()
def picture(
    image_BCHW: Tensor, pixel_BMP: Tensor, hidden_BM: Tensor, patch_size: int, normalised: bool
) -> Tensor:
    """Return picture_CHW, a row an image: what the encoder sees, the reconstruction, the original.

    Up to six images, from both ends of the batch: paired and unpaired ones.
    """
    ends = min(3, len(image_BCHW))
    chosen = [*range(ends), *range(-ends, 0)]
    image_BCHW = image_BCHW[chosen].cpu()
    pixel_BMP, hidden_BM = pixel_BMP[chosen].float().cpu(), hidden_BM[chosen].cpu()
    masked, filled = masked_and_filled(image_BCHW, pixel_BMP, hidden_BM, patch_size, normalised)
    strip_BCHW = torch.cat([denormalise(x) for x in (masked, filled, image_BCHW)], dim=3)
    return torch.cat(list(strip_BCHW), dim=1)
