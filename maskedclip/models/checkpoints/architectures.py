"""Which network a state dict of timm's names is of, read off its shapes, and that network."""

import math
from collections.abc import Mapping
from functools import partial
from typing import Any, Literal, cast

import timm
from timm.layers import LayerNorm, Mlp, SwiGLU, SwiGLUPacked
from timm.models.eva import Eva
from timm.models.resnet import ResNet
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from maskedclip.models.checkpoints.formats import Card, Family

Network = VisionTransformer | Eva | ResNet
Pool = Literal["", "avg", "token"]
Facts = dict[str, Any]  # plain values, so that a header can hold them
_HEADS = {1280: 16, 1408: 16, 1664: 16}  # by width, of ViT-H, -g and -bigG
_MLPS: dict[str, Any] = {"plain": Mlp, "packed": SwiGLUPacked, "gated": SwiGLU}


def family_of(tensors: Mapping[str, Tensor]) -> Family:
    """Return which kind of network has these tensors; ValueError where it is none of ours."""
    if "conv1.weight" in tensors:
        if "layer4.2.conv3.weight" not in tensors or "attnpool.positional_embedding" in tensors:
            raise ValueError("a ResNet other than torchvision's ResNet-50; use that, or a ViT")
        return "resnet50"
    if "patch_embed.proj.weight" not in tensors or "cls_token" not in tensors:
        raise ValueError("no cls_token or no patch_embed.proj among its tensors, so no ViT encoder")
    return "vit" if "pos_embed" in tensors else "eva"


