"""An encoder with a head for classes: made for fine-tuning, written and read with its classes."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from timm.models.vision_transformer import VisionTransformer
from timm.optim import param_groups_layer_decay
from torch import nn
from torch.optim import AdamW

from maskedclip.models.maskedclip import SIZES
from maskedclip.models.pretrained import LoadReport, load_encoder, read_weights

FINETUNED = "finetuned.safetensors"


def build_classifier(
    weights: str, *, image_size: int, num_classes: int, drop_path: float, size: str
) -> tuple[VisionTransformer, LoadReport]:
    """Return the encoder of `weights` with a fresh head on the mean of its patch tokens.

    Args:
        size: of the encoder where weights is "random", else ignored.
    """
    model, report = load_encoder(
        weights, image_size=image_size, num_classes=num_classes, drop_path=drop_path, size=size
    )
    assert isinstance(model.head, nn.Linear)
    nn.init.trunc_normal_(model.head.weight, std=2e-5)  # MAE: the first outputs are all alike
    nn.init.zeros_(model.head.bias)
    return model, report


def adamw_by_layer(model: VisionTransformer, *, layer_decay: float, weight_decay: float) -> AdamW:
    """Return AdamW whose groups have an lr_scale: layer_decay^(blocks + 1 - layer), as in MAE.

    Layer 0 is patch embedding, positions and [CLS], then the blocks, then the head with its norm.
    Nothing 1-D decays, nor positions and [CLS].
    """
    groups = param_groups_layer_decay(
        model,
        weight_decay=weight_decay,
        no_weight_decay_list=("pos_embed", "cls_token"),
        layer_decay=layer_decay,
    )
    return AdamW(groups, lr=0.0, betas=(0.9, 0.999), fused=True)


def write_classifier(
    model: VisionTransformer, path: Path, classes: Sequence[str], facts: Mapping[str, Any]
) -> None:
    """Write a fine-tuned network whose header holds its shape, its classes and `facts`."""
    shape = (model.embed_dim, len(model.blocks))
    sizes = {(size.width, size.depth): name for name, size in SIZES.items()}
    header = {
        "size": sizes[shape],
        "patch_size": model.patch_embed.patch_size[0],
        "image_size": model.patch_embed.img_size[0],
        "classes": list(classes),
        **facts,
    }
    temporary = path.with_suffix(".tmp")
    tensors = {k: v.detach().cpu().contiguous() for k, v in model.state_dict().items()}
    save_file(tensors, temporary, metadata={"format": "pt", "maskedclip": json.dumps(header)})
    temporary.replace(path)


def read_classifier(path: Path) -> tuple[VisionTransformer, dict[str, Any]]:
    """Return what `write_classifier` wrote, and its header."""
    tensors, header = read_weights(path)
    model, _ = load_encoder(
        path, image_size=header["image_size"], num_classes=len(header["classes"])
    )
    model.load_state_dict(tensors)
    return model, header
