"""The transformer block that the encoder, the bridge and both decoders are made of.

Tokens of several groups (say, 50 visible tokens of every image and all 197 of the paired ones) lie
one after another in one tensor. Norms and linear layers run over all of them at once and attention
runs group by group, so that under FSDP a block's weights are gathered once for all groups.
Parameter names are timm's.
"""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Group(NamedTuple):
    """`images` sequences of `length` tokens each."""

    images: int
    length: int

    @property
    def tokens(self) -> int:
        return self.images * self.length


class Attention(nn.Module):
    def __init__(self, *, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x_TD: Tensor, groups: tuple[Group, ...]) -> Tensor:
        mixed = []
        for group, part_TD in zip(
            groups, self.qkv(x_TD).split([group.tokens for group in groups]), strict=True
        ):
            heads_TD = part_TD.view(group.images, group.length, 3, self.heads, -1)
            q, k, v = heads_TD.permute(2, 0, 3, 1, 4).unbind()
            mixed.append(attend(q, k, v).transpose(1, 2).reshape(group.tokens, -1))
        return self.proj(torch.cat(mixed) if len(mixed) > 1 else mixed[0])


def attend(query_BHLD: Tensor, key_BHLD: Tensor, value_BHLD: Tensor) -> Tensor:
    """Return softmax(query key^T / sqrt(D)) value, of the shape of the query."""
    if query_BHLD.device.type != "cpu":
        return F.scaled_dot_product_attention(query_BHLD, key_BHLD, value_BHLD)
    # on processors, and at these lengths, torch's fused kernel takes twice the time of three
    # products, five times where an image shows 50 tokens
    query, key, value = (x.flatten(0, 1) for x in (query_BHLD, key_BHLD, value_BHLD))
    unused = query.new_empty(1, 1, 1)
    score = torch.baddbmm(unused, query, key.transpose(1, 2), beta=0, alpha=query.shape[-1] ** -0.5)
    return torch.bmm(score.softmax(dim=-1), value).view(query_BHLD.shape)


class Mlp(nn.Module):
    def __init__(self, *, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x_TD: Tensor) -> Tensor:
        hidden_TD = self.fc1(x_TD)
        if torch.is_autocast_enabled(x_TD.device.type):  # which casts what a function calls
            return self.fc2(F.gelu(hidden_TD))
        fc2_TD: Tensor = _LinearOfGelu.apply(hidden_TD, self.fc2.weight, self.fc2.bias)
        return fc2_TD


class _LinearOfGelu(torch.autograd.Function):
    """A linear layer of GELU(x) that keeps x alone: the backward pass takes the GELU again.

    Twelve widths a token are kept of a block in place of sixteen; the gradients are the same bits.
    """

    @staticmethod
    def forward(ctx: Any, x_TD: Tensor, weight_ED: Tensor, bias_E: Tensor) -> Tensor:
        ctx.save_for_backward(x_TD, weight_ED)
        return F.linear(F.gelu(x_TD), weight_ED, bias_E)

    @staticmethod
    def backward(ctx: Any, slope_TE: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x_TD, weight_ED = ctx.saved_tensors
        bias_E = slope_TE.sum(0)
        weight_slope_ED = slope_TE.t() @ F.gelu(x_TD)
        slope_TD = torch.ops.aten.gelu_backward(slope_TE @ weight_ED, x_TD)
        return slope_TD, weight_slope_ED, bias_E


class Block(nn.Module):
    def __init__(self, *, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = Attention(width=width, heads=heads)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = Mlp(width=width, hidden=4 * width)

    def forward(
        self, x_TD: Tensor, groups: tuple[Group, ...], kept_2T: Tensor | None = None
    ) -> Tensor:
        """kept_2T: factors of what attention and MLP add at each token; None adds all of it."""
        mixed_TD = self.attn(self.norm1(x_TD), groups)
        x_TD = x_TD + (mixed_TD if kept_2T is None else mixed_TD * kept_2T[0, :, None])
        mixed_TD = self.mlp(self.norm2(x_TD))
        return x_TD + (mixed_TD if kept_2T is None else mixed_TD * kept_2T[1, :, None])


def run(
    blocks: nn.ModuleList,
    x_TD: Tensor,
    groups: tuple[Group, ...],
    kept_JT: Tensor | None = None,
) -> Tensor:
    """Pass packed tokens through `blocks`; kept_JT has two rows of factors for each of them."""
    for number, block in enumerate(blocks):
        if kept_JT is None:
            x_TD = block(x_TD, groups)
        else:
            x_TD = block(x_TD, groups, kept_JT[2 * number : 2 * number + 2])
    return x_TD


def initialise(module: nn.Module) -> None:
    """Set every linear layer to Xavier-uniform weights and no bias (MAE, models_mae.py)."""
    for part in module.modules():
        if isinstance(part, nn.Linear):
            nn.init.xavier_uniform_(part.weight)
            if part.bias is not None:
                nn.init.zeros_(part.bias)


def sincos_positions(width: int, grid: int, of: int | None = None) -> Tensor:
    """Return fixed 2-D positions of shape (1, 1 + grid * grid, width), zeros for [CLS].

    The first half of the width codes the column, the second the row, each as sines then cosines of
    10000^(-k / (width / 4)) (MAE, util/pos_embed.py, in float64 as there). With `of`, positions
    are those of the patches' centres on a grid of that side, which the smaller grid covers.
    """
    if width % 4:
        raise ValueError(f"width {width} is not a multiple of 4, as 2-D sine positions need")
    position = torch.arange(grid, dtype=torch.float64)
    if of is not None:
        position = (position + 0.5) * of / grid - 0.5
    quarter = width // 4
    omega = torch.exp(-math.log(10000.0) * torch.arange(quarter, dtype=torch.float64) / quarter)
    angle = position[:, None] * omega
    coded = torch.cat([angle.sin(), angle.cos()], dim=1)  # (grid, width / 2)
    column = coded[None, :, :].expand(grid, grid, -1)
    row = coded[:, None, :].expand(grid, grid, -1)
    patches_ND = torch.cat([column, row], dim=-1).reshape(grid * grid, width)
    return torch.cat([torch.zeros(1, width), patches_ND.float()])[None]
