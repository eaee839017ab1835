"""E_I: a ViT whose parameter names equal timm's, run once a step over masked and whole images."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from maskedclip.models.blocks import (
    Block,
    Group,
    initialise,
    rotary_angles,
    run,
    sincos_positions,
)
from maskedclip.models.patches import take


class Placed(NamedTuple):
    """Patches with their positions: added to them, or the angles by which blocks turn them."""

    patch_BND: Tensor
    angle_BNC: Tensor | None

    def visible(self, index_BV: Tensor) -> "Placed":
        """Return the patches index_BV of each image."""
        angle_BVC = None if self.angle_BNC is None else take(self.angle_BNC, index_BV)
        return Placed(take(self.patch_BND, index_BV), angle_BVC)

    def of_first(self, images: int) -> "Placed":
        """Return the patches of the first images."""
        angle_BNC = None if self.angle_BNC is None else self.angle_BNC[:images]
        return Placed(self.patch_BND[:images], angle_BNC)


class Encoder(nn.Module):
    """ViT with fixed positions, [CLS] token, register tokens and a final norm.

    Registers pass the blocks between [CLS] and the patches, and are left out of what is returned.
    Positions are sines that are added, or rotary: DINOv3's blocks, whose keys have no bias.
    """

    pos_embed: Tensor
    angle_1NC: Tensor

    def __init__(
        self,
        *,
        image_size: int,
        patch_size: int,
        width: int,
        depth: int,
        heads: int,
        registers: int = 0,
        positions: str = "sine",
    ) -> None:
        super().__init__()
        self.width, self.registers, self.rotary = width, registers, positions == "rotary"
        grid, epsilon = image_size // patch_size, 1e-5 if self.rotary else 1e-6  # DINOv3's, MAE's
        self.patch_embed = PatchEmbed(patch_size=patch_size, width=width)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        if self.rotary:
            self.register_buffer("angle_1NC", rotary_angles(grid, width // heads), persistent=False)
        else:
            position_1ND = sincos_positions(width, grid)
            # a buffer of timm's name and shape: with registers there is none for [CLS]; fixed
            # here, trainable where timm loads it
            self.register_buffer("pos_embed", position_1ND[:, 1:] if registers else position_1ND)
        self.blocks = nn.ModuleList(
            Block(width=width, heads=heads, rotary=self.rotary, epsilon=epsilon)
            for _ in range(depth)
        )
        self.norm = nn.LayerNorm(width, eps=epsilon)
        initialise(self)
        nn.init.xavier_uniform_(self.patch_embed.proj.weight.view(width, -1))
        nn.init.normal_(self.cls_token, std=0.02)
        if registers:
            self.reg_token = nn.Parameter(torch.empty(1, registers, width))
            nn.init.normal_(self.reg_token, std=0.02)

    def forward(
        self, image_BCHW: Tensor, visible_BV: Tensor | None, whole: int
    ) -> tuple[Tensor | None, Tensor | None]:
        """Return (tokens of the visible patches of all images, all tokens of the first `whole`).

        visible_BV holds the patch indices that each image keeps; None skips the masked pass, and
        whole = 0 the other. Each result leads with [CLS]: shapes (B, 1 + V, D), (whole, 1 + N, D).
        """
        placed = self.placed(self.patch_embed(image_BCHW))
        sequences = []
        if visible_BV is not None:
            sequences.append(placed.visible(visible_BV))
        if whole:
            sequences.append(placed.of_first(whole))
        assert sequences, "neither a masked nor a whole pass was asked for"
        parts = self.through(sequences)
        masked = parts.pop(0) if visible_BV is not None else None
        return masked, parts.pop(0) if parts else None

    def through(self, sequences: Sequence[Placed], kept_JR: Tensor | None = None) -> list[Tensor]:
        """Return the tokens of several batches of patches, [CLS] first, by one pass of the blocks.

        kept_JR holds two rows of factors a block (`blocks.run`) for every image, those of the first
        batch first.
        """
        led = [self._led(placed.patch_BND) for placed in sequences]
        groups = tuple(Group(*token_BLD.shape[:2]) for token_BLD in led)
        packed = [token_BLD.reshape(-1, self.width) for token_BLD in led]
        x_TD = torch.cat(packed) if len(packed) > 1 else packed[0]
        kept_JT = None if kept_JR is None else _of_tokens(kept_JR, groups)
        angle_TC = self._angles(sequences) if self.rotary else None
        x_TD = self.norm(run(self.blocks, x_TD, groups, kept_JT, angle_TC))
        split = x_TD.split([group.tokens for group in groups])
        parts = [part.view_as(token_BLD) for part, token_BLD in zip(split, led, strict=True)]
        if self.registers:
            first = 1 + self.registers
            parts = [torch.cat([part[:, :1], part[:, first:]], dim=1) for part in parts]
        return parts

    def patch_features(self, image_BCHW: Tensor) -> Tensor:
        """Return patch_BND: the patch tokens of whole images, in fp32. Their mean is probed."""
        whole_BND = self(image_BCHW, None, len(image_BCHW))[1]
        patch_BND: Tensor = whole_BND[:, 1:].float()
        return patch_BND

    @property
    def patch_positions(self) -> Tensor:
        """The positions of the patches alone: position_1ND, or angle_1NC of rotary ones."""
        if self.rotary:
            return self.angle_1NC
        return self.pos_embed if self.registers else self.pos_embed[:, 1:]

    @property
    def patches(self) -> int:
        """Patches of an image."""
        return self.patch_positions.shape[1]

    def placed(self, patch_BND: Tensor, position_1NX: Tensor | None = None) -> Placed:
        """Return all patches of images at their positions, or at those given in their place."""
        position_1NX = self.patch_positions if position_1NX is None else position_1NX
        if self.rotary:
            return Placed(patch_BND, position_1NX.expand(len(patch_BND), -1, -1))
        return Placed(patch_BND + position_1NX.to(patch_BND.dtype), None)

    def _angles(self, sequences: Sequence[Placed]) -> Tensor:
        """Return angle_TC of packed tokens: [CLS] and registers are not turned."""
        padded = [
            F.pad(placed.angle_BNC, (0, 0, 1 + self.registers, 0)).flatten(0, 1)
            for placed in sequences
            if placed.angle_BNC is not None
        ]
        return torch.cat(padded)

    def _led(self, patch_BVD: Tensor) -> Tensor:
        """Return the tokens led by [CLS] and the registers."""
        # the class token's position is zero (MAE)
        tokens = [self.cls_token, self.reg_token] if self.registers else [self.cls_token]
        size = len(patch_BVD), -1, -1
        first = [token_1RD.to(patch_BVD.dtype).expand(size) for token_1RD in tokens]
        return torch.cat([*first, patch_BVD], dim=1)


class PatchEmbed(nn.Module):
    def __init__(self, *, patch_size: int, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, kernel_size=patch_size, stride=patch_size)
        nn.init.constant_(self.proj.get_parameter("bias"), 0.0)

    def forward(self, image_BCHW: Tensor) -> Tensor:
        return self.proj(image_BCHW).flatten(2).transpose(1, 2)


def _of_tokens(kept_JR: Tensor, groups: tuple[Group, ...]) -> Tensor:
    """Return kept_JT: an image's factors at each of its tokens."""
    parts = kept_JR.split([group.images for group in groups], dim=1)
    return torch.cat(
        [part.repeat_interleave(g.length, dim=1) for part, g in zip(parts, groups, strict=True)],
        dim=1,
    )