def facts_of(tensors: Mapping[str, Tensor], card: Card, heads: int = 0) -> Facts:
    """Return what `build` needs to make the network of these tensors.

    heads is their number where it is known: no shape tells it.
    """
    if card.family == "resnet50":
        return {"family": "resnet50"}
    width, _, patch_size, _ = tensors["patch_embed.proj.weight"].shape
    depth = len({name.split(".")[1] for name in tensors if name.startswith("blocks.")})
    first = tensors.get("blocks.0.mlp.fc1.weight")
    second = tensors.get("blocks.0.mlp.fc2.weight")
    if second is None:
        raise ValueError("no blocks.0.mlp among its tensors, so no ViT encoder")
    mlp = "gated" if first is None else "plain"
    if first is not None and first.shape[0] == 2 * second.shape[1]:
        mlp = "packed"
    hidden = second.shape[1] if first is None else first.shape[0]
    pre_norm = "norm_pre.weight" in tensors
    registers = tensors["reg_token"].shape[1] if "reg_token" in tensors else 0
    return {
        "family": card.family,
        "patch_size": patch_size,
        "width": width,
        "depth": depth,
        "heads": heads or card.heads.get(width) or _HEADS.get(width) or max(1, width // 64),
        "hidden": hidden,
        "mlp": mlp,
        "activation": "quick_gelu" if card.quick_gelu else "gelu",
        "qkv_bias": "blocks.0.attn.qkv.bias" in tensors,
        "layer_scale": "blocks.0.ls1.gamma" in tensors,
        "registers": registers,
        "class_position": card.family == "vit" and not _is_square(tensors["pos_embed"].shape[1]),
        "pre_norm": pre_norm,
        "epsilon": 1e-5 if pre_norm or card.family == "eva" else 1e-6,
        "pooled_norm": has_pooled_norm(tensors),
    }


def plain_facts(width: int, depth: int, heads: int, patch_size: int = 16) -> Facts:
    """Return the facts of a ViT as ours are."""
    return {
        "family": "vit", "patch_size": patch_size, "width": width, "depth": depth, "heads": heads,
        "hidden": 4 * width, "mlp": "plain", "activation": "gelu", "qkv_bias": True,
        "layer_scale": False, "registers": 0, "class_position": True, "pre_norm": False,
        "epsilon": 1e-6, "pooled_norm": False,
    }  # fmt: skip


def has_pooled_norm(tensors: Mapping[str, Tensor]) -> bool:
    """Return whether the last norm stands behind the pooling, as in MAE's fine-tuned networks."""
    return "norm.weight" not in tensors and "fc_norm.weight" in tensors


def grid_of(tensors: Mapping[str, Tensor], facts: Facts) -> int:
    """Return the patches along a side that the positions are for; 0 where there are none."""
    if "pos_embed" not in tensors:
        return 0
    return math.isqrt(tensors["pos_embed"].shape[1] - placed(facts))


def placed(facts: Facts) -> int:
    """Return how many tokens before the patches have positions."""
    if not facts["class_position"]:
        return 0
    return 1 + int(facts["registers"])


def build_network(
    facts: Facts, *, image_size: int, num_classes: int, drop_path: float, global_pool: Pool
) -> Network:
    """Return the network, untrained; global_pool as `load_encoder` has it."""
    if facts["family"] == "resnet50":
        resnet = timm.create_model(
            "resnet50", num_classes=num_classes, drop_path_rate=drop_path, global_pool="avg"
        )
        return cast(ResNet, resnet)
    patch = facts["patch_size"]
    if image_size % patch:
        near = max(1, round(image_size / patch)) * patch
        raise ValueError(
            f"image_size {image_size} is not a multiple of {patch}, the patch; use {near}"
        )
    if facts["family"] == "eva":
        return _dinov3(facts, image_size, num_classes, drop_path, global_pool)
    silu = nn.SiLU if facts["mlp"] != "plain" else None
    return VisionTransformer(
        img_size=image_size,
        patch_size=patch,
        embed_dim=facts["width"],
        depth=facts["depth"],
        num_heads=facts["heads"],
        # half a channel more: timm rounds the product down
        mlp_ratio=(facts["hidden"] + 0.5) / facts["width"],
        mlp_layer=_MLPS[facts["mlp"]],
        act_layer=silu or facts["activation"],
        qkv_bias=facts["qkv_bias"],
        init_values=1e-5 if facts["layer_scale"] else None,
        reg_tokens=facts["registers"],
        no_embed_class=not facts["class_position"],
        pre_norm=facts["pre_norm"],
        norm_layer=partial(LayerNorm, eps=facts["epsilon"]),
        num_classes=num_classes,
        drop_path_rate=drop_path,
        global_pool="avg" if facts["pooled_norm"] else global_pool,
    )


def _dinov3(
    facts: Facts, image_size: int, num_classes: int, drop_path: float, global_pool: Pool
) -> Eva:
    bias = "_qkvb" if facts["qkv_bias"] else ""
    network = timm.create_model(
        f"vit_small_patch16_dinov3{bias}",  # its other sizes differ in these numbers alone
        img_size=image_size,
        patch_size=facts["patch_size"],
        embed_dim=facts["width"],
        depth=facts["depth"],
        num_heads=facts["heads"],
        mlp_ratio=(facts["hidden"] + 0.5) / facts["width"],
        swiglu_mlp=facts["mlp"] == "gated",
        swiglu_align_to=int(facts["mlp"] == "gated"),  # else timm packs both halves into one
        num_reg_tokens=facts["registers"],
        num_classes=num_classes,
        drop_path_rate=drop_path,
        global_pool=global_pool,
    )
    return cast(Eva, network)


def pooled(network: nn.Module, image_BCHW: Tensor) -> Tensor:
    """Return a row an image: the mean of the patch tokens, of a ResNet that of its last map.

    A norm that stands behind the pooling is applied.
    """
    assert isinstance(network, Network)
    token_BND = network.forward_features(image_BCHW)
    if getattr(network, "global_pool", "") in ("token", ""):
        return token_BND[:, network.num_prefix_tokens :].float().mean(dim=1)
    return network.forward_head(token_BND, pre_logits=True).float()


def eva_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors as timm's DINOv3 calls them; its keys have no bias."""
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if name.endswith(".attn.qkv.bias"):
            query_D, _, value_D = tensor.chunk(3)
            found[name.replace("qkv.bias", "q_bias")] = query_D
            found[name.replace("qkv.bias", "v_bias")] = value_D
            continue
        found[name.replace(".ls1.gamma", ".gamma_1").replace(".ls2.gamma", ".gamma_2")] = tensor
    return found


def _is_square(number: int) -> bool:
    return math.isqrt(number) ** 2 == number
