"""Weights in and out: exported files of a run, and third-party encoders with a load report.

Our files are safetensors whose header says how to build the network again; no pickle is executed.
"""

import logging
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, cast

import timm
import torch
from timm.layers import resample_abs_pos_embed
from torch import Tensor, nn

from maskedclip.models.checkpoints.architectures import (
    Architecture,
    Depth,
    Network,
    Pool,
    build_network,
    check_depth,
    check_rotary,
    family_of,
    from_eva_names,
    has_pooled_norm,
    infer_architecture,
    known_depth,
    plain_architecture,
    position_grid,
    prefix_positions,
    to_eva_names,
)
from maskedclip.models.checkpoints.files import (
    ENCODER,
    MODEL,
    RANDOM,
    STATED,
    Weights,
    export,
    read_checkpoint,
    read_safetensors,
)
from maskedclip.models.checkpoints.formats import (
    Family,
    Preparation,
    WeightFormat,
    format_of,
    formats,
    has_stated_normalisation,
    stated_depth,
    states_quick_gelu,
    training_datasets,
    with_stated_normalisation,
)
from maskedclip.models.checkpoints.key_mapping import rotary_of, to_timm_names
from maskedclip.models.checkpoints.load_report import LoadReport, load_into
from maskedclip.models.maskedclip import SIZES, MaskedCLIP

logger = logging.getLogger(__name__)
__all__ = [
    "ENCODER",
    "MODEL",
    "RANDOM",
    "EncoderInfo",
    "LoadReport",
    "Network",
    "begin_from",
    "check_start",
    "encoder_info",
    "export",
    "load_encoder",
    "random_info",
    "read_weights",
    "recognise",
    "say_once",
    "training_datasets",
]  # fmt: skip


class EncoderInfo(NamedTuple):
    """What is known of an encoder: how it is built, its preprocessing, its pre-training data."""

    architecture: Architecture
    preparation: Preparation
    format: str  # name of its WeightFormat; empty: ours
    trained_on: tuple[str, ...]  # datasets of ours


class Recognised(NamedTuple):
    """The encoder in a file of weights, under timm's names, and what is known of it."""

    tensors: dict[str, Tensor]
    others: list[str]  # what else the file holds
    info: EncoderInfo


