"""The student networks together: one forward pass gives all that the losses of eq. 6 need.

What no loss needs is not built: with `terms` of ("mim",) this is MAE, with ("clip",) it is CLIP.
"""

import math
from collections.abc import Collection, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from maskedclip.models.blocks import drawn_from, drawn_seeds
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


TERMS = ("mim", "clip", "mfd")  # of eq. 6


class Outputs(NamedTuple):
    """What one step's losses are made of; B all images, A the paired ones (the first rows).

    What belongs to a term that is not learnt is None.
    """

    hidden_BM: Tensor | None = None  # patches that E_I did not see
    pixel_BMP: Tensor | None = None  # D_I at these
    feature_BND: Tensor | None = None  # D_F at all patches, or at these
    image_AD: Tensor | None = None  # unit rows
    text_AD: Tensor | None = None  # unit rows
    logit_scale: Tensor | None = None  # the multiplier, shape (1,)
    logit_bias: Tensor | None = None  # of the sigmoid loss, shape (1,)


class Temperature(nn.Module):
    """Tau of eqs. 2-3, on a module of its own so that FSDP can leave it in fp32."""

    def __init__(self, start: float) -> None:
        super().__init__()
        # of shape (1,) because FSDP2 refuses parameters without an axis
        self.logit_scale = nn.Parameter(torch.full((1,), math.log(start)))

    def forward(self) -> Tensor:
        """Return the multiplier, of shape (1,)."""
        return self.logit_scale.exp()

    @torch.no_grad()
    def clamp(self) -> None:
        """Keep tau within 1..100 (CLIP); called after each optimizer step."""
        parameter = self.logit_scale
        local = parameter.to_local() if hasattr(parameter, "to_local") else parameter
        local.clamp_(0.0, math.log(100.0))


class Bias(nn.Module):
    """What the sigmoid loss adds to each logit, fp32 like tau: most pairs are no positives."""

    def __init__(self) -> None:
        super().__init__()
        self.logit_bias = nn.Parameter(torch.full((1,), -10.0))  # SigLIP

    def forward(self) -> Tensor:
        """Return the bias, of shape (1,)."""
        return self.logit_bias.clone()  # FSDP frees the gathered weight itself


