"""Eq. 1: pixels of the patches that the encoder did not see."""

from torch import Tensor


def masked_pixel_loss(prediction_BNP: Tensor, target_BNP: Tensor, hidden_BN: Tensor) -> Tensor:
    """Return the squared error of the hidden patches.

    Mean over a patch's values, then over an image's hidden patches, then over images (the paper
    prints the sum over a patch; its weight of 0.01 for the other terms fits the mean).

    Shapes: both B, N, P; hidden_BN bool, True where hidden, at least one in each row. The inputs
    may hold the hidden patches alone, with hidden_BN all True.
    """
    error_BN = (prediction_BNP.float() - target_BNP.float()).square().mean(dim=-1)
    # where, not a product: whatever stands in a visible patch, even nan, must not count
    error_BN = error_BN.where(hidden_BN, 0.0)
    return (error_BN.sum(dim=1) / hidden_BN.sum(dim=1)).mean()
