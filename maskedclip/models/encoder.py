"""E_I: a ViT whose parameter names equal timm's, run once a step over masked and whole images."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from maskedclip.models.blocks import Block, Group, initialise, run, sincos_positions
from maskedclip.models.patches import take


class Encoder(nn.Module):
    """ViT with fixed 2-D sine positions, [CLS] token, register tokens and a final norm.

    Registers pass the blocks between [CLS] and the patches, and are left out of what is returned.
    """

    pos_embed: Tensor

    def __init__(
        self,
        *,
        image_size: int,
        patch_size: int,
        width: int,
        depth: int,
        heads: int,
        registers: int = 0,
    ) -> None:
        super().__init__()
        self.width, self.registers = width, registers
        self.patch_embed = PatchEmbed(patch_size=patch_size, width=width)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        position_1ND = sincos_positions(width, image_size // patch_size)
        # a buffer of timm's name and shape: with registers there is none for [CLS]; fixed here,
        # trainable where timm loads it
        self.register_buffer("pos_embed", position_1ND[:, 1:] if registers else position_1ND)
        self.blocks = nn.ModuleList(Block(width=width, heads=heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=1e-6)
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
        patch_BND = self.with_positions(self.patch_embed(image_BCHW))
        sequences = []
        if visible_BV is not None:
            sequences.append(take(patch_BND, visible_BV))
        if whole:
            sequences.append(patch_BND[:whole])
        assert sequences, "neither a masked nor a whole pass was asked for"
        parts = self.through(sequences)
        masked = parts.pop(0) if visible_BV is not None else None
        return masked, parts.pop(0) if parts else None

    def through(self, sequences: Sequence[Tensor], kept_JR: Tensor | None = None) -> list[Tensor]:
        """Return the tokens of several batches of patches, [CLS] first, by one pass of the blocks.

        Each patch_BVD has its positions. kept_JR holds two rows of factors a block (`blocks.run`)
        for every image, those of the first batch first.
        """
        led = [self._led(patch_BVD) for patch_BVD in sequences]
        groups = tuple(Group(*token_BLD.shape[:2]) for token_BLD in led)
        packed = [token_BLD.reshape(-1, self.width) for token_BLD in led]
        x_TD = torch.cat(packed) if len(packed) > 1 else packed[0]
        kept_JT = None if kept_JR is None else _of_tokens(kept_JR, groups)
        x_TD = self.norm(run(self.blocks, x_TD, groups, kept_JT))
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
        """The positions of the patches alone."""
        return self.pos_embed if self.registers else self.pos_embed[:, 1:]

    @property
    def patches(self) -> int:
        """Patches of an image."""
        return self.patch_positions.shape[1]

    def with_positions(self, patch_BND: Tensor) -> Tensor:
        """Return all patches of images with their positions added."""
        return patch_BND + self.patch_positions.to(patch_BND.dtype)

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
