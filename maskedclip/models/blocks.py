"""The transformer block that the encoder, the bridge and both decoders are made of.

Tokens of several groups (say, 50 visible tokens of every image and all 197 of the paired ones) lie
one after another in one tensor. Norms and linear layers run over all of them at once and attention
runs group by group, or by one kernel over sequences of any lengths, so that under FSDP a block's
weights are gathered once for all groups. Parameter names are timm's.
"""

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

_FIRST_WITH_KERNELS = (8, 0)  # compute capability: Ampere
_CUDNN_FIRST = [
    SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION,
    SDPBackend.MATH,
]  # fmt: skip


class Group(NamedTuple):
    """`images` sequences of `length` tokens each."""

    images: int
    length: int

    @property
    def tokens(self) -> int:
        return self.images * self.length


class Attention(nn.Module):
    kernel = "sdpa"  # or cudnn, varlen: see `attend_by`

    def __init__(self, *, width: int, heads: int, rotary: bool = False) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = _KeysWithoutBias(width, 3 * width) if rotary else nn.Linear(width, 3 * width)
        self.rotary = Rotary(heads) if rotary else None
        self.proj = nn.Linear(width, width)

    def forward(
        self,
        x_TD: Tensor,
        groups: tuple[Group, ...],
        start_S: Tensor | None = None,
        turn_2TC: Tensor | None = None,
    ) -> Tensor:
        """start_S: of kernel varlen, the first token of each sequence and the end of the last.

        turn_2TC: of rotary positions, cosine and sine of each token's angles.
        """
        qkv_TE = self.qkv(x_TD)
        if self.rotary is not None:
            qkv_TE = self.rotary(qkv_TE, turn_2TC)
        if self.kernel == "varlen":
            return self.proj(attend_packed(qkv_TE, self.heads, start_S, groups))
        parts = _OfGroups.apply(qkv_TE, groups, self.heads)
        mix = _cudnn_first if self.kernel == "cudnn" else attend
        mixed = [
            mix(*parts[3 * number : 3 * number + 3]).transpose(1, 2).reshape(group.tokens, -1)
            for number, group in enumerate(groups)
        ]
        return self.proj(torch.cat(mixed) if len(mixed) > 1 else mixed[0])


class _KeysWithoutBias(nn.Linear):
    """Queries, keys and values, with the keys' part of the bias left at 0 (DINOv3)."""

    def forward(self, x_TD: Tensor) -> Tensor:
        query_D, key_D, value_D = self.bias.chunk(3)
        bias_E = torch.cat([query_D, torch.zeros_like(key_D), value_D])
        return F.linear(x_TD, self.weight, bias_E)


class Rotary(nn.Module):
    """Queries and keys turned by the angles of their tokens; a module, so that it can be hooked."""

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.heads = heads

    def forward(self, qkv_TE: Tensor, turn_2TC: Tensor) -> Tensor:
        """Return qkv_TE; channel c of a head's first half turns with that of its second half."""
        turned_TE: Tensor = _Turned.apply(qkv_TE, turn_2TC, self.heads)
        return turned_TE


class _Turned(torch.autograd.Function):
    """The backward pass turns back, and keeps nothing but the angles."""

    @staticmethod
    def forward(ctx: Any, qkv_TE: Tensor, turn_2TC: Tensor, heads: int) -> Tensor:
        ctx.save_for_backward(turn_2TC)
        ctx.heads = heads
        return _turned(qkv_TE, turn_2TC[0], turn_2TC[1], heads)

    @staticmethod
    def backward(ctx: Any, slope_TE: Tensor) -> tuple[Tensor, None, None]:
        (turn_2TC,) = ctx.saved_tensors
        return _turned(slope_TE.contiguous(), turn_2TC[0], -turn_2TC[1], ctx.heads), None, None


