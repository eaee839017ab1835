"""Eq. 1: pixels of the patches that the encoder did not see."""

from torch import Tensor


def masked_pixel_loss(prediction_BNP: Tensor, target_BNP: Tensor, hidden_BN: Tensor) -> Tensor:
    """Return the squared error of the hidden patches.

    Mean over a patch's values, then over an image's hidden patches, then over images (the paper
    prints the sum over a patch; its weight of 0.01 for the other terms fits the mean).

    Shapes: both B, N, P; hidden_BN bool, True where hidden, at least one in each row. The inputs
    may hold the hidden patches alone, with hidden_BN all True.
    """
    difference_BNP = prediction_BNP.float() - target_BNP.float()
    # where, not a product, and before the square: not even a nan in a visible patch may count,
    # in the value or in the gradient
    difference_BNP = difference_BNP.where(hidden_BN[:, :, None], 0.0)
    error_BN = difference_BNP.square().mean(dim=-1)
    return (error_BN.sum(dim=1) / hidden_BN.sum(dim=1)).mean()
