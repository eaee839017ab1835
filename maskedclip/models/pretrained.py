"""Weights in and out: exported files of a run, and encoders for fine-tuning with an audit.

Our files are safetensors whose header says how to build the network again; no pickle is executed.
"""

import json
import math
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from timm.layers import resample_abs_pos_embed
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from maskedclip.models.maskedclip import SIZES, MaskedCLIP

ENCODER, MODEL, RANDOM = "encoder.safetensors", "model.safetensors", "random"
_ENOUGH = 0.95  # share of an encoder's values below which loading is refused


@dataclass(frozen=True)
class LoadReport:
    """What became of the encoder's parameters."""

    source: str
    matched: list[str]
    missing: list[str]  # in the network, not in the file: left at their first values
    unexpected: list[str]  # in the file, not in the network: not used
    share: float  # of the network's values (a fresh head left out) that the file gave

    def __str__(self) -> str:
        if self.source == RANDOM:
            return "an untrained encoder"
        return (
            f"{self.source}: {len(self.matched)} tensors loaded, {self.share:.1%} of the network; "
            f"missing {', '.join(self.missing) or 'none'}; "
            f"unexpected {', '.join(self.unexpected) or 'none'}"
        )


def export(weights: Mapping[str, Tensor], shape: Mapping[str, Any], run: Path) -> None:
    """Write encoder.safetensors (timm's names) and model.safetensors (everything) into `run`.

    `shape` holds the model's configuration; both headers carry it as JSON under "maskedclip".
    """
    header = {"format": "pt", "maskedclip": json.dumps(dict(shape), sort_keys=True)}
    whole = {name: tensor.contiguous() for name, tensor in weights.items()}
    prefix = "encoder."
    encoder = {k.removeprefix(prefix): v for k, v in whole.items() if k.startswith(prefix)}
    for name, tensors in ((ENCODER, encoder), (MODEL, whole)):
        temporary = run / (name + ".tmp")
        save_file(tensors, temporary, metadata=header)
        temporary.replace(run / name)


def read_weights(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors of an exported file and the model configuration in its header.

    Raises ValueError where the file is missing or is not one that `export` wrote.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such file; let the run end, or name its directory")
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path}: not a whole safetensors file ({error})") from error
    return tensors, json.loads(header.get("maskedclip", "{}"))


def load_encoder(
    path: str | Path,
    *,
    image_size: int = 224,
    num_classes: int = 0,
    drop_path: float = 0.0,
    global_pool: Literal["", "avg", "token"] = "avg",
    size: str = "large",
) -> tuple[VisionTransformer, LoadReport]:
    """Return a timm ViT with the encoder of `path`, and the report of what was loaded.

    path is a run directory, an encoder.safetensors, a MAE or RETFound .pth, or "random" (an
    untrained encoder of `size`). global_pool is timm's: "avg" puts a fresh norm after the mean of
    the patch tokens (MAE's fine-tuning), "token" and "" keep the encoder's own final norm.
    Positions are resampled to image_size. Raises ValueError where the file cannot serve, or gives
    less than 95 % of the encoder.
    """
    source = str(path)
    tensors, shape = ({}, {"size": size}) if source == RANDOM else _read_any(Path(path))
    kind = SIZES[shape["size"]] if "size" in shape else _guess(tensors, source)
    patch_size = int(shape.get("patch_size", 16))
    if image_size % patch_size:
        raise ValueError(f"image_size {image_size} is not a multiple of {patch_size}, the patch")
    model = VisionTransformer(
        img_size=image_size,
        patch_size=patch_size,
        embed_dim=kind.width,
        depth=kind.depth,
        num_heads=kind.heads,
        num_classes=num_classes,
        drop_path_rate=drop_path,
        global_pool=global_pool,
    )
    if source == RANDOM:
        return model, LoadReport(source, [], [], [], 0.0)
    if "pos_embed" in tensors:
        grid = image_size // patch_size
        tensors["pos_embed"] = resample_abs_pos_embed(tensors["pos_embed"], [grid, grid])
    return model, _load(model, tensors, source)


