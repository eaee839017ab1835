"""SimMIM: mask tokens in the encoder's input, a linear head for the pixels of hidden patches, L1.

Xie et al., 2022 (github.com/microsoft/SimMIM, models/simmim.py). Differences: our encoder's fixed
sine positions in place of a relative position bias, and the schedule of the other methods.
"""

from collections.abc import Iterator
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import AdamW

from maskedclip.config import Config, override
from maskedclip.data.rows import View
from maskedclip.data.stream import Batch
from maskedclip.data.transforms import normalise
from maskedclip.engine.checkpoint import full_weights
from maskedclip.engine.distributed import (
    begin_part,
    compute_type,
    gradient_norms,
    mean_over_ranks,
    shard,
    total_norm,
    whole,
)
from maskedclip.engine.optimizer import adamw
from maskedclip.engine.step_guard import StepGuard
from maskedclip.models.encoder import Encoder
from maskedclip.models.maskedclip import SIZES
from maskedclip.models.patches import pixel_target, split_patches, take
from maskedclip.models.shapes import NetworkShape, absent, parameter_count, stack_shape
from maskedclip.pretrain.accumulation import micro_batches
from maskedclip.pretrain.distribution import ways_of
from maskedclip.pretrain.initial_weights import encoder_shape, initial
from maskedclip.pretrain.methods.protocol import At, Seen, Shown
from maskedclip.pretrain.paces import check_frozen, pace_of, set_rates_at
from maskedclip.pretrain.sources import single_crop


class SimMimStudent(nn.Module):
    """Encoder, mask token and linear head."""

    def __init__(self, encoder: Encoder, *, patch_size: int) -> None:
        super().__init__()
        self.encoder = encoder
        width = encoder.width
        self.mask_token = nn.Parameter(torch.empty(1, 1, width))
        nn.init.trunc_normal_(self.mask_token, std=0.02, a=-0.02, b=0.02)
        self.head = nn.Linear(width, 3 * patch_size**2)

    def forward(self, image_BCHW: Tensor, hidden_BN: Tensor, hidden_BM: Tensor) -> Tensor:
        """Return pixel_BMP of the patches hidden_BM, which are those where hidden_BN is True."""
        encoder = self.encoder
        patch_BND = encoder.patch_embed(image_BCHW)
        mask_11D = self.mask_token.to(patch_BND.dtype)
        patch_BND = torch.where(hidden_BN[:, :, None], mask_11D, patch_BND)
        (token_BND,) = encoder.through([encoder.placed(patch_BND)])
        return self.head(take(token_BND[:, 1:], hidden_BM))

    def patch_features(self, image_BCHW: Tensor) -> Tensor:
        """Return patch_BND: the encoder's patch tokens of whole images, in fp32."""
        return self.encoder.patch_features(image_BCHW)

    def step_flops(self, images: int, hidden: int) -> float:
        """Return the floating point operations of a training step, counted as in MaskedCLIP."""
        encoder = self.encoder
        length, width = encoder.patches + 1 + encoder.registers, encoder.width
        stem = encoder.patches * encoder.patch_embed.proj.weight.numel()
        block = length * (12 * width**2 + 2 * length * width)
        head = hidden * self.head.weight.numel()
        return 3 * 2.0 * images * (stem + len(encoder.blocks) * block + head)


def objective(
    model: SimMimStudent, image_BCHW: Tensor, hidden_BN: Tensor, config: Config
) -> tuple[Tensor, Tensor, Tensor]:
    """Return (loss, pixel_BMP, hidden_BM): the mean absolute error of the hidden patches."""
    patch_size, normalised = config.model.patch_size, config.loss.normalise_pixels
    hidden_BM = split_patches(hidden_BN, visible_count(config))[1]
    pixel_BMP = model(image_BCHW, hidden_BN, hidden_BM)
    target_BMP = pixel_target(image_BCHW, hidden_BM, patch_size, normalised)
    return F.l1_loss(pixel_BMP.float(), target_BMP), pixel_BMP, hidden_BM


def train_step(
    model: SimMimStudent,
    optimizer: AdamW,
    guard: StepGuard,
    image_BCHW: Tensor,
    batch: Batch,
    at: At,
    config: Config,
) -> dict[str, Tensor]:
    """Update the weights once; return what is logged: means over all ranks, on the device.

    A step that `guard` does not admit changes no weight.
    """
    set_rates_at(optimizer, at, config.optim)
    optimizer.zero_grad()
    count, losses = config.optim.accumulate, []
    for number, (micro_BCHW, micro) in enumerate(micro_batches(image_BCHW, batch, count), start=1):
        if count > 1:
            begin_part(model, None, last=number == count)
        loss, _, _ = objective(model, micro_BCHW, micro.hidden_BN, config)
        (config.loss.mim * loss / count).backward()
        losses.append(loss.detach())
    mim = torch.stack(losses).mean()
    norm, parts = total_norm(model), gradient_norms(model) if at.measured else {}
    if config.optim.clip_norm is not None:
        torch.nn.utils.clip_grads_with_norm_(model.parameters(), config.optim.clip_norm, norm)
    values = mean_over_ranks({"loss": config.loss.mim * mim, "loss_mim": mim})
    values["grad_norm"] = whole(norm)
    guard.check(at.step, values)
    values |= parts
    optimizer.step()
    return values


