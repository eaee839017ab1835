"""Weights as RETFound and MAE hand theirs out: {"model": state dict} in a .pth, MAE's names.

Their loaders want a pickle; this one holds tensors alone, so weights_only=True reads it too.
"""

from pathlib import Path

import torch
from timm.models.vision_transformer import VisionTransformer

from maskedclip.weights.source_run import (
    Check,
    Subject,
    examples,
    furthest,
    own_features,
    prepared,
)

_THEIRS = {"base": "vit_base_patch16", "large": "vit_large_patch16"}  # of models_vit.py


def file_name(subject: Subject) -> str:
    """Return the name of the .pth: the run's."""
    return f"{subject.name}.pth"


def write(subject: Subject, folder: Path, final: Path) -> None:  # noqa: ARG001 (as all targets)
    """Write the .pth."""
    torch.save({"model": subject.encoder}, folder / file_name(subject))


@torch.no_grad()
def checks(subject: Subject, folder: Path) -> list[Check]:
    """Return how far the features of RETFound's network are from the run's.

    Its fine-tuning pools before a fresh norm; here the file's own norm is kept before the mean.
    """
    content = torch.load(folder / file_name(subject), map_location="cpu", weights_only=True)
    kind = subject.size
    network = VisionTransformer(
        img_size=subject.image_size,
        patch_size=subject.patch_size,
        embed_dim=kind.width,
        depth=kind.depth,
        num_heads=kind.heads,
        num_classes=0,
    )
    network.load_state_dict(content["model"])
    image_BCHW = prepared(examples(), subject.image_size)
    mean_BD = network.eval().forward_features(image_BCHW)[:, 1:].mean(dim=1)
    return [Check("features", furthest(mean_BD, own_features(subject, image_BCHW)))]


def opening(subject: Subject, folder: Path) -> list[str]:
    """Return the command of theirs that opens the export, or code where they have none."""
    path = folder / file_name(subject)
    theirs = _THEIRS.get(str(subject.header["size"]))
    if theirs is None or subject.patch_size != 16:
        return [
            "import torch",
            f'state = torch.load("{path}", map_location="cpu", weights_only=True)["model"]',
        ]
    pixels = subject.image_size
    return [f"python main_finetune.py --model {theirs} --finetune {path} --input_size {pixels}"]


def using(subject: Subject, folder: Path) -> list[str]:  # noqa: ARG001 (as all targets)
    """Return the code that goes on from there."""
    return []


def remarks(subject: Subject) -> list[str]:
    """Return what a user of the export should know."""
    found = [
        "RETFound's fine-tuning begins with a fresh norm behind the mean and leaves `norm` unused",
        "RETFound's code of 2025 takes --finetune for a name on the hub: there put the path in the "
        "place of its hf_hub_download(...)",
        "the file holds tensors alone: torch.load reads it with weights_only=True, too",
    ]
    size = str(subject.header["size"])
    if size not in _THEIRS:
        found.append(f"models_vit.py of RETFound and MAE has no {size} ViT: write its line there")
    return found
