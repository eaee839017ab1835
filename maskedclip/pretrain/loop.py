"""Pre-training on one screen: `objective` is eq. 6, `pretrain` the loop around it."""

import logging
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict, replace
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.optim import AdamW

from maskedclip.config import Config, DataConfig, LossConfig, OptimConfig, load, save
from maskedclip.data.multi_crop import Crops
from maskedclip.data.rows import View
from maskedclip.data.source import Source
from maskedclip.data.storage.open_dataset import dataset_sha256
from maskedclip.data.stream import Batch, stream
from maskedclip.data.transforms import denormalise, normalise
from maskedclip.engine.checkpoint import Checkpoints, full_weights, restore
from maskedclip.engine.distributed import (
    compute_type,
    mean_over_ranks,
    process_group,
    shard,
    total_norm,
    whole,
)
from maskedclip.engine.hang_watch import HangWatch
from maskedclip.engine.mfu import peak_flops
from maskedclip.engine.optimizer import adamw, warmup_cosine
from maskedclip.engine.preemption import Preempted, Preemption
from maskedclip.engine.provenance import check_data, provenance, record
from maskedclip.engine.run_lease import RunLease
from maskedclip.engine.step_guard import StepGuard
from maskedclip.engine.step_log import StepLog
from maskedclip.losses import masked_feature_loss, masked_pixel_loss
from maskedclip.models.maskedclip import MaskedCLIP, Outputs, build
from maskedclip.models.patches import pixel_target, seen_and_drawn
from maskedclip.models.pretrained import begin_from, export
from maskedclip.models.teacher import Teacher
from maskedclip.models.text import Tokenizer
from maskedclip.pretrain import dinov2
from maskedclip.pretrain.accumulation import Contrast, contrast_of_all, contrasts, parts_of
from maskedclip.pretrain.dinov2 import DinoNetworks
from maskedclip.pretrain.faults import Faults
from maskedclip.pretrain.sources import (
    everywhere,
    keep_silent,
    length,
    list_unseen,
    open_ledger,
    read_sources,
    view,
)

logger = logging.getLogger(__name__)


class Networks(NamedTuple):
    """What is trained, what follows it (where eq. 5 is learnt), and what moves it."""

    model: MaskedCLIP
    teacher: Teacher | None
    optimizer: AdamW


def objective(
    networks: Networks,
    image_BCHW: Tensor,
    batch: Batch,
    config: Config,
    contrast: Contrast = contrast_of_all,
) -> tuple[dict[str, Tensor], Outputs]:
    """Return the losses of one batch by name, the weighted sum of eq. 6 as `loss`.

    A term whose weight is 0 is not there: the model gives None for what it needs.
    """
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
    if out.feature_BND is not None and networks.teacher is not None:
        wanted_BM = out.hidden_BM if config.model.feature_patches == "hidden" else None
        terms["mfd"] = masked_feature_loss(out.feature_BND, networks.teacher(image_BCHW, wanted_BM))
    return weighted(terms, config.loss), out


def weighted(terms: dict[str, Tensor], weights: LossConfig) -> dict[str, Tensor]:
    """Return the terms of eq. 6 by name, and their sum as `loss`."""
    loss = torch.stack([getattr(weights, name) * term for name, term in terms.items()]).sum()
    return {"loss": loss} | {f"loss_{name}": term for name, term in terms.items()}


def gradients(
    networks: Networks, image_BCHW: Tensor, batch: Batch, config: Config
) -> tuple[dict[str, Tensor], tuple[Tensor, Outputs]]:
    """Add the gradients of eq. 6; return its terms, and some images with their forward pass."""
    parts = config.optim.accumulate
    if parts == 1:
        losses, out = objective(networks, image_BCHW, batch, config)
        losses["loss"].backward()
        return {name: value.detach() for name, value in losses.items()}, (image_BCHW, out)
    pulls: list[Contrast] = [contrast_of_all] * parts  # not asked where there is no contrast
    if config.loss.clip:
        clip, pulls = contrasts(networks.model, image_BCHW, batch, parts)
    found: list[dict[str, Tensor]] = []
    for (part_BCHW, part), pull in zip(parts_of(image_BCHW, batch, parts), pulls, strict=True):
        losses, out = objective(networks, part_BCHW, part, config, pull)
        (losses["loss"] / parts).backward()
        found.append({name: value.detach() for name, value in losses.items()})
    terms = {
        name: torch.stack([part[f"loss_{name}"] for part in found]).mean()
        for name in config.loss.terms
    }
    if config.loss.clip:
        terms["clip"] = clip  # the parts' own mean nothing
    return weighted(terms, config.loss), (part_BCHW, out)


