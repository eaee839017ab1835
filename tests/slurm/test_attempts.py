"""Several attempts of one run: whatever ended them, the results are those of an undisturbed run."""

import os
import signal
import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator

from maskedclip.config import Config, override
from tests.slurm.attempts import (
    STEPS,
    assert_equal,
    evict,
    logs,
    processes,
    rows,
    saved,
    state,
    submitted,
    until,
)

pytestmark = pytest.mark.slurm
NODE = Path(__file__).parent / "slurm_node.sh"


def restarts(job: str) -> int:
    return int(state(job).partition("Restarts=")[2].split()[0])


def curve(config: Config) -> list[int]:
    """Return the steps of the loss as TensorBoard reads them from all attempts' files."""
    events = EventAccumulator(str(config.directory), {"tensors": 0}, purge_orphaned_data=True)
    return [event.step for event in events.Reload().Tensors("losses/loss")]


def is_over(pid: int) -> bool:
    try:
        return not Path(f"/proc/{pid}/cmdline").read_bytes()
    except FileNotFoundError:
        return True


def assert_as_if_undisturbed(config: Config, job: str, expected: list[dict[str, float]]) -> None:
    assert "JobState=COMPLETED" in state(job), logs(config)
    assert_equal(rows(config.directory), expected)
    assert curve(config) == [row["step"] for row in expected]
    assert not list(config.directory.rglob("*.save_tmp"))
    assert not list((config.directory / "checkpoints").glob("*.tmp"))


def test_two_nodes_of_two_ranks_learn_what_one_rank_does(
    run: Config, uninterrupted, until_idle: Callable[[float], None]
) -> None:
    job = submitted(run, nodes=2)
    until_idle(240)
    assert "NumNodes=2 NumCPUs=4" in state(job)
    assert_as_if_undisturbed(run, job, uninterrupted)


@pytest.mark.slow
def test_a_short_job_is_started_three_times(
    run: Config, uninterrupted, until_idle: Callable[[float], None]
) -> None:
    job = submitted(run, hours=5 / 60)  # to submitit every warning is the end of its time
    for restart in (1, 2):
        subprocess.run(["scancel", "--signal=USR2", job], check=True)
        until(lambda restart=restart: restarts(job) == restart, 60)
        reached = max(saved(run))
        until(lambda reached=reached: len(rows(run.directory)) >= reached + 3, 120)
    until_idle(240)
    assert restarts(job) == 2
    assert_as_if_undisturbed(run, job, uninterrupted)


def test_a_job_that_is_requeued_from_outside_goes_on_from_its_last_checkpoint(
    run: Config, uninterrupted, until_idle: Callable[[float], None]
) -> None:
    config = override(run, {"engine.save_every": 4})
    job = submitted(config, steps=9)
    subprocess.run(["scontrol", "requeue", job], check=True)
    until_idle(240)
    assert restarts(job) == 1
    assert_as_if_undisturbed(config, job, uninterrupted)


@pytest.mark.slow
def test_a_run_that_cannot_save_in_its_grace_loses_what_came_after_its_last_checkpoint(
    run: Config, uninterrupted, until_idle: Callable[[float], None]
) -> None:
    config = override(run, {"engine.save_every": 5})
    job = submitted(config, "brief", steps=12)
    ranks = processes(config).values()

    def stop() -> None:  # as if in a step, or a save, of more than the 5 s of its grace
        for pid in ranks:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)

    stop()
    reached, kept = len(rows(config.directory)), max(saved(config))
    assert reached - kept < 5
    (config.directory / "checkpoints" / "step-00000099.tmp").mkdir()
    evict(lambda: stop() or restarts(job) == 1)  # again and again: SLURM wakes what it warns
    assert max(saved(config)) == kept
    until_idle(240)
    assert_as_if_undisturbed(config, job, uninterrupted)


@pytest.mark.slow
def test_a_run_is_evicted_time_and_again(
    run: Config, uninterrupted, until_idle: Callable[[float], None]
) -> None:
    job = submitted(run)
    for restart in (1, 2, 3):
        evict(lambda restart=restart: restarts(job) == restart)
        reached = max(saved(run))
        until(lambda reached=reached: len(rows(run.directory)) >= reached + 3, 180)
    until_idle(240)
    assert restarts(job) == 3
    assert_as_if_undisturbed(run, job, uninterrupted)


@pytest.mark.slow
def test_the_end_of_its_time_is_no_end(
    run: Config, uninterrupted, until_idle: Callable[[float], None]
) -> None:
    # the warning is due a minute after the start, and comes as SLURM checks limits, each half
    # minute: the run is held until it has come
    job = submitted(run, hours=3 / 60)
    ranks = processes(run)
    for pid in ranks.values():
        os.kill(pid, signal.SIGSTOP)
    until(lambda: restarts(job) == 1, 120)  # SLURM wakes what it warns
    until_idle(400)
    assert restarts(job) >= 1
    assert_as_if_undisturbed(run, job, uninterrupted)


@pytest.mark.slow
def test_a_run_whose_node_is_lost_goes_on_elsewhere(
    run: Config, uninterrupted, until_idle: Callable[[float], None]
) -> None:
    config = override(run, {"engine.save_every": 4})
    job = submitted(config, steps=6)
    node = state(job).partition(" NodeList=")[2].split()[0] or "node1"
    subprocess.run([NODE, "crash", node], check=True)
    try:
        until_idle(300)
    finally:
        subprocess.run([NODE, "start", node], check=True)
    assert restarts(job) == 1
    assert_as_if_undisturbed(config, job, uninterrupted)


@pytest.mark.slow
def test_an_attempt_on_a_node_that_is_cut_off_leaves_the_run_to_the_next(
    run: Config, uninterrupted, until_idle: Callable[[float], None]
) -> None:
    config = override(run, {"engine.save_every": 4})
    job = submitted(config, steps=6)
    earlier = processes(config)
    node = state(job).partition(" NodeList=")[2].split()[0]
    for pid in earlier.values():  # it would be at its end before SLURM misses the node
        os.kill(pid, signal.SIGSTOP)
    subprocess.run([NODE, "kill", node], check=True)
    try:
        until(lambda: '"restarts": 1' in (config.directory / "lease.json").read_text(), 180)
        until(lambda: len(rows(config.directory)) >= STEPS - 3, 180)  # the new one nears its end
        for pid in earlier.values():
            os.kill(pid, signal.SIGCONT)
        until(lambda: all(map(is_over, earlier.values())), 60)
        until_idle(300)
    finally:
        subprocess.run([NODE, "start", node], check=True)
    assert "a later attempt of this run holds its lease" in logs(config)
    assert_as_if_undisturbed(config, job, uninterrupted)
