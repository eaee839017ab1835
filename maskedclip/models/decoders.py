"""D_I and D_F: from tokens of visible patches to pixels of the hidden ones, or features of all."""

import torch
from torch import Tensor, nn

from maskedclip.models.blocks import Block, Group, initialise, run, sincos_positions


class Decoder(nn.Module):
    """Blocks over visible tokens and a learnt mask token at each hidden patch (MAE's decoder)."""

    position: Tensor

    def __init__(
        self, *, width_in: int, width: int, depth: int, heads: int, width_out: int, grid: int
    ) -> None:
        super().__init__()
        self.embed = nn.Linear(width_in, width)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        self.register_buffer("position", sincos_positions(width, grid), persistent=False)
        self.blocks = nn.ModuleList(Block(width=width, heads=heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.head = nn.Linear(width, width_out)
        initialise(self)
        nn.init.normal_(self.mask_token, std=0.02)

    def forward(self, token_BVD: Tensor, visible_BV: Tensor, wanted_BM: Tensor | None) -> Tensor:
        """Return predictions for the patches wanted_BM, or for all in order where it is None.

        token_BVD is E_I's masked pass, [CLS] first; visible_BV the patches it saw.
        """
        x_BVD = self.embed(token_BVD)
        batch, _, width = x_BVD.shape
        patches = self.position.shape[1] - 1
        x_BND = self.mask_token.to(x_BVD.dtype).expand(batch, patches, width)
        x_BND = x_BND.scatter(1, visible_BV[:, :, None].expand(-1, -1, width), x_BVD[:, 1:])
        x_BND = torch.cat([x_BVD[:, :1], x_BND], dim=1) + self.position.to(x_BVD.dtype)
        x_TD = run(self.blocks, x_BND.reshape(-1, width), (Group(batch, patches + 1),))
        x_BND = x_TD.view(batch, patches + 1, width)[:, 1:]
        if wanted_BM is not None:
            x_BND = x_BND.gather(1, wanted_BM[:, :, None].expand(-1, -1, width))
        return self.head(self.norm(x_BND))
