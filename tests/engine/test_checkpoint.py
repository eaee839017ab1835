import resource
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn

from maskedclip.engine import checkpoint, checkpoint_files
from maskedclip.engine.distributed import process_group, shard
from maskedclip.engine.optimizer import adamw


@pytest.fixture(autouse=True)
def _group():
    with process_group():
        yield


def state(seed: int) -> tuple[nn.Module, nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(seed)
    model, teacher = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2)), nn.Linear(4, 4)
    shard(model, list(model), torch.float32)
    shard(teacher, [], torch.float32, trains=False)
    optimizer = adamw(model, betas=(0.9, 0.95), weight_decay=0.05)
    for group in optimizer.param_groups:
        group["lr"] = 1e-2
    model(torch.ones(3, 4)).sum().backward()
    optimizer.step()
    return model, teacher, optimizer


def numbers(model, teacher, optimizer) -> list[torch.Tensor]:
    moments = [v for s in optimizer.state.values() for v in s.values()]
    found = [*model.parameters(), *teacher.parameters(), *moments]
    return [x.full_tensor() if hasattr(x, "full_tensor") else x for x in found]


def test_what_is_restored_is_what_was_saved(tmp_path):
    ours, other = state(0), state(1)
    checkpoint.save(tmp_path, 7, *ours, keep=3)
    assert checkpoint.restore(tmp_path, *other) == 7
    for x, y in zip(numbers(*ours), numbers(*other), strict=True):
        assert x.equal(y)


def test_without_a_checkpoint_the_run_begins_at_0(tmp_path):
    assert checkpoint.restore(tmp_path / "none", *state(0)) == 0


def test_only_the_newest_are_kept_and_left_overs_are_cleared(tmp_path):
    (tmp_path / "step-00000001.tmp").mkdir(parents=True)
    for step in (1, 2, 3, 4):
        checkpoint.save(tmp_path, step, *state(0), keep=2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-00000003", "step-00000004"]


def spoil_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 4
    path.write_bytes(content)


def spoil_end(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-10])


@pytest.mark.parametrize("spoil", [spoil_bit, spoil_end, Path.unlink])
@pytest.mark.parametrize("which", [".metadata", "__0_0.distcp", "manifest.json"])
def test_a_checkpoint_that_was_touched_does_not_verify(tmp_path, spoil, which):
    checkpoint.save(tmp_path, 1, *state(0), keep=3)
    checkpoint.save(tmp_path, 2, *state(0), keep=3)
    spoil(tmp_path / "step-00000002" / which)
    assert checkpoint_files.verify(tmp_path / "step-00000002")
    assert checkpoint_files.newest(tmp_path) == tmp_path / "step-00000001"


@contextmanager
def no_room(limit: int):
    """Let the kernel refuse every file larger than `limit` bytes, as a full disk would."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("limit", [0, 500])  # the first file fails, or a later one
def test_a_disk_without_room_leaves_the_older_checkpoint_and_one_line(tmp_path, limit):
    checkpoint.save(tmp_path, 1, *state(0), keep=3)
    with no_room(limit), pytest.raises(RuntimeError, match=r"File too large.*make room") as error:
        checkpoint.save(tmp_path, 2, *state(0), keep=3)
    assert "\n" not in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]
    checkpoint.save(tmp_path, 2, *state(0), keep=3)
    assert checkpoint_files.newest(tmp_path) == tmp_path / "step-00000002"


def test_all_weights_come_together_for_export():
    model, *_ = state(0)
    weights = checkpoint.full_weights(model)
    assert list(weights) == ["0.weight", "0.bias", "1.weight", "1.bias"]
    assert weights["0.weight"].equal(model[0].weight.full_tensor().cpu())
    assert dist.get_world_size() == 1
