"""Weights in and out: exported files of a run, and encoders of anyone's with an audit.

Our files are safetensors whose header says how to build the network again; no pickle is executed.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, cast

import timm
import torch
from safetensors.torch import save_file
from timm.layers import resample_abs_pos_embed
from torch import Tensor, nn

from maskedclip.models.checkpoints import files as foreign_files
from maskedclip.models.checkpoints.architectures import (
    Facts,
    Network,
    Pool,
    build_network,
    eva_names,
    facts_of,
    family_of,
    grid_of,
    has_pooled_norm,
    placed,
    plain_facts,
)
from maskedclip.models.checkpoints.files import ENCODER, MODEL, RANDOM, Weights
from maskedclip.models.checkpoints.formats import (
    Card,
    Preparation,
    card_of,
    contaminated,
    told_apart,
)
from maskedclip.models.checkpoints.key_mapping import timm_layout
from maskedclip.models.checkpoints.load_report import LoadReport, Origin, put
from maskedclip.models.maskedclip import SIZES, MaskedCLIP

__all__ = [
    "ENCODER", "MODEL", "RANDOM", "Carried", "LoadReport", "Network", "begin_from", "carried",
    "contaminated", "export", "load_encoder", "read_weights", "recognise",
]  # fmt: skip


class Carried(NamedTuple):
    """What goes with a loaded network: how it is built, and what it wants done to images."""

    facts: Facts
    preparation: Preparation
    form: str  # its card; empty: ours
    saw: tuple[str, ...]  # datasets that it was trained on


class Recognised(NamedTuple):
    """The encoder in a file of weights, under timm's names, and what is known of it."""

    tensors: dict[str, Tensor]
    others: list[str]  # what else the file holds
    carried: Carried


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
    return foreign_files.read_safetensors(path)


def recognise(weights: Weights) -> Recognised:
    """Return the encoder in a file of anyone's; ValueError where there is none that we can build.

    What is ours says itself what it is. Of others it is told by the name that was given and by the
    tensors, and mean and deviation are those of the configuration beside the file, if there is one.
    """
    header = weights.header
    try:
        tensors, others = timm_layout(weights.tensors)
        family = family_of(tensors)
        card = (
            Card(header.get("form", ""), "", family=family, saw=tuple(header.get("saw", ())))
            if header
            else card_of(weights.name, family, _fingerprint(weights.tensors))
        )
        heads = SIZES[header["size"]].heads if header.get("size") in SIZES else 0
        facts = header.get("network") or facts_of(tensors, card, heads)
        facts = facts | {"pooled_norm": has_pooled_norm(tensors)}
    except ValueError as error:
        raise ValueError(f"{weights.name}: {error}") from error
    tensors = {k: v.float() if v.is_floating_point() else v for k, v in tensors.items()}
    if family == "eva":
        tensors = eva_names(tensors)
    preparation = told_apart(card.preparation, weights.beside or _of_timm(weights.name))
    if header:
        preparation = Preparation(int(header.get("image_size", 224)))
        said: dict[str, Any] = header.get("preparation", {})
        said = {key: tuple(v) if isinstance(v, list) else v for key, v in said.items()}
        preparation = preparation._replace(**said)
    if not preparation.image_size:
        size = grid_of(tensors, facts) * facts["patch_size"] if family == "vit" else 0
        preparation = preparation._replace(image_size=size or Preparation().image_size)
    return Recognised(tensors, others, Carried(facts, preparation, card.name, card.saw))


def carried(network: nn.Module) -> Carried:
    """Return what goes with a network that `load_encoder` made."""
    return cast(Carried, network.__dict__["carried"])


def of_random(size: str) -> Carried:
    """Return what goes with an untrained encoder of a size of ours."""
    kind = SIZES[size]
    facts = plain_facts(kind.width, kind.depth, kind.heads)
    return Carried(facts, Preparation(), "", ())


