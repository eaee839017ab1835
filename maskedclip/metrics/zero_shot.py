"""Classes by their descriptions alone: the nearest of the class texts, without a label."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

GRADES = {
    "0": "no diabetic retinopathy",
    "1": "mild diabetic retinopathy",
    "2": "moderate diabetic retinopathy",
    "3": "severe diabetic retinopathy",
    "4": "proliferative diabetic retinopathy",
}
EDEMA = {
    "0": "no referable diabetic macular edema",
    "1": "non clinically significant diabetic macular edema",
    "2": "diabetic macular edema",
}
_TASKS: dict[str, Mapping[str, str]] = {"diabetic_retinopathy": GRADES, "macular_edema": EDEMA}


def categories(
    task: str, classes: Sequence[str], published: Mapping[str, str] | None = None
) -> list[str]:
    """Return what each class is called in captions.

    Args:
        published: class -> category as the dataset says; grades of known tasks have theirs here,
            and any other class is called as it is.
    """
    names = dict(_TASKS.get(task, {})) | dict(published or {})
    return [names.get(name, name) for name in classes]


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
