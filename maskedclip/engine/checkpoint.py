"""A checkpoint exists only if it is whole: written aside, fsynced, hashed, renamed.

    checkpoints/step-00012000/   DCP files and manifest.json with the sha256 of each
    checkpoints/step-*.tmp       what a killed run was writing; removed at the next save

DCP's own metadata is a pickle, so nothing is handed to DCP before its hash has been checked.
"""

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_state_dict,
    set_model_state_dict,
    set_state_dict,
)
from torch.optim import Optimizer

logger = logging.getLogger(__name__)
MANIFEST = "manifest.json"


def save(
    folder: Path, step: int, model: nn.Module, teacher: nn.Module, optimizer: Optimizer, keep: int
) -> None:
    """Write step-NNNNNNNN, then remove all but the newest `keep`; every rank calls it.

    Raises RuntimeError on every rank where one cannot write; older checkpoints are left alone.
    """
    target = folder / f"step-{step:08d}"
    temporary = target.with_suffix(".tmp")
    _on_first_rank(lambda: _make_room(folder, temporary), target)
    weights, moments = get_state_dict(model, optimizer)
    state = {"model": weights, "teacher": get_model_state_dict(teacher), "optimizer": moments}
    try:
        dcp.save(state, checkpoint_id=temporary)
    except dcp.api.CheckpointException as error:  # raised on every rank, whichever failed
        _on_first_rank(lambda: shutil.rmtree(temporary), target)
        reason = next(iter(error.failures.values()))[0]
        raise RuntimeError(_cannot_write(target, reason)) from error
    _on_first_rank(lambda: _publish(temporary, target, step, keep), target)


def _make_room(folder: Path, temporary: Path) -> None:
    for left_over in folder.glob("step-*.tmp"):
        shutil.rmtree(left_over)
    temporary.mkdir(parents=True)


def _publish(temporary: Path, target: Path, step: int, keep: int) -> None:
    seal(temporary, step)
    if target.exists():  # damaged, or restore would have gone on from it
        shutil.rmtree(target)
    temporary.rename(target)
    _sync(target.parent)
    for old in sorted(target.parent.glob("step-????????"))[:-keep]:
        shutil.rmtree(old)


def _on_first_rank(action: Callable[[], None], target: Path) -> None:
    """Run `action` on rank 0 while all wait; its OSError becomes everyone's RuntimeError."""
    fault: list[str | None] = [None]
    if dist.get_rank() == 0:
        try:
            action()
        except OSError as error:
            fault = [_cannot_write(target, error)]
    dist.broadcast_object_list(fault)
    if fault[0] is not None:
        raise RuntimeError(fault[0])


def _cannot_write(target: Path, reason: BaseException) -> str:
    # torch's own words for a full disk do not say that it is full
    free = shutil.disk_usage(target.parent if target.parent.exists() else "/").free / 1e6
    return (
        f"{target}: the checkpoint cannot be written ({reason}; {free:.0f} MB free there); make "
        f"room or give write permission, then run the same command: it goes on from the last "
        f"whole checkpoint"
    )


def restore(folder: Path, model: nn.Module, teacher: nn.Module, optimizer: Optimizer) -> int:
    """Load the newest verified checkpoint into all three; return its step, or 0 where none is."""
    found: list[Any] = [newest(folder) if dist.get_rank() == 0 else None]
    dist.broadcast_object_list(found)
    if found[0] is None:
        return 0
    weights, moments = get_state_dict(model, optimizer)
    state: dict[str, Any] = {
        "model": weights,
        "teacher": get_model_state_dict(teacher),
        "optimizer": moments,
    }
    dcp.load(state, checkpoint_id=found[0])
    set_state_dict(
        model, optimizer, model_state_dict=state["model"], optim_state_dict=state["optimizer"]
    )
    set_model_state_dict(teacher, state["teacher"])
    return int(found[0].name.removeprefix("step-"))


def newest(folder: Path) -> Path | None:
    """Return the newest checkpoint that verifies; damaged ones are named and passed over."""
    for path in sorted(folder.glob("step-????????"), reverse=True):
        fault = verify(path)
        if fault is None:
            return path
        logger.warning("%s: %s; passed over for an older checkpoint", path, fault)
    return None


def seal(directory: Path, step: int) -> None:
    """Write the manifest over every file of `directory`, and bring all to the disk."""
    files = {path.name: _digest(path) for path in sorted(directory.iterdir())}
    manifest = directory / MANIFEST
    manifest.write_text(json.dumps({"step": step, "sha256": files}, indent=1) + "\n")
    for path in directory.iterdir():
        _sync(path)
    _sync(directory)


def verify(directory: Path) -> str | None:
    """Return what is wrong with a checkpoint, or None."""
    manifest = directory / MANIFEST
    if not manifest.is_file():
        return f"no {MANIFEST}"
    try:
        expected: Mapping[str, str] = json.loads(manifest.read_text())["sha256"]
    except (ValueError, KeyError) as error:
        return f"{MANIFEST} cannot be read ({error})"
    present = {path.name for path in directory.iterdir()} - {MANIFEST}
    if missing := sorted(set(expected) ^ present):
        return f"{missing[0]} is missing or was added"
    for name, digest in expected.items():
        if _digest(directory / name) != digest:
            return f"{name} is not what was written (sha256)"
    return None


def full_weights(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return all weights on rank 0's CPU (elsewhere an empty dict); every rank calls it."""
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    return cast(dict[str, torch.Tensor], get_model_state_dict(model, options=options))


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
