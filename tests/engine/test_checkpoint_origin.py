"""A checkpoint is gone on from where this user wrote it, in this run, at the step of its name."""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from maskedclip.engine.checkpoint import Checkpoints, newest, restore, verify
from maskedclip.engine.distributed import process_group
from tests.checkpoints import resealed
from tests.engine.test_checkpoint import save, state


@pytest.fixture(autouse=True)
def _group() -> Iterator[None]:
    with process_group():
        yield


def test_a_whole_checkpoint_under_another_steps_name_is_passed_over(tmp_path: Path) -> None:
    save(tmp_path, 1, 2)
    shutil.copytree(tmp_path / "step-00000001", tmp_path / "step-00000009")
    assert verify(tmp_path / "step-00000009") == "manifest.json says that it is step 1"
    assert newest(tmp_path) == tmp_path / "step-00000002"
    assert restore(tmp_path, *state(1)) == 2


@pytest.mark.parametrize("step", ["1", None, True, -1, [1], 1e9])
def test_a_manifest_whose_step_is_no_number_of_steps_does_not_verify(
    tmp_path: Path, step: object
) -> None:
    save(tmp_path, 2)
    resealed(tmp_path / "step-00000002", step=step)
    assert verify(tmp_path / "step-00000002")


def test_a_checkpoint_of_another_run_is_refused_by_name(tmp_path: Path) -> None:
    save(tmp_path / "ours", 1, 2)
    save(tmp_path / "theirs", 3)
    shutil.copytree(tmp_path / "theirs" / "step-00000003", tmp_path / "ours" / "step-00000003")
    with pytest.raises(ValueError, match=r"step-00000003: a checkpoint of another run than .*02"):
        restore(tmp_path / "ours", *state(0))


def test_all_starts_of_a_run_give_their_checkpoints_one_name(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        save(tmp_path, step)
    names = {json.loads(path.read_text())["run"] for path in tmp_path.glob("*/manifest.json")}
    assert len(names) == 1


def test_a_checkpoint_of_another_configuration_is_refused_with_what_differs(
    tmp_path: Path,
) -> None:
    config = {"optim.base_lr": 1e-4, "optim.betas": (0.9, 0.95), "of an older version": 1}
    with Checkpoints(tmp_path, 3, asynchronous=False, config=config) as checkpoints:
        checkpoints.save(7, *state(0))
    same = {"optim.base_lr": 1e-4, "optim.betas": (0.9, 0.95), "of a newer version": 2}
    assert restore(tmp_path, *state(0), config=same) == 7
    with pytest.raises(ValueError, match=r"step-00000007: saved by a run with optim\.base_lr 0\.0"):
        restore(tmp_path, *state(0), config=same | {"optim.base_lr": 2e-4})


def test_what_everybody_may_write_is_refused_unless_it_is_trusted(tmp_path: Path) -> None:
    save(tmp_path, 1)
    for path in (tmp_path / "step-00000001", tmp_path / "step-00000001" / ".metadata"):
        mode = path.stat().st_mode
        path.chmod(0o777)
        with pytest.raises(ValueError, match="may be written by everybody") as error:
            restore(tmp_path, *state(0))
        assert str(path) in str(error.value)
        assert "--i_trust_this_directory" in str(error.value)
        assert restore(tmp_path, *state(0), trusted=True) == 1
        path.chmod(mode)
    assert restore(tmp_path, *state(0)) == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_what_somebody_else_owns_is_refused_unless_it_is_trusted(tmp_path: Path) -> None:
    save(tmp_path, 1)
    for path in (tmp_path / "step-00000001", tmp_path / "step-00000001" / "__0_0.distcp"):
        os.chown(path, 12345, -1)
        with pytest.raises(ValueError, match="belongs to user 12345, not to root") as error:
            restore(tmp_path, *state(0))
        assert str(path) in str(error.value)
        assert restore(tmp_path, *state(0), trusted=True) == 1
        os.chown(path, 0, -1)


def test_a_umask_of_0_leaves_checkpoints_that_only_their_owner_writes(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        save(tmp_path, 1)
    finally:
        os.umask(before)
    assert restore(tmp_path, *state(0)) == 1


def test_a_named_pipe_in_a_checkpoint_is_not_waited_for(tmp_path: Path) -> None:
    save(tmp_path, 1)
    victim = tmp_path / "step-00000001" / "__0_0.distcp"
    victim.unlink()
    os.mkfifo(victim)
    assert verify(tmp_path / "step-00000001") == "__0_0.distcp is no file"
