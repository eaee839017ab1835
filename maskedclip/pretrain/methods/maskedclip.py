"""MaskedCLIP: `objective` is eq. 6, `train_step` one optimizer step on it.

The same code is MAE, CLIP, SigLIP and the rows of Table 2: what a term of weight 0 alone would need
is neither built nor computed.
"""

from collections.abc import Iterator
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import AdamW
from transformers import BertConfig, BertModel

from maskedclip.config import Config, LossConfig, override
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
from maskedclip.losses import centred_features, masked_feature_loss, masked_pixel_loss
from maskedclip.models.maskedclip import SIZES, MaskedCLIP, Outputs
from maskedclip.models.patches import pixel_target, take
from maskedclip.models.shapes import NetworkShape, absent, parameter_count, stack_shape
from maskedclip.models.teacher import Teacher
from maskedclip.models.text import TextTower, build_text
from maskedclip.pretrain.accumulation import (
    Contrast,
    contrast_of_all,
    contrasts,
    micro_batches,
)
from maskedclip.pretrain.distribution import ways_of
from maskedclip.pretrain.initial_weights import initial, shape_of
from maskedclip.pretrain.methods.protocol import At, Seen, Shown
from maskedclip.pretrain.paces import check_frozen, pace_of, set_rates_at
from maskedclip.pretrain.sources import single_crop

# vocabularies of BERTs of the base shape, whose files a login node may lack
KNOWN_BERTS = {"emilyalsentzer/Bio_ClinicalBERT": 28_996}


class MaskedClipNetworks(NamedTuple):
    """Student, EMA teacher (with the distillation of eq. 5) and optimizer."""

    model: MaskedCLIP
    teacher: Teacher | None
    optimizer: AdamW


def objective(
    networks: MaskedClipNetworks,
    image_BCHW: Tensor,
    batch: Batch,
    config: Config,
    contrast: Contrast = contrast_of_all,
) -> tuple[dict[str, Tensor], Outputs]:
    """Return the losses of a batch by name, `loss` their weighted sum (eq. 6), and the outputs.

    A term of weight 0 is absent: the model gives None for what it needs.
    """
    # the teacher first: its working set is then gone before the student keeps anything
    target_BND = targets(networks.teacher, image_BCHW, config)
    out = networks.model(image_BCHW, batch.hidden_BN, batch.token_AL, batch.token_mask_AL)
    terms: dict[str, Tensor] = {}
    if out.pixel_BMP is not None:
        target_BMP = pixel_target(
            image_BCHW, out.hidden_BM, config.model.patch_size, config.loss.normalise_pixels
        )
        all_BM = torch.ones_like(out.hidden_BM, dtype=torch.bool)  # D_I predicts hidden ones alone
        terms["mim"] = masked_pixel_loss(out.pixel_BMP, target_BMP, all_BM)
    if out.image_AD is not None:
        terms["clip"] = contrast(out, batch.label_A)
    if out.feature_BND is not None and target_BND is not None:
        if config.model.feature_patches == "hidden" and out.hidden_BM is not None:
            target_BND = take(target_BND, out.hidden_BM)
        terms["mfd"] = masked_feature_loss(out.feature_BND, target_BND)
    return weighted(terms, config.loss), out


def targets(teacher: Teacher | None, image_BCHW: Tensor, config: Config) -> Tensor | None:
    """Return what D_F is to predict (eq. 5), None where nothing is distilled."""
    if teacher is None:
        return None
    target_BND: Tensor = teacher(image_BCHW)
    return centred_features(target_BND) if config.loss.centre_targets else target_BND


def weighted(terms: dict[str, Tensor], weights: LossConfig) -> dict[str, Tensor]:
    """Return the terms of eq. 6 by name, and their weighted sum as `loss`."""
    loss = torch.stack([getattr(weights, name) * term for name, term in terms.items()]).sum()
    return {"loss": loss} | {f"loss_{name}": term for name, term in terms.items()}