class MaskedCLIP(nn.Module):
    """E_I, D_I, B, D_F and E_T (section 2 of the paper), as far as `terms` needs them."""

    # D_I is there for mim, D_F for mfd, and these for clip; bias for the sigmoid loss alone
    pixel_decoder: Decoder
    feature_decoder: Decoder
    text: TextTower
    image_projection: nn.Linear
    temperature: Temperature
    bias: Bias

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
        text: TextTower | None,
        bridge_shared: bool = False,
        feature_patches: str = "all",
        pooling: str = "mean",
        contrast: str = "softmax",
        registers: int = 0,
        positions: str = "sine",
        terms: Collection[str] = TERMS,
    ) -> None:
        super().__init__()
        shape = SIZES[size]
        grid = image_size // patch_size
        self.patch_size, self.terms = patch_size, frozenset(terms)
        self.visible = grid * grid - round(grid * grid * mask_ratio)
        self.hides, self.pools_cls = feature_patches == "hidden", pooling == "cls"
        self.bridge_shared = bridge_shared
        of_encoder, of_bridge, of_pixels, of_features, of_projection = drawn_seeds(5)
        with drawn_from(of_encoder):
            self.encoder = Encoder(
                image_size=image_size, patch_size=patch_size, width=shape.width, depth=shape.depth,
                heads=shape.heads, registers=registers, positions=positions,
            )  # fmt: skip
        depth = bridge_depth if "clip" in self.terms else 0
        with drawn_from(of_bridge):
            self.bridge = Bridge(width=shape.width, depth=depth, heads=shape.heads)
        decoder = partial(Decoder, width_in=shape.width, grid=grid)
        if "mim" in self.terms:
            with drawn_from(of_pixels):
                self.pixel_decoder = decoder(
                    width=shape.decoder_width,
                    depth=shape.decoder_depth,
                    heads=shape.decoder_heads,
                    width_out=3 * patch_size**2,
                )
        if "mfd" in self.terms:
            with drawn_from(of_features):
                self.feature_decoder = decoder(
                    width=shape.width,
                    depth=feature_decoder_depth,
                    heads=shape.heads,
                    width_out=shape.width,
                )
        if text is not None:
            self.text = text
            with drawn_from(of_projection):
                self.image_projection = nn.Linear(shape.width, projection, bias=False)
            self.temperature = Temperature(10.0 if contrast == "sigmoid" else 1 / 0.07)
            if contrast == "sigmoid":
                self.bias = Bias()
        assert (text is not None) == ("clip" in self.terms), "E_T is there for the contrast"

    def forward(
        self, image_BCHW: Tensor, hidden_BN: Tensor, token_AL: Tensor, token_mask_AL: Tensor
    ) -> Outputs:
        """Run a batch whose first A images are paired with the A captions.

        image_BCHW is normalised; hidden_BN bool, True where E_I must not see, equally many in
        each row; token_mask_AL is 1 at tokens and 0 at padding.
        """
        visible_BV = hidden_BM = None
        if self.masks:
            visible_BV, hidden_BM = split_patches(hidden_BN, self.visible)
        pairs = len(token_AL) if "clip" in self.terms else 0
        masked_BVD, whole_AND = self.encoder(image_BCHW, visible_BV, pairs)
        if self.bridge_shared:
            masked_BVD, whole_AND = self.bridge.together([masked_BVD, whole_AND])
        out = Outputs(hidden_BM=hidden_BM)
        if "mim" in self.terms:
            out = out._replace(pixel_BMP=self.pixel_decoder(masked_BVD, visible_BV, hidden_BM))
        if "mfd" in self.terms:
            wanted = hidden_BM if self.hides else None
            out = out._replace(feature_BND=self.feature_decoder(masked_BVD, visible_BV, wanted))
        if "clip" in self.terms:
            out = out._replace(
                image_AD=self._project(whole_AND if self.bridge_shared else self.bridge(whole_AND)),
                text_AD=self.text(token_AL, token_mask_AL),
                logit_scale=self.temperature(),
                logit_bias=self._bias(),
            )
        return out

    @property
    def masks(self) -> bool:
        """Whether E_I runs on visible patches alone, besides whole images."""
        return bool(self.terms & {"mim", "mfd"})

    def exact(self) -> list[nn.Module]:
        """Return what stays in fp32."""
        return [getattr(self, name) for name in ("temperature", "bias") if hasattr(self, name)]

    def units(self) -> list[nn.Module]:
        """Return the blocks, in the order they run: what FSDP gathers one by one."""
        return [
            *self.encoder.blocks,
            *self.bridge.blocks,
            *(self.pixel_decoder.blocks if "mim" in self.terms else ()),
            *(self.feature_decoder.blocks if "mfd" in self.terms else ()),
            *self.text_units(),
        ]

    def text_units(self) -> list[nn.Module]:
        """Return the layers of E_T, whose captions have other lengths in other steps."""
        return [*self.text.bert.encoder.layer] if "clip" in self.terms else []

    def step_flops(self, images: int, paired: int, text_tokens: int) -> float:
        """Return the floating point operations of one training step, teacher included.

        A product of n x k and k x m counts 2nkm, backward twice the forward; norms, activations and
        the optimizer are left out, as is usual for MFU. text_tokens are those of one caption.
        """
        patches, width, registers = (
            self.encoder.patches, self.encoder.width, self.encoder.registers
        )  # fmt: skip
        visible, hidden = self.visible, patches - self.visible
        embed = 2.0 * images * patches * 3 * self.patch_size**2 * width

        def blocks(stack: nn.ModuleList, rows: int, length: int, wide: int = width) -> float:
            return rows * length * len(stack) * (24 * wide**2 + 4 * length * wide)

        def decoder(part: Decoder, predicted: int) -> float:
            ends = (visible + 1) * part.embed.weight.numel() + predicted * part.head.weight.numel()
            wide = part.embed.out_features
            return blocks(part.blocks, images, patches + 1, wide) + 2 * images * ends

        student, teacher = embed, 0.0
        if self.masks:
            student += blocks(self.encoder.blocks, images, visible + 1 + registers)
        if self.bridge_shared:
            student += blocks(self.bridge.blocks, images, visible + 1)
        if "mim" in self.terms:
            student += decoder(self.pixel_decoder, hidden)
        if "mfd" in self.terms:
            student += decoder(self.feature_decoder, hidden if self.hides else patches)
            teacher = embed + blocks(self.encoder.blocks, images, patches + 1 + registers)
            teacher += blocks(self.bridge.blocks, images, patches + 1)
        if "clip" in self.terms:
            bert = self.text.bert.config
            token = 4 * bert.hidden_size**2 + 2 * bert.hidden_size * bert.intermediate_size
            token += 2 * text_tokens * bert.hidden_size
            student += blocks(self.encoder.blocks, paired, patches + 1 + registers)
            student += blocks(self.bridge.blocks, paired, patches + 1)
            student += 2 * paired * text_tokens * bert.num_hidden_layers * token
        return 3 * student + teacher

    def features(self, image_ACHW: Tensor, token_AL: Tensor, token_mask_AL: Tensor) -> Outputs:
        """Return what the contrast takes, of pairs alone."""
        return Outputs(
            image_AD=self.encode_image(image_ACHW),
            text_AD=self.text(token_AL, token_mask_AL),
            logit_scale=self.temperature(),
            logit_bias=self._bias(),
        )

    def patch_features(self, image_BCHW: Tensor) -> Tensor:
        """Return patch_BND: E_I's patch tokens of whole images, in fp32."""
        return self.encoder.patch_features(image_BCHW)

    def encode_image(self, image_BCHW: Tensor) -> Tensor:
        """Return unit rows of the joint space for normalised images."""
        return self.encode_both(image_BCHW)[1]

    def encode_both(self, image_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Return E_I's patch tokens and unit rows of the joint space, in one pass."""
        _, whole_BND = self.encoder(image_BCHW, None, len(image_BCHW))
        return whole_BND[:, 1:].float(), self._project(self.bridge(whole_BND))

    def _project(self, bridged_AND: Tensor) -> Tensor:
        # patches, and [CLS] takes no part; or the other way round
        pooled_AD = bridged_AND[:, 0] if self.pools_cls else bridged_AND[:, 1:].mean(dim=1)
        return F.normalize(self.image_projection(pooled_AD).float(), dim=-1)

    def _bias(self) -> Tensor | None:
        return self.bias() if hasattr(self, "bias") else None


def build(
    *, text: str, text_tokens: int, text_dropout: float, pretrained_text: bool = True, **shape: Any
) -> tuple[MaskedCLIP, Tokenizer]:
    """Return the student networks of a `shape` (the keywords of MaskedCLIP) and their tokenizer.

    pretrained_text False leaves the text tower random, for a checkpoint to fill.
    """
    (of_text,) = drawn_seeds(1)
    if "clip" not in shape.get("terms", TERMS):
        return MaskedCLIP(text=None, **shape), Tokenizer(None, 0)
    with drawn_from(of_text):
        tower, tokenizer = build_text(
            text,
            projection=shape["projection"],
            dropout=text_dropout,
            max_tokens=text_tokens,
            pretrained=pretrained_text,
        )
    return MaskedCLIP(text=tower, **shape), tokenizer


def build_saved(header: Mapping[str, Any], path: Path) -> tuple[MaskedCLIP, Tokenizer]:
    """Return the untrained networks that a file's header describes; ValueError where it does not.

    The text tower is left random, for the file to fill.
    """
    try:
        return build(**header, pretrained_text=False)
    except (TypeError, KeyError, ArithmeticError) as error:
        raise ValueError(
            f"{path}: its header describes no network of ours ({error}); export it anew"
        ) from error
