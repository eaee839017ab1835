"""Weights as RETFound and MAE hand theirs out: {"model": state dict} in a .pth, MAE's names.

Their loaders want a pickle; this one holds tensors alone, so weights_only=True reads it too.
"""

import shlex
from pathlib import Path

import torch
from timm.models.vision_transformer import VisionTransformer

from maskedclip.weights.source_run import (
    FeatureCheck,
    SourceRun,
    example_images,
    max_difference,
    preprocessed,
    quoted,
    run_features,
)

_THEIRS = {"base": "vit_base_patch16", "large": "vit_large_patch16"}  # of models_vit.py


def file_name(source: SourceRun) -> str:
    """Return the name of the .pth: the run's."""
    return f"{source.name}.pth"


def write(source: SourceRun, folder: Path, final: Path) -> None:  # noqa: ARG001 (as all targets)
    """Write the .pth; ValueError where RETFound's network has no place for these weights."""
    if source.registers or source.positions == "rotary":
        what = f"{source.registers} register tokens" if source.registers else "rotary positions"
        raise ValueError(
            f"{source.file}: {what}, which RETFound's network has not; use --to timm, hf, onnx or "
            f"open_clip"
        )
    torch.save({"model": source.encoder}, folder / file_name(source))


@torch.no_grad()
def compare(source: SourceRun, folder: Path) -> list[FeatureCheck]:
    """Return how far the features of RETFound's network are from the run's.

    Its fine-tuning pools before a fresh norm; here the file's own norm is kept before the mean.
    """
    content = torch.load(folder / file_name(source), map_location="cpu", weights_only=True)
    kind = source.size
    network = VisionTransformer(
        img_size=source.image_size,
        patch_size=source.patch_size,
        embed_dim=kind.width,
        depth=kind.depth,
        num_heads=kind.heads,
        num_classes=0,
    )
    network.load_state_dict(content["model"])
    image_BCHW = preprocessed(example_images(), source.image_size)
    mean_BD = network.eval().forward_features(image_BCHW)[:, 1:].mean(dim=1)
    return [FeatureCheck("features", max_difference(mean_BD, run_features(source, image_BCHW)))]


def opening_code(source: SourceRun, folder: Path) -> list[str]:
    """Return the command of theirs that opens the export, or code where they have none."""
    path = folder / file_name(source)
    theirs = _THEIRS.get(str(source.header["size"]))
    if theirs is None or source.patch_size != 16:
        return [
            "import torch",
            f'state = torch.load({quoted(path)}, map_location="cpu", weights_only=True)["model"]',
        ]
    pixels = source.image_size
    return [
        f"python main_finetune.py --model {theirs} --finetune {shlex.quote(str(path))} "
        f"--input_size {pixels}"
    ]


def usage_code(source: SourceRun, folder: Path) -> list[str]:  # noqa: ARG001 (as all targets)
    """Return the code that goes on from there."""
    return []


def notes(source: SourceRun) -> list[str]:
    """Return what a user of the export should know."""
    lines = [
        "RETFound's fine-tuning begins with a fresh norm behind the mean and leaves `norm` unused",
        "RETFound's code of 2025 takes --finetune for a name on the hub: there put the path in the "
        "place of its hf_hub_download(...)",
        "the file holds tensors alone: torch.load reads it with weights_only=True, too",
    ]
    size = str(source.header["size"])
    if size not in _THEIRS:
        lines.append(f"models_vit.py of RETFound and MAE has no {size} ViT: write its line there")
    return lines
