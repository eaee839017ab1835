"""Classes by their descriptions alone: the nearest of the class texts, without a label."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


def class_embeddings(
    encode_text: Callable[[list[str]], Tensor],
    prompts: Sequence[Sequence[str]],
    *,
    unit: bool = True,
) -> Tensor:
    """Return class_YD: the mean of the unit rows of a class's prompts, of unit length again.

    Args:
        unit: whether the means are; FLAIR's code leaves them as they are.
    """
    row_YD = torch.stack([encode_text(list(texts)).mean(dim=0) for texts in prompts])
    return F.normalize(row_YD, dim=-1) if unit else row_YD


def probabilities(image_BD: Tensor, class_YD: Tensor, scale: float) -> Tensor:
    """Return probability_BY: softmax over the classes of the scaled cosine, in float64."""
    return (scale * image_BD.double() @ class_YD.double().T).softmax(dim=-1)
