"""Whether a disk has room for a checkpoint, asked before a run trains for hours to write one."""

import shutil
from contextlib import suppress
from pathlib import Path

import torch.distributed as dist
from torch import nn


def free_space(target: Path) -> str:
    """Return in words how much room there is where a path is, or is to be."""
    # torch's own message for a full disk does not say that it is full
    free_mb = _free_bytes(target) / 1e6
    return f"{free_mb:,.0f} MB free" if free_mb >= 1 else "the disk is full"


def refuse_without_room(folder: Path, model: nn.Module, teacher: nn.Module | None) -> None:
    """Raise RuntimeError on every rank where the disk cannot take the next checkpoint.

    A save that fails is a warning, as room may come; one that cannot succeed is no plan for a run.
    What killed runs left half written counts as room: the save removes it first.
    """
    answer = [""]
    if dist.get_rank() == 0:
        needed = checkpoint_bytes(model, teacher)
        free = _free_bytes(folder / "step") + _leftover_bytes(folder)
        if free < needed:
            answer = [
                f"{folder}: a checkpoint of this run takes {needed / 1e6:,.0f} MB, and there is "
                f"room for {free / 1e6:,.0f} MB; make room, or name another --out"
            ]
    dist.broadcast_object_list(answer)
    if answer[0]:
        raise RuntimeError(answer[0])


def _leftover_bytes(folder: Path) -> int:
    size = 0
    with suppress(OSError):  # an earlier start may still write there, or remove it
        for aside in folder.glob("step-*.tmp"):
            size += sum(file.lstat().st_size for file in aside.rglob("*"))
    return size


def checkpoint_bytes(model: nn.Module, teacher: nn.Module | None) -> int:
    """Return the size of the state on the disk: of all ranks' shards, without DCP's index."""
    moments = sum(2 * p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
    networks = [model] if teacher is None else [model, teacher]
    states = (one for network in networks for one in network.state_dict().values())
    return moments + sum(one.numel() * one.element_size() for one in states)


def _free_bytes(target: Path) -> int:
    existing = next(path for path in target.absolute().parents if path.exists())
    return shutil.disk_usage(existing).free
