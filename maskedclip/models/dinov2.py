"""DINOv2's networks: our encoder with heads for [CLS] and patches, and the teacher that leads it.

The encoder is that of the other methods, so that a comparison is one of methods: fixed
positions, for local crops those that their patches have on the global grid, and no layer scale.
Global and local crops pass the blocks packed in one tensor.
"""

import copy
import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from maskedclip.models.blocks import rotary_angles, sincos_positions
from maskedclip.models.encoder import Encoder
from maskedclip.models.moving_average import follow

CENTRE_MOMENTUM = 0.9


class HeadShape(NamedTuple):
    """Sizes of a head, and whether patches have one of their own."""

    hidden: int
    bottleneck: int
    prototypes: int
    separate: bool


class StudentOutputs(NamedTuple):
    """What the losses take; G global crops and X of all, B images, M masked patches."""

    cls_GBD: Tensor  # of the encoder
    cls_XBK: Tensor  # logits
    patch_MK: Tensor  # logits


class Head(nn.Module):
    """Three layers to a unit row, and its cosines with unit prototypes."""

    def __init__(self, *, width: int, hidden: int, bottleneck: int, prototypes: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(width, hidden), nn.GELU(),
            nn.Linear(hidden, hidden), nn.GELU(),
            nn.Linear(hidden, bottleneck),
        )  # fmt: skip
        for layer in self.mlp:
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)
        self.prototypes = nn.Parameter(torch.empty(prototypes, bottleneck))
        nn.init.kaiming_uniform_(self.prototypes, a=math.sqrt(5))

    def forward(self, x_MD: Tensor) -> Tensor:
        """Return logit_MK, cosines."""
        unit_MD = F.normalize(self.mlp(x_MD), dim=-1)
        return F.linear(unit_MD, F.normalize(self.prototypes, dim=-1))

    @property
    def products(self) -> int:
        """Return how many numbers are multiplied for one row."""
        return sum(p.numel() for p in self.parameters() if p.ndim == 2)


