"""A run does not begin where its next checkpoint cannot be written."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from maskedclip.engine.checkpoint import Checkpoints
from maskedclip.engine.checkpoint_room import checkpoint_bytes, refuse_without_room
from maskedclip.engine.distributed import process_group, shard
from maskedclip.engine.optimizer import adamw


@pytest.fixture(autouse=True)
def _group():
    with process_group():
        yield


@pytest.fixture
def networks() -> tuple[nn.Module, nn.Module]:
    model = nn.Sequential(nn.Linear(500, 400), nn.BatchNorm1d(400), nn.Linear(400, 2))
    teacher = nn.Linear(300, 300)
    for parameter in model[2].parameters():
        parameter.requires_grad_(False)
    shard(model, [], torch.float32)
    shard(teacher, [], torch.float32, trains=False)
    return model, teacher


@pytest.fixture
def with_free(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function that has the disk report so many bytes as free."""
    usage = shutil.disk_usage

    def report(free: int) -> None:
        monkeypatch.setattr(shutil, "disk_usage", lambda at: usage(at)._replace(free=free))

    return report


def size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def test_the_size_that_is_reckoned_is_that_on_the_disk(tmp_path, networks):
    model, teacher = networks
    optimizer = adamw(model, betas=(0.9, 0.95), weight_decay=0.05)
    model(torch.ones(3, 500)).sum().backward()
    optimizer.step()
    with Checkpoints(tmp_path, 3, asynchronous=False) as checkpoints:
        checkpoints.save(7, model, teacher, optimizer)
    assert size(tmp_path) == pytest.approx(checkpoint_bytes(model, teacher), rel=0.05)


def test_a_disk_that_cannot_take_a_checkpoint_is_refused_with_both_sizes(
    tmp_path, networks, with_free
):
    needed = checkpoint_bytes(*networks)
    with_free(needed)
    refuse_without_room(tmp_path / "checkpoints", *networks)
    with_free(needed - 1)
    with pytest.raises(RuntimeError, match=r"takes 3 MB, and there is room for 3 MB; make room"):
        refuse_without_room(tmp_path / "checkpoints", *networks)
    assert not (tmp_path / "checkpoints").exists()


def test_what_a_killed_run_left_half_written_counts_as_room(tmp_path, networks, with_free):
    with_free(checkpoint_bytes(*networks) - 1000)
    half = tmp_path / "step-00000007.abc.tmp"
    half.mkdir()
    (half / "__0_0.distcp").write_bytes(bytes(1000))
    refuse_without_room(tmp_path, *networks)


def test_a_network_without_a_teacher_needs_three_times_its_weights():
    network = nn.Linear(100, 100, bias=False)
    assert checkpoint_bytes(network, None) == 3 * 4 * 100 * 100
