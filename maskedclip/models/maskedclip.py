"""The student networks together: one forward pass gives all that the losses of eq. 6 need."""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from maskedclip.models.bridge import Bridge
from maskedclip.models.decoders import Decoder
from maskedclip.models.encoder import Encoder
from maskedclip.models.patches import split_patches
from maskedclip.models.text import TextTower, Tokenizer, build_text


class Size(NamedTuple):
    """Width, depth and heads of E_I, and of D_I."""

    width: int
    depth: int
    heads: int
    decoder_width: int
    decoder_depth: int
    decoder_heads: int


# The paper's is large with a ViT-small decoder (384 x 12 x 6); the smaller ones shrink alike.
SIZES = {
    "micro": Size(128, 4, 4, 96, 2, 3),
    "tiny": Size(192, 12, 3, 192, 4, 3),
    "small": Size(384, 12, 6, 192, 8, 3),
    "base": Size(768, 12, 12, 384, 12, 6),
    "large": Size(1024, 24, 16, 384, 12, 6),
}


class Outputs(NamedTuple):
    """What one step's losses are made of; B all images, A the paired ones (the first rows)."""

    pixel_BMP: Tensor  # D_I at the hidden patches
    hidden_BM: Tensor  # which patches those are
    feature_BND: Tensor  # D_F at all patches
    image_AD: Tensor  # unit rows
    text_AD: Tensor  # unit rows
    logit_scale: Tensor  # the multiplier, shape (1,)


class Temperature(nn.Module):
    """Tau of eqs. 2-3, on a module of its own so that FSDP can leave it in fp32."""

    def __init__(self) -> None:
        super().__init__()
        # of shape (1,) because FSDP2 refuses parameters without an axis
        self.logit_scale = nn.Parameter(torch.full((1,), math.log(1 / 0.07)))

    def forward(self) -> Tensor:
        """Return the multiplier, of shape (1,)."""
        return self.logit_scale.exp()

    @torch.no_grad()
    def clamp(self) -> None:
        """Keep tau within 1..100 (CLIP); called after each optimizer step."""
        parameter = self.logit_scale
        local = parameter.to_local() if hasattr(parameter, "to_local") else parameter
        local.clamp_(0.0, math.log(100.0))


