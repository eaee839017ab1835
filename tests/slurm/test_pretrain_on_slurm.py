"""A run on SLURM that is asked to leave, evicted, cancelled, or hangs."""

import os
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress

import pytest

from maskedclip.config import Config, override
from tests.slurm.attempts import (
    STEPS,
    assert_equal,
    logs,
    processes,
    rows,
    saved,
    state,
    submitted,
    until,
)

pytestmark = pytest.mark.slurm


def test_a_run_that_is_warned_saves_within_a_step_and_the_requeued_one_ends_as_if_nothing_was(
    run: Config, uninterrupted, until_idle: Callable[[float], None]
) -> None:
    job = submitted(run)
    ranks = processes(run)
    assert sorted(ranks) == [0, 1]
    subprocess.run(["scancel", "--signal=USR2", job], check=True)
    reached = len(rows(run.directory))
    until(lambda: saved(run), 30)
    (step,) = saved(run)
    assert step <= reached + 3  # those that were taken while scancel ran
    for rank in (
        ranks.values()
    ):  # again, while it leaves; SLURM's own might reach the next attempt as it starts
        with suppress(ProcessLookupError):
            os.kill(rank, signal.SIGUSR2)
    until_idle(180)
    assert "Restarts=1" in state(job)
    assert "JobState=COMPLETED" in state(job)
    assert logs(run).count(f"step {step} is saved") == 2  # of both ranks
    assert_equal(rows(run.directory), uninterrupted)


# without any grace SLURM queues the job again before it has ended: a minute more
@pytest.mark.parametrize("partition", ["main", pytest.param("hard", marks=pytest.mark.slow)])
def test_an_evicted_run_goes_on_where_it_was(
    run: Config, uninterrupted, partition: str, until_idle: Callable[[float], None]
) -> None:
    job = submitted(run, partition)
    command = ["sbatch", "--partition=high", "--exclusive", "--nodes=3", "--wrap=sleep 1"]
    subprocess.run([*command, "--output=/dev/null"], check=True)
    until(lambda: saved(run), 30)
    until_idle(180)
    assert "Restarts=1" in state(job)
    assert "JobState=COMPLETED" in state(job)
    assert_equal(rows(run.directory), uninterrupted)


def test_a_cancelled_run_saves_and_does_not_come_back(
    run: Config, until_idle: Callable[[float], None]
) -> None:
    job = submitted(run)
    subprocess.run(["scancel", job], check=True)
    until_idle(20)
    (step,) = saved(run)
    assert step < STEPS
    assert "Restarts=0" in state(job)
    assert "JobState=CANCELLED" in state(job)
    assert f"step {step} is saved, and the same command goes on from it" in logs(run)


def test_a_stopped_rank_ends_the_job_with_the_stacks_of_all(
    run: Config, until_idle: Callable[[float], None]
) -> None:
    config = override(run, {"engine.hang_minutes": 3 / 60})
    job = submitted(config)
    os.kill(processes(run)[1], signal.SIGSTOP)
    start = time.monotonic()
    until_idle(20)
    assert time.monotonic() - start < 3 + 7
    assert "ExitCode=75:0" in state(job)
    for rank in range(2):
        (stacks,) = config.directory.glob(f"hang/rank-{rank}.*.txt")
        assert "in pretrain" in stacks.read_text()
    assert "rank 1 did not answer" in logs(config)