def read_weights(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors of an exported file and the model configuration in its header.

    Raises ValueError where the file is missing or is not one that `export` wrote.
    """
    if path.is_dir():
        raise ValueError(f"{path}: a folder, where a file of weights is wanted")
    if not path.is_file():
        raise ValueError(f"{path}: no such file; let the run end, or name its directory")
    return read_safetensors(path)


def recognise(weights: Weights) -> Recognised:
    """Return the encoder in a file of weights; ValueError where there is none that we can build.

    The header of our own files says what it is. Third-party weights are recognised by their tensors
    and their name; mean and deviation are those of the configuration beside the file, if any.
    """
    header = weights.header
    try:
        tensors, others = to_timm_names(weights.tensors)
        family = family_of(tensors)
        if header:
            saw = tuple(header.get("saw", ()))
            format = WeightFormat(header.get("form", ""), family=family, trained_on=saw)
        else:
            format = _format(weights, tensors, family)
        heads = SIZES[header["size"]].heads if header.get("size") in SIZES else 0
        check_depth(tensors, family, _depth(weights, tensors))
        architecture = header.get("network") or infer_architecture(tensors, format, heads)
        architecture = architecture | {"pooled_norm": has_pooled_norm(tensors)}
        check_rotary(rotary_of(weights.tensors), architecture)
        if family == "eva":
            _check_base(weights.sidecar)
        _check_finite(tensors)
    except ValueError as error:
        raise ValueError(f"{weights.name}: {error}") from error
    tensors = {k: v.float() if v.is_floating_point() else v for k, v in tensors.items()}
    if family == "eva":
        tensors = to_eva_names(tensors)
    grid = position_grid(tensors, architecture) if family == "vit" else 0
    preparation = _preparation(weights, format, grid * architecture.get("patch_size", 0))
    stated_pool = weights.sidecar.get(STATED, {}).get("pool")
    if stated_pool == "cls" and family == "resnet50":
        raise ValueError(f"{weights.name}{STATED}: pool cls: a ResNet has no class token")
    if not header and (stated_pool or format.pool) == "cls":
        architecture |= {"pool": "cls"}
    info = EncoderInfo(architecture, preparation, format.name, format.trained_on)
    return Recognised(tensors, others, info)


def _preparation(weights: Weights, format: WeightFormat, own_size: int) -> Preparation:
    """Return what is done to images: as the header has it, the form, or a file beside the weights.

    What is guessed of a form that is not known is said once.

    Args:
        own_size: pixels that the positions are for; 0 where there are none.
    """
    header = weights.header
    if header:
        preparation = Preparation(int(header.get("image_size", 224)))
        fields: dict[str, Any] = header.get("preparation", {})
        fields = {key: tuple(v) if isinstance(v, list) else v for key, v in fields.items()}
        return preparation._replace(**fields)
    stated, beside = weights.sidecar or _of_timm(weights.name), weights.sidecar.get(STATED, {})
    preparation = with_stated_normalisation(format.preparation, stated)
    size = beside.get("image_size") or preparation.image_size or own_size
    preparation = preparation._replace(image_size=size or Preparation().image_size)
    if not format.is_known and not has_stated_normalisation(stated):
        by_positions = bool(own_size) and not beside.get("image_size")
        _say_guess(weights, preparation, by_positions=by_positions)
    return preparation


def _format(weights: Weights, tensors: Mapping[str, Tensor], family: Family) -> WeightFormat:
    """Return the card of third-party weights; where others fit as well, they are said once."""
    lines = _lines(weights.tensors) + [f"encoder {line}" for line in _lines(tensors)]
    stated = weights.sidecar.get(STATED, {}).get("form", "")
    found, rivals = format_of(weights.name, family, lines, stated)
    if rivals:
        names = " and ".join(formats()[rival].name for rival in rivals)
        say_once(
            f"{weights.name}: read as {found.name} by its tensors, which {names} may have too; if "
            f"it is not {found.name}, state it in {weights.file.name}{STATED} beside it, such as "
            f'{{"form": "{rivals[0]}"}}'
        )
    quick_gelu = states_quick_gelu(weights.sidecar)
    return found if quick_gelu is None else found._replace(quick_gelu=quick_gelu)


def _lines(tensors: Mapping[str, Tensor]) -> list[str]:
    """Return tensors by name and shape, as cards look for them."""
    return [f"{name} {'x'.join(map(str, tensor.shape))}" for name, tensor in tensors.items()]


_said: set[str] = set()  # a file is recognised several times in a command


def say_once(line: str) -> None:
    """Log what is guessed of weights, the first time."""
    if line not in _said:
        _said.add(line)
        logger.warning("%s", line)


def _say_guess(weights: Weights, preparation: Preparation, *, by_positions: bool) -> None:
    name, size = f"{weights.file.name}{STATED}", preparation.image_size
    size_words = f"{size} px (its positions')" if by_positions else f"{size} px"
    pool = weights.sidecar.get(STATED, {}).get("pool", "mean")
    line = (
        f"{weights.name}: of no known form; guessed: ImageNet's colours (mean "
        f"{_numbers(preparation.mean)}, deviation {_numbers(preparation.std)}), {size_words}, "
        f"pooling by {'[CLS]' if pool == 'cls' else 'the mean over the image'}; if it was trained "
        f'otherwise, state it in {name} beside it, such as {{"mean": [0.5, 0.5, 0.5], "std": '
        f'[0.5, 0.5, 0.5], "image_size": {size}, "pool": "cls"}}'
    )
    say_once(line)


def _numbers(values: Iterable[float]) -> str:
    return " ".join(f"{value:g}" for value in values)


def _depth(weights: Weights, tensors: Mapping[str, Tensor]) -> Depth:
    """Return the blocks that an encoder should have: by header, configuration beside it, width."""
    header, sidecar = weights.header, weights.sidecar
    stated = sidecar.get(STATED, {}).get("depth") or stated_depth(sidecar)
    if header:
        blocks = header.get("network", {}).get("depth", 0)
        if header.get("size") in SIZES:
            blocks = SIZES[header["size"]].depth
        return Depth(
            blocks, "the encoder that its header describes", "copy it again, or export it anew"
        )
    if stated:
        return Depth(stated, "the encoder that the configuration beside it describes")
    return known_depth(tensors)._replace(stated_in=weights.file.name + STATED)


def _check_finite(tensors: Mapping[str, Tensor]) -> None:
    """Raise ValueError where an encoder has values that are no numbers."""
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise ValueError(
                f"{name} holds values that are no finite numbers: its training diverged, or it is "
                f"damaged; take earlier weights"
            )


def _check_base(sidecar: Mapping[str, Any]) -> None:
    """Raise ValueError where transformers' config.json states rotary positions of another base."""
    stated = sidecar.get("rope_parameters")
    base = (stated if isinstance(stated, dict) else sidecar).get("rope_theta", 100)
    if base != 100:
        raise ValueError(
            f"config.json beside it: rope_theta {base}; rotary positions are read with base 100 "
            f"alone; give weights of that"
        )


def encoder_info(network: nn.Module) -> EncoderInfo:
    """Return what is known of a network that `load_encoder` made."""
    return cast(EncoderInfo, network.__dict__["encoder_info"])


def random_info(size: str) -> EncoderInfo:
    """Return what is known of an untrained encoder of one of our sizes."""
    kind = SIZES[size]
    architecture = plain_architecture(kind.width, kind.depth, kind.heads)
    return EncoderInfo(architecture, Preparation(), "", ())


def untrained_network(
    info: EncoderInfo,
    *,
    image_size: int = 0,
    num_classes: int = 0,
    drop_path: float = 0.0,
    global_pool: Pool = "avg",
) -> Network:
    """Return the untrained network, with `info` and timm's own configuration attached."""
    size = image_size or info.preparation.image_size
    network = build_network(
        info.architecture,
        image_size=size,
        num_classes=num_classes,
        drop_path=drop_path,
        global_pool=global_pool,
    )
    preparation = info.preparation._replace(image_size=size)
    timms = {
        "input_size": (3, size, size),
        "mean": preparation.mean,
        "std": preparation.std,
        "crop_pct": 1 / preparation.resize,
        "interpolation": preparation.interpolation,
    }
    info = info._replace(preparation=preparation)
    network.__dict__.update(encoder_info=info, pretrained_cfg=timms)
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

    path is a run directory, an encoder.safetensors, a file of third-party weights that a card
    knows, the name of one at Hugging Face or timm that is in the cache, or "random" (an untrained
    encoder of `size`). image_size 0 is the weights' own; positions are resampled to it. global_pool
    is timm's: "avg" puts a fresh norm after the mean of the patch tokens (MAE's fine-tuning),
    "token" and "" keep the encoder's own final norm. Raises ValueError where the file cannot serve,
    or gives less than all of the encoder.
    """
    source = str(path)
    recognised = None if source == RANDOM else recognise(read_checkpoint(path))
    network = untrained_network(
        recognised.info if recognised else random_info(size),
        image_size=image_size,
        num_classes=num_classes,
        drop_path=drop_path,
        global_pool=global_pool,
    )
    if recognised is None:
        return network, LoadReport(source, [], [], [], 0.0)
    architecture, tensors = recognised.info.architecture, recognised.tensors
    reshaped = []
    position_1ND = tensors.get("pos_embed")
    grid = encoder_info(network).preparation.image_size // architecture.get("patch_size", 1)
    if position_1ND is not None and grid != position_grid(tensors, architecture):
        tensors["pos_embed"] = resample_abs_pos_embed(
            position_1ND, [grid, grid], num_prefix_tokens=prefix_positions(architecture)
        )
        reshaped = ["pos_embed"]
    report = load_into(
        network,
        tensors,
        source=source,
        format=recognised.info.format,
        trained_on=recognised.info.trained_on,
        others=recognised.others,
        reshaped=reshaped,
        keep=("fc_norm.",) if architecture.get("pooled_norm") and global_pool != "avg" else (),
    )
    return network, report


def begin_from(model: MaskedCLIP, path: str | Path) -> LoadReport:
    """Put the weights of `path` into a network that is not yet trained, nor sharded.

    path is a run directory or a model.safetensors, of which everything is taken, or an encoder as
    `load_encoder` reads it. Its positions stay fixed, the class token's is added to the token
    itself; layer scale is folded into the weights that it follows, and another normalisation than
    ours into the patch embedding. Raises ValueError where one tensor of the encoder (of a whole
    network: of all) is missing or has another shape, or where the encoder has modules that ours
    lacks.
    """
    weights = read_checkpoint(path, (MODEL, ENCODER))
    tensors, format = weights.tensors, ""
    trained_on: tuple[str, ...] = ()
    if not _is_whole(weights):
        recognised = recognise(weights)
        _check_kind(recognised, str(path))
        _, _, format, trained_on = recognised.info
        tensors = {f"encoder.{k}": v for k, v in _as_ours(recognised, model).items()}
    wanted = model.state_dict()
    ours = _geometry(wanted)
    assert ours is not None
    image_size = math.isqrt(model.encoder.patches) * ours.patch
    _check_geometry(tensors, ours, image_size, str(path))
    begun = "encoder." if all(name.startswith("encoder.") for name in tensors) else ""
    fits = {k: v for k, v in tensors.items() if k in wanted and v.shape == wanted[k].shape}
    report = LoadReport(
        source=str(path),
        matched=sorted(fits),
        missing=sorted(name for name in wanted if name.startswith(begun) and name not in fits),
        unexpected=sorted(set(tensors) - set(fits)),
        share=sum(fits[name].numel() for name in fits) / sum(v.numel() for v in wanted.values()),
        format=format,
        trained_on=trained_on,
    )
    if report.missing:
        raise ValueError(
            f"init_from {path}: has no {report.missing[0]} of shape "
            f"{tuple(wanted[report.missing[0]].shape)} ({len(report.missing)} are missing); name "
            f"weights of the same networks"
        )
    model.load_state_dict(fits, strict=False)
    return report


class _Geometry(NamedTuple):
    """What an encoder's weights have to have in common with the network that takes them."""

    width: int
    depth: int
    patch: int  # pixels of its side
    registers: int
    positions: str  # sine, of those that are added, or rotary