def visible_count(config: Config) -> int:
    """Return how many patches of an image keep their pixels."""
    side = config.model.image_size // config.model.patch_size // config.model.mask_unit
    hidden_units = round(side * side * config.model.mask_ratio)
    return (side * side - hidden_units) * config.model.mask_unit**2


def network_shape(config: Config) -> NetworkShape:
    """Return the shapes of encoder and head, read from the networks, built without memory."""
    shape = config.model
    with torch.device("meta"):
        encoder = initial(override(config, {"init_from": ""}), encoder_shape(config))[0].encoder
        model = SimMimStudent(encoder, patch_size=shape.patch_size)
    size, patches = SIZES[shape.size], (shape.image_size // shape.patch_size) ** 2
    values = 3 * shape.patch_size**2
    wide = {"width": size.width, "hidden": 4 * size.width, "heads": size.heads}
    trunk = stack_shape("E_I", encoder, encoder.blocks, **wide)
    head = absent("D_I")._replace(
        width=size.width, width_out=values, rest=parameter_count(model) - trunk.parameters
    )
    return NetworkShape(
        encoder=trunk,
        pixel_decoder=head,
        feature_decoder=absent("D_F"),
        bridge=absent("B"),
        text=absent("E_T"),
        projections=0,
        projection=0,
        patches=patches,
        visible=visible_count(config),
        patch_values=values,
        image_values=3 * shape.image_size**2,
        mask_tokens=True,
        registers=shape.registers,
    )


class SimMimMethod:
    """What the loop, the plan and the export ask (methods/protocol.py)."""

    paper: ClassVar[str] = "SimMIM: A Simple Framework for Masked Image Modeling (Xie et al., 2022)"
    fields: ClassVar[tuple[str, ...]] = ("loss.mim", "loss.normalise_pixels")

    def __init__(self, config: Config, device: torch.device) -> None:
        self._config = config
        engine = config.engine
        start, self.tokenize = initial(config, self.shape(config))
        model = SimMimStudent(start.encoder, patch_size=config.model.patch_size).to(device)
        shard(
            model, model.encoder.blocks, compute_type(engine.precision, device),
            methods=["patch_features"], **ways_of(engine, device, model, None),
        )  # fmt: skip
        self.model, self.teacher = model, None
        optim = config.optim
        self.optimizer = adamw(
            model, betas=optim.betas, weight_decay=optim.weight_decay, eps=optim.eps,
            pace_of=pace_of(model, config),
        )  # fmt: skip

    @staticmethod
    def check(config: Config) -> None:
        if config.loss.terms != ("mim",):
            raise ValueError(
                f"method simmim with loss {' and '.join(config.loss.terms) or '0'}: its one term "
                f"is loss.mim; take the recipe simmim, or set loss.clip and loss.mfd to 0"
            )
        check_frozen(config, has_text=False)
        grid = config.model.image_size // config.model.patch_size
        if grid % config.model.mask_unit:
            raise ValueError(
                f"model.mask_unit {config.model.mask_unit}: a side of {grid} patches is no "
                f"multiple of it; use a divisor of {grid}"
            )
        if not 0 < visible_count(config) < grid * grid:
            raise ValueError(
                f"model.mask_ratio {config.model.mask_ratio}: of "
                f"{(grid // config.model.mask_unit) ** 2} units none or all would be hidden"
            )

    @staticmethod
    def terms(config: Config) -> dict[str, float]:
        return {"masked image modelling": config.loss.mim}

    @staticmethod
    def view(config: Config) -> View:
        return single_crop(config)

    @staticmethod
    def shape(config: Config) -> dict[str, Any]:
        return encoder_shape(config)

    @staticmethod
    def network(config: Config) -> tuple[NetworkShape, list[str]]:
        return network_shape(config), []

    def step(self, batch: Batch, at: At, guard: StepGuard) -> dict[str, Tensor]:
        image_BCHW = normalise(batch.image_BCHW, batch.flip_B)
        return train_step(self.model, self.optimizer, guard, image_BCHW, batch, at, self._config)

    def step_flops(self, batch: Batch) -> float:
        images = self._config.data.paired_batch + self._config.data.unpaired_batch
        return self.model.step_flops(images, batch.hidden_BN.shape[1] - visible_count(self._config))

    def exported(self) -> dict[str, Tensor]:
        weights = full_weights(self.model)
        return {name: value for name, value in weights.items() if name.startswith("encoder.")}

    @torch.no_grad()
    def encode(self, image_BCHW: Tensor) -> Tensor:
        return self.model.patch_features(image_BCHW).mean(dim=1)

    @torch.no_grad()
    def show(self, batch: Batch) -> Shown:
        image_BCHW = normalise(batch.image_BCHW, batch.flip_B)
        _, pixel_BMP, hidden_BM = objective(self.model, image_BCHW, batch.hidden_BN, self._config)
        return Shown(image_BCHW, self.model.patch_features(image_BCHW), hidden_BM, pixel_BMP)

    def look(self, batch: Batch, images: int) -> Seen:
        return Seen(self.encode(normalise(batch.image_BCHW, batch.flip_B)[:images]))

    def alone(self, batch: Batch, at: At) -> Iterator[str]:  # noqa: ARG002 (it has one term)
        yield from ()