def begin_from(model: MaskedCLIP, path: str | Path) -> LoadReport:
    """Put the weights of `path` into a network that is not yet trained, nor sharded.

    path is a run directory or a model.safetensors, of which everything is taken, or an encoder as
    `load_encoder` reads it: MAE's, RETFound's, timm's ImageNet ones, an encoder.safetensors. Their
    positions stay fixed, the class token's is added to the token itself. Raises ValueError where
    one tensor of the encoder (of a whole network: of all) is missing or has another shape.
    """
    source = Path(path)
    tensors, _ = _read_any(source / MODEL if source.is_dir() else source)
    if not any(name.startswith("encoder.") for name in tensors):
        tensors = {f"encoder.{name}": value for name, value in _fixed(tensors, model).items()}
    wanted = model.state_dict()
    begun = "encoder." if all(name.startswith("encoder.") for name in tensors) else ""
    fits = {k: v for k, v in tensors.items() if k in wanted and v.shape == wanted[k].shape}
    report = LoadReport(
        source=str(path),
        matched=sorted(fits),
        missing=sorted(name for name in wanted if name.startswith(begun) and name not in fits),
        unexpected=sorted(set(tensors) - set(fits)),
        share=sum(fits[name].numel() for name in fits) / sum(v.numel() for v in wanted.values()),
    )
    if report.missing:
        raise ValueError(
            f"init_from {path}: has no {report.missing[0]} of shape "
            f"{tuple(wanted[report.missing[0]].shape)} ({len(report.missing)} are missing); name "
            f"weights of model.size and model.patch_size"
        )
    model.load_state_dict(fits, strict=False)
    return report


def _fixed(tensors: dict[str, Tensor], model: MaskedCLIP) -> dict[str, Tensor]:
    """Return an encoder's tensors with its positions as ours are: of our grid, none for [CLS]."""
    if "pos_embed" not in tensors or "cls_token" not in tensors:
        return tensors
    grid = math.isqrt(model.encoder.pos_embed.shape[1] - 1)
    position = resample_abs_pos_embed(tensors["pos_embed"].float(), [grid, grid])
    return tensors | {
        "cls_token": tensors["cls_token"] + position[:, :1],
        "pos_embed": torch.cat([torch.zeros_like(position[:, :1]), position[:, 1:]], dim=1),
    }


def _load(model: VisionTransformer, tensors: dict[str, Tensor], source: str) -> LoadReport:
    wanted = model.state_dict()
    # made anew for the task: MAE drops the final norm where it pools patches
    fresh = {name for name in wanted if name.startswith(("head.", "fc_norm."))}
    fits = {k: v for k, v in tensors.items() if k in wanted and v.shape == wanted[k].shape}
    fits = {name: tensor for name, tensor in fits.items() if name not in fresh}
    encoder = {name: tensor.numel() for name, tensor in wanted.items() if name not in fresh}
    share = sum(encoder[name] for name in fits) / sum(encoder.values())
    report = LoadReport(
        source=source,
        matched=sorted(fits),
        missing=sorted(set(encoder) - set(fits)),
        unexpected=sorted(set(tensors) - set(fits)),
        share=share,
    )
    if share < _ENOUGH:
        raise ValueError(f"{report}; this file is no encoder of that shape")
    model.load_state_dict(fits, strict=False)
    return report


def _read_any(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    if path.is_dir():
        return read_weights(path / ENCODER)
    if path.suffix == ".safetensors":
        return read_weights(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise ValueError(f"{path}: no such run or file of weights") from None
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise ValueError(
            f"{path}: holds more than tensors, or is damaged; convert it to safetensors first"
        ) from error
    tensors = content.get("model", content)
    decoder = ("decoder_", "mask_token")
    return {name: value for name, value in tensors.items() if not name.startswith(decoder)}, {}


def _guess(tensors: Mapping[str, Tensor], source: str) -> Any:
    """Return the row of SIZES that a foreign state dict has."""
    if "cls_token" not in tensors:
        raise ValueError(f"{source}: no cls_token among its tensors, so no ViT encoder")
    width = tensors["cls_token"].shape[-1]
    depth = len({name.split(".")[1] for name in tensors if name.startswith("blocks.")})
    for kind in SIZES.values():
        if (kind.width, kind.depth) == (width, depth):
            return kind
    raise ValueError(f"{source}: a ViT of width {width} and {depth} blocks is not known here")
