"""B: from the masked feature space to the CLIP feature space."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from maskedclip.models.blocks import Block, Group, initialise, run


class Bridge(nn.Module):
    """A few blocks of the encoder's width on all of E_I's tokens, and a final norm.

    Of depth 0 it is nothing at all: tokens leave as they come.
    """

    def __init__(self, *, width: int, depth: int, heads: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(width=width, heads=heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=1e-6) if depth else nn.Identity()
        initialise(self)

    def forward(self, token_BND: Tensor) -> Tensor:
        """Return tokens of the same shape, [CLS] first."""
        return self.together([token_BND])[0]

    def together(self, sequences: Sequence[Tensor]) -> list[Tensor]:
        """Return each of several such tensors bridged, all in one pass."""
        groups = tuple(Group(*token_BND.shape[:2]) for token_BND in sequences)
        parts = [token_BND.reshape(-1, token_BND.shape[-1]) for token_BND in sequences]
        x_TD = self.norm(run(self.blocks, torch.cat(parts) if len(parts) > 1 else parts[0], groups))
        split = x_TD.split([group.tokens for group in groups])
        return [part.view_as(token) for part, token in zip(split, sequences, strict=True)]
