"""SLURM's warning where nothing can take it yet, or where SLURM itself does not answer."""

import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from maskedclip.config import Config, override
from maskedclip.jobs.submit import submit
from tests.slurm.attempts import (
    LAUNCH,
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


def test_a_job_that_is_warned_while_its_imports_hang_is_queued_again(
    run: Config, uninterrupted, tmp_path: Path, until_idle: Callable[[float], None]
) -> None:
    (tmp_path / "cold").mkdir()
    # as a cold file system does: imported by the interpreter before anything of the job is
    (tmp_path / "cold" / "sitecustomize.py").write_text(
        "import os, time\n"
        "if os.environ.get('SLURM_RESTART_COUNT', '0') == '0' and 'SLURM_PROCID' in os.environ:\n"
        f"    open({str(tmp_path / 'hangs')!r} + os.environ['SLURM_PROCID'], 'w').close()\n"
        "    time.sleep(6)\n"
    )
    export = f"export PYTHONPATH={tmp_path / 'cold'}:$PYTHONPATH"
    submit(run, override(LAUNCH, {"partition": "main", "setup": (export,)}))
    (script,) = (run.directory / "jobs").glob("*_submission.sh")
    job = script.name.partition("_")[0]
    until(lambda: len(list(tmp_path.glob("hangs*"))) == 2, 60)
    subprocess.run(["scancel", "--signal=USR2", job], check=True)
    until_idle(180)
    assert "Restarts=1" in state(job)
    assert "JobState=COMPLETED" in state(job), logs(run)
    assert_equal(rows(run.directory), uninterrupted)


def test_a_run_that_is_warned_while_the_controller_is_silent_is_queued_again_when_it_answers(
    run: Config, uninterrupted, until_idle: Callable[[float], None]
) -> None:
    job = submitted(run)
    sandbox = Path(os.environ["SLURM_SANDBOX"])
    controller = int((sandbox / "pid" / "slurmctld").read_text().split()[0])
    os.kill(controller, signal.SIGSTOP)
    try:
        for rank in processes(run).values():
            os.kill(rank, signal.SIGUSR2)
        until(lambda: list((run.directory / "jobs").glob("*_not_queued_again.txt")), 60)
    finally:
        os.kill(controller, signal.SIGCONT)
    (step,) = saved(run)
    until_idle(240)
    assert step < STEPS
    assert "Restarts=1" in state(job)
    assert "JobState=COMPLETED" in state(job), logs(run)
    assert not list((run.directory / "jobs").glob("*_not_queued_again.txt"))
    assert_equal(rows(run.directory), uninterrupted)