def train_step(
    networks: Networks, guard: StepGuard, image_BCHW: Tensor, batch: Batch, step: int, lr: float,
    config: Config,
) -> tuple[dict[str, Tensor], tuple[Tensor, Outputs]]:  # fmt: skip
    """Move the weights once; return what is logged (on the device) and what can be drawn.

    The values are means over all ranks. A step that `guard` does not admit moves nothing.
    """
    model, teacher, optimizer = networks
    for group in optimizer.param_groups:
        group["lr"] = lr
    optimizer.zero_grad()
    losses, shown = gradients(networks, image_BCHW, batch, config)
    norm = total_norm(model)
    if config.optim.clip_norm is not None:
        torch.nn.utils.clip_grads_with_norm_(model.parameters(), config.optim.clip_norm, norm)
    numbers = {name: getattr(shown[1], name) for name in ("logit_scale", "logit_bias")}
    values = mean_over_ranks(losses)
    values |= {name: whole(number) for name, number in numbers.items() if number is not None}
    values["grad_norm"] = whole(norm)
    guard.check(step, values)
    optimizer.step()
    if config.loss.clip:
        model.temperature.clamp()
    if teacher is not None:
        teacher.follow(model, config.model.teacher_momentum, guard.skip)
    return values, shown


def pretrain(config: Config) -> Path:
    """Train from the run's newest verified checkpoint to its last step; return its directory.

    Every rank calls it. Raises ValueError for shards that are not there or a directory of another
    run, RuntimeError where the loss is not finite, more samples are lost than data.max_lost allows,
    or the last checkpoint cannot be written; Preempted where a signal asked to leave.
    """
    run = config.directory
    # longer than the watch, which has more to say, is patient before the first step
    timeout = timedelta(minutes=10 + 4 * config.engine.hang_minutes)
    with process_group(timeout) as device:
        sources = read_sources(config)
        claim(config)
        keep_silent(sources[0], run)
        networks, tokenize = set_up(config, device)
        lease = RunLease(run)
        lease.take()  # what an earlier one publishes now could not be seen any more
        done = restore(run / "checkpoints", *networks)
        train(config, networks, tokenize, sources, done, device, lease)
        weights = exported(networks)
        if dist.get_rank() == 0:
            list_unseen(config, *sources, length(config, *sources)[1])
            export(weights, model_shape(config), run)
    return run


