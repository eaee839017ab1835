"""A step of the real networks under fake tensors: what torch itself says of its memory.

Nothing is allocated and nothing is sent; the ranks are a fake process group's.
"""

from functools import partial
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed._tools.fsdp2_mem_tracker import FSDPMemTracker
from torch.distributed.fsdp import FSDPModule
from torch.nn import functional as F
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import BertConfig, BertModel

from maskedclip.config import Config
from maskedclip.data.multi_crop import COLOUR_DRAWS, GLOBALS, Crops
from maskedclip.data.stream import Batch
from maskedclip.engine.distributed import shard
from maskedclip.engine.optimizer import adamw
from maskedclip.engine.sharding import Sharding
from maskedclip.models import blocks
from maskedclip.models.dinov2 import DinoTeacher
from maskedclip.models.maskedclip import MaskedCLIP, build
from maskedclip.models.teacher import Teacher
from maskedclip.models.text import TextTower
from maskedclip.pretrain.methods import dinov2, simmim
from maskedclip.pretrain.methods.maskedclip import (
    MaskedClipMethod,
    MaskedClipNetworks,
    gradients,
)
from maskedclip.pretrain.methods.simmim import SimMimMethod


class Traced(NamedTuple):
    """Bytes of one rank: at the fullest moment, gathered and reduced in one step."""

    peak: int
    by_kind: dict[str, int]
    gathered: int
    reduced: int


class _Exchanged(TorchDispatchMode):
    """Adds up what the collectives of FSDP bring from, and send to, other ranks."""

    def __init__(self, world: int) -> None:
        super().__init__()
        self.share = (world - 1) / world
        self.gathered = self.reduced = 0.0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.c10d._allgather_base_.default:
            self.gathered += self.share * args[0].numel() * args[0].element_size()
        if func is torch.ops.c10d._reduce_scatter_base_.default:
            self.reduced += self.share * args[1].numel() * args[1].element_size()
        return func(*args, **kwargs or {})


def traced(config: Config, *, world: int, text_tokens: int, recompute: bool = False) -> Traced:
    """Return what a step in bf16 takes of one of `world` ranks."""
    dist.init_process_group("fake", rank=0, world_size=world, store=FakeStore())
    on_processors = blocks.attend
    blocks.attend = F.scaled_dot_product_attention  # what GPUs run, whose memory is planned
    try:
        return _traced(config, world, text_tokens, recompute)
    finally:
        blocks.attend = on_processors
        dist.destroy_process_group()


def _traced(config: Config, world: int, text_tokens: int, recompute: bool) -> Traced:
    fake = FakeTensorMode()
    # a copy of a fake tensor has a fake mode of its own, so the teacher is copied on meta
    with torch.device("meta"):
        model, teacher = _networks(config)
    both = [module for module in (model, teacher) if module is not None]
    with fake:
        for module in both:
            module._apply(lambda x: torch.empty(x.shape, dtype=x.dtype, device="cpu"))
    # outside the fake mode, because a device mesh reads its ranks
    shards = Sharding("shard", 1, reshard_after_forward=True, reduce=torch.float32)
    ways = {"activation_checkpointing": recompute, "sharding": shards}
    if isinstance(model, MaskedCLIP):
        ways |= {"exact": model.exact(), "methods": ["features"]}
    units = model.encoder.blocks if isinstance(model, simmim.SimMimStudent) else model.units()
    shard(model, units, torch.bfloat16, **ways)
    if teacher is not None:
        shard(teacher, teacher.units(), torch.bfloat16, trains=False, sharding=shards)
    optimizer = adamw(model, betas=config.optim.betas, weight_decay=config.optim.weight_decay)
    with fake:
        batch = _batch(config, world, text_tokens)
        image_BCHW = batch.image_BCHW.float()
        for parameter in model.parameters():  # the moments come with the first step
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
        optimizer.zero_grad()
    # the tracker looks at one tree of modules; both are roots of FSDP before they hang together,
    # or it would take what the teacher gathers for activations that are never freed
    for module in both:
        module._get_fsdp_state()._lazy_init()
    model.teacher = teacher
    tracker, exchanged = FSDPMemTracker(model, optimizer), _Exchanged(world)
    tracker.track_inputs((image_BCHW, *(x for x in batch if isinstance(x, torch.Tensor))))
    with fake, tracker, exchanged:
        for module in model.modules():  # the tracker bears one call of a module, there are more
            if isinstance(module, FSDPModule):
                forget = partial(_forget, tracker)
                module.register_forward_pre_hook(forget, prepend=True)
        _backward((model, teacher, optimizer), image_BCHW, batch, config)
        optimizer.step()
    kinds = tracker.get_tracker_snapshot("peak")[torch.device("cpu")]
    by_kind = {str(kind): size for kind, size in kinds.items()}
    peak = by_kind.pop("Total")
    return Traced(peak, by_kind, round(exchanged.gathered), round(exchanged.reduced))