def check_start(
    path: str | Path,
    *,
    size: str,
    image_size: int,
    patch_size: int,
    registers: int,
    positions: str,
) -> None:
    """Raise ValueError where `begin_from` would refuse weights, or cannot read them.

    The others are what a model of ours is built from. No network is built.
    """
    weights = read_checkpoint(path, (MODEL, ENCODER))
    tensors = weights.tensors
    if not _is_whole(weights):
        recognised = recognise(weights)
        _check_kind(recognised, str(path))
        tensors = {f"encoder.{name}": tensor for name, tensor in recognised.tensors.items()}
    kind = SIZES[size]
    ours = _Geometry(kind.width, kind.depth, patch_size, registers, positions)
    _check_geometry(tensors, ours, image_size, str(path))


def _is_whole(weights: Weights) -> bool:
    """Whether they are all networks of a run of ours."""
    return bool(weights.header) and any(name.startswith("encoder.") for name in weights.tensors)


def _check_geometry(
    tensors: Mapping[str, Tensor], ours: _Geometry, image_size: int, source: str
) -> None:
    """Raise ValueError, with the flags to set, where encoders differ in what they are built of."""
    theirs = _geometry(tensors)
    if theirs is None or theirs == ours:
        return
    sizes = [n for n, size in SIZES.items() if (size.width, size.depth) == theirs[:2]]
    what = f"init_from {source}: its encoder has {theirs.depth} blocks of width {theirs.width}"
    if not sizes:
        known = ", ".join(f"{name} {size.depth} of {size.width}" for name, size in SIZES.items())
        raise ValueError(f"{what}, and model.size none such ({known}); begin from another one")
    patch, others = theirs.patch, list[str]()
    what += f" and patches of {patch} pixels"
    if theirs.registers != ours.registers:
        what += f" and {theirs.registers} registers"
        others.append(f"--model.registers={theirs.registers}")
    if theirs.positions != ours.positions:
        what += f" and {theirs.positions} positions"
        others.append(f"--model.positions={theirs.positions}")
    if theirs[:3] != ours[:3]:
        others = [f"--model.size={sizes[0]}", f"--model.patch_size={patch}", *others]
    if image_size % patch:
        near = max(1, round(image_size / patch)) * patch
        others.append(f"--model.image_size={near} (or another multiple of {patch})")
    raise ValueError(f"{what}; set {' '.join(others)}")


