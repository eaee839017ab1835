"""A pre-trained run as it is left on the disk, with random weights of the smallest size."""

from pathlib import Path
from typing import Any

import torch

from maskedclip.models.maskedclip import MaskedCLIP, build
from maskedclip.models.pretrained import export
from maskedclip.models.text import Tokenizer

SHAPE: dict[str, Any] = {
    "size": "micro", "image_size": 32, "patch_size": 16, "mask_ratio": 0.75, "bridge_depth": 1,
    "feature_decoder_depth": 1, "projection": 16, "text": "builtin", "text_tokens": 77,
    "text_dropout": 0.0,
}  # fmt: skip


def exported(run: Path, **changes: Any) -> tuple[MaskedCLIP, Tokenizer]:
    """Write the weights of such a run into a directory; return its networks and tokenizer."""
    torch.manual_seed(0)
    run.mkdir(parents=True, exist_ok=True)
    network, tokenize = build(**(SHAPE | changes))
    export(network.state_dict(), SHAPE | changes, run)
    return network, tokenize