def train(
    config: Config, networks: Networks | DinoNetworks, tokenize: Tokenizer,
    sources: tuple[Source | None, Source | None], done: int, device: torch.device, lease: RunLease,
) -> None:  # fmt: skip
    """Take all steps from `done` on, those again that a fault held back."""
    run, engine, data = config.directory, config.engine, config.data
    sizes, (epoch_steps, total) = (data.paired_batch, data.unpaired_batch), length(config, *sources)
    warmup, images = config.optim.warmup_epochs / config.optim.epochs * total, sum(sizes)
    guard = StepGuard(networks.optimizer, device, spike=engine.spike)
    faults = Faults(run, engine.on_fault, engine.log_every)
    peak = peak_flops(device, compute_type(engine.precision, device)) * dist.get_world_size()

    def steps(first: int, batches: Iterator[Batch]) -> int:
        """Return where to go on: at the end, or where a fault says."""
        ledger = open_ledger(config, first)
        for step in range(first, total):
            batch = log.wait_for(lambda: to_device(next(batches), device))
            lost, asked = everywhere(batch.lost, preemption.request)
            ledger.add(step, lost)
            faults.remember(step, batch.keys)
            lr = config.peak_lr * warmup_cosine(step, warmup, total)
            values, shown, flops = moved(networks, guard, batch, (step, total), lr, config)
            log.add(values, flops)
            saves = due(step, engine.save_every, total) or bool(asked)
            if saves or due(step, engine.log_every, total):  # only what is finite is saved
                if fault := guard.fault():
                    guard.resume()
                    log.reset()
                    return faults.answer(fault)
                faults.passed(step)
                log.write(step + 1, lr)
            if shown and config.loss.mim and due(step, engine.pictures_every, total):
                log.image(step + 1, picture(*shown, config))
            if saves:
                with watch.paused():
                    checkpoints.save(step + 1, *networks)
                    if asked:
                        checkpoints.finish()
                        raise Preempted(run, step + 1, asked)
            watch.beat(step + 1)
        return total

    with (
        Preemption() as preemption,  # first, so that the last save is over when handlers are back
        Checkpoints(
            run / "checkpoints", engine.keep, asynchronous=engine.save_aside, lease=lease
        ) as checkpoints,
        StepLog(
            run, done, total, lease=lease, epoch_steps=epoch_steps, images=images, peak_flops=peak
        ) as log,
        HangWatch(run / "hang", engine.hang_minutes) as watch,
    ):
        while done < total:
            batches = stream(
                *sources, sizes, looked_at(config), tokenize,
                first_step=done, rank=dist.get_rank(), world=dist.get_world_size(),
                readers=data.readers, threads=data.threads, prefetch=data.prefetch,
            )  # fmt: skip
            with closing(batches):
                done = steps(done, batches)


def moved(
    networks: Networks | DinoNetworks, guard: StepGuard, batch: Batch, place: tuple[int, int],
    lr: float, config: Config,
) -> tuple[dict[str, Tensor], tuple[Tensor, Outputs] | None, float]:  # fmt: skip
    """Take step place[0] of place[1]; return its values, what can be drawn, and its operations."""
    step, total = place
    images = config.data.paired_batch + config.data.unpaired_batch
    if isinstance(networks, DinoNetworks):
        assert batch.crops is not None, "DINOv2 learns from several crops"
        values = dinov2.train_step(networks, guard, batch.crops, step, total, lr, config)
        return values, None, dinov2.step_flops(networks.model, images, config)
    image_BCHW = normalise(batch.image_BCHW, batch.flip_B)
    values, shown = train_step(networks, guard, image_BCHW, batch, step, lr, config)
    tokens = batch.token_AL.shape[1]
    return values, shown, networks.model.step_flops(images, config.data.paired_batch, tokens)


def looked_at(config: Config) -> View:
    """Return how a sample becomes a row: DINOv2 cuts several crops from it."""
    several = dinov2.multi_crop(config) if config.loss.dino else None
    return replace(view(config), crops=several)


def exported(networks: Networks | DinoNetworks) -> dict[str, Tensor]:
    """Return the weights that a run leaves: the student's, and of DINOv2 its teacher's encoder."""
    if not isinstance(networks, DinoNetworks):
        return full_weights(networks.model)
    weights = full_weights(networks.teacher)
    return {name: value for name, value in weights.items() if name.startswith("encoder.")}


def set_up(config: Config, device: torch.device) -> tuple[Networks | DinoNetworks, Tokenizer]:
    """Return the networks, sharded over all ranks and equal for every number of them."""
    engine, compute = config.engine, compute_type(config.engine.precision, device)
    torch.manual_seed(config.seed)
    model, tokenize = build(**model_shape(config))
    if config.init_from:  # a checkpoint of the run itself is put over it
        logger.info("%s", begin_from(model, config.init_from))
    if config.loss.dino:
        return dinov2.set_up(model.encoder, config, device), tokenize
    model = model.to(device)
    teacher = Teacher(model.encoder, model.bridge) if config.loss.mfd else None
    ways: dict[str, Any] = {
        "activation_checkpointing": engine.recompute, "compiled": engine.compile,
    }  # fmt: skip
    shard(model, model.units(), compute, exact=model.exact(), methods=["features"], **ways)
    if teacher is not None:
        shard(teacher, teacher.units(), compute, trains=False, **ways)
    optimizer = adamw(model, betas=config.optim.betas, weight_decay=config.optim.weight_decay)
    return Networks(model, teacher, optimizer), tokenize


