"""Weights for timm: a folder that it opens as `local-dir:`, and a file that fits one of its names.

The features are the mean of the patch tokens behind the final norm, so fc_norm is off: timm's own
"avg" would leave that norm out and put one behind the mean.
"""

import json
from pathlib import Path
from typing import Any

import timm
import torch
from timm.data import create_transform, resolve_model_data_config

from maskedclip.data.labelled_views import RESIZE
from maskedclip.data.transforms import MEAN, STD
from maskedclip.models.checkpoints.architectures import with_layer_scale
from maskedclip.models.checkpoints.sealed import save_sealed
from maskedclip.models.maskedclip import SIZES
from maskedclip.weights.source_run import (
    FeatureCheck,
    SourceRun,
    example_images,
    max_difference,
    preprocessed,
    quoted,
    run_features,
)

WEIGHTS = "model.safetensors"
_NAMED = ("tiny", "small", "base", "large")  # sizes that timm has a name for


def timm_name(source: SourceRun) -> tuple[str, dict[str, Any]]:
    """Return timm's name of the encoder, and the further arguments of `create_model`."""
    kind, size = source.size, str(source.header["size"])
    named = size if size in _NAMED else "tiny"
    other: dict[str, Any] = {}
    if source.image_size != 224 or source.positions == "rotary":
        other["img_size"] = source.image_size
    if source.patch_size != 16:
        other["patch_size"] = source.patch_size
    if source.positions == "rotary":
        if source.registers != 4:
            other["num_reg_tokens"] = source.registers
    elif source.registers:
        other |= {"reg_tokens": source.registers, "no_embed_class": True}
    if kind != SIZES[named]:
        other |= {"embed_dim": kind.width, "depth": kind.depth, "num_heads": kind.heads}
    kind_of_name = "dinov3_qkvb" if source.positions == "rotary" else "224"
    return f"vit_{named}_patch16_{kind_of_name}", other


def _unpooled(source: SourceRun) -> dict[str, Any]:
    """Return the arguments that keep the encoder's own norm before the mean of the patches."""
    # DINOv3's does so of itself
    return {"global_pool": "avg"} | ({} if source.positions == "rotary" else {"fc_norm": False})


def write(source: SourceRun, folder: Path, final: Path) -> None:  # noqa: ARG001 (as all targets)
    """Write the weights, and config.json as timm's hub folders have it."""
    name, other = timm_name(source)
    tensors = with_layer_scale(source.timms) if source.positions == "rotary" else source.timms
    save_sealed(tensors, folder / WEIGHTS, images=source.images)
    config: dict[str, Any] = {
        "architecture": name,
        "num_classes": 0,
        "num_features": source.size.width,
        "model_args": {**_unpooled(source), **other},
        "pretrained_cfg": {
            "tag": source.name,
            "input_size": [3, source.image_size, source.image_size],
            "fixed_input_size": True,
            "interpolation": "bicubic",
            "crop_pct": 1 / RESIZE,
            "crop_mode": "center",
            "mean": list(MEAN),
            "std": list(STD),
            "num_classes": 0,
            "pool_size": None,
            "first_conv": "patch_embed.proj",
            "classifier": "head",
        },
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")


@torch.no_grad()
def compare(source: SourceRun, folder: Path) -> list[FeatureCheck]:
    """Return how far timm's features are from the run's, by both ways of opening."""
    name, other = timm_name(source)
    by_name = timm.create_model(
        name, checkpoint_path=str(folder / WEIGHTS), num_classes=0, **_unpooled(source), **other
    ).eval()
    by_folder = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    images = example_images()
    image_BCHW = preprocessed(images, source.image_size)
    run_BD = run_features(source, image_BCHW)
    transform = create_transform(**resolve_model_data_config(by_folder), is_training=False)
    theirs_BCHW = torch.stack([transform(image) for image in images])
    return [
        FeatureCheck("features, opened by name", max_difference(by_name(image_BCHW), run_BD)),
        FeatureCheck(
            "features, images prepared by timm", max_difference(by_folder(theirs_BCHW), run_BD)
        ),
    ]


def opening_code(source: SourceRun, folder: Path) -> list[str]:  # noqa: ARG001 (as all targets)
    """Return the code that opens the export, in its last line."""
    where = quoted(f"local-dir:{folder}")
    return ["import timm", f"model = timm.create_model({where}, pretrained=True).eval()"]


def usage_code(source: SourceRun, folder: Path) -> list[str]:  # noqa: ARG001 (as all targets)
    """Return the code that goes on from there."""
    where = quoted(f"local-dir:{folder}")
    return [
        "transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))",
        "feature = model(transform(image)[None])",
        f"tuned = timm.create_model({where}, pretrained=True, num_classes=5)",
    ]


def notes(source: SourceRun) -> list[str]:
    """Return what a user of the export should know."""
    name, other = timm_name(source)
    arguments = (_unpooled(source) | other).items()
    more = "".join(f', {k}="{v}"' if isinstance(v, str) else f", {k}={v}" for k, v in arguments)
    trainable = "the positions, fixed sines in the run, are a parameter in timm and may be trained"
    return [
        *([] if source.positions == "rotary" else [trainable]),
        f'opened by name ("{name}", checkpoint_path=..., num_classes=0{more}) the network is the '
        f"same, but timm knows no colours and crop of the run: its transform gives other features",
    ]
