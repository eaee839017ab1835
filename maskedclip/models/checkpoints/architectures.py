"""The network that a state dict under timm's names is of, inferred from its shapes and built."""

import math
from collections.abc import Mapping
from functools import partial
from typing import Any, Literal, NamedTuple, cast

import timm
import torch
from timm.layers import LayerNorm, Mlp, SwiGLU, SwiGLUPacked, resample_abs_pos_embed
from timm.models.eva import Eva
from timm.models.resnet import ResNet
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from maskedclip.models.blocks import rotary_periods
from maskedclip.models.checkpoints.formats import Family, WeightFormat

Network = VisionTransformer | Eva | ResNet
Pool = Literal["", "avg", "token"]
Architecture = dict[str, Any]  # plain values, so that a header can hold them
# by width, where they are not of 64 channels: of ViT-H, -g and -bigG, and of DINOv3's 7B
_HEADS = {"vit": {1280: 16, 1408: 16, 1664: 16}, "eva": {4096: 32}}
# published depths by width: no shape shows that blocks at the end are missing
_DEPTHS = {
    192: ("ViT-Ti", 12), 384: ("ViT-S", 12), 768: ("ViT-B", 12), 1024: ("ViT-L", 24),
    1280: ("ViT-H", 32), 1408: ("ViT-g", 40), 1536: ("ViT-g", 40), 1664: ("ViT-bigG", 48),
    4096: ("ViT-7B", 40),
}  # fmt: skip
_ROUNDING = 0.025  # of published periods, of bf16: of the exponent up to 1.8 %, then of the power
_RESNET50 = (3, 4, 6, 3)  # blocks of its four stages
# of timm's vit_*_patch16_dinov3: what none of its sizes changes
DINOV3: dict[str, Any] = {
    "use_rot_pos_emb": True, "use_abs_pos_emb": False, "rope_type": "dinov3",
    "rope_temperature": 100.0, "rope_rotate_half": True, "use_fc_norm": False,
    "dynamic_img_size": True, "norm_layer": partial(LayerNorm, eps=1e-5),
}  # fmt: skip
_MLPS: dict[str, Any] = {"plain": Mlp, "packed": SwiGLUPacked, "gated": SwiGLU}


def family_of(tensors: Mapping[str, Tensor]) -> Family:
    """Return which kind of network has these tensors; ValueError where it is none of ours."""
    if "conv1.weight" in tensors:
        if "layer1.0.conv3.weight" not in tensors or "attnpool.positional_embedding" in tensors:
            raise ValueError("a ResNet other than torchvision's ResNet-50; use that, or a ViT")
        return "resnet50"
    if "patch_embed.proj.weight" not in tensors or "cls_token" not in tensors:
        raise ValueError("no cls_token or no patch_embed.proj among its tensors, so no ViT encoder")
    return "vit" if "pos_embed" in tensors else "eva"


class Depth(NamedTuple):
    """The blocks that an encoder is known to have, and of what; 0: it is not known."""

    blocks: int
    of: str
    fix: str = "copy or download it again"
    stated_in: str = ""  # file in which another depth can be stated


def known_depth(tensors: Mapping[str, Tensor]) -> Depth:
    """Return the depth of the published ViT that is as wide."""
    first = tensors.get("patch_embed.proj.weight")
    name, depth = _DEPTHS.get(0 if first is None else first.shape[0], ("ViT", 0))
    return Depth(depth, f"a {name}")


def check_depth(tensors: Mapping[str, Tensor], family: Family, depth: Depth) -> None:
    """Raise ValueError where an encoder's blocks are not those that it is known to have."""
    if family == "resnet50":
        found = [_numbers(tensors, f"layer{stage}.") for stage in range(1, 5)]
        wanted = [set(range(count)) for count in _RESNET50]
        count, whole = sum(map(len, found)), found == wanted
        depth = depth._replace(blocks=sum(_RESNET50), of="a ResNet-50")
    else:
        found = [_numbers(tensors, "blocks.")]
        count = len(found[0])
        whole = found[0] == set(range(depth.blocks or count))
    if whole:
        return
    if depth.blocks and count <= depth.blocks:
        what = f"holds {count} of the {depth.blocks} blocks of {depth.of}: cut, or another model"
    elif depth.blocks:
        what = f"holds {count} blocks and {depth.of} has {depth.blocks}: another model"
    else:
        what = f"holds {count} blocks and the last is number {max(found[0])}: some are missing"
    stated = f'{depth.stated_in} beside it: {{"depth": {count}}}' if depth.stated_in else ""
    raise ValueError(f"{what}; {depth.fix}" + (stated and f"; if it is whole, say so in {stated}"))