def _geometry(tensors: Mapping[str, Tensor]) -> _Geometry | None:
    """Return the geometry of an encoder; None without one."""
    embedding = tensors.get("encoder.patch_embed.proj.weight")
    if embedding is None or embedding.ndim != 4:
        return None
    blocks = {name.split(".")[2] for name in tensors if name.startswith("encoder.blocks.")}
    register_1RD = tensors.get("encoder.reg_token")
    registers = 0 if register_1RD is None else register_1RD.shape[1]
    positions = "sine" if "encoder.pos_embed" in tensors else "rotary"
    return _Geometry(embedding.shape[0], len(blocks), embedding.shape[-1], registers, positions)


def _check_kind(recognised: Recognised, source: str) -> None:
    """Raise ValueError where an encoder has modules that ours lacks."""
    architecture, plain = recognised.info.architecture, plain_architecture(0, 0, 0)
    resnet = architecture["family"] == "resnet50"
    for field in ("family",) if resnet else ("mlp", "activation", "pre_norm"):
        theirs = architecture[field]
        if theirs != plain[field]:
            raise ValueError(
                f"init_from {source}: {recognised.info.format or 'its encoder'} has {field} "
                f"{theirs!r} and ours {plain[field]!r}; begin from a plain ViT such as "
                f"MAE, RETFound or ImageNet-21K"
            )