def model_shape(config: Config) -> dict[str, Any]:
    """Return what the networks are built from; exported files carry it in their headers."""
    shape = {k: v for k, v in asdict(config.model).items() if k != "teacher_momentum"}
    return shape | {"contrast": config.loss.contrast, "terms": config.loss.terms}


def due(step: int, every: int, total: int) -> bool:
    """Return whether something done each `every` steps, and at the end, is due after `step`."""
    return (step + 1) % every == 0 or step + 1 == total


def to_device(batch: Batch, device: torch.device) -> Batch:
    """Return the batch with its tensors on `device`, not waiting for the copies.

    Of several crops these alone are needed there.
    """
    if batch.crops is not None:
        return batch._replace(crops=Crops(*(x.to(device, non_blocking=True) for x in batch.crops)))
    found: dict[str, Any] = {
        name: value.to(device, non_blocking=True)
        for name, value in batch._asdict().items()
        if isinstance(value, Tensor)
    }
    return batch._replace(**found)


def _learnt_from(part: Any) -> Any:
    """Return what of a part of the configuration decides what is learnt: not places, nor speed."""
    if isinstance(part, OptimConfig):
        return replace(part, accumulate=1)
    if not isinstance(part, DataConfig):
        return part
    return replace(
        part,
        paired=tuple(Path(directory).name for directory in part.paired),
        unpaired=tuple(Path(directory).name for directory in part.unpaired),
        readers=0,
        threads=0,
        prefetch=0,
        max_lost=0,
        draw_phantoms=0,
    )


def claim(config: Config) -> None:
    """Write config.json and provenance.json; ValueError where the directory is another run's."""
    path = config.directory / "config.json"
    if path.exists():  # looked at by every rank, so that all of them stop
        before = load(path, Config)
        for part in ("seed", "init_from", "data", "model", "loss", "dino", "optim"):
            if _learnt_from(getattr(before, part)) != _learnt_from(getattr(config, part)):
                raise ValueError(
                    f"{config.directory} holds a run with another {part} configuration; choose "
                    f"another --name, or remove it"
                )
    directories = [Path(p) for p in (*config.data.paired, *config.data.unpaired)]
    check_data(config.directory / "provenance.json", directories, dataset_sha256)
    dist.barrier()
    if dist.get_rank() == 0:
        config.directory.mkdir(parents=True, exist_ok=True)
        save(config, path)
        facts = provenance(directories, config.seed, dist.get_world_size(), dataset_sha256)
        record(facts, config.directory / "provenance.json")


@torch.no_grad()
def picture(image_BCHW: Tensor, out: Outputs, config: Config) -> Tensor:
    """Return picture_CHW: of up to six images what E_I saw, what D_I drew, and the original."""
    assert out.pixel_BMP is not None, "nothing is drawn without D_I"
    assert out.hidden_BM is not None, "D_I draws what is hidden"
    ends = min(3, len(image_BCHW))  # from both ends, so that paired and unpaired ones show
    chosen = [*range(ends), *range(-ends, 0)]
    image_BCHW = image_BCHW[chosen].cpu()
    pixel_BMP, hidden_BM = out.pixel_BMP[chosen].float().cpu(), out.hidden_BM[chosen].cpu()
    seen, drawn = seen_and_drawn(
        image_BCHW, pixel_BMP, hidden_BM, config.model.patch_size, config.loss.normalise_pixels
    )
    strip_BCHW = torch.cat([denormalise(x) for x in (seen, drawn, image_BCHW)], dim=3)
    return torch.cat(list(strip_BCHW), dim=1)