class _Headed(nn.Module):
    """What student and teacher have in common: an encoder and its heads."""

    def __init__(self, encoder: Encoder, heads: HeadShape) -> None:
        super().__init__()
        self.encoder, self.shape = encoder, heads
        width = encoder.width
        sizes = {
            "hidden": heads.hidden,
            "bottleneck": heads.bottleneck,
            "prototypes": heads.prototypes,
        }
        self.cls_head = Head(width=width, **sizes)
        if heads.separate:
            self.patch_head = Head(width=width, **sizes)

    def units(self) -> list[nn.Module]:
        """Return the blocks and heads, in the order they run: what FSDP gathers one by one."""
        return [*self.encoder.blocks, *self.heads()]

    def patch_features(self, image_BCHW: Tensor) -> Tensor:
        """Return patch_BND: the encoder's patch tokens of whole images, in fp32."""
        return self.encoder.patch_features(image_BCHW)

    def heads(self) -> list[Head]:
        """Return the heads: one, or one for [CLS] and one for patches."""
        return [self.cls_head, *([self.patch_head] if self.shape.separate else [])]

    def logits(self, cls_BD: Tensor, patch_MD: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logits of both; a head is called once, as FSDP gathers it at each call."""
        if self.shape.separate:
            return self.cls_head(cls_BD), self.patch_head(patch_MD)
        both_BK = self.cls_head(torch.cat([cls_BD, patch_MD]))
        return both_BK[: len(cls_BD)], both_BK[len(cls_BD) :]


class Student(_Headed):
    """The network that is trained."""

    local_position: Tensor

    def __init__(self, encoder: Encoder, heads: HeadShape, *, local_grid: int) -> None:
        super().__init__(encoder, heads)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, encoder.width))
        self.register_buffer(
            "local_position", _local_positions(encoder, local_grid), persistent=False
        )

    def forward(
        self,
        global_RCHW: Tensor,
        local_RCHW: Tensor,
        hidden_RN: Tensor,
        masked_M: Tensor,
        kept_JR: Tensor | None,
    ) -> StudentOutputs:
        """Run normalised crops, those of number 0 of all images before those of number 1.

        hidden_RN is True at the patches of global crops that the mask token replaces, and masked_M
        has their indices among all of these. kept_JR has a factor for both residual branches of
        every block and every crop, global ones first: 0 drops the branch.
        """
        encoder = self.encoder
        large_RND = encoder.patch_embed(global_RCHW)
        mask_11D = self.mask_token.to(large_RND.dtype)
        large_RND = torch.where(hidden_RN[:, :, None], mask_11D, large_RND)
        small = encoder.placed(encoder.patch_embed(local_RCHW), self.local_position)
        large_RND, small_RND = encoder.through([encoder.placed(large_RND), small], kept_JR)
        images = len(global_RCHW) // 2
        masked_MD = large_RND[:, 1:].flatten(0, 1).index_select(0, masked_M)
        cls_RD = torch.cat([large_RND[:, 0], small_RND[:, 0]])
        cls_RK, patch_MK = self.logits(cls_RD, masked_MD)
        return StudentOutputs(
            cls_GBD=large_RND[:, 0].unflatten(0, (2, images)),
            cls_XBK=cls_RK.unflatten(0, (-1, images)),
            patch_MK=patch_MK,
        )

    def step_flops(self, images: int, local_crops: int, masked: float) -> float:
        """Return the floating point operations of one training step, teacher included.

        Counted as in MaskedCLIP; `masked` patches an image. What a dropped branch would do is done
        here, and counted.
        """
        encoder = self.encoder
        width, stem = encoder.width, encoder.patch_embed.proj.weight.numel()

        def tokens(crops: int, patches: int) -> float:
            length = patches + 1 + encoder.registers
            block = length * (24 * width**2 + 4 * length * width)
            return images * crops * (2.0 * patches * stem + len(encoder.blocks) * block)

        cls, patch = self.heads()[0].products, self.heads()[-1].products
        large = tokens(2, encoder.patches)
        small = tokens(local_crops, self.local_position.shape[1])
        teacher = large + 2 * images * (2 * cls + masked * patch)
        return (
            3 * (large + small + 2 * images * ((2 + local_crops) * cls + masked * patch)) + teacher
        )


def _local_positions(encoder: Encoder, local_grid: int) -> Tensor:
    """Return position_1NX of a local crop's patches: those of their places on the global grid.

    Sines and angles are taken there; the learnt positions of third-party weights are resampled as
    timm does.
    """
    if encoder.rotary:  # any grid lies between -1 and 1
        return rotary_angles(local_grid, 2 * encoder.angle_1NC.shape[-1])
    grid, ours_1ND = math.isqrt(encoder.patches), encoder.patch_positions
    if ours_1ND.is_meta or ours_1ND.cpu().equal(sincos_positions(encoder.width, grid)[:, 1:]):
        return sincos_positions(encoder.width, local_grid, of=grid)[:, 1:]
    from timm.layers import resample_abs_pos_embed  # in seconds; learnt ones were read by timm

    return resample_abs_pos_embed(ours_1ND, [local_grid, local_grid], num_prefix_tokens=0)


class DinoTeacher(_Headed):
    """A copy of the student that follows it without gradients, and the centres of its logits."""

    cls_centre: Tensor
    patch_centre: Tensor

    def __init__(self, student: Student) -> None:
        super().__init__(copy.deepcopy(student.encoder), student.shape)
        for name in ("cls_head", "patch_head")[: len(student.heads())]:
            setattr(self, name, copy.deepcopy(getattr(student, name)))
        self.requires_grad_(False)
        for name in ("cls_centre", "patch_centre"):  # in a checkpoint, as weights are
            self.register_buffer(name, torch.zeros(student.shape.prototypes))

    @torch.no_grad()
    def forward(self, global_RCHW: Tensor, masked_M: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logits of [CLS] of the large crops, and of the patches at masked_M."""
        _, token_RND = self.encoder(global_RCHW, None, len(global_RCHW))
        patch_MD = token_RND[:, 1:].flatten(0, 1).index_select(0, masked_M)
        return self.logits(token_RND[:, 0], patch_MD)

    @torch.no_grad()
    def follow(
        self, student: Student, momentum: float, means: tuple[Tensor, Tensor], skip: Tensor
    ) -> None:
        """Move every weight to momentum * itself + (1 - momentum) * the student's.

        The centres move to `means`, of [CLS] logits and of patches'. Nothing changes where `skip`,
        a scalar on the device, is 1.
        """
        pairs = [(self.encoder, student.encoder), *zip(self.heads(), student.heads(), strict=True)]
        follow(pairs, momentum, skip)
        for centre_K, mean_K in zip((self.cls_centre, self.patch_centre), means, strict=True):
            centre_K.lerp_(mean_K, (1 - CENTRE_MOMENTUM) * (1 - skip))
