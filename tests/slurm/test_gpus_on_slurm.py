"""GPUs and ranks that SLURM itself gives: its own variables, its own script."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict

import pytest

from maskedclip.config import Config, LaunchConfig, flat, override
from maskedclip.jobs.submit import submit
from tests.slurm.attempts import logs, state

pytestmark = pytest.mark.slurm


def test_a_job_whose_gpus_torch_does_not_see_ends_at_once_and_says_so(
    run: Config, until_idle: Callable[[float], None]
) -> None:
    """No number is given, so SLURM is asked for one; those of the sandbox are links to null."""
    submit(run, LaunchConfig(cluster="slurm", hours=1, cpus_per_rank=1, partition="main"))
    (script,) = (run.directory / "jobs").glob("*_submission.sh")
    assert "#SBATCH --gpus-per-node=1" in script.read_text()
    until_idle(120)
    assert "JobState=FAILED" in state(script.name.partition("_")[0])
    assert "SLURM has given GPUs (SLURM_JOB_GPUS=" in logs(run)
    assert ", and torch sees no GPU: " in logs(run)
    assert not (run.directory / "metrics.jsonl").exists()


def test_srun_alone_starts_one_run_over_its_tasks(
    run: Config, until_idle: Callable[[float], None]
) -> None:
    config = override(run, {"optim.steps": 2})
    fields = {k: v for k, v in flat(asdict(config)).items() if v not in (None, "", ())}
    values = {k: ",".join(map(str, v)) if isinstance(v, tuple) else v for k, v in fields.items()}
    words = [f"--{name}={value}" for name, value in values.items()] + ["--after.datasets="]
    done = subprocess.run(
        ["srun", "--ntasks=2", "--nodes=2", "--partition=main", sys.executable, "-m",
         "maskedclip.pretrain", "demo", *words],
        env=os.environ, capture_output=True, text=True, timeout=180,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (start,) = json.loads((config.directory / "provenance.json").read_text())
    assert start["world"] == 2
    assert done.stderr.count("step 2/2") == 1
    until_idle(30)
