"""MaskedCLIP: pre-training on paired and unpaired fundus photographs, and what follows from it.

Tensors carry their axes in their names; in models, losses, pretrain and finetune the letters are:
A paired images of a batch (in losses: rows of all ranks), B images, C colour, D features,
G global crops, H W pixels, J residual branches, K prototypes, L text tokens, M hidden patches,
N patches, P values of a patch, R crops of all images, S local crops, T packed tokens,
V visible patches, X all crops of an image, Y classes.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from maskedclip.inference import Model

__version__ = "0.1.0"


def load(path: str | Path) -> Model:
    """Return the networks of a run or weights file, ready for images and texts."""
    from maskedclip.inference import load as load_model  # torch only where it is wanted

    return load_model(path)


def __getattr__(name: str) -> Any:
    """Import `maskedclip.losses`, `.recipes` and the like when they are first named."""
    try:
        return importlib.import_module(f"{__name__}.{name}")
    except ModuleNotFoundError as error:
        if error.name != f"{__name__}.{name}":
            raise
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