def _backward(networks: tuple[Any, ...], image_BCHW: Tensor, batch: Batch, config: Config) -> None:
    if config.method == "maskedclip":
        gradients(MaskedClipNetworks(*networks), image_BCHW, batch, config)
    elif config.method == "dinov2":
        assert batch.crops is not None
        losses, _ = dinov2.objective(dinov2.DinoNetworks(*networks), batch.crops, 0.04, config)
        losses["loss"].backward()
    else:
        simmim.objective(networks[0], image_BCHW, batch.hidden_BN, config)[0].backward()


def _networks(config: Config) -> tuple[nn.Module, nn.Module | None]:
    if config.method == "simmim":
        encoder = build(**SimMimMethod.shape(config))[0].encoder
        return simmim.SimMimStudent(encoder, patch_size=config.model.patch_size), None
    if config.method == "dinov2":
        student = dinov2.student(build(**SimMimMethod.shape(config))[0], config)
        return student, DinoTeacher(student)
    model = _build(config)
    return model, Teacher(model.encoder, model.bridge) if config.loss.mfd else None


def _forget(tracker: FSDPMemTracker, module: nn.Module, _: Any) -> None:
    tracker.memory_tracking.pop(module, None)


def _build(config: Config) -> MaskedCLIP:
    shape: dict[str, Any] = MaskedClipMethod.shape(config)
    if config.model.text == "builtin" or not config.loss.clip:
        return build(**shape)[0]
    bert = BertModel(
        BertConfig(vocab_size=28_996, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0),
        add_pooling_layer=False,
    )
    tower: nn.Module = TextTower(bert=bert, projection=config.model.projection)
    names = ("text", "text_tokens", "text_dropout")
    return MaskedCLIP(**{k: v for k, v in shape.items() if k not in names}, text=tower)


def _batch(config: Config, world: int, text_tokens: int) -> Batch:
    data, size = config.data, config.model.image_size
    pairs = data.paired_batch // world
    images = pairs + data.unpaired_batch // world
    tensors = {
        "image_BCHW": torch.empty(images, 3, size, size, dtype=torch.uint8),
        "hidden_BN": torch.empty(images, (size // config.model.patch_size) ** 2, dtype=torch.bool),
        "token_AL": torch.empty(pairs, text_tokens, dtype=torch.int64),
        "token_mask_AL": torch.empty(pairs, text_tokens, dtype=torch.int64),
        "label_A": torch.empty(pairs, dtype=torch.int64),
    }
    if config.method == "dinov2":
        tensors["crops"] = _crops(config, images)
    return Batch(**{name: tensors.get(name) for name in Batch._fields})


def _crops(config: Config, images: int) -> Crops:
    cut, patches = (
        dinov2.multi_crop(config),
        (config.model.image_size // config.model.patch_size) ** 2,
    )
    masked = round(images * patches * sum(cut.mask_ratio) / 2)
    return Crops(
        image_BL=torch.empty(images, cut.bytes(config.model.image_size), dtype=torch.uint8),
        flip_BX=torch.empty(images, cut.crops, dtype=torch.bool),
        colour_BXF=torch.empty(images, cut.crops, COLOUR_DRAWS),
        drop_BXF=torch.empty(images, cut.crops, cut.drops),
        hidden_BGN=torch.empty(images, GLOBALS, patches, dtype=torch.bool),
        masked_M=torch.empty(masked, dtype=torch.int64),
        sizes=(config.model.image_size, cut.local_size),
    )
