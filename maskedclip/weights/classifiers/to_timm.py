"""A classifier for timm: a folder that it opens as `local-dir:`, with the names of the classes."""

import json
from pathlib import Path
from typing import Any

import timm
import torch
from timm.data import create_transform, resolve_model_data_config

from maskedclip.models.checkpoints.architectures import plain_architecture, with_layer_scale
from maskedclip.models.checkpoints.files import read_facts
from maskedclip.models.checkpoints.sealed import save_sealed
from maskedclip.models.maskedclip import SIZES
from maskedclip.weights.classifiers import source as classifier
from maskedclip.weights.classifiers.source import ClassifierSource, examples
from maskedclip.weights.source_run import FeatureCheck, max_difference, quoted

WEIGHTS = "model.safetensors"
_NAMED = ("tiny", "small", "base", "large")  # sizes that timm has a name for


def timm_model(source: ClassifierSource) -> tuple[str, dict[str, Any]]:
    """Return timm's name of the network, and the further arguments of `create_model`.

    Raises ValueError where timm has no such network by name.
    """
    architecture, size = source.info.architecture, source.image_size
    if architecture["family"] == "resnet50":
        return "resnet50", {}
    arguments: dict[str, Any] = {
        "img_size": size,
        "patch_size": architecture["patch_size"],
        "global_pool": "avg",
    }
    for name in _NAMED:
        kind = SIZES[name]
        plain = plain_architecture(kind.width, kind.depth, kind.heads, architecture["patch_size"])
        if architecture | {"pooled_norm": False} == plain:
            return f"vit_{name}_patch16_224", arguments
    arguments |= {
        "embed_dim": architecture["width"],
        "depth": architecture["depth"],
        "num_heads": architecture["heads"],
        # half a channel more: timm rounds the product down
        "mlp_ratio": (architecture["hidden"] + 0.5) / architecture["width"],
    }
    if architecture["family"] == "eva":
        gated = architecture["mlp"] == "gated"
        arguments |= {
            "swiglu_mlp": gated,
            "swiglu_align_to": int(gated),
            "num_reg_tokens": architecture["registers"],
        }
        return f"vit_small_patch16_dinov3{'_qkvb' * architecture['qkv_bias']}", arguments
    if architecture["mlp"] == "gated":
        raise ValueError(f"{source.file}: timm has no ViT of this MLP by name; use --to onnx")
    arguments |= {
        "qkv_bias": architecture["qkv_bias"],
        "init_values": 1e-5 if architecture["layer_scale"] else None,
        "reg_tokens": architecture["registers"],
        "no_embed_class": not architecture["class_position"],
        "pre_norm": architecture["pre_norm"],
    }
    if architecture["mlp"] == "packed":
        return "vit_giant_patch14_dinov2", arguments
    quick = architecture["activation"] == "quick_gelu"
    if architecture["pre_norm"]:  # its norms have another epsilon
        return f"vit_base_patch16_clip_{'quickgelu_' * quick}224", arguments
    return "vit_base_patch16_224", arguments | ({"act_layer": "quick_gelu"} if quick else {})


def write(source: ClassifierSource, folder: Path, final: Path) -> None:  # noqa: ARG001 (as all)
    """Write the weights, and config.json as timm's hub folders have it."""
    name, arguments = timm_model(source)
    tensors = source.tensors
    if source.info.architecture["family"] == "eva":
        tensors = with_layer_scale(tensors)
    save_sealed(tensors, folder / WEIGHTS, images=read_facts(source.file)[1])
    preparation, count = source.info.preparation, len(source.classes)
    stem = {"first_conv": "conv1", "classifier": "fc"}
    if name != "resnet50":
        stem = {"first_conv": "patch_embed.proj", "classifier": "head"}
    config: dict[str, Any] = {
        "architecture": name,
        "num_classes": count,
        "num_features": source.network.num_features,
        "model_args": arguments,
        "label_names": source.classes,
        "maskedclip": source.facts,
        "pretrained_cfg": {
            "tag": source.name,
            "input_size": [3, preparation.image_size, preparation.image_size],
            "fixed_input_size": name != "resnet50",
            "interpolation": preparation.interpolation,
            "crop_pct": 1 / preparation.resize,
            "crop_mode": "squash" if preparation.squash else "center",
            "mean": list(preparation.mean),
            "std": list(preparation.std),
            "num_classes": count,
            "pool_size": None,
            **stem,
        },
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n")


@torch.no_grad()
def compare(source: ClassifierSource, folder: Path) -> list[FeatureCheck]:
    """Return how far timm's logits are from the run's."""
    images, image_BCHW, logit_BY = examples(source)
    model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    names = model.__dict__["pretrained_cfg"].get("label_names") or ()
    if list(names) != source.classes:
        raise RuntimeError(f"{folder}: timm reads other classes, {', '.join(names)}")
    transform = create_transform(**resolve_model_data_config(model), is_training=False)
    theirs_BCHW = torch.stack([transform(image) for image in images])
    limit = None if source.info.preparation.whole else 1e-4
    return [
        FeatureCheck("logits", max_difference(model(image_BCHW), logit_BY)),
        FeatureCheck(
            "logits, images prepared by timm", max_difference(model(theirs_BCHW), logit_BY), limit
        ),
    ]


def opening_code(source: ClassifierSource, folder: Path) -> list[str]:  # noqa: ARG001 (as all)
    """Return the code that opens the export, in its last line."""
    where = f"local-dir:{folder}"
    return [
        "import timm",
        f"model = timm.create_model({quoted(where)}, pretrained=True).eval()",
    ]


def usage_code(source: ClassifierSource, folder: Path) -> list[str]:  # noqa: ARG001 (as all)
    """Return the code that goes on from there."""
    return [
        "transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))",
        'names = model.pretrained_cfg["label_names"]',
        "logit = model(transform(image)[None])[0]",
    ]


def notes(source: ClassifierSource) -> list[str]:
    """Return what a user of the export should know."""
    lines = classifier.notes(source)
    if source.info.preparation.whole:
        lines.append("timm's transform cuts the middle out, where the run pads to a square")
    return lines
