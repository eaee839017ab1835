"""A run on SLURM that is asked to leave, evicted, cancelled, or hangs."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from maskedclip.config import Config, LaunchConfig, override
from maskedclip.pretrain import pretrain
from maskedclip.slurm import submit

pytestmark = pytest.mark.slurm
STEPS = 40
# submitit takes every warning in a job of ten minutes or less for the end of its time
LAUNCH = LaunchConfig(gpus=0, cpu_ranks=2, cluster="slurm", hours=1, cpus_per_rank=1)


@pytest.fixture
def run(small: Config, monkeypatch: pytest.MonkeyPatch) -> Config:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return override(
        small, {"optim.steps": STEPS, "engine.save_every": 1000, "engine.pictures_every": 1000}
    )


@pytest.fixture(scope="module")
def kept() -> dict[str, list[dict[str, float]]]:
    return {}


@pytest.fixture
def uninterrupted(run: Config, kept, tmp_path: Path) -> list[dict[str, float]]:
    if not kept:
        pretrain(override(run, {"out": str(tmp_path / "alone")}))
        kept["rows"] = rows(tmp_path / "alone" / run.name)
    return kept["rows"]


def rows(directory: Path) -> list[dict[str, float]]:
    path = directory / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def until(what: Callable[[], object], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not what():
        if time.monotonic() > end:
            pytest.fail(f"not within {seconds} s")
        time.sleep(0.05)


def submitted(config: Config, partition: str = "main", steps: int = 3) -> str:
    """Submit the run, and return its job when it has taken some steps."""
    submit(config, override(LAUNCH, {"partition": partition}))
    (script,) = (config.directory / "jobs").glob("*_submission.sh")
    until(lambda: len(rows(config.directory)) >= steps, 120)
    return script.name.partition("_")[0]


def saved(config: Config) -> list[int]:
    return sorted(
        int(path.name[5:]) for path in (config.directory / "checkpoints").glob("step-????????")
    )


def state(job: str) -> str:
    told = subprocess.run(["scontrol", "show", "job", job], capture_output=True, text=True)
    return told.stdout


def processes(config: Config) -> dict[int, int]:
    """Return the process of each rank that runs now."""
    found = subprocess.run(["pgrep", "-f", f"_submit {config.directory}"], capture_output=True)
    of_rank = {}
    for pid in map(int, found.stdout.split()):
        for entry in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
            if entry.startswith(b"SLURM_PROCID="):
                of_rank[int(entry[13:])] = pid
    return of_rank


def logs(config: Config) -> str:
    return "".join(path.read_text() for path in (config.directory / "jobs").glob("*.err"))


def losses(found: list[dict[str, float]]) -> list[list[float]]:
    return [[row[k] for k in ("step", "loss", "loss_clip", "grad_norm", "lr")] for row in found]


def assert_equal(found: list[dict[str, float]], expected: list[dict[str, float]]) -> None:
    assert [row["step"] for row in found] == list(range(1, STEPS + 1))
    for ours, theirs in zip(losses(found), losses(expected), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-5, abs=1e-6)


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
    ):  # again, while it leaves; SLURM's own might reach the next life as it starts
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
        assert "in pretrain" in (config.directory / "hang" / f"rank-{rank}.txt").read_text()
    assert "rank 1 did not answer" in logs(config)
