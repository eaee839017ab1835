"""Image encoder and bridge as one tower that timm builds by name once this is imported.

open_clip builds its image tower by a timm name alone. timm's own names have no blocks behind the
final norm, as the bridge has, and are of 224 pixels; `maskedclip_vit.SIZE_pPATCH_PIXELS_bDEPTH` is
complete, with `_rREGISTERS` behind it where there are any, and `_rotary`.
"""

import re
from functools import partial
from typing import Any, NamedTuple

import torch
from timm.models import register_model
from timm.models.eva import Eva
from timm.models.vision_transformer import Block, VisionTransformer, global_pool_nlc
from torch import Tensor, nn

from maskedclip.models.checkpoints.architectures import DINOV3
from maskedclip.models.maskedclip import SIZES

_NORM: Any = partial(nn.LayerNorm, eps=1e-6)
_TAG = re.compile(r"(\w+)_p(\d+)_(\d+)_b(\d+)(?:_r(\d+))?(_rotary)?")


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


class Bridged:
    """A ViT of timm whose tokens, behind its final norm, pass the bridge; registers do not."""

    bridge: TimmBridge
    global_pool: Any

    def encoded(self, x: Tensor, *arguments: Any, **options: Any) -> Tensor:
        """Return the encoder's own tokens of an image BCHW, [CLS] first."""
        encoder: Any = super()
        return without_registers(encoder.forward_features(x, *arguments, **options), self)

    def forward_features(self, x: Tensor, *arguments: Any, **options: Any) -> Tensor:
        """Return the bridge's tokens of an image BCHW, [CLS] first."""
        return self.bridge(self.encoded(x, *arguments, **options))

    def pool(self, x: Tensor, pool_type: str | None = None) -> Tensor:
        """Return a row an image, of the bridge's tokens."""
        return global_pool_nlc(x, pool_type=self.global_pool if pool_type is None else pool_type)


class BridgedTransformer(Bridged, VisionTransformer):
    """With positions that are added."""


class BridgedRotary(Bridged, Eva):
    """With DINOv3's."""


def without_registers(token_BLD: Tensor, network: Any) -> Tensor:
    """Return [CLS] and the patches of what `forward_features` of a ViT of timm gives."""
    first = network.num_prefix_tokens
    if first == 1:
        return token_BLD
    return torch.cat([token_BLD[:, :1], token_BLD[:, first:]], dim=1)


class TowerShape(NamedTuple):
    """What decides the network of an image tower."""

    size: str
    patch_size: int  # pixels, as image_size
    image_size: int
    bridge_depth: int
    registers: int
    positions: str


def tower_name(of: TowerShape) -> str:
    """Return the name by which timm builds a tower of this shape."""
    name = f"maskedclip_vit.{of.size}_p{of.patch_size}_{of.image_size}_b{of.bridge_depth}"
    name += f"_r{of.registers}" if of.registers else ""
    return f"{name}_rotary" if of.positions == "rotary" else name


def build_tower(of: TowerShape) -> Any:
    """Return the untrained tower; its pooled features are the mean of the bridge's patches."""
    kind = SIZES[of.size]
    shape: dict[str, Any] = {
        "img_size": of.image_size,
        "patch_size": of.patch_size,
        "embed_dim": kind.width,
        "depth": kind.depth,
        "num_heads": kind.heads,
        "num_classes": 0,
        "global_pool": "avg",
    }
    if of.positions == "rotary":
        network: Any = BridgedRotary if of.bridge_depth else Eva
        shape |= DINOV3 | {"num_reg_tokens": of.registers}
    else:
        network = BridgedTransformer if of.bridge_depth else VisionTransformer
        shape |= {"fc_norm": False, "reg_tokens": of.registers, "no_embed_class": of.registers > 0}
    tower = network(**shape)
    if of.bridge_depth:
        tower.bridge = TimmBridge(width=kind.width, depth=of.bridge_depth, heads=kind.heads)
    return tower


@register_model
def maskedclip_vit(pretrained_cfg: Any = None, **_options: Any) -> VisionTransformer | Eva:
    """Return the tower that the tag behind the dot describes; ValueError for another tag."""
    tag = str(pretrained_cfg)
    match = _TAG.fullmatch(tag)
    if match is None or match[1] not in SIZES:
        raise ValueError(f"maskedclip_vit.{tag}: write it as maskedclip_vit.large_p16_224_b4")
    patch_size, image_size, depth, registers = (int(number or 0) for number in match.groups()[1:5])
    positions = "rotary" if match[6] else "sine"
    network = build_tower(TowerShape(match[1], patch_size, image_size, depth, registers, positions))
    network.default_cfg = network.pretrained_cfg = {"pool_size": None}
    return network
