"""Ranks, devices, sharding and precision: the same path for one CPU process and for many GPUs."""

import logging
import os
import platform
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import cache, partial
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed._composable.replicate import replicate
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import bf16_compress_hook
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import (
    FSDPModule,
    MixedPrecisionPolicy,
    fully_shard,
    register_fsdp_forward_method,
)
from torch.distributed.tensor import DTensor
from torch.utils.checkpoint import checkpoint

from maskedclip.engine.cores import cores_of_a_rank
from maskedclip.engine.ended_ranks import leave
from maskedclip.engine.sharding import Sharding, cast_forward, chosen
from maskedclip.engine.visible_gpus import compute_device

logger = logging.getLogger(__name__)
_NUMBERS = 1 << 22  # of a gradient, of which the norm is taken at once
_WAITING_S = 10.0  # between two lines while other ranks are waited for


@contextmanager
def process_group(timeout: timedelta = timedelta(minutes=10)) -> Iterator[torch.device]:
    """Join the process group of the environment (RANK, ...), or one of this process alone.

    Yields this rank's device; the group is destroyed at the end, after an error aborted, so that
    no rank waits for another that has ended. Raises RuntimeError as `compute_device` does, and in
    the words of the rank that ended first where this one has only lost its connection.
    """
    device = compute_device()
    cuda = device.type == "cuda"
    if cuda:
        torch.cuda.set_device(device)
    elif "OMP_NUM_THREADS" not in os.environ:
        # torch counts the cores of the machine, not those of a container or a step of SLURM
        torch.set_num_threads(min(torch.get_num_threads(), cores_of_a_rank()))
    backend = "cpu:gloo,cuda:nccl" if cuda else "gloo"
    if "RANK" in os.environ:
        with _waiting_said():
            # NCCL meets here and not in the first step, and splits its groups off this one; what
            # must not go to it (`barrier`, `gathered`) is of tensors on the CPU, which are gloo's
            dist.init_process_group(backend, timeout=timeout, device_id=device if cuda else None)
    else:
        store = dist.HashStore()
        dist.init_process_group(backend, store=store, rank=0, world_size=1, timeout=timeout)
    try:
        yield device
    except BaseException as error:
        if words := leave(error):
            raise RuntimeError(words) from error
        raise
    dist.destroy_process_group()


