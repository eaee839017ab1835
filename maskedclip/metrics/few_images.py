"""Classes with few test images, whose scores say little: named beside the numbers."""

from collections.abc import Mapping, Sequence

import numpy as np

FEW = 10  # test images
_NAMED = 8  # classes that are written out


def few_among(classes: Sequence[str], label_B: np.ndarray, kind: str) -> str:
    """Return what `few_images` says of labels as predictions hold them, "" of numbers."""
    if kind == "number":
        return ""
    label_BY = label_B if kind == "labels" else label_B[:, None] == np.arange(len(classes))
    images = dict(zip(classes, np.asarray(label_BY).sum(axis=0).astype(int).tolist(), strict=True))
    return few_images(classes, images, "classes" if kind == "class" else kind)


def few_images(classes: Sequence[str], images: Mapping[str, int], noun: str = "classes") -> str:
    """Return "2 of 5 classes have fewer than 10 test images: mild (4), severe (0)", "" for none.

    Args:
        images: how many test images each class has; those not named have none.
    """
    few = [(images.get(name, 0), name) for name in classes if images.get(name, 0) < FEW]
    if not few:
        return ""
    named = [f"{name} ({count})" for count, name in few[:_NAMED]]
    more = f" and {len(few) - _NAMED} more" if len(few) > _NAMED else ""
    verb = "has" if len(few) == 1 else "have"
    return (
        f"{len(few)} of {len(classes)} {noun} {verb} fewer than {FEW} test images: "
        f"{', '.join(named)}{more}"
    )
