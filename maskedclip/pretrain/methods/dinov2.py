"""DINOv2: `objective` is DINO + iBOT + KoLeo, `train_step` one optimizer step on it.

The encoder, the loop, the stream of samples and the checkpoints are those of every other method.
"""

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.optim import AdamW

from maskedclip.config import Config, override
from maskedclip.data.multi_crop import GLOBALS, Crops, MultiCrop, augment_colours
from maskedclip.data.rows import View
from maskedclip.data.stream import Batch
from maskedclip.data.transforms import constant, normalise
from maskedclip.engine.checkpoint import full_weights
from maskedclip.engine.distributed import (
    compute_type,
    gradient_norms,
    mean_over_ranks,
    shard,
    whole,
)
from maskedclip.engine.optimizer import cosine, layer_scale, scaled_adamw
from maskedclip.engine.step_guard import StepGuard
from maskedclip.losses import centred, dino_loss, ibot_loss, koleo_loss, mean_logits, sinkhorn
from maskedclip.models.dinov2 import DinoTeacher, HeadShape, Student
from maskedclip.models.maskedclip import SIZES, MaskedCLIP
from maskedclip.models.shapes import (
    CropShape,
    NetworkShape,
    absent,
    parameter_count,
    stack_shape,
)
from maskedclip.pretrain.distribution import ways_of
from maskedclip.pretrain.initial_weights import encoder_shape, initial
from maskedclip.pretrain.methods.protocol import At, Seen, Shown
from maskedclip.pretrain.sources import single_crop

_BLUR, _SOLARISE = (1.0, 0.1, 0.5), (0.0, 0.2, 0.0)  # chances: large crops, then small ones


class DinoNetworks(NamedTuple):
    """Student, EMA teacher and optimizer."""

    model: Student
    teacher: DinoTeacher
    optimizer: AdamW


