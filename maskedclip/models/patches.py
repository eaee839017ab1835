"""Images as rows of patches, and back."""

import torch
from torch import Tensor


def patchify(image_BCHW: Tensor, patch_size: int) -> Tensor:
    """Return target_BNP: each patch's values in the order row, column, colour (MAE)."""
    batch, colours, height, width = image_BCHW.shape
    rows, columns = height // patch_size, width // patch_size
    x = image_BCHW.view(batch, colours, rows, patch_size, columns, patch_size)
    return x.permute(0, 2, 4, 3, 5, 1).reshape(batch, rows * columns, -1)


def unpatchify(patch_BNP: Tensor, patch_size: int) -> Tensor:
    """Return the image of `patchify`'s values."""
    batch, num_patches, _ = patch_BNP.shape
    grid = round(num_patches**0.5)
    x = patch_BNP.view(batch, grid, grid, patch_size, patch_size, 3)
    return x.permute(0, 5, 1, 3, 2, 4).reshape(batch, 3, grid * patch_size, grid * patch_size)


def normalise_patches(target_BNP: Tensor) -> Tensor:
    """Return each patch at mean 0 and (unbiased) variance 1 over its values (MAE norm_pix_loss)."""
    mean = target_BNP.mean(dim=-1, keepdim=True)
    variance = target_BNP.var(dim=-1, keepdim=True)
    return (target_BNP - mean) / (variance + 1e-6).sqrt()


def pixel_target(
    image_BCHW: Tensor, hidden_BM: Tensor, patch_size: int, normalised: bool
) -> Tensor:
    """Return target_BMP: what D_I is to predict at the hidden patches."""
    target_BMP = take(patchify(image_BCHW, patch_size), hidden_BM)
    return normalise_patches(target_BMP) if normalised else target_BMP


def masked_and_filled(
    image_BCHW: Tensor, pixel_BMP: Tensor, hidden_BM: Tensor, patch_size: int, normalised: bool
) -> tuple[Tensor, Tensor]:
    """Return two images: the visible patches on grey, and those with D_I's patches between them.

    A normalised prediction takes its colour from the true patch's mean and deviation.
    """
    target_BNP = patchify(image_BCHW, patch_size)
    if normalised:
        true_BMP = take(target_BNP, hidden_BM)
        deviation = (true_BMP.var(dim=-1, keepdim=True) + 1e-6).sqrt()
        pixel_BMP = pixel_BMP * deviation + true_BMP.mean(dim=-1, keepdim=True)
    index_BMP = hidden_BM[:, :, None].expand(-1, -1, target_BNP.shape[-1])
    masked_BNP = target_BNP.scatter(1, index_BMP, torch.zeros_like(pixel_BMP))
    filled_BNP = target_BNP.scatter(1, index_BMP, pixel_BMP)
    return unpatchify(masked_BNP, patch_size), unpatchify(filled_BNP, patch_size)


def take(patch_BNP: Tensor, index_BM: Tensor) -> Tensor:
    """Return the patches index_BM of each image, in that order."""
    return patch_BNP.gather(1, index_BM[:, :, None].expand(-1, -1, patch_BNP.shape[-1]))


def split_patches(hidden_BN: Tensor, visible: int) -> tuple[Tensor, Tensor]:
    """Return (visible_BV, hidden_BM): patch indices in order; each row shows `visible` patches."""
    # a stable sort keeps shapes fixed: no boolean indexing, so nothing waits for the device
    order_BN = hidden_BN.to(torch.uint8).sort(dim=1, stable=True).indices
    # copies, not views: FSDP warns of views that leave the model
    return order_BN[:, :visible].clone(), order_BN[:, visible:].clone()
