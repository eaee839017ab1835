"""How the networks of a run lie on its ranks, from the engine's part of its configuration."""

import logging
import os
import platform
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from maskedclip.config import EngineConfig
from maskedclip.engine.device_settings import use_tf32
from maskedclip.engine.distributed import compute_type, gathered
from maskedclip.engine.sharding import FOLLOWING_BYTES, TRAINED_BYTES, Sharding, chosen
from maskedclip.models.blocks import attend_by

logger = logging.getLogger(__name__)


def ways_of(
    engine: EngineConfig, device: torch.device, model: nn.Module, teacher: nn.Module | None
) -> dict[str, Any]:
    """Return the keywords of engine.distributed.shard, the same for both networks of a run."""
    world, cuda, nodes = dist.get_world_size(), device.type == "cuda", node_count()
    state = TRAINED_BYTES * sum(p.numel() for p in model.parameters())
    if teacher is not None:
        state += FOLLOWING_BYTES * sum(p.numel() for p in teacher.parameters())
    card = torch.cuda.get_device_properties(device).total_memory if cuda else 0
    kind = chosen(engine.sharding, world=world, nodes=nodes, state_bytes=state, card_bytes=card)
    if world > 1:
        logger.info(
            "%d ranks on %d nodes: sharding %s, gradients reduced in %s", world, nodes, kind,
            engine.reduce_dtype,
        )  # fmt: skip
    capability = torch.cuda.get_device_capability(device) if cuda else (0, 0)
    compute = compute_type(engine.precision, device)
    attend_by(engine.attention, [x for x in (model, teacher) if x is not None], compute, capability)
    if use_tf32(engine.tf32, compute, capability):
        logger.info("fp32 products in TF32; --engine.tf32=false keeps all bits")
    reduce = {"fp32": torch.float32, "bf16": torch.bfloat16}[engine.reduce_dtype]
    return {
        "activation_checkpointing": engine.activation_checkpointing,
        "compiled": engine.compile,
        "sharding": Sharding(kind, nodes, engine.reshard_after_forward, reduce),
    }


def node_count() -> int:
    """Return on how many nodes the ranks are: as their launcher says, else by the hosts' names."""
    world, local = dist.get_world_size(), os.environ.get("LOCAL_WORLD_SIZE", "")
    if local.isdecimal() and int(local) and world % int(local) == 0:
        return world // int(local)
    return len(set(gathered([platform.node()])))