@contextmanager
def _waiting_said() -> Iterator[None]:
    """Say, as long as other ranks do not come, what is waited for: the variables may be stale."""
    names = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    stated = " ".join(f"{name}={os.environ[name]}" for name in names if name in os.environ)
    over = threading.Event()

    def say() -> None:
        while not over.wait(_WAITING_S):
            logger.warning(
                "still waiting for the other ranks: %s is set; if this run is alone, stop it and "
                "unset %s", stated, " ".join(names),
            )  # fmt: skip

    thread = threading.Thread(target=say, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def compute_type(precision: str, device: torch.device) -> torch.dtype:
    """Return the dtype of matrix work: `auto` is bf16 where the hardware multiplies it fast."""
    if precision == "auto":
        return torch.bfloat16 if _fast_bf16(device) else torch.float32
    return {"bf16": torch.bfloat16, "fp32": torch.float32}[precision]


def autocast(device: torch.device, precision: str = "auto") -> torch.autocast:
    """Return the context in which matrix work on `device` runs in `precision` (compute_type)."""
    dtype = compute_type(precision, device)
    return torch.autocast(device.type, dtype, enabled=dtype != torch.float32)


@cache
def _fast_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    flags = Path("/proc/cpuinfo")
    known = flags.read_text() if platform.system() == "Linux" and flags.exists() else ""
    return "avx512_bf16" in known or "amx_bf16" in known


def shard(  # noqa: PLR0913 (one keyword a way to lay a model on ranks)
    model: nn.Module,
    units: Iterable[nn.Module],
    compute: torch.dtype,
    *,
    exact: Iterable[nn.Module] = (),
    methods: Iterable[str] = (),
    varying: Iterable[nn.Module] = (),
    trains: bool = True,
    activation_checkpointing: bool = False,
    compiled: bool = False,
    sharding: Sharding | None = None,
    narrow_gradients: bool = False,
) -> None:
    """Lay `model` on all ranks by `sharding`, each of `units` gathered on its own (FSDP2).

    Master weights stay fp32, matrix work runs in `compute` but for the modules `exact`. A model
    that does not train is resharded after each forward pass. `activation_checkpointing` and
    `compiled` (torch.compile) act on each unit. `methods` can be called as forward can. The units
    in `varying` get inputs of other shapes in other steps. Without `sharding` a single rank has
    plain modules, and several have shards. `narrow_gradients` halves their memory on a processor
    that has the model alone, for steps that neither add gradients up nor change them.
    """
    units, exact, world = list(units), list(exact), dist.get_world_size()
    varying = set(varying)
    if sharding is None:
        kind = chosen("auto", world=world, nodes=1, state_bytes=0, card_bytes=0)
        sharding = Sharding(kind, 1, reshard_after_forward=True, reduce=torch.float32)
    whole_weights = sharding.kind in ("none", "replicate")
    # of a GPU its memory is seldom the limit where one has all of the model
    on_cpu = next(model.parameters()).device.type == "cpu"
    narrow = narrow_gradients and sharding.kind == "none" and on_cpu and not compiled
    cast_all = partial(cast_forward, compute=compute, narrow_gradients=narrow)
    if whole_weights and not compiled:  # within checkpointing, which runs a unit again
        cast_all(units, [*units, *exact])
    # checkpointing within what is compiled, and both within what FSDP gathers: its hooks see one
    # forward and one backward pass of a unit; names of parameters stay as no module is wrapped
    for unit in units:
        if activation_checkpointing and trains:
            unit.forward = partial(checkpoint, unit.forward, use_reentrant=False)
        if compiled:
            unit.forward = _compiled(unit.forward, static=unit not in varying)
    if whole_weights:
        cast_all(units if compiled else [], [*units, *exact])
        cast_all([model], [*units, *exact], names=["forward", *methods])
        if sharding.kind == "replicate" and trains:
            _replicate(model, sharding.reduce)
        return
    _fully_shard(model, units, exact, compute, sharding, trains=trains)
    for name in methods:
        register_fsdp_forward_method(model, name)


def _compiled(forward: Callable[..., Any], *, static: bool) -> Callable[..., Any]:
    """Return torch.compile's; of a static unit one graph for each shape, and never a fallback."""
    # all blocks of all stacks are variants of one code: torch keeps 8 of a code and then runs it
    # as it stands; after two shapes it makes kernels for any, which are slower
    torch._dynamo.config.recompile_limit = 64
    return torch.compile(forward, dynamic=False if static else None, fullgraph=static)


def _replicate(model: nn.Module, reduce: torch.dtype) -> None:
    """Have gradients averaged over ranks in buckets, while the backward pass goes on (DDP)."""
    torch._dynamo.config.optimize_ddp = False  # it would cut compiled blocks at its buckets
    replicate(
        model, device_id=next(model.parameters()).device, gradient_as_bucket_view=True,
        find_unused_parameters=True,
    )  # fmt: skip
    if reduce == torch.bfloat16:
        cast(Any, model).register_comm_hook(None, bf16_compress_hook)


def _fully_shard(
    model: nn.Module,
    units: Sequence[nn.Module],
    exact: Sequence[nn.Module],
    compute: torch.dtype,
    sharding: Sharding,
    *,
    trains: bool,
) -> None:
    # a linear layer's output is a view of its 2-D product; none of ours is changed in place
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")
    world, kind = dist.get_world_size(), "cuda" if torch.cuda.is_available() else "cpu"
    if sharding.kind == "hybrid":
        shape = sharding.nodes, world // sharding.nodes
        mesh = init_device_mesh(kind, shape, mesh_dim_names=("replicate", "shard"))
    else:
        mesh = init_device_mesh(kind, (world,))
    policy = MixedPrecisionPolicy(param_dtype=compute, reduce_dtype=sharding.reduce)
    resharded = sharding.reshard_after_forward or not trains
    for unit in exact:
        fully_shard(unit, mesh=mesh)
    for unit in units:
        fully_shard(unit, mesh=mesh, mp_policy=policy, reshard_after_forward=resharded)
    # by default a root keeps its weights gathered for a backward pass that never comes here
    fully_shard(model, mesh=mesh, mp_policy=policy, reshard_after_forward=None if trains else True)


def begin_part(model: nn.Module, teacher: nn.Module | None, *, last: bool) -> None:
    """Begin a part of a step (gradient accumulation): gather weights and reduce gradients once.

    Until the `last` part gathered weights stay, and gradients are added up in fp32, unreduced. Call
    it before anything of the step runs, too.
    """
    if isinstance(model, FSDPModule):
        model.set_reshard_after_forward(False)
        model.set_reshard_after_backward(last)
    if hasattr(model, "set_requires_gradient_sync"):  # not of plain modules
        cast(Any, model).set_requires_gradient_sync(last)
    if isinstance(teacher, FSDPModule):
        teacher.set_reshard_after_forward(last)


def mean_over_ranks(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the means of scalars over all ranks, in one exchange and without a host sync."""
    sums = torch.stack([value.float().reshape(()) for value in values.values()])
    dist.all_reduce(sums)
    return dict(zip(values, (sums / dist.get_world_size()).unbind(), strict=True))


def total_norm(model: nn.Module) -> Tensor:
    """Return the norm of all gradients together, on all ranks."""
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    if all(gradient.dtype == torch.float32 for gradient in gradients):
        return torch.nn.utils.get_total_norm(gradients)
    return _norm(gradients)


def _norm(tensors: Iterable[Tensor]) -> Tensor:
    """Return the norm of tensors of this rank together, of narrow ones as of wide ones."""
    # which each is for a moment: hence in pieces
    pieces = [piece for tensor in tensors for piece in tensor.flatten().split(_NUMBERS)]
    norms = torch._foreach_norm(pieces, 2, torch.float32)
    return torch.linalg.vector_norm(torch.stack(list(norms)))


def part_norms(parts: Mapping[str, Sequence[Tensor]]) -> dict[str, Tensor]:
    """Return the norm of each part's tensors together, on all ranks, in one exchange."""
    tensors = [tensor for part in parts.values() for tensor in part]
    squares = [_norm([local(tensor) for tensor in part]).square() for part in parts.values()]
    return dict(zip(parts, summed_over_shards(torch.stack(squares), tensors).sqrt(), strict=True))


def summed_over_shards(sums: Tensor, of: Iterable[Tensor]) -> Tensor:
    """Return sums over values of tensors, of which each rank has summed its shards."""
    sharded = next((tensor for tensor in of if isinstance(tensor, DTensor)), None)
    if sharded is not None:
        mesh = sharded.device_mesh  # of which the last axis holds the shards (_fully_shard)
        dist.all_reduce(sums, group=mesh.get_group(mesh.ndim - 1))
    return sums


def parts_of(model: nn.Module, read: Callable[[Tensor], Tensor | None]) -> dict[str, list[Tensor]]:
    """Return what `read` gives of each parameter that is no single number, by the model's parts."""
    parts: dict[str, list[Tensor]] = {}
    for name, parameter in model.named_parameters():
        value = read(parameter)
        if value is not None and parameter.numel() > 1:
            parts.setdefault(name.partition(".")[0], []).append(value)
    return parts


def gradient_norms(model: nn.Module) -> dict[str, Tensor]:
    """Return the norms of the gradients of a model's parts, named as they are logged."""
    norms = part_norms(parts_of(model, lambda parameter: parameter.grad))
    return {f"grad_norm/{part}": norm for part, norm in norms.items()}


def local(tensor: Tensor) -> Tensor:
    """Return this rank's shard of a tensor, itself where it is not sharded."""
    shard: Tensor = tensor.to_local() if isinstance(tensor, DTensor) else tensor
    return shard


def whole(value: Tensor) -> Tensor:
    """Return a tensor of all ranks' shards, itself where it is not sharded."""
    full: Tensor = value.full_tensor() if isinstance(value, DTensor) else value
    return full.detach()


def barrier() -> None:
    """Wait until all ranks are here, by gloo on the CPU: dist.barrier would take NCCL."""
    dist.all_reduce(torch.zeros(1))


def gathered(lines: Sequence[str]) -> list[str]:
    """Return the lines of all ranks, in the order of the ranks, exchanged by gloo on the CPU.

    Where no rank has any, this costs one exchange of a number.
    """
    content = "".join(line + "\n" for line in lines).encode()
    sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(dist.get_world_size())]
    dist.all_gather(sizes, torch.tensor([len(content)]))
    longest = int(max(sizes))
    if not longest:
        return []
    mine = torch.tensor(list(content.ljust(longest)), dtype=torch.uint8)
    texts = [torch.zeros_like(mine) for _ in sizes]
    dist.all_gather(texts, mine)
    joined = b"".join(
        text.numpy().tobytes()[: int(size)] for text, size in zip(texts, sizes, strict=True)
    )
    return joined.decode().splitlines()
