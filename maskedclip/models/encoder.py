"""E_I: a ViT whose parameter names equal timm's, run once a step over masked and whole images."""

import torch
from torch import Tensor, nn

from maskedclip.models.blocks import Block, Group, initialise, run, sincos_positions


class Encoder(nn.Module):
    """ViT with fixed 2-D sine positions, [CLS] token and a final norm."""

    pos_embed: Tensor

    def __init__(
        self, *, image_size: int, patch_size: int, width: int, depth: int, heads: int
    ) -> None:
        super().__init__()
        self.patch_embed = PatchEmbed(patch_size=patch_size, width=width)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        # a buffer of timm's name: fixed here, trainable where timm loads it
        self.register_buffer("pos_embed", sincos_positions(width, image_size // patch_size))
        self.blocks = nn.ModuleList(Block(width=width, heads=heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        initialise(self)
        nn.init.xavier_uniform_(self.patch_embed.proj.weight.view(width, -1))
        nn.init.normal_(self.cls_token, std=0.02)

    def forward(
        self, image_BCHW: Tensor, visible_BV: Tensor | None, whole: int
    ) -> tuple[Tensor | None, Tensor | None]:
        """Return (tokens of the visible patches of all images, all tokens of the first `whole`).

        visible_BV holds the patch indices that each image keeps; None skips the masked pass, and
        whole = 0 the other. Each result leads with [CLS]: shapes (B, 1 + V, D), (whole, 1 + N, D).
        """
        patch_BND = self.patch_embed(image_BCHW)
        patch_BND = patch_BND + self.pos_embed[:, 1:].to(patch_BND.dtype)
        width = patch_BND.shape[-1]
        sequences = []
        if visible_BV is not None:
            index_BVD = visible_BV[:, :, None].expand(-1, -1, width)
            sequences.append(self.with_class(patch_BND.gather(1, index_BVD)))
        if whole:
            sequences.append(self.with_class(patch_BND[:whole]))
        assert sequences, "neither a masked nor a whole pass was asked for"

        groups = tuple(Group(*sequence.shape[:2]) for sequence in sequences)
        x_TD = torch.cat([sequence.reshape(-1, width) for sequence in sequences])
        x_TD = self.norm(run(self.blocks, x_TD, groups))
        parts = [
            part_TD.view(group.images, group.length, width)
            for group, part_TD in zip(
                groups, x_TD.split([group.tokens for group in groups]), strict=True
            )
        ]
        masked = parts.pop(0) if visible_BV is not None else None
        return masked, parts.pop(0) if parts else None

    def patch_features(self, image_BCHW: Tensor) -> Tensor:
        """Return patch_BND: the patch tokens of whole images, in fp32. Their mean is probed."""
        whole_BND = self(image_BCHW, None, len(image_BCHW))[1]
        patch_BND: Tensor = whole_BND[:, 1:].float()
        return patch_BND

    def with_class(self, patch_BVD: Tensor) -> Tensor:
        """Return the tokens led by [CLS]."""
        # the class token's position is zero (MAE)
        first_B1D = self.cls_token.to(patch_BVD.dtype).expand(len(patch_BVD), -1, -1)
        return torch.cat([first_B1D, patch_BVD], dim=1)


class PatchEmbed(nn.Module):
    def __init__(self, *, patch_size: int, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, kernel_size=patch_size, stride=patch_size)
        nn.init.constant_(self.proj.get_parameter("bias"), 0.0)

    def forward(self, image_BCHW: Tensor) -> Tensor:
        return self.proj(image_BCHW).flatten(2).transpose(1, 2)