def network_of(
    goes_with: Carried,
    *,
    image_size: int = 0,
    num_classes: int = 0,
    drop_path: float = 0.0,
    global_pool: Pool = "avg",
) -> Network:
    """Return the untrained network; it carries the facts, as ours and as timm's configuration."""
    size = image_size or goes_with.preparation.image_size
    network = build_network(
        goes_with.facts,
        image_size=size,
        num_classes=num_classes,
        drop_path=drop_path,
        global_pool=global_pool,
    )
    preparation = goes_with.preparation._replace(image_size=size)
    timms = {
        "input_size": (3, size, size),
        "mean": preparation.mean,
        "std": preparation.std,
        "crop_pct": 1 / preparation.resize,
        "interpolation": preparation.interpolation,
    }
    goes_with = goes_with._replace(preparation=preparation)
    network.__dict__.update(carried=goes_with, pretrained_cfg=timms)
    return network


def load_encoder(
    path: str | Path,
    *,
    image_size: int = 0,
    num_classes: int = 0,
    drop_path: float = 0.0,
    global_pool: Pool = "avg",
    size: str = "large",
) -> tuple[Network, LoadReport]:
    """Return a network of timm with the encoder of `path`, and the report of what was loaded.

    path is a run directory, an encoder.safetensors, a file of one of the forms in `foreign.py`, the
    name of one at Hugging Face or timm that is in the cache, or "random" (an untrained encoder of
    `size`). image_size 0 is the weights' own; positions are resampled to it. global_pool is timm's:
    "avg" puts a fresh norm after the mean of the patch tokens (MAE's fine-tuning), "token" and ""
    keep the encoder's own final norm. Raises ValueError where the file cannot serve, or gives less
    than 95 % of the encoder.
    """
    source = str(path)
    found = None if source == RANDOM else recognise(foreign_files.read(path))
    network = network_of(
        found.carried if found else of_random(size),
        image_size=image_size,
        num_classes=num_classes,
        drop_path=drop_path,
        global_pool=global_pool,
    )
    if found is None:
        return network, LoadReport(source, [], [], [], 0.0)
    facts, tensors = found.carried.facts, found.tensors
    reshaped = []
    position_1ND = tensors.get("pos_embed")
    grid = carried(network).preparation.image_size // facts.get("patch_size", 1)
    if position_1ND is not None and grid != grid_of(tensors, facts):
        tensors["pos_embed"] = resample_abs_pos_embed(
            position_1ND, [grid, grid], num_prefix_tokens=placed(facts)
        )
        reshaped = ["pos_embed"]
    _, _, form, saw = found.carried
    origin = Origin(source, form, saw, found.others, reshaped)
    keep = ("fc_norm.",) if facts.get("pooled_norm") and global_pool != "avg" else ()
    return network, put(network, tensors, origin, keep)


def begin_from(model: MaskedCLIP, path: str | Path) -> LoadReport:
    """Put the weights of `path` into a network that is not yet trained, nor sharded.

    path is a run directory or a model.safetensors, of which everything is taken, or an encoder as
    `load_encoder` reads it. Its positions stay fixed, the class token's is added to the token
    itself; layer scale goes into the weights that it follows, and other colours than ours into the
    patch embedding. Raises ValueError where one tensor of the encoder (of a whole network: of all)
    is missing or has another shape, or where the encoder has parts that ours has not.
    """
    weights = foreign_files.read(path, (MODEL, ENCODER))
    tensors, form = weights.tensors, ""
    saw: tuple[str, ...] = ()
    if not (weights.header and any(name.startswith("encoder.") for name in tensors)):
        found = recognise(weights)
        _, _, form, saw = found.carried
        tensors = {f"encoder.{k}": v for k, v in _as_ours(found, model, str(path)).items()}
    wanted = model.state_dict()
    begun = "encoder." if all(name.startswith("encoder.") for name in tensors) else ""
    fits = {k: v for k, v in tensors.items() if k in wanted and v.shape == wanted[k].shape}
    report = LoadReport(
        source=str(path),
        matched=sorted(fits),
        missing=sorted(name for name in wanted if name.startswith(begun) and name not in fits),
        unexpected=sorted(set(tensors) - set(fits)),
        share=sum(fits[name].numel() for name in fits) / sum(v.numel() for v in wanted.values()),
        form=form,
        saw=saw,
    )
    if report.missing:
        raise ValueError(
            f"init_from {path}: has no {report.missing[0]} of shape "
            f"{tuple(wanted[report.missing[0]].shape)} ({len(report.missing)} are missing); name "
            f"weights of model.size and model.patch_size"
        )
    model.load_state_dict(fits, strict=False)
    return report