class MaskedCLIP(nn.Module):
    """E_I, D_I, B, D_F and E_T (section 2 of the paper)."""

    def __init__(  # noqa: PLR0913 (one keyword a knob of the model's configuration)
        self,
        *,
        size: str,
        image_size: int,
        patch_size: int,
        mask_ratio: float,
        bridge_depth: int,
        feature_decoder_depth: int,
        projection: int,
        text: TextTower,
    ) -> None:
        super().__init__()
        shape = SIZES[size]
        grid = image_size // patch_size
        self.patch_size = patch_size
        self.visible = grid * grid - round(grid * grid * mask_ratio)
        self.encoder = Encoder(
            image_size=image_size,
            patch_size=patch_size,
            width=shape.width,
            depth=shape.depth,
            heads=shape.heads,
        )
        self.bridge = Bridge(width=shape.width, depth=bridge_depth, heads=shape.heads)
        self.pixel_decoder = Decoder(
            width_in=shape.width,
            width=shape.decoder_width,
            depth=shape.decoder_depth,
            heads=shape.decoder_heads,
            width_out=3 * patch_size**2,
            grid=grid,
        )
        self.feature_decoder = Decoder(
            width_in=shape.width,
            width=shape.width,
            depth=feature_decoder_depth,
            heads=shape.heads,
            width_out=shape.width,
            grid=grid,
        )
        self.text = text
        self.image_projection = nn.Linear(shape.width, projection, bias=False)
        self.temperature = Temperature()

    def forward(
        self, image_BCHW: Tensor, hidden_BN: Tensor, token_AL: Tensor, token_mask_AL: Tensor
    ) -> Outputs:
        """Run a batch whose first A images are paired with the A captions.

        image_BCHW is normalised; hidden_BN bool, True where E_I must not look, equally many in
        each row; token_mask_AL is 1 at tokens and 0 at padding.
        """
        visible_BK, hidden_BM = split_patches(hidden_BN, self.visible)
        masked_BKD, whole_AND = self.encoder(image_BCHW, visible_BK, len(token_AL))
        return Outputs(
            pixel_BMP=self.pixel_decoder(masked_BKD, visible_BK, hidden_BM),
            hidden_BM=hidden_BM,
            feature_BND=self.feature_decoder(masked_BKD, visible_BK, None),
            image_AD=self._project(whole_AND),
            text_AD=self.text(token_AL, token_mask_AL),
            logit_scale=self.temperature(),
        )

    def units(self) -> list[nn.Module]:
        """Return the blocks, in the order they run: what FSDP gathers one by one."""
        return [
            *self.encoder.blocks,
            *self.bridge.blocks,
            *self.pixel_decoder.blocks,
            *self.feature_decoder.blocks,
            *self.text.bert.encoder.layer,
        ]

    def step_flops(self, images: int, paired: int, text_tokens: int) -> float:
        """Return the floating point operations of one training step, teacher included.

        A product of n x k and k x m counts 2nkm, backward twice the forward; norms, activations and
        the optimizer are left out, as is usual for MFU. text_tokens are those of one caption.
        """
        patches, width = self.encoder.pos_embed.shape[1] - 1, self.encoder.pos_embed.shape[2]
        visible, hidden = self.visible, patches - self.visible
        embed = 2 * images * patches * 3 * self.patch_size**2 * width

        def blocks(stack: nn.ModuleList, rows: int, length: int, wide: int = width) -> float:
            return rows * length * len(stack) * (24 * wide**2 + 4 * length * wide)

        def decoder(part: Decoder, predicted: int) -> float:
            ends = (visible + 1) * part.embed.weight.numel() + predicted * part.head.weight.numel()
            wide = part.embed.out_features
            return blocks(part.blocks, images, patches + 1, wide) + 2 * images * ends

        bert = self.text.bert.config
        token = 4 * bert.hidden_size**2 + 2 * bert.hidden_size * bert.intermediate_size
        token += 2 * text_tokens * bert.hidden_size
        student = (
            embed
            + blocks(self.encoder.blocks, images, visible + 1)
            + blocks(self.encoder.blocks, paired, patches + 1)
            + blocks(self.bridge.blocks, paired, patches + 1)
            + decoder(self.pixel_decoder, hidden)
            + decoder(self.feature_decoder, patches)
            + 2 * paired * text_tokens * bert.num_hidden_layers * token
        )
        teacher = blocks(self.encoder.blocks, images, patches + 1)
        teacher += blocks(self.bridge.blocks, images, patches + 1)
        return 3 * student + embed + teacher

    def features(
        self, image_ACHW: Tensor, token_AL: Tensor, token_mask_AL: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return what the contrast looks at, of pairs alone: image_AD, text_AD, logit_scale."""
        text_AD = self.text(token_AL, token_mask_AL)
        return self.encode_image(image_ACHW), text_AD, self.temperature()

    def encode_image(self, image_BCHW: Tensor) -> Tensor:
        """Return unit rows of the joint space for normalised images."""
        return self.encode_both(image_BCHW)[1]

    def encode_both(self, image_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mean of E_I's patch tokens and unit rows of the joint space, in one pass."""
        _, whole_BND = self.encoder(image_BCHW, None, len(image_BCHW))
        return whole_BND[:, 1:].float().mean(dim=1), self._project(whole_BND)

    def _project(self, whole_AND: Tensor) -> Tensor:
        mean_AD = self.bridge(whole_AND)[:, 1:].mean(dim=1)  # patches; [CLS] takes no part
        return F.normalize(self.image_projection(mean_AD).float(), dim=-1)


def build(  # noqa: PLR0913 (one keyword a knob of the model's configuration)
    *,
    size: str,
    image_size: int,
    patch_size: int,
    mask_ratio: float,
    bridge_depth: int,
    feature_decoder_depth: int,
    projection: int,
    text: str,
    text_tokens: int,
    text_dropout: float,
    pretrained_text: bool = True,
) -> tuple[MaskedCLIP, Tokenizer]:
    """Return the student networks and the tokenizer that fits them.

    pretrained_text False leaves the text tower random, for a checkpoint to fill.
    """
    tower, tokenizer = build_text(
        text,
        projection=projection,
        dropout=text_dropout,
        max_tokens=text_tokens,
        pretrained=pretrained_text,
    )
    model = MaskedCLIP(
        size=size,
        image_size=image_size,
        patch_size=patch_size,
        mask_ratio=mask_ratio,
        bridge_depth=bridge_depth,
        feature_decoder_depth=feature_decoder_depth,
        projection=projection,
        text=tower,
    )
    return model, tokenizer
