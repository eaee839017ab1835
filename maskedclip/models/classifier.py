"""An encoder with a head for classes: made for fine-tuning, written and read with its classes."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from timm.optim import param_groups_layer_decay
from torch import nn
from torch.optim import AdamW

from maskedclip.models.checkpoints.architectures import (
    Network,
    plain_architecture,
    prefix_positions,
    resampled_positions,
)
from maskedclip.models.checkpoints.files import FINETUNED, IMAGES_HEADER, read_checkpoint
from maskedclip.models.maskedclip import SIZES
from maskedclip.models.pretrained import (
    LoadReport,
    encoder_info,
    load_encoder,
    read_weights,
    recognise,
    untrained_network,
)

__all__ = ["FINETUNED", "adamw_by_layer", "build_classifier", "read_classifier", "write_classifier"]


def build_classifier(
    weights: str, *, image_size: int, num_classes: int, drop_path: float, size: str
) -> tuple[Network, LoadReport]:
    """Return the encoder of `weights` with a fresh head on the mean of its patch tokens or map.

    Args:
        size: of the encoder where weights is "random", else ignored.
    """
    model, report = load_encoder(
        weights, image_size=image_size, num_classes=num_classes, drop_path=drop_path, size=size
    )
    head = model.get_classifier()
    assert isinstance(head, nn.Linear)
    nn.init.trunc_normal_(head.weight, std=2e-5)  # MAE: the first outputs are all alike
    nn.init.zeros_(head.bias)
    return model, report


def adamw_by_layer(model: nn.Module, *, layer_decay: float, weight_decay: float) -> AdamW:
    """Return AdamW whose groups have an lr_scale: layer_decay^(blocks + 1 - layer), as in MAE.

    Layer 0 is patch embedding, positions and [CLS], then the blocks, then the head with its norm.
    Nothing 1-D decays, nor positions and [CLS]. A ResNet has one rate (RETFound).
    """
    groups = param_groups_layer_decay(
        model,
        weight_decay=weight_decay,
        no_weight_decay_list=("pos_embed", "cls_token"),
        layer_decay=layer_decay if hasattr(model, "blocks") else 1.0,
    )
    return AdamW(groups, lr=0.0, betas=(0.9, 0.999), fused=True)


def write_classifier(
    model: nn.Module,
    path: Path,
    classes: Sequence[str],
    facts: Mapping[str, Any],
    images: Mapping[str, Any] | None = None,
) -> None:
    """Write a fine-tuned network whose header holds its shape, its classes and `facts`.

    Args:
        images: what it was trained on, as `export` has it.
    """
    info = encoder_info(model)
    header = {
        "network": info.architecture,
        "image_size": info.preparation.image_size,
        "preparation": info.preparation._asdict(),
        "form": info.format,
        "saw": info.trained_on,
        "classes": list(classes),
        **facts,
    }
    patch_size = info.architecture.get("patch_size", 0)
    for name, size in SIZES.items():  # what a plain one is called, for readers that know our sizes
        if info.architecture == plain_architecture(size.width, size.depth, size.heads, patch_size):
            header |= {"size": name, "patch_size": patch_size}
    temporary = path.with_suffix(".tmp")
    tensors = {k: v.detach().cpu().contiguous() for k, v in model.state_dict().items()}
    metadata = {"format": "pt", "maskedclip": json.dumps(header)}
    metadata |= {IMAGES_HEADER: json.dumps(images)} if images else {}
    save_file(tensors, temporary, metadata=metadata)
    temporary.replace(path)


def read_classifier(path: Path, *, image_size: int = 0) -> tuple[Network, dict[str, Any]]:
    """Return what `write_classifier` wrote, and its header.

    image_size 0 is its own; positions are resampled to another.
    """
    tensors, header = read_weights(path)
    info = recognise(read_checkpoint(path)).info
    model = untrained_network(info, image_size=image_size, num_classes=len(header["classes"]))
    if image_size and info.architecture["family"] == "vit":
        prefix = prefix_positions(info.architecture)
        tensors = resampled_positions(tensors, model.state_dict(), prefix)
    model.load_state_dict(tensors)
    return model, header
