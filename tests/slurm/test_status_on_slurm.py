"""status, retry and cancel of a grid whose jobs are SLURM's."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest

from maskedclip.config import Config, FinetuneConfig, LaunchConfig, override
from maskedclip.grid.cells import finetunings, grid_of, pretrainings, run_directory
from maskedclip.grid.manifest import PRETRAIN, Grid, finished, submissions, write
from maskedclip.grid.slurm_arrays import submit
from maskedclip.jobs.submit import submit as submit_run
from tests.slurm.attempts import LAUNCH as RANKS
from tests.slurm.attempts import logs, rows, state, submitted, until

pytestmark = pytest.mark.slurm
LAUNCH = LaunchConfig(gpus=0, cluster="slurm", hours=1, cpus_per_rank=1, partition="main")


@pytest.fixture
def grid_of_two(
    small: Config, phantoms: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Grid]:
    """Give a function that makes two pre-trainings and a fine-tuning behind the second one."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    directory = tmp_path / "grids" / "two"

    def made(**of_second: object) -> Grid:
        systems = {"first": small, "second": override(small, of_second)}
        pretrained = pretrainings(systems, directory / "runs")
        tuned = FinetuneConfig(
            weights=run_directory(pretrained[1]), dataset=str(phantoms["heldout"]),
            task="disease", out=str(directory / "runs"), name="second-tuned",
            image_size=32, epochs=2, warmup_epochs=1, threads=0,
        )  # fmt: skip
        cells = [*pretrained, *finetunings([tuned], pretrained)]
        grid = grid_of(directory, cells, asdict(LAUNCH), 1.0, "slurm", None)
        write(grid)
        return grid

    return made


def command(*words: object) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "maskedclip.slurm", *map(str, words)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def status(grid: Grid) -> dict[str, dict[str, str]]:
    shown = json.loads(command("status", grid.directory, "--json"))
    return {row["cell"]: row for row in shown["cells"]}


def states(grid: Grid) -> dict[str, str]:
    return {name: row["state"] for name, row in status(grid).items()}


def jobs(grid: Grid) -> dict[str, str]:
    return {one.cell: one.job for one in submissions(grid)}


@pytest.mark.slow
def test_status_says_why_a_cell_failed_and_retry_submits_it_and_what_it_holds_alone(
    grid_of_two: Callable[..., Grid], phantoms: dict[str, Path], tmp_path: Path,
    until_idle: Callable[[float], None],
) -> None:  # fmt: skip
    absent = tmp_path / "nothing"
    grid = grid_of_two(**{"data.paired": (str(absent),)})
    submit(grid)
    until_idle(240)
    shown = status(grid)
    assert shown["first"]["state"] == "done"
    assert shown["second"]["state"] == "failed"
    assert str(absent) in shown["second"]["note"]
    assert shown["second-tuned"]["state"] == "held"
    (line,) = (x for x in command("status", grid.directory).splitlines() if " second " in x)
    assert " failed " in line
    assert str(absent) in line
    why = command("status", grid.directory, "--why=second")
    assert "fix " in why
    assert str(absent) in why

    absent.symlink_to(phantoms["paired"], target_is_directory=True)
    before = jobs(grid)
    said = command("retry", grid.directory)
    assert "again: second (failed)\n" in said
    assert "again: second-tuned (held)\n" in said
    assert "first" not in said
    assert jobs(grid)["first"] == before["first"]
    assert "nothing to submit again" in command("retry", grid.directory)
    until_idle(240)
    assert set(states(grid).values()) == {"done"}
    assert all(finished(grid, cell) for cell in grid.cells)
    assert {one.cell: one.attempt for one in submissions(grid)} == {
        "first": 1, "second": 2, "second-tuned": 2, "report": 2
    }  # fmt: skip


def test_cancel_ends_the_jobs_of_its_grid_and_no_others(
    grid_of_two: Callable[..., Grid], until_idle: Callable[[float], None]
) -> None:
    wrap = ["sbatch", "--parsable", "--partition=main", "--wrap=sleep 600", "--output=/dev/null"]
    other = subprocess.run(wrap, check=True, capture_output=True, text=True).stdout.strip()
    try:
        grid = grid_of_two(**{"optim.steps": 5000, "engine.save_every": 5000})
        submit(grid)
        running = Path(run_directory(grid.cells[1]))
        until(lambda: len(rows(running)) >= 3 and states(grid)["first"] == "done", 120)
        running_states = states(grid)
        assert running_states["second"] == "running"
        assert running_states["second-tuned"] == "pending"
        said = command("cancel", grid.directory)
        until(lambda: not {"running", "pending"} & set(states(grid).values()), 60)
        assert "JobState=RUNNING" in state(other)
    finally:
        subprocess.run(["scancel", other], check=True)
    until_idle(30)
    # the first has its results, and may just be ending
    assert re.match(r"cancelled [34] of 4 jobs\n", said)
    assert states(grid)["first"] == "done"
    assert states(grid)["second"] == "cancelled"
    (kept,) = (running / "checkpoints").glob("step-????????")  # where it was, not lost
    assert f"goes on from step {int(kept.name[5:])}" in status(grid)["second"]["note"]
    assert [cell.stage for cell in grid.cells if finished(grid, cell)] == [PRETRAIN]


def why(config: Config) -> dict[str, str]:
    return json.loads(command("status", config.directory, f"--why={config.name}", "--json"))


def test_why_tells_a_killed_batch_shell_from_a_person_and_no_failure_while_a_job_runs(
    run: Config, until_idle: Callable[[float], None]
) -> None:
    long = override(run, {"optim.steps": 5000, "engine.save_every": 5000})
    job = submitted(long)
    assert why(long)["state"] == "running"
    subprocess.run(["scancel", "--batch", "--signal=KILL", job], check=True)
    until_idle(60)
    found = why(long)
    assert (found["state"], found["kind"]) == ("failed", "killed")
    assert "the shell of the job" in found["line"]


def test_a_mistake_that_only_the_job_finds_is_one_line_of_its_log(
    run: Config, phantoms: dict[str, Path], tmp_path: Path, until_idle: Callable[[float], None]
) -> None:
    moved = tmp_path / "paired"
    moved.symlink_to(phantoms["paired"], target_is_directory=True)
    config = override(run, {"data.paired": (str(moved),)})
    submit_run(config, override(RANKS, {"partition": "main"}))
    moved.unlink()
    until_idle(120)
    found = why(config)
    assert (found["state"], found["kind"]) == ("failed", "exception")
    assert found["line"].startswith(f"rank 0: {moved}: no such directory")
    text = logs(config)
    assert "Traceback" not in text
    assert text.count("error: " + str(moved)) == 2  # of each rank, in its own log