def _as_ours(found: Recognised, model: MaskedCLIP, source: str) -> dict[str, Tensor]:
    """Return an encoder's tensors that give in our encoder what they give in their own."""
    facts, tensors = found.carried.facts, dict(found.tensors)
    plain = plain_facts(0, 0, 0)
    parts = ("family", "mlp", "activation", "qkv_bias", "registers", "class_position", "pre_norm")
    for part in parts:
        if facts[part if facts["family"] != "resnet50" else "family"] != plain[part]:
            raise ValueError(
                f"init_from {source}: {found.carried.form or 'its encoder'} has {part} "
                f"{facts.get(part)!r} and ours {plain[part]!r}; begin from a plain ViT such as "
                f"MAE, RETFound or ImageNet-21K"
            )
    for name in [name for name in tensors if ".ls" in name and name.endswith(".gamma")]:
        stem = name.replace(".ls1.gamma", ".attn.proj").replace(".ls2.gamma", ".mlp.fc2")
        gamma_D = tensors.pop(name)
        tensors[f"{stem}.weight"] = gamma_D[:, None] * tensors[f"{stem}.weight"]
        tensors[f"{stem}.bias"] = gamma_D * tensors[f"{stem}.bias"]
    grid = math.isqrt(model.encoder.pos_embed.shape[1] - 1)
    position = resample_abs_pos_embed(tensors["pos_embed"], [grid, grid])
    tensors["cls_token"] = tensors["cls_token"] + position[:, :1]
    tensors["pos_embed"] = torch.cat([torch.zeros_like(position[:, :1]), position[:, 1:]], dim=1)
    _recolour(tensors, found.carried.preparation)
    return tensors


def _recolour(tensors: dict[str, Tensor], theirs: Preparation) -> None:
    """Let the patch embedding take our colours: x_theirs = (x_ours * std + mean - mean') / std'."""
    ours = Preparation()
    if (theirs.mean, theirs.std) == (ours.mean, ours.std):
        return
    mean_C, std_C = torch.tensor(ours.mean), torch.tensor(ours.std)
    mean_their_C, std_their_C = torch.tensor(theirs.mean), torch.tensor(theirs.std)
    weight_DCHW = tensors["patch_embed.proj.weight"]
    shift_C = (mean_C - mean_their_C) / std_their_C
    tensors["patch_embed.proj.bias"] = tensors["patch_embed.proj.bias"] + torch.einsum(
        "dchw,c->d", weight_DCHW, shift_C
    )
    tensors["patch_embed.proj.weight"] = weight_DCHW * (std_C / std_their_C)[:, None, None]


def _fingerprint(tensors: Mapping[str, Tensor]) -> list[str]:
    return [f"{name} {tensor.shape[0] if tensor.ndim else 0}" for name, tensor in tensors.items()]


def _of_timm(name: str) -> dict[str, Any]:
    """Return timm's own configuration of weights that go by its name, empty for others."""
    if not timm.is_model(name.split(".")[0]):
        return {}
    found = timm.get_pretrained_cfg(name, allow_unregistered=True)
    return {"mean": found.mean, "std": found.std} if found else {}