def _as_ours(recognised: Recognised, model: MaskedCLIP) -> dict[str, Tensor]:
    """Return tensors that give in our encoder what the encoder's own give in its own network."""
    architecture, tensors = recognised.info.architecture, dict(recognised.tensors)
    if architecture["family"] == "eva":
        tensors = from_eva_names(tensors)
    _fold_layer_scale(tensors)
    for number in range(architecture["depth"]):  # a bias that is left out is zero
        stem = f"blocks.{number}.attn.qkv"
        weight_ED = tensors[f"{stem}.weight"]
        tensors.setdefault(f"{stem}.bias", weight_ED.new_zeros(len(weight_ED)))
    if "pos_embed" in tensors:
        _fit_positions(tensors, architecture, math.isqrt(model.encoder.patches))
    _fold_normalisation(tensors, recognised.info.preparation)
    return tensors


def _fit_positions(tensors: dict[str, Tensor], architecture: Architecture, grid: int) -> None:
    """Resample positions to a grid; those of [CLS] and registers are added to these for good."""
    prefix = prefix_positions(architecture)
    position_1ND = resample_abs_pos_embed(
        tensors["pos_embed"], [grid, grid], num_prefix_tokens=prefix
    )
    before_1RD, position_1ND = position_1ND[:, :prefix], position_1ND[:, prefix:]
    if prefix:
        tensors["cls_token"] = tensors["cls_token"] + before_1RD[:, :1]
    if prefix > 1:
        tensors["reg_token"] = tensors["reg_token"] + before_1RD[:, 1:]
    if not architecture["registers"]:
        position_1ND = torch.cat([torch.zeros_like(position_1ND[:, :1]), position_1ND], dim=1)
    tensors["pos_embed"] = position_1ND


def _fold_layer_scale(tensors: dict[str, Tensor]) -> None:
    """Let layer scale be part of the weights that it follows."""
    for name in [name for name in tensors if ".ls" in name and name.endswith(".gamma")]:
        stem = name.replace(".ls1.gamma", ".attn.proj").replace(".ls2.gamma", ".mlp.fc2")
        gamma_D = tensors.pop(name)
        tensors[f"{stem}.weight"] = gamma_D[:, None] * tensors[f"{stem}.weight"]
        tensors[f"{stem}.bias"] = gamma_D * tensors[f"{stem}.bias"]


def _fold_normalisation(tensors: dict[str, Tensor], theirs: Preparation) -> None:
    """Let the patch embedding take images normalised as ours are.

    x_theirs = (x_ours * std + mean - mean') / std'.
    """
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


def _of_timm(name: str) -> dict[str, Any]:
    """Return timm's own configuration of weights under its name, empty for other names."""
    if not timm.is_model(name.split(".")[0]):
        return {}
    config = timm.get_pretrained_cfg(name, allow_unregistered=True)
    return {"mean": config.mean, "std": config.std} if config else {}