def gradients(
    networks: MaskedClipNetworks, image_BCHW: Tensor, batch: Batch, config: Config
) -> tuple[dict[str, Tensor], Outputs]:
    """Add the gradients of eq. 6; return its terms, and the outputs of some images."""
    count = config.optim.accumulate
    if count == 1:
        losses, out = objective(networks, image_BCHW, batch, config)
        losses["loss"].backward()
        return {name: value.detach() for name, value in losses.items()}, out
    begin_part(networks.model, networks.teacher, last=False)
    surrogates: list[Contrast] = [contrast_of_all] * count  # unused where nothing is contrasted
    if config.loss.clip:
        clip, surrogates = contrasts(networks.model, image_BCHW, batch, count)
    values: dict[str, list[Tensor]] = {}
    micro = micro_batches(image_BCHW, batch, count)
    numbered = enumerate(zip(micro, surrogates, strict=True), start=1)
    for number, ((micro_BCHW, micro_batch), surrogate) in numbered:
        begin_part(networks.model, networks.teacher, last=number == count)
        losses, out = objective(networks, micro_BCHW, micro_batch, config, surrogate)
        (losses["loss"] / count).backward()
        for name, value in losses.items():
            values.setdefault(name, []).append(value.detach())
    terms = {
        name.removeprefix("loss_"): torch.stack(micro_values).mean()
        for name, micro_values in values.items()
        if name != "loss"
    }
    if config.loss.clip:
        terms["clip"] = clip  # the surrogates' own values mean nothing
    return weighted(terms, config.loss), out


def train_step(
    networks: MaskedClipNetworks,
    guard: StepGuard,
    image_BCHW: Tensor,
    batch: Batch,
    at: At,
    config: Config,
) -> dict[str, Tensor]:
    """Update the weights once; return what is logged: means over all ranks, on the device.

    A step that `guard` does not admit changes no weight.
    """
    model, teacher, optimizer = networks
    set_rates_at(optimizer, at, config.optim)
    optimizer.zero_grad()
    losses, out = gradients(networks, image_BCHW, batch, config)
    norm, parts = total_norm(model), gradient_norms(model) if at.measured else {}
    if config.optim.clip_norm is not None:
        torch.nn.utils.clip_grads_with_norm_(model.parameters(), config.optim.clip_norm, norm)
    scalars = {name: getattr(out, name) for name in ("logit_scale", "logit_bias")}
    values = mean_over_ranks(losses)
    values |= {name: whole(scalar) for name, scalar in scalars.items() if scalar is not None}
    values["grad_norm"] = whole(norm)
    guard.check(at.step, values)
    values |= parts
    optimizer.step()
    if config.loss.clip:
        model.temperature.clamp()
    if teacher is not None:
        teacher.follow(model, config.model.teacher_momentum, guard.skip)
    return values


