"""Runs on SLURM, watched from outside while they run."""

import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from maskedclip.config import Config, LaunchConfig, override
from maskedclip.jobs.submit import submit

STEPS = 40
LAUNCH = LaunchConfig(gpus=0, cpu_ranks=2, cluster="slurm", hours=1, cpus_per_rank=1)


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


def submitted(config: Config, partition: str = "main", steps: int = 3, **launch: object) -> str:
    """Submit the run, and return its job when it has taken some steps."""
    submit(config, override(LAUNCH, {"partition": partition} | launch))
    (script,) = (config.directory / "jobs").glob("*_submission.sh")
    job = script.name.partition("_")[0]
    until(lambda: len(rows(config.directory)) >= steps or "FAILED" in state(job), 180)
    assert "FAILED" not in state(job), logs(config)
    return job


def saved(config: Config) -> list[int]:
    return sorted(
        int(path.name[5:]) for path in (config.directory / "checkpoints").glob("step-????????")
    )


def state(job: str) -> str:
    shown = subprocess.run(["scontrol", "show", "job", job], capture_output=True, text=True)
    return shown.stdout


def processes(config: Config) -> dict[int, int]:
    """Return the process of each rank that runs now."""
    listed = subprocess.run(["pgrep", "-f", f"_submit {config.directory}"], capture_output=True)
    of_rank = {}
    for pid in map(int, listed.stdout.split()):
        for entry in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
            if entry.startswith(b"SLURM_PROCID="):
                of_rank[int(entry[13:])] = pid
    return of_rank


def logs(config: Config) -> str:
    return "".join(path.read_text() for path in (config.directory / "jobs").glob("*.err"))


def losses(logged: list[dict[str, float]]) -> list[list[float]]:
    return [[row[k] for k in ("step", "loss", "loss_clip", "grad_norm", "lr")] for row in logged]


def assert_equal(logged: list[dict[str, float]], expected: list[dict[str, float]]) -> None:
    assert [row["step"] for row in logged] == list(range(1, STEPS + 1))
    for ours, theirs in zip(losses(logged), losses(expected), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-5, abs=1e-6)


def evict(until_gone: Callable[[], object]) -> None:
    """Let a job of the higher partition take all nodes until the run has left them."""
    command = ["sbatch", "--parsable", "--partition=high", "--exclusive", "--nodes=3"]
    command += ["--wrap=sleep 600", "--output=/dev/null"]
    job = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    until(until_gone, 60)
    subprocess.run(["scancel", job], check=True)
