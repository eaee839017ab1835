import resource
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import nn

from maskedclip.engine.checkpoint import Checkpoints, full_weights, newest, restore, verify
from maskedclip.engine.distributed import process_group, shard, whole
from maskedclip.engine.optimizer import adamw


@pytest.fixture(autouse=True)
def _group():
    with process_group():
        yield


def state(seed: int, width: int = 4) -> tuple[nn.Module, nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(seed)
    model, teacher = nn.Sequential(nn.Linear(width, 4), nn.Linear(4, 2)), nn.Linear(4, 4)
    shard(model, list(model), torch.float32)
    shard(teacher, [], torch.float32, trains=False)
    optimizer = adamw(model, betas=(0.9, 0.95), weight_decay=0.05)
    for group in optimizer.param_groups:
        group["lr"] = 1e-2
    train(model, optimizer)
    return model, teacher, optimizer


def train(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    model(torch.ones(3, model[0].in_features)).sum().backward()
    optimizer.step()


def numbers(model, teacher, optimizer) -> list[torch.Tensor]:
    moments = [v for s in optimizer.state.values() for v in s.values()]
    tensors = [*model.parameters(), *teacher.parameters(), *moments]
    return [(x.full_tensor() if hasattr(x, "full_tensor") else x).detach().clone() for x in tensors]


def save(folder: Path, *steps: int, keep: int = 3, asynchronous: bool = False) -> None:
    with Checkpoints(folder, keep, asynchronous=asynchronous) as checkpoints:
        for step in steps:
            checkpoints.save(step, *state(0))


def names(folder: Path) -> list[int | str]:
    """Return what stands in a folder: the steps of checkpoints, names of anything else."""
    entries = (path.name.removeprefix("step-") for path in sorted(folder.iterdir()))
    return [int(name) if name.isdigit() else name for name in entries]


@pytest.mark.parametrize("asynchronous", [True, False])
def test_what_is_restored_is_what_was_saved(tmp_path, asynchronous):
    ours, other = state(0), state(1)
    with Checkpoints(tmp_path, 3, asynchronous=asynchronous) as checkpoints:
        checkpoints.save(7, *ours)
    assert restore(tmp_path, *other) == 7
    for x, y in zip(numbers(*ours), numbers(*other), strict=True):
        assert x.equal(y)


def test_without_a_checkpoint_the_run_begins_at_0(tmp_path):
    assert restore(tmp_path / "none", *state(0)) == 0


def test_settings_of_the_optimizer_are_those_of_the_code_that_restores(tmp_path):
    ours, other = state(0), state(1)
    for group in ours[2].param_groups:
        group["name of an older version"] = 1.0
    for group in other[2].param_groups:
        group["lr_scale"] = 0.5
    with Checkpoints(tmp_path, 3, asynchronous=False) as checkpoints:
        checkpoints.save(7, *ours)
    assert restore(tmp_path, *other) == 7
    assert [group["lr_scale"] for group in other[2].param_groups] == [0.5, 0.5]


def test_what_changes_after_a_save_does_not_reach_the_disk(tmp_path):
    ours = state(0, width=1_000_000)  # 48 MB, which take far longer to write than to change
    with Checkpoints(tmp_path, 3, asynchronous=True) as checkpoints:
        for step in (1, 2):  # the second copy goes to the memory of the first
            saved = numbers(*ours)
            checkpoints.save(step, *ours)
            moments = [v for s in ours[2].state.values() for v in s.values()]
            with torch.no_grad():
                for tensor in (*ours[0].parameters(), *ours[1].parameters(), *moments):
                    tensor.add_(1)
    assert restore(tmp_path, *ours) == 2
    for x, y in zip(numbers(*ours), saved, strict=True):
        assert x.equal(y)


@pytest.mark.parametrize("asynchronous", [True, False])
def test_only_the_newest_are_kept_and_left_overs_are_cleared(tmp_path, asynchronous):
    for left_over in ("step-00000001.tmp", "step-00000009.old.tmp"):
        (tmp_path / left_over).mkdir(parents=True)
        (tmp_path / left_over / "__0_0.distcp").touch()
    save(tmp_path, 1, 2, 3, 4, keep=2, asynchronous=asynchronous)
    assert names(tmp_path) == [3, 4]


def test_a_step_that_is_saved_again_replaces_what_was_there(tmp_path):
    save(tmp_path, 1, 2)
    spoil_bit(tmp_path / "step-00000002" / ".metadata")
    save(tmp_path, 2)
    assert names(tmp_path) == [1, 2]
    assert newest(tmp_path) == tmp_path / "step-00000002"


def spoil_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 4
    path.write_bytes(content)


def spoil_end(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-10])


@pytest.mark.parametrize("spoil", [spoil_bit, spoil_end, Path.unlink])
@pytest.mark.parametrize("which", [".metadata", "__0_0.distcp", "manifest.json"])
def test_a_checkpoint_that_was_touched_does_not_verify(tmp_path, spoil, which):
    save(tmp_path, 1, 2)
    spoil(tmp_path / "step-00000002" / which)
    assert verify(tmp_path / "step-00000002")
    assert newest(tmp_path) == tmp_path / "step-00000001"


def test_a_file_that_the_system_cannot_read_does_not_verify(tmp_path):
    save(tmp_path, 1, 2)
    victim = tmp_path / "step-00000002" / "__0_0.distcp"
    victim.unlink()
    victim.mkdir()
    assert verify(tmp_path / "step-00000002") == f"{victim} cannot be read (Is a directory)"
    assert newest(tmp_path) == tmp_path / "step-00000001"


def test_damaged_checkpoints_do_not_count_among_those_kept(tmp_path, caplog):
    save(tmp_path, 1, 2, 8, 9)
    for step in (8, 9):
        spoil_bit(tmp_path / f"step-{step:08d}" / "__0_0.distcp")
    assert restore(tmp_path, *state(0)) == 2
    with Checkpoints(tmp_path, 2, asynchronous=True) as checkpoints:
        checkpoints.save(3, *state(0))  # of the newest two, 8 and 9, none verifies
        checkpoints.wait()
        assert names(tmp_path) == [2, 3, 8, 9]
        assert "step-00000009: __0_0.distcp is not what was written" in caplog.text
        caplog.clear()
        checkpoints.save(4, *state(0))
        checkpoints.save(10, *state(0))
        checkpoints.save(11, *state(0))
    assert names(tmp_path) == [10, 11]
    assert not caplog.text  # each was hashed, and named, once


def test_what_this_process_has_sealed_is_not_hashed_again(tmp_path, caplog):
    with Checkpoints(tmp_path, 2, asynchronous=True) as checkpoints:
        for step in (1, 2):
            checkpoints.save(step, *state(0))
        checkpoints.wait()
        spoil_bit(tmp_path / "step-00000002" / "__0_0.distcp")
        checkpoints.save(3, *state(0))
    assert names(tmp_path) == [2, 3]
    assert newest(tmp_path) == tmp_path / "step-00000003"  # one that verifies stays all the same
    assert not caplog.text


@contextmanager
def no_room(limit: int):
    """Let the kernel refuse every file larger than `limit` bytes, as a full disk would."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("asynchronous", [True, False])
@pytest.mark.parametrize("limit", [0, 500])  # the first file fails, or a later one
def test_a_disk_without_room_leaves_older_checkpoints_and_the_run(
    tmp_path, caplog, limit, asynchronous
):
    with Checkpoints(tmp_path, 3, asynchronous=asynchronous) as checkpoints:
        checkpoints.save(1, *state(0))
        checkpoints.wait()
        with no_room(limit):
            checkpoints.save(2, *state(0))
            checkpoints.wait()
        assert names(tmp_path) == [1]
        (line,) = [r.message for r in caplog.records if r.name.startswith("maskedclip")]
        assert "step-00000002: the checkpoint cannot be written (" in line
        assert "File too large" in line
        assert "MB free); the run goes on" in line
        checkpoints.save(3, *state(0))
    assert names(tmp_path) == [1, 3]
    assert newest(tmp_path) == tmp_path / "step-00000003"


@pytest.mark.parametrize("asynchronous", [True, False])
def test_a_last_save_that_fails_ends_the_run_in_one_line(tmp_path, asynchronous):
    save(tmp_path, 1)
    with no_room(0), pytest.raises(RuntimeError, match=r"File too large.*make room") as error:
        save(tmp_path, 2, asynchronous=asynchronous)
    assert "\n" not in str(error.value)
    assert names(tmp_path) == [1]


def test_a_folder_that_cannot_be_made_leaves_the_run(tmp_path, caplog):
    folder = tmp_path / "run" / "checkpoints"
    folder.parent.touch()  # as root may write where permission is refused to others
    with Checkpoints(folder, 3, asynchronous=True) as checkpoints:
        checkpoints.save(1, *state(0))
        checkpoints.wait()
        assert "Not a directory" in caplog.text
        folder.parent.unlink()
        checkpoints.save(2, *state(0))
    assert names(folder) == [2]


def test_what_is_no_fault_of_the_disk_is_raised_as_it_is(tmp_path):
    model, teacher, optimizer = state(0)
    optimizer.param_groups[0]["note"] = (x for x in "no pickle holds this")
    checkpoints = Checkpoints(tmp_path, 3, asynchronous=False)
    with pytest.raises(dcp.api.CheckpointException, match="pickle"):
        checkpoints.save(1, model, teacher, optimizer)


def save_and_fail(folder: Path) -> None:
    with Checkpoints(folder, 3, asynchronous=True) as checkpoints:
        checkpoints.save(1, *state(0))
        raise ZeroDivisionError


def test_an_error_of_the_run_passes_when_the_save_under_way_is_done(tmp_path):
    with pytest.raises(ZeroDivisionError):
        save_and_fail(tmp_path)
    assert newest(tmp_path) == tmp_path / "step-00000001"


def test_all_weights_come_together_for_export():
    model, *_ = state(0)
    weights = full_weights(model)
    assert list(weights) == ["0.weight", "0.bias", "1.weight", "1.bias"]
    assert weights["0.weight"].equal(whole(model[0].weight).cpu())
    assert dist.get_world_size() == 1
