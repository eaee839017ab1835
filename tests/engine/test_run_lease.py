"""Two attempts of a run at once: the later one has the lease, the earlier writes nothing more."""

import json
from pathlib import Path

import pytest
import torch

from maskedclip.engine import checkpoint
from maskedclip.engine.checkpoint import Checkpoints, newest_first
from maskedclip.engine.distributed import process_group
from maskedclip.engine.preemption import STOP, Preempted
from maskedclip.engine.run_lease import LEASE, RunLease, Superseded
from maskedclip.engine.step_log import StepLog


def log(run: Path, done: int) -> StepLog:
    return StepLog(run, done, 10, lease=taken(run), epoch_steps=10, images=1, peak_flops=1.0)


def taken(run: Path) -> RunLease:
    lease = RunLease(run)
    lease.take()
    return lease


def step(log: StepLog, number: int) -> None:
    log.add({"loss": torch.tensor(1.0)}, 1.0)
    log.write(number, 1e-3)


def steps(run: Path) -> list[int]:
    return [json.loads(row)["step"] for row in (run / "metrics.jsonl").read_text().splitlines()]


def test_an_earlier_attempt_writes_nothing_once_a_later_one_has_the_lease(tmp_path: Path) -> None:
    with process_group(), log(tmp_path, 0) as earlier:
        for number in (1, 2, 3):
            step(earlier, number)
        with log(tmp_path, 2) as later:
            assert steps(tmp_path) == [1, 2]
            step(later, 3)
            with pytest.raises(
                Superseded, match="a later attempt of this run holds its lease"
            ) as stop:
                step(earlier, 4)
            step(later, 4)
    assert steps(tmp_path) == [1, 2, 3, 4]
    assert isinstance(stop.value, Preempted)
    assert stop.value.request == STOP  # not to be requeued


@pytest.mark.parametrize("asynchronous", [True, False])
def test_a_save_is_not_published_once_a_later_attempt_has_the_lease(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asynchronous: bool
) -> None:
    model = torch.nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    folder = tmp_path / "checkpoints"
    sync = checkpoint.sync_and_hash

    def overtaken(directory: Path, rank: int) -> dict[str, str]:
        taken(tmp_path)  # it reads the newest checkpoint from here on
        return sync(directory, rank)

    def save(step: int, lease: RunLease) -> None:
        with Checkpoints(folder, 2, asynchronous=asynchronous, lease=lease) as checkpoints:
            checkpoints.save(step, model, None, optimizer)

    with process_group():
        lease = taken(tmp_path)
        save(1, lease)
        with monkeypatch.context() as patch:
            patch.setattr(checkpoint, "sync_and_hash", overtaken)
            with pytest.raises(Superseded, match="a later attempt of this run holds its lease"):
                save(2, lease)
        assert [path.name for path in newest_first(folder)] == ["step-00000001"]
        with pytest.raises(Superseded):
            save(2, lease)
        save(2, taken(tmp_path))
    assert {path.name for path in folder.iterdir()} == {"step-00000001", "step-00000002"}


def test_an_attempt_that_starts_late_leaves_the_lease_to_the_later_restart_of_its_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "5")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "10")
    with process_group(), log(tmp_path, 0) as now:
        monkeypatch.setenv("SLURM_RESTART_COUNT", "9")
        with pytest.raises(Superseded, match=r"job 5, restart 10, process \d+ on "):
            log(tmp_path, 0)
        step(now, 1)
        monkeypatch.setenv("SLURM_JOB_ID", "6")  # another job counts from 0 again
        monkeypatch.setenv("SLURM_RESTART_COUNT", "0")
        with log(tmp_path, 1) as other:
            step(other, 2)
    assert steps(tmp_path) == [1, 2]


def test_a_lease_that_a_lost_node_left_empty_stops_nobody(tmp_path: Path) -> None:
    (tmp_path / LEASE).touch()
    with process_group(), log(tmp_path, 0) as run:
        step(run, 1)
    assert steps(tmp_path) == [1]


def test_a_lease_of_older_code_is_taken_too_so_that_its_attempt_stops(
    tmp_path: Path,
) -> None:
    (tmp_path / "life.json").write_text('{"token": "of an attempt that may still run"}')
    with process_group():
        lease = taken(tmp_path)
    assert json.loads((tmp_path / "life.json").read_text())["token"] == lease.token


def test_a_new_run_has_no_lease_of_older_code(tmp_path: Path) -> None:
    with process_group():
        taken(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [LEASE]
