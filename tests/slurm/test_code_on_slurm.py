"""Edits after a submission do not reach its job, whenever it starts."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from maskedclip.config import Config, save
from tests.slurm.attempts import logs, rows, state, until

pytestmark = pytest.mark.slurm


def test_a_queued_job_runs_the_code_that_was_submitted_in_every_attempt(
    run: Config, tmp_path: Path, until_idle: Callable[[float], None]
) -> None:
    checkout = tmp_path / "checkout"
    root = Path(__file__).parents[2]
    checkout.mkdir()
    shutil.copytree(
        root / "maskedclip", checkout / "maskedclip", ignore=shutil.ignore_patterns("__pycache__")
    )
    for words in (["init", "-q"], ["add", "-A"]):
        subprocess.run(["git", *words], cwd=checkout, check=True)
    who = ["-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run(["git", *who, "commit", "-q", "-m", "Begin"], cwd=checkout, check=True)
    shown = checkout / "maskedclip" / "engine" / "step_log.py"
    before = shown.read_text()
    shown.write_text(before.replace("step {step}/", "as submitted {step}/"))
    save(run, tmp_path / "config.json")
    program = (
        "from pathlib import Path\n"
        "from maskedclip.config import Config, LaunchConfig, load\n"
        "from maskedclip.jobs.submit import submit\n"
        f"config = load(Path({str(tmp_path / 'config.json')!r}), Config)\n"
        "launch = LaunchConfig(gpus=0, cluster='slurm', cpus_per_rank=1, sbatch=('--hold',))\n"
        "submit(config, launch)\n"
    )
    subprocess.run(
        [sys.executable, "-c", program],
        cwd=checkout,  # where `python -m` would look first
        env=os.environ | {"PYTHONPATH": str(checkout)},
        check=True,
    )
    (script,) = (run.directory / "jobs").glob("*_submission.sh")
    job = script.name.partition("_")[0]
    shown.write_text("raise SystemExit('as edited')\n")
    subprocess.run(["scontrol", "release", job], check=True)
    until(lambda: len(rows(run.directory)) >= 3 or "FAILED" in state(job), 180)
    subprocess.run(["scancel", "--signal=USR2", job], check=True)
    until_idle(240)
    assert "Restarts=1" in state(job)
    assert "JobState=COMPLETED" in state(job), logs(run)
    assert "as edited" not in logs(run)
    assert "as submitted 3/40" in logs(run)
    assert "as submitted 40/40" in logs(run)
    (code,) = (run.directory / "jobs" / "code").iterdir()
    changes = (code / "changes.diff").read_bytes()
    assert b"as submitted" in changes
    for attempt in json.loads((run.directory / "provenance.json").read_text()):
        assert attempt["git"] == {
            "commit": (code / "commit.txt").read_text().strip(),
            "diff_sha256": hashlib.sha256(changes).hexdigest(),
        }