class MaskedClipMethod:
    """What the loop, the plan and the export ask (methods/protocol.py)."""

    paper: ClassVar[str] = (
        "MaskedCLIP: Bridging the Masked and CLIP Space for Semi-Supervised Medical "
        "Vision-Language Pre-training (Zhu, Zhou, Goh, Liu)"
    )
    fields: ClassVar[tuple[str, ...]] = ("loss.",)

    def __init__(self, config: Config, device: torch.device) -> None:
        self._config = config
        engine, compute = config.engine, compute_type(config.engine.precision, device)
        model, self.tokenize = initial(config, self.shape(config))
        model = model.to(device)
        teacher = Teacher(model.encoder, model.bridge) if config.loss.mfd else None
        ways, optim = ways_of(engine, device, model, teacher), config.optim
        shard(
            model, model.units(), compute,
            exact=model.exact(), methods=["features", "patch_features"], varying=model.text_units(),
            narrow_gradients=optim.accumulate == 1 and optim.clip_norm is None, **ways,
        )  # fmt: skip
        if teacher is not None:
            shard(teacher, teacher.units(), compute, trains=False, **ways)
        optimizer = adamw(
            model, betas=optim.betas, weight_decay=optim.weight_decay, eps=optim.eps,
            pace_of=pace_of(model, config),
        )  # fmt: skip
        self.networks = MaskedClipNetworks(model, teacher, optimizer)
        self.model, self.teacher, self.optimizer = self.networks

    @staticmethod
    def check(config: Config) -> None:
        loss, model = config.loss, config.model
        if not loss.terms:
            raise ValueError("loss.mim, loss.clip and loss.mfd are 0; nothing would be learnt")
        contrasted, bridged = "clip" in loss.terms, model.bridge_depth > 0
        check_frozen(config, has_text=contrasted)
        if contrasted and not config.data.paired_batch:
            raise ValueError(
                "data.paired_batch 0: the contrast of eq. 4 needs pairs; use 1 or more, or "
                "loss.clip=0 to do without"
            )
        if loss.terms == ("clip",) and config.data.unpaired_batch:
            raise ValueError(
                f"data.unpaired_batch {config.data.unpaired_batch}: the contrast alone uses no "
                f"unpaired images; use 0"
            )
        if "mfd" in loss.terms and bridged and not contrasted:
            raise ValueError(
                "loss.mfd without loss.clip: nothing would teach the bridge, whose average gives "
                "the features of eq. 5; use model.bridge_depth=0, or loss.mfd=0"
            )
        if model.mask_unit != 1:
            raise ValueError(f"model.mask_unit {model.mask_unit}: only simmim hides units; use 1")
        if model.bridge_shared and not (bridged and contrasted):
            raise ValueError(
                "model.bridge_shared: there is no bridge to share; it needs model.bridge_depth "
                "and loss.clip above 0"
            )
        if loss.centre_targets and not ("mfd" in loss.terms and config.optim.accumulate == 1):
            raise ValueError(
                "loss.centre_targets is about the features of eq. 5 in one whole step: it needs "
                "loss.mfd above 0 and optim.accumulate=1"
            )
        if config.optim.accumulate > 1 and model.text_dropout:
            raise ValueError(
                "optim.accumulate runs the text tower twice a step, and model.text_dropout would "
                "drop other features the second time; set one of them to 1 or 0"
            )

    @staticmethod
    def terms(config: Config) -> dict[str, float]:
        words = {
            "mim": "masked image modelling",
            "clip": "image-text contrast",
            "mfd": "masked feature distillation",
        }
        return {words[name]: getattr(config.loss, name) for name in config.loss.terms}

    @staticmethod
    def view(config: Config) -> View:
        return single_crop(config)

    @staticmethod
    def shape(config: Config) -> dict[str, Any]:
        return shape_of(config, config.loss.terms)

    @staticmethod
    def network(config: Config) -> tuple[NetworkShape, list[str]]:
        return network_shape(config)

    def step(self, batch: Batch, at: At, guard: StepGuard) -> dict[str, Tensor]:
        image_BCHW = normalise(batch.image_BCHW, batch.flip_B)
        return train_step(self.networks, guard, image_BCHW, batch, at, self._config)

    def step_flops(self, batch: Batch) -> float:
        data = self._config.data
        images = data.paired_batch + data.unpaired_batch
        model = self.networks.model
        return model.step_flops(images, data.paired_batch, batch.token_AL.shape[1])

    def exported(self) -> dict[str, Tensor]:
        return full_weights(self.model)

    @torch.no_grad()
    def encode(self, image_BCHW: Tensor) -> Tensor:
        return self.networks.model.patch_features(image_BCHW).mean(dim=1)

    @torch.no_grad()
    def show(self, batch: Batch) -> Shown:
        image_BCHW = normalise(batch.image_BCHW, batch.flip_B)
        model, teacher, _ = self.networks
        out = model(image_BCHW, batch.hidden_BN, batch.token_AL, batch.token_mask_AL)
        cosine_BN, target_BND = None, targets(teacher, image_BCHW, self._config)
        if target_BND is not None and out.feature_BND is not None and out.hidden_BM is not None:
            patches = target_BND.shape[1]
            if model.hides:
                target_BND = take(target_BND, out.hidden_BM)
            cosine_BN = F.cosine_similarity(out.feature_BND.float(), target_BND.float(), dim=-1)
            if model.hides:
                none_BN = cosine_BN.new_full((len(image_BCHW), patches), torch.nan)
                cosine_BN = none_BN.scatter(1, out.hidden_BM, cosine_BN)
        return Shown(
            image_BCHW, model.patch_features(image_BCHW), out.hidden_BM, out.pixel_BMP, cosine_BN,
            out.image_AD, out.text_AD,
        )  # fmt: skip

    @torch.no_grad()
    def look(self, batch: Batch, images: int) -> Seen:
        image_BCHW = normalise(batch.image_BCHW, batch.flip_B)
        model, teacher, _ = self.networks
        parts, seen = self._config.optim.accumulate, list[Seen]()
        for number, (micro_BCHW, micro) in enumerate(micro_batches(image_BCHW, batch, parts), 1):
            if parts > 1:
                begin_part(model, teacher, last=number == parts)
            target_BND = targets(teacher, micro_BCHW, self._config)
            out = model(micro_BCHW, micro.hidden_BN, micro.token_AL, micro.token_mask_AL)
            seen.append(
                Seen(
                    self.encode(micro_BCHW[: max(1, images // parts)]), out.image_AD, out.text_AD,
                    micro.label_A, out.logit_scale, out.logit_bias, target_BND, out.feature_BND,
                    micro.hidden_BN,
                )
            )  # fmt: skip
        together = [
            torch.cat(values) if values[0] is not None else None
            for values in zip(*seen, strict=True)
        ]
        return Seen._make(together)._replace(
            logit_scale=seen[0].logit_scale, logit_bias=seen[0].logit_bias
        )

    def alone(self, batch: Batch, at: At) -> Iterator[str]:  # noqa: ARG002 (no schedule)
        config, terms = self._config, self._config.loss.terms
        if len(terms) < 2:
            return
        image_BCHW = normalise(batch.image_BCHW, batch.flip_B)
        for name in terms:
            self.optimizer.zero_grad()
            others = {f"loss.{other}": 0.0 for other in terms if other != name}
            gradients(self.networks, image_BCHW, batch, override(config, others))
            yield name
        self.optimizer.zero_grad()


def network_shape(config: Config) -> tuple[NetworkShape, list[str]]:
    """Return the shapes of the run's networks, and what had to be assumed about them.

    They are read from the networks themselves, built without memory. Raises ValueError for a text
    tower that is neither on this machine nor known.
    """
    shape, assumed, tower = config.model, list[str](), None
    outside = ("text", "text_tokens", "text_dropout")
    with torch.device("meta"):
        if config.loss.clip:
            bert, assumed = _bert_shape(shape.text)
            tower = TextTower(bert=bert, projection=shape.projection)
        keywords = {k: v for k, v in MaskedClipMethod.shape(config).items() if k not in outside}
        model = MaskedCLIP(text=tower, **keywords)
    size = SIZES[shape.size]
    wide = {"width": size.width, "hidden": 4 * size.width, "heads": size.heads}
    small = {
        "width": size.decoder_width,
        "hidden": 4 * size.decoder_width,
        "heads": size.decoder_heads,
    }
    values = 3 * shape.patch_size**2
    pixels, features, text, heads = absent("D_I"), absent("D_F"), absent("E_T"), 0
    if config.loss.mim:
        decoder = model.pixel_decoder
        ends = {"width_in": size.width, "width_out": values}
        pixels = stack_shape("D_I", decoder, decoder.blocks, **small, **ends)
    if config.loss.mfd:
        decoder = model.feature_decoder
        ends = {"width_in": size.width, "width_out": size.width}
        features = stack_shape("D_F", decoder, decoder.blocks, **wide, **ends)
    if tower is not None:
        bert_config = tower.bert.config
        text = stack_shape(
            "E_T", tower.bert, tower.bert.encoder.layer, width=bert_config.hidden_size,
            hidden=bert_config.intermediate_size, heads=bert_config.num_attention_heads,
        )  # fmt: skip
        small_modules: tuple[nn.Module, ...] = (
            model.image_projection, tower.projection, *model.exact(),
        )  # fmt: skip
        heads = sum(parameter_count(module) for module in small_modules)
    network = NetworkShape(
        encoder=stack_shape("E_I", model.encoder, model.encoder.blocks, **wide),
        pixel_decoder=pixels,
        feature_decoder=features,
        bridge=stack_shape("B", model.bridge, model.bridge.blocks, **wide),
        text=text,
        projections=heads,
        projection=shape.projection,
        patches=(shape.image_size // shape.patch_size) ** 2,
        visible=model.visible,
        patch_values=values,
        image_values=3 * shape.image_size**2,
        bridge_shared=shape.bridge_shared,
        registers=shape.registers,
        distils_hidden=shape.feature_patches == "hidden",
    )
    assert network.parameters == parameter_count(model)
    return network, assumed


def _bert_shape(name: str) -> tuple[BertModel, list[str]]:
    """Return a BERT without values, and the note that its shape was assumed, if it was."""
    try:
        tower, _ = build_text(name, projection=1, dropout=0.0, max_tokens=1, pretrained=False)
    except ValueError:
        if name not in KNOWN_BERTS:
            raise
        config = BertConfig(vocab_size=KNOWN_BERTS[name])  # BERT base is its default
        note = f"E_T: {name} is not on this machine; BERT base with its {config.vocab_size:,} words"
        return BertModel(config, add_pooling_layer=False), [note]
    return tower.bert, []