def _turned(qkv_TE: Tensor, cos_TC: Tensor, sin_TC: Tensor, heads: int) -> Tensor:
    out_TE = torch.empty_like(qkv_TE)
    x, out = (tensor.view(len(tensor), 3, heads, 2, -1) for tensor in (qkv_TE, out_TE))
    cos_T11C, sin_T11C = cos_TC[:, None, None], sin_TC[:, None, None]
    first, second = x[:, :2, :, 0], x[:, :2, :, 1]
    out[:, :2, :, 0] = first * cos_T11C - second * sin_T11C
    out[:, :2, :, 1] = second * cos_T11C + first * sin_T11C
    out[:, 2] = x[:, 2]
    return out_TE


class _OfGroups(torch.autograd.Function):
    """Views of packed queries, keys and values: the query_BHLD, key_BHLD, value_BHLD of each group.

    The backward pass writes all their gradients into one tensor. Autograd's own stacks them, brings
    them into order and joins the groups: three passes over the same memory.
    """

    @staticmethod
    def forward(
        ctx: Any, qkv_TE: Tensor, groups: tuple[Group, ...], heads: int
    ) -> tuple[Tensor, ...]:
        ctx.groups, ctx.heads = groups, heads
        return tuple(_views(qkv_TE, groups, heads))

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor, None, None]:
        tokens = sum(group.tokens for group in ctx.groups)
        width = 3 * ctx.heads * slopes[0].shape[-1]
        slope_TE = slopes[0].new_empty(tokens, width)
        for place, slope in zip(_views(slope_TE, ctx.groups, ctx.heads), slopes, strict=True):
            place.copy_(slope)
        return slope_TE, None, None


def _views(qkv_TE: Tensor, groups: tuple[Group, ...], heads: int) -> list[Tensor]:
    views: list[Tensor] = []
    for group, part_TE in zip(
        groups, qkv_TE.split([group.tokens for group in groups]), strict=True
    ):
        heads_TD = part_TE.view(group.images, group.length, 3, heads, -1)
        views += heads_TD.permute(2, 0, 3, 1, 4).unbind()
    return views


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


def _cudnn_first(query_BHLD: Tensor, key_BHLD: Tensor, value_BHLD: Tensor) -> Tensor:
    with sdpa_kernel(_CUDNN_FIRST, set_priority=True):
        return F.scaled_dot_product_attention(query_BHLD, key_BHLD, value_BHLD)


def attend_packed(
    qkv_TE: Tensor, heads: int, start_S: Tensor | None, groups: tuple[Group, ...]
) -> Tensor:
    """Return the mixed values of all groups, shape (T, heads * D), by one kernel.

    The gradients of queries, keys and values come back as three tensors, and `unbind` puts them
    into one by one pass: torch's kernel takes no place to write them to.
    """
    from torch.nn.attention.varlen import varlen_attn  # registers its operators

    assert start_S is not None
    query_THD, key_THD, value_THD = qkv_TE.view(len(qkv_TE), 3, heads, -1).unbind(1)
    longest = max(group.length for group in groups)
    mixed_THD = varlen_attn(query_THD, key_THD, value_THD, start_S, start_S, longest, longest)
    assert isinstance(mixed_THD, Tensor)
    return mixed_THD.reshape(len(qkv_TE), -1)


def starts(groups: tuple[Group, ...], device: torch.device) -> Tensor:
    """Return start_S of packed groups, int32, made on the device: nothing is copied there."""
    parts, first = [], 0
    for group in groups:
        ends = first, first + group.tokens
        parts.append(torch.arange(*ends, group.length, dtype=torch.int32, device=device))
        first += group.tokens
    return torch.cat([*parts, torch.full((1,), first, dtype=torch.int32, device=device)])