def objective(
    networks: DinoNetworks, crops: Crops, temperature: float, config: Config
) -> tuple[dict[str, Tensor], tuple[Tensor, Tensor]]:
    """Return the losses of one batch by name, and what the teacher's centres move to.

    temperature is the teacher's. `cls_std` shows a collapse: the deviation of unit [CLS] rows,
    in units of what rows in all directions have, is 0 where all images are alike.
    """
    dino, (model, teacher, _) = config.dino, networks
    global_RCHW, local_RCHW = prepared(crops)
    hidden_RN = crops.hidden_BGN.transpose(0, 1).flatten(0, 1)
    cls_RK, patch_MK = teacher(global_RCHW, crops.masked_M)
    target_GBK = _target(cls_RK, teacher.cls_centre, temperature, config).unflatten(
        0, (GLOBALS, -1)
    )
    out = model(global_RCHW, local_RCHW, hidden_RN, crops.masked_M, _kept(crops, dino.drop_path))
    terms = {"dino": dino_loss(out.cls_XBK, target_GBK, dino.student_temperature)}
    weights = {"dino": dino.cls, "ibot": dino.ibot, "koleo": dino.koleo}
    means = teacher.cls_centre, teacher.patch_centre
    if dino.targets == "centre":
        means = mean_logits(cls_RK), teacher.patch_centre
    if dino.ibot:
        target_MK = _target(patch_MK, teacher.patch_centre, temperature, config)
        weight_M = (1 / hidden_RN.sum(dim=1))[crops.masked_M // hidden_RN.shape[1]]
        terms["ibot"] = ibot_loss(
            out.patch_MK, target_MK, weight_M, len(hidden_RN), dino.student_temperature
        )
        if dino.targets == "centre":
            means = means[0], mean_logits(patch_MK)
    if dino.koleo:
        terms["koleo"] = koleo_loss(out.cls_GBD)
    loss = torch.stack([weights[name] * term for name, term in terms.items()]).sum()
    values = {"loss": loss} | {f"loss_{name}": term for name, term in terms.items()}
    if dino.cls:
        values |= told_apart(target_GBK, terms["dino"])
    unit_BD = torch.nn.functional.normalize(out.cls_GBD[0].detach().float(), dim=-1)
    values["cls_std"] = unit_BD.std(dim=0, correction=0).mean() * math.sqrt(unit_BD.shape[1])
    return values, means


def train_step(
    networks: DinoNetworks, guard: StepGuard, crops: Crops, at: At, config: Config
) -> dict[str, Tensor]:
    """Update the weights once; return what is logged: means over all ranks, on the device.

    A step that `guard` does not admit changes no weight.
    """
    (model, teacher, optimizer), dino = networks, config.dino
    share, epoch = at.step / at.total, at.step / at.total * config.optim.epochs
    decay = cosine(config.optim.weight_decay, dino.last_weight_decay, share)
    for group in optimizer.param_groups:
        frozen = group["prototypes"] and epoch < dino.freeze_epochs
        group["lr"] = 0.0 if frozen else at.lr * group["lr_scale"]
        group["weight_decay"] = decay * group["decays"]
    optimizer.zero_grad()
    losses, means = objective(networks, crops, teacher_temperature(at, config), config)
    losses["loss"].backward()
    values = mean_over_ranks({name: value.detach() for name, value in losses.items()})
    parts = gradient_norms(model) if at.measured else {}
    values["grad_norm"] = _clipped(model, config.optim.clip_norm)
    guard.check(at.step, values)
    values |= parts
    optimizer.step()
    teacher.follow(model, cosine(dino.momentum, 1.0, share), means, guard.skip)
    return values


def teacher_temperature(at: At, config: Config) -> float:
    """Return the teacher's temperature of a step."""
    dino, epoch = config.dino, at.step / at.total * config.optim.epochs
    warm = min(1.0, epoch / dino.temperature_epochs) if dino.temperature_epochs else 1.0
    first, last = dino.teacher_temperature
    return first + warm * (last - first)


class DinoV2Method:
    """What the loop, the plan and the export ask (methods/protocol.py)."""

    paper: ClassVar[str] = (
        "DINOv2: Learning Robust Visual Features without Supervision (Oquab et al., 2024)"
    )
    fields: ClassVar[tuple[str, ...]] = ("dino.",)

    def __init__(self, config: Config, device: torch.device) -> None:
        self._config = config
        dino, engine = config.dino, config.engine
        compute = compute_type(engine.precision, device)
        start, self.tokenize = initial(config, self.shape(config))
        model = student(start, config).to(device)
        teacher = DinoTeacher(model)
        ways = ways_of(engine, device, model, teacher)
        # of a step's patches another number is masked
        shard(model, model.units(), compute, varying=model.heads(), **ways)
        shard(
            teacher, teacher.units(), compute, methods=["patch_features"],
            varying=teacher.heads(), trains=False, **ways,
        )  # fmt: skip
        names = [name for name, _ in model.named_parameters()]
        by_layer = layer_scale(names, config.layer_decay)
        optimizer = scaled_adamw(
            model,
            lambda name: by_layer(name) * (dino.patch_lr if "patch_embed" in name else 1.0),
            betas=config.optim.betas,
            eps=config.optim.eps,
            slow=("prototypes",),
        )
        self.networks = DinoNetworks(model, teacher, optimizer)
        self.model, self.teacher, self.optimizer = self.networks

    @staticmethod
    def check(config: Config) -> None:
        if config.loss.terms:
            raise ValueError(
                f"method dinov2 with loss.{config.loss.terms[0]}: it has losses of its own, which "
                f"the dino.* fields weigh; take the recipe dinov2, or set the weights of loss to 0"
            )
        if config.model.mask_unit != 1:
            raise ValueError(
                f"model.mask_unit {config.model.mask_unit}: dinov2 hides blocks; use 1"
            )
        for name in ("freeze_encoder_epochs", "freeze_text_epochs"):
            if getattr(config.optim, name):
                raise ValueError(f"optim.{name}: dinov2 freezes its prototypes alone; leave it out")
        if config.optim.accumulate > 1:
            raise ValueError(
                f"optim.accumulate {config.optim.accumulate}: DINOv2 compares the images of a "
                f"whole step; use 1, and engine.activation_checkpointing=True to save memory"
            )
        if config.data.paired_batch + config.data.unpaired_batch < 2:
            raise ValueError("data: DINOv2 contrasts the images of a step; use 2 or more of them")
        if config.dino.local_size % config.model.patch_size:
            raise ValueError(
                f"dino.local_size {config.dino.local_size} is not a multiple of model.patch_size "
                f"{config.model.patch_size}"
            )

    @staticmethod
    def terms(config: Config) -> dict[str, float]:
        dino = config.dino
        terms = {
            "DINO on class tokens": dino.cls,
            "iBOT on masked patches": dino.ibot,
            "KoLeo": dino.koleo,
        }
        return {name: weight for name, weight in terms.items() if weight}

    @staticmethod
    def view(config: Config) -> View:
        return replace(single_crop(config), crops=multi_crop(config))

    @staticmethod
    def shape(config: Config) -> dict[str, Any]:
        return encoder_shape(config)

    @staticmethod
    def network(config: Config) -> tuple[NetworkShape, list[str]]:
        return network_shape(config)

    def step(self, batch: Batch, at: At, guard: StepGuard) -> dict[str, Tensor]:
        assert batch.crops is not None, "DINOv2 learns from several crops"
        return train_step(self.networks, guard, batch.crops, at, self._config)

    def step_flops(self, batch: Batch) -> float:  # noqa: ARG002 (the same for every batch)
        data = self._config.data
        return step_flops(
            self.networks.model, data.paired_batch + data.unpaired_batch, self._config
        )

    def exported(self) -> dict[str, Tensor]:
        weights = full_weights(self.teacher)
        return {name: value for name, value in weights.items() if name.startswith("encoder.")}

    @torch.no_grad()
    def encode(self, image_BCHW: Tensor) -> Tensor:
        return self.networks.teacher.patch_features(image_BCHW).mean(dim=1)

    @torch.no_grad()
    def show(self, batch: Batch) -> Shown:
        image_BCHW = normalise(batch.image_BCHW, batch.flip_B)
        return Shown(image_BCHW, self.networks.teacher.patch_features(image_BCHW))

    @torch.no_grad()
    def look(self, batch: Batch, images: int) -> Seen:
        assert batch.crops is not None, "DINOv2 learns from several crops"
        global_RCHW, _ = prepared(batch.crops)
        return Seen(self.encode(global_RCHW[: min(images, len(global_RCHW) // GLOBALS)]))

    def alone(self, batch: Batch, at: At) -> Iterator[str]:
        assert batch.crops is not None, "DINOv2 learns from several crops"
        dino = self._config.dino
        weights = {"cls": dino.cls, "ibot": dino.ibot, "koleo": dino.koleo}
        names = {"cls": "dino", "ibot": "ibot", "koleo": "koleo"}  # of the field, and of the term
        learnt = [field for field, weight in weights.items() if weight]
        if len(learnt) < 2:
            return
        temperature = teacher_temperature(at, self._config)
        for field in learnt:
            self.optimizer.zero_grad()
            losses, _ = objective(self.networks, batch.crops, temperature, self._config)
            (weights[field] * losses[f"loss_{names[field]}"]).backward()
            yield names[field]
        self.optimizer.zero_grad()


def student(start: MaskedCLIP, config: Config) -> Student:
    """Return the network that is trained, its encoder that of `start`."""
    dino = config.dino
    separate = bool(dino.separate_heads and dino.ibot)
    heads = HeadShape(dino.head_width, dino.bottleneck, dino.prototypes, separate)
    grid = dino.local_size // config.model.patch_size
    return Student(start.encoder, heads, local_grid=grid)


def network_shape(config: Config) -> tuple[NetworkShape, list[str]]:
    """Return the shapes of encoder and heads, and what was assumed of a step's masks.

    They are read from the networks, built without memory.
    """
    dino, shape, size = config.dino, config.model, SIZES[config.model.size]
    with torch.device("meta"):
        model = student(
            initial(override(config, {"init_from": ""}), encoder_shape(config))[0], config
        )
    wide = {"width": size.width, "hidden": 4 * size.width, "heads": size.heads}
    encoder, heads = model.encoder, model.heads()
    patches = (shape.image_size // shape.patch_size) ** 2
    masked = patches * sum(dino.mask_ratio) / 2 if dino.ibot else 0.0
    crops = CropShape(
        large=GLOBALS, small=dino.local_crops,
        small_patches=(dino.local_size // shape.patch_size) ** 2, masked=masked,
        hidden=dino.head_width, bottleneck=dino.bottleneck, prototypes=dino.prototypes,
    )  # fmt: skip
    pixels = GLOBALS * shape.image_size**2 + dino.local_crops * dino.local_size**2
    network = NetworkShape(
        encoder=stack_shape("E_I", encoder, encoder.blocks, **wide),
        pixel_decoder=absent("D_I"),
        feature_decoder=absent("D_F"),
        bridge=absent("B"),
        text=absent("E_T"),
        projections=model.mask_token.numel(),
        projection=0,
        patches=patches,
        visible=patches,
        patch_values=3 * shape.patch_size**2,
        image_values=3 * pixels,
        crops=crops,
        registers=shape.registers,
        heads=absent("heads")._replace(
            depth=len(heads), width=size.width, unit=parameter_count(heads[0])
        ),
    )
    return network, [f"masked patches: {masked:.4g} an image, the mean of dino.mask_ratio"]


def multi_crop(config: Config) -> MultiCrop:
    """Return what is cut from a picture."""
    dino = config.dino
    return MultiCrop(
        local_crops=dino.local_crops,
        local_size=dino.local_size,
        local_area=dino.local_area,
        mask_ratio=dino.mask_ratio if dino.ibot else (0.0, 0.0),
        drops=2 * SIZES[config.model.size].depth if dino.drop_path else 0,
    )


def step_flops(model: Student, images: int, config: Config) -> float:
    """Return the floating point operations of a training step; masked patches are the mean."""
    patches = (config.model.image_size // config.model.patch_size) ** 2
    masked = patches * sum(config.dino.mask_ratio) / 2 if config.dino.ibot else 0.0
    return model.step_flops(images, config.dino.local_crops, masked)


@torch.no_grad()
def prepared(crops: Crops) -> tuple[Tensor, Tensor]:
    """Return large and small crops, coloured and normalised, number by number."""
    prepared_crops, first = [], 0
    for image_BXHWC in (crops.large_crops(), crops.small_crops()):
        images, number = image_BXHWC.shape[:2]
        stop = first + number
        image_RCHW = image_BXHWC.transpose(0, 1).flatten(0, 1).permute(0, 3, 1, 2)
        colour_RF = crops.colour_BXF[:, first:stop].transpose(0, 1).flatten(0, 1)
        flip_R = crops.flip_BX[:, first:stop].T.flatten()
        kind_R = torch.arange(first, stop, device=colour_RF.device).clamp(max=GLOBALS)
        kind_R = kind_R.repeat_interleave(images)
        coloured_RCHW = augment_colours(
            image_RCHW.float() / 255,
            colour_RF,
            blur_B=constant(_BLUR, kind_R.device)[kind_R],
            solarise_B=constant(_SOLARISE, kind_R.device)[kind_R],
        )
        prepared_crops.append(normalise(255 * coloured_RCHW, flip_R))
        first = stop
    return prepared_crops[0], prepared_crops[1]


def _target(logit_BK: Tensor, centre_K: Tensor, temperature: float, config: Config) -> Tensor:
    if config.dino.targets == "sinkhorn":
        return sinkhorn(logit_BK, temperature)
    return centred(logit_BK, centre_K, temperature)


def told_apart(target_GBK: Tensor, loss: Tensor) -> dict[str, Tensor]:
    """Return the two parts of DINO's loss, and what the targets tell of which image they are of.

    Information is 0 where all images have one target, be it one prototype or all of them alike,
    and at most the logarithm of a rank's images.
    """
    entropy = torch.special.entr(target_GBK).sum(dim=-1).mean()
    information = torch.special.entr(target_GBK.mean(dim=1)).sum(dim=-1).mean() - entropy
    parts = {"entropy_dino": entropy, "kl_dino": loss.detach() - entropy}
    return parts | {"information_dino": information}


def _kept(crops: Crops, rate: float) -> Tensor | None:
    """Return kept_JR: 0 where a crop leaves a branch of a block out, which others make up for."""
    if not rate:
        return None
    return (crops.drop_BXF >= rate).permute(2, 1, 0).flatten(1).float() / (1 - rate)


def _clipped(model: Student, largest: float | None) -> Tensor:
    """Clip the gradients of the encoder and of each head separately; return the norm before."""
    own = [model.mask_token, *model.encoder.parameters()]
    norms = []
    for part in (own, *(list(head.parameters()) for head in model.heads())):
        norm = torch.nn.utils.get_total_norm([p.grad for p in part if p.grad is not None])
        if largest is not None:
            torch.nn.utils.clip_grads_with_norm_(part, largest, norm)
        norms.append(whole(norm))
    return torch.stack(norms).norm()
