"""Image encoder and bridge as one tower that timm builds by name once this is imported.

open_clip builds its image tower by a timm name alone. timm's own names have no blocks behind the
final norm, as the bridge has, and are of 224 pixels; `maskedclip_vit.SIZE_pPATCH_PIXELS_bDEPTH` is
complete, with `_rREGISTERS` behind it where there are any.
"""

import re
from functools import partial
from typing import Any

import torch
from timm.models import register_model
from timm.models.vision_transformer import Block, VisionTransformer, global_pool_nlc
from torch import Tensor, nn

from maskedclip.models.maskedclip import SIZES

_NORM: Any = partial(nn.LayerNorm, eps=1e-6)
_TAG = re.compile(r"(\w+)_p(\d+)_(\d+)_b(\d+)(?:_r(\d+))?")


class TimmBridge(nn.Module):
    """The bridge, of timm's blocks."""

    def __init__(self, *, width: int, depth: int, heads: int) -> None:
        super().__init__()
        self.blocks = nn.Sequential(
            *(Block(width, heads, qkv_bias=True, norm_layer=_NORM) for _ in range(depth))
        )
        self.norm = _NORM(width)

    def forward(self, token_BND: Tensor) -> Tensor:
        """Return tokens of the same shape, [CLS] first."""
        return self.norm(self.blocks(token_BND))


class BridgedTransformer(VisionTransformer):
    """timm's ViT whose tokens, behind its final norm, pass the bridge; registers do not."""

    def __init__(self, *, bridge_depth: int, **shape: Any) -> None:
        super().__init__(**shape)
        self.bridge = TimmBridge(
            width=shape["embed_dim"], depth=bridge_depth, heads=shape["num_heads"]
        )

    def forward_features(self, x: Tensor, *arguments: Any, **options: Any) -> Tensor:
        """Return the bridge's tokens of an image BCHW, [CLS] first."""
        token_BND = super().forward_features(x, *arguments, **options)
        return self.bridge(without_registers(token_BND, self))

    def pool(self, x: Tensor, pool_type: str | None = None) -> Tensor:
        """Return a row an image, of the bridge's tokens."""
        return global_pool_nlc(x, pool_type=self.global_pool if pool_type is None else pool_type)


def without_registers(token_BLD: Tensor, network: VisionTransformer) -> Tensor:
    """Return [CLS] and the patches of what `forward_features` of a ViT of timm gives."""
    first = network.num_prefix_tokens
    if first == 1:
        return token_BLD
    return torch.cat([token_BLD[:, :1], token_BLD[:, first:]], dim=1)


def tower_name(
    *, size: str, patch_size: int, image_size: int, bridge_depth: int, registers: int
) -> str:
    """Return the name by which timm builds a tower of this shape."""
    name = f"maskedclip_vit.{size}_p{patch_size}_{image_size}_b{bridge_depth}"
    return f"{name}_r{registers}" if registers else name


def build_tower(
    *, size: str, patch_size: int, image_size: int, bridge_depth: int, registers: int
) -> Any:
    """Return the untrained tower; its pooled features are the mean of the bridge's patches."""
    kind = SIZES[size]
    shape: dict[str, Any] = {
        "img_size": image_size,
        "patch_size": patch_size,
        "embed_dim": kind.width,
        "depth": kind.depth,
        "num_heads": kind.heads,
        "num_classes": 0,
        "global_pool": "avg",
        "fc_norm": False,
        "reg_tokens": registers,
        "no_embed_class": bool(registers),
    }
    if not bridge_depth:
        return VisionTransformer(**shape)
    return BridgedTransformer(bridge_depth=bridge_depth, **shape)


@register_model
def maskedclip_vit(pretrained_cfg: Any = None, **_options: Any) -> VisionTransformer:
    """Return the tower that the tag behind the dot describes; ValueError for another tag."""
    tag = str(pretrained_cfg)
    match = _TAG.fullmatch(tag)
    if match is None or match[1] not in SIZES:
        raise ValueError(f"maskedclip_vit.{tag}: write it as maskedclip_vit.large_p16_224_b4")
    patch_size, image_size, depth, registers = (int(number or 0) for number in match.groups()[1:])
    network = build_tower(
        size=match[1], patch_size=patch_size, image_size=image_size, bridge_depth=depth,
        registers=registers,
    )  # fmt: skip
    network.default_cfg = network.pretrained_cfg = {"pool_size": None}
    return network