def attend_by(
    kernel: str,
    networks: Iterable[nn.Module],
    compute: torch.dtype,
    capability: tuple[int, int],
) -> None:
    """Have all blocks of `networks` attend by `kernel`: sdpa, cudnn (first), or varlen.

    sdpa is torch's choice for each group, cudnn its choice where cuDNN's cannot run, varlen one
    kernel for all groups. Raises ValueError where that cannot run; neither was run on a GPU yet.

    Args:
        compute: the type of matrix work.
        capability: of the card, (0, 0) of a processor.
    """
    if kernel != "sdpa" and (capability < _FIRST_WITH_KERNELS or compute == torch.float32):
        where = (
            f"a card of capability {capability[0]}.{capability[1]}" if any(capability) else "CPU"
        )
        raise ValueError(
            f"engine.attention {kernel} on {where} in {str(compute).removeprefix('torch.')}: it "
            f"needs a card of capability 8.0 or more and bf16; use sdpa"
        )
    for network in networks:
        for module in network.modules():
            if isinstance(module, Attention):
                module.kernel = kernel


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
    def __init__(
        self, *, width: int, heads: int, rotary: bool = False, epsilon: float = 1e-6
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=epsilon)
        self.attn = Attention(width=width, heads=heads, rotary=rotary)
        self.norm2 = nn.LayerNorm(width, eps=epsilon)
        self.mlp = Mlp(width=width, hidden=4 * width)

    def forward(
        self,
        x_TD: Tensor,
        groups: tuple[Group, ...],
        kept_2T: Tensor | None = None,
        start_S: Tensor | None = None,
        turn_2TC: Tensor | None = None,
    ) -> Tensor:
        """kept_2T: factors of what attention and MLP add at each token; None adds all of it."""
        mixed_TD = self.attn(self.norm1(x_TD), groups, start_S, turn_2TC)
        x_TD = x_TD + (mixed_TD if kept_2T is None else mixed_TD * kept_2T[0, :, None])
        mixed_TD = self.mlp(self.norm2(x_TD))
        return x_TD + (mixed_TD if kept_2T is None else mixed_TD * kept_2T[1, :, None])


def run(
    blocks: nn.ModuleList,
    x_TD: Tensor,
    groups: tuple[Group, ...],
    kept_JT: Tensor | None = None,
    angle_TC: Tensor | None = None,
) -> Tensor:
    """Pass packed tokens through `blocks`; kept_JT has two rows of factors for each of them.

    angle_TC: of rotary blocks, by which a token's queries and keys are turned; 0 leaves them.
    """
    packed = len(blocks) and blocks[0].get_submodule("attn").kernel == "varlen"
    start_S = starts(groups, x_TD.device) if packed else None
    turn_2TC = None if angle_TC is None else torch.stack([angle_TC.cos(), angle_TC.sin()])
    for number, block in enumerate(blocks):
        kept_2T = None if kept_JT is None else kept_JT[2 * number : 2 * number + 2]
        x_TD = block(x_TD, groups, kept_2T, start_S, turn_2TC)
    return x_TD


@contextmanager
def drawn_from(seed: int) -> Iterator[None]:
    """Draw first weights from numbers of their own, whatever is built before or after."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


def drawn_seeds(count: int) -> list[int]:
    """Return seeds of the parts of a network, of torch's own seed.

    Each part has one, built or not, so that two arms of an ablation begin with the same weights.
    """
    return [int(seed) for seed in torch.randint(2**62, (count,), device="cpu")]


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


def rotary_angles(grid: int, head_width: int) -> Tensor:
    """Return angle_1NC of the patches, C half the channels of a head (DINOv3, axial).

    A patch's centre lies between -1 and 1 on both axes of any grid, and turns by 2 pi of it over
    `rotary_periods`: those of the row first, then those of the column.
    """
    period = rotary_periods(head_width)
    centre = (torch.arange(grid, dtype=torch.float64) + 0.5) / grid * 2 - 1
    angle = 2 * math.pi * centre[:, None] / period
    row, column = angle[:, None].expand(grid, grid, -1), angle[None].expand(grid, grid, -1)
    return torch.cat([row, column], dim=-1).reshape(1, grid * grid, 2 * len(period)).float()


def rotary_periods(head_width: int) -> Tensor:
    """Return the periods of rotary positions, 100^(k / (head_width / 4)), in float64 (DINOv3)."""
    if head_width % 4:
        raise ValueError(f"heads of {head_width} channels: rotary positions need a multiple of 4")
    quarter = head_width // 4
    return 100.0 ** (torch.arange(quarter, dtype=torch.float64) / quarter)