def _numbers(tensors: Mapping[str, Tensor], prefix: str) -> set[int]:
    """Return the numbers of the blocks whose names begin so; ValueError where one is no number."""
    names = {n.removeprefix(prefix).split(".")[0] for n in tensors if n.startswith(prefix)}
    try:
        return set(map(int, names))
    except ValueError:
        raise ValueError(f"{prefix}{max(names)} among its tensors: no block's number") from None


def infer_architecture(
    tensors: Mapping[str, Tensor], format: WeightFormat, heads: int = 0
) -> Architecture:
    """Return what `build` needs to make the network of these tensors.

    heads is their number where it is known: no shape shows it.
    """
    if format.family == "resnet50":
        return {"family": "resnet50"}
    if tensors["patch_embed.proj.weight"].ndim != 4:
        raise ValueError("patch_embed.proj.weight has not four axes, so no ViT encoder")
    width, _, patch_size, _ = tensors["patch_embed.proj.weight"].shape
    depth = len({name.split(".")[1] for name in tensors if name.startswith("blocks.")})
    first = tensors.get("blocks.0.mlp.fc1.weight")
    second = tensors.get("blocks.0.mlp.fc2.weight")
    if second is None or second.ndim != 2:
        raise ValueError("no blocks.0.mlp.fc2 of two axes among its tensors, so no ViT encoder")
    mlp = "gated" if first is None else "plain"
    if first is not None and first.shape[0] == 2 * second.shape[1]:
        mlp = "packed"
    hidden = second.shape[1] if first is None else first.shape[0]
    pre_norm = "norm_pre.weight" in tensors
    registers = tensors["reg_token"].shape[1] if "reg_token" in tensors else 0
    usual = _HEADS[format.family].get(width, max(1, width // 64))
    architecture = {
        "family": format.family,
        "patch_size": patch_size,
        "width": width,
        "depth": depth,
        "heads": heads or format.heads.get(width) or usual,
        "hidden": hidden,
        "mlp": mlp,
        "activation": "quick_gelu" if format.quick_gelu else "gelu",
        "qkv_bias": "blocks.0.attn.qkv.bias" in tensors,
        "layer_scale": "blocks.0.ls1.gamma" in tensors,
        "registers": registers,
        "class_position": format.family == "vit" and not _is_square(tensors["pos_embed"].shape[1]),
        "pre_norm": pre_norm,
        "epsilon": 1e-5 if pre_norm or format.family == "eva" else 1e-6,
        "pooled_norm": has_pooled_norm(tensors),
    }
    if format.family == "vit":
        _check_positions(tensors, architecture)
    return architecture


def _check_positions(tensors: Mapping[str, Tensor], architecture: Architecture) -> None:
    count = tensors["pos_embed"].shape[1] - prefix_positions(architecture)
    if tensors["pos_embed"].ndim != 3 or not _is_square(count):
        raise ValueError(
            f"pos_embed has positions for {count} patches, which make no square; give an encoder "
            f"of square images"
        )


def check_rotary(stored: Mapping[str, Tensor], architecture: Architecture) -> None:
    """Raise ValueError where what a file stores of rotary positions is not what we turn by.

    Args:
        stored: as `rotary_of` returns it: periods (DINOv3's own code), or one over them
            (`inv_freq`, transformers').
    """
    for name, tensor in stored.items():
        if architecture["family"] != "eva":
            raise ValueError(
                f"{name}: rotary positions besides added ones, which no encoder that is read has; "
                f"give one with either"
            )
        head_width = architecture["width"] // architecture["heads"]
        wanted = rotary_periods(head_width)
        found = tensor.double().flatten()
        if name.endswith(".inv_freq"):
            found = 1 / found
        elif not name.endswith(".periods"):
            raise ValueError(f"{name}: rotary positions other than DINOv3's, which alone are read")
        if found.shape != wanted.shape or not torch.allclose(found, wanted, rtol=_ROUNDING, atol=0):
            span = f" from {found.min():.4g} to {found.max():.4g}" if len(found) else ""
            raise ValueError(
                f"{name}: {len(found)} periods{span}; rotary positions are read with the "
                f"{len(wanted)} of base 100 alone, from 1 to {wanted[-1]:.4g} (heads of "
                f"{head_width} channels); give weights of those"
            )


def plain_architecture(width: int, depth: int, heads: int, patch_size: int = 16) -> Architecture:
    """Return the architecture of a plain ViT, as ours are."""
    return {
        "family": "vit", "patch_size": patch_size, "width": width, "depth": depth, "heads": heads,
        "hidden": 4 * width, "mlp": "plain", "activation": "gelu", "qkv_bias": True,
        "layer_scale": False, "registers": 0, "class_position": True, "pre_norm": False,
        "epsilon": 1e-6, "pooled_norm": False,
    }  # fmt: skip


def has_pooled_norm(tensors: Mapping[str, Tensor]) -> bool:
    """Return whether the last norm stands behind the pooling, as in MAE's fine-tuned networks."""
    return "norm.weight" not in tensors and "fc_norm.weight" in tensors


def position_grid(tensors: Mapping[str, Tensor], architecture: Architecture) -> int:
    """Return the patches along a side that the positions are for; 0 where there are none."""
    if "pos_embed" not in tensors:
        return 0
    return math.isqrt(tensors["pos_embed"].shape[1] - prefix_positions(architecture))


def prefix_positions(architecture: Architecture) -> int:
    """Return how many tokens before the patches have positions."""
    if not architecture["class_position"]:
        return 0
    return 1 + int(architecture["registers"])


def build_network(
    architecture: Architecture,
    *,
    image_size: int,
    num_classes: int,
    drop_path: float,
    global_pool: Pool,
) -> Network:
    """Return the network, untrained; global_pool as `load_encoder` has it."""
    if architecture["family"] == "resnet50":
        resnet = timm.create_model(
            "resnet50", num_classes=num_classes, drop_path_rate=drop_path, global_pool="avg"
        )
        return cast(ResNet, resnet)
    check_image_size(image_size, architecture)
    patch = architecture["patch_size"]
    if architecture["family"] == "eva":
        return _dinov3(architecture, image_size, num_classes, drop_path, global_pool)
    silu = nn.SiLU if architecture["mlp"] != "plain" else None
    return VisionTransformer(
        img_size=image_size,
        patch_size=patch,
        embed_dim=architecture["width"],
        depth=architecture["depth"],
        num_heads=architecture["heads"],
        # half a channel more: timm rounds the product down
        mlp_ratio=(architecture["hidden"] + 0.5) / architecture["width"],
        mlp_layer=_MLPS[architecture["mlp"]],
        act_layer=silu or architecture["activation"],
        qkv_bias=architecture["qkv_bias"],
        init_values=1e-5 if architecture["layer_scale"] else None,
        reg_tokens=architecture["registers"],
        no_embed_class=not architecture["class_position"],
        pre_norm=architecture["pre_norm"],
        norm_layer=partial(LayerNorm, eps=architecture["epsilon"]),
        num_classes=num_classes,
        drop_path_rate=drop_path,
        global_pool="avg" if architecture["pooled_norm"] else global_pool,
    )


def check_image_size(image_size: int, architecture: Architecture) -> None:
    """Raise ValueError, with the nearest size, where the patch does not divide an image's side."""
    patch = architecture.get("patch_size", 1)
    if image_size % patch:
        near = max(1, round(image_size / patch)) * patch
        raise ValueError(
            f"image_size {image_size} is not a multiple of {patch}, the patch; use {near}"
        )


def resampled_positions(
    tensors: Mapping[str, Tensor], wanted: Mapping[str, Tensor], prefix: int
) -> dict[str, Tensor]:
    """Return the tensors with positions interpolated where the wanted ones are of another grid.

    Args:
        prefix: tokens before the patches that have positions.
    """
    resampled = dict(tensors)
    for name, position_1ND in tensors.items():
        if name.split(".")[-1] != "pos_embed" or name not in wanted:
            continue
        if position_1ND.shape != wanted[name].shape:
            grid = math.isqrt(wanted[name].shape[1] - prefix)
            resampled[name] = resample_abs_pos_embed(
                position_1ND, [grid, grid], num_prefix_tokens=prefix
            )
    return resampled


def _dinov3(
    architecture: Architecture,
    image_size: int,
    num_classes: int,
    drop_path: float,
    global_pool: Pool,
) -> Eva:
    gated = architecture["mlp"] == "gated"
    return Eva(
        img_size=image_size,
        patch_size=architecture["patch_size"],
        embed_dim=architecture["width"],
        depth=architecture["depth"],
        num_heads=architecture["heads"],
        mlp_ratio=(architecture["hidden"] + 0.5) / architecture["width"],
        qkv_bias=architecture["qkv_bias"],
        init_values=1e-5 if architecture["layer_scale"] else None,
        swiglu_mlp=gated,
        swiglu_align_to=int(gated),  # else timm packs both halves into one
        num_reg_tokens=architecture["registers"],
        num_classes=num_classes,
        drop_path_rate=drop_path,
        global_pool=global_pool,
        **DINOV3,
    )


def pooled(network: nn.Module, image_BCHW: Tensor) -> Tensor:
    """Return a row an image, as `pooled_of` its last features."""
    assert isinstance(network, Network)
    return pooled_of(network, network.forward_features(image_BCHW))


def pooled_of(network: Network, last: Tensor) -> Tensor:
    """Return a row an image: the mean of the patch tokens, of a ResNet that of its last map.

    Where a card or a file beside the weights states it, the class token instead. A norm that
    stands behind the pooling is applied.

    Args:
        last: what `forward_features` returns.
    """
    info = network.__dict__.get("encoder_info")
    if info is not None and info.architecture.get("pool") == "cls":
        return last[:, 0].float()
    if getattr(network, "global_pool", "") in ("token", ""):
        return patch_tokens(network, last).mean(dim=1)
    return network.forward_head(last, pre_logits=True).float()


def patch_tokens(network: Network, last: Tensor) -> Tensor:
    """Return token_BND of the patches, of a ResNet the places of its last map, in float32."""
    if isinstance(network, ResNet):
        return last.flatten(2).transpose(1, 2).float()
    return last[:, network.num_prefix_tokens :].float()


def to_eva_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors as timm's DINOv3 calls them; its keys have no bias."""
    renamed: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if name.endswith(".attn.qkv.bias"):
            query_D, _, value_D = tensor.chunk(3)
            renamed[name.replace("qkv.bias", "q_bias")] = query_D
            renamed[name.replace("qkv.bias", "v_bias")] = value_D
            continue
        renamed[name.replace(".ls1.gamma", ".gamma_1").replace(".ls2.gamma", ".gamma_2")] = tensor
    return renamed


def with_layer_scale(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors of timm's DINOv3 with layer scale, of 1 where they have none.

    timm's names always build it.
    """
    scales = {
        name.replace("norm1.weight", f"gamma_{place}"): torch.ones_like(tensor)
        for name, tensor in tensors.items()
        if name.startswith("blocks.") and name.endswith(".norm1.weight")
        for place in (1, 2)
    }
    return scales | dict(tensors)


def from_eva_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of `to_eva_names` as they were, the keys' bias 0."""
    renamed: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if name.endswith(".attn.q_bias"):
            value_D = tensors[name.replace("q_bias", "v_bias")]
            bias_E = torch.cat([tensor, torch.zeros_like(tensor), value_D])
            renamed[name.replace("q_bias", "qkv.bias")] = bias_E
        elif not name.endswith(".attn.v_bias"):
            name = name.replace(".gamma_1", ".ls1.gamma").replace(".gamma_2", ".ls2.gamma")
            renamed[name] = tensor
    return renamed


def _is_square(number: int) -> bool:
    return number >= 0 and math.isqrt(number) ** 2 == number
