"""B: from the masked feature space to the CLIP feature space."""

from torch import Tensor, nn

from maskedclip.models.blocks import Block, Group, initialise, run


class Bridge(nn.Module):
    """A few blocks of the encoder's width on all of E_I's tokens, and a final norm."""

    def __init__(self, *, width: int, depth: int, heads: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(width=width, heads=heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        initialise(self)

    def forward(self, token_BND: Tensor) -> Tensor:
        """Return tokens of the same shape, [CLS] first."""
        batch, length, width = token_BND.shape
        x_TD = token_BND.reshape(-1, width)
        return self.norm(run(self.blocks, x_TD, (Group(batch, length),))).view(token_BND.shape)
