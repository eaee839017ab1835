"""No answer of SLURM enters the decision whether a run is done: its result files decide alone."""

from pathlib import Path

import pytest

from maskedclip.grid.manifest import Cell, Grid, Submission
from maskedclip.grid.status import ACTIVE, DONE, OPEN, current_status, status_of
from maskedclip.jobs import slurm_queue as queue
from maskedclip.jobs.slurm_queue import GONE, JobState
from maskedclip.metrics.scores import METRICS
from tests.grid.grids import (
    DAMAGES,
    finetuned,
    finetuning,
    grid_of,
    pretrained,
    pretraining,
    submitted,
)

WORDS = (
    "COMPLETED", "FAILED", "RUNNING", "PENDING", "TIMEOUT", "CANCELLED", "NODE_FAIL",
    "OUT_OF_MEMORY", "PREEMPTED", "REQUEUED", "COMPLETING", "SUSPENDED", "DONE", GONE, "",
)  # fmt: skip


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, tuple[Cell, bool]]]:
    """Give a folder of runs and, by name, each run's cell and whether it is done."""
    out = tmp_path_factory.mktemp("runs")
    (out / "grids" / "g").mkdir(parents=True)
    known: dict[str, tuple[Cell, bool]] = {}
    for damage in ("", *DAMAGES):
        name = damage.replace(" ", "-") or "whole"
        pretrained(out / name, damage)
        known[name] = pretraining(name), not damage
    for name, metrics, tail, done in (
        ("tuned", METRICS, "", True),
        ("half-tuned", METRICS[1:], "", False),
        ("damaged", METRICS, '{"metric": "au', False),
    ):
        finetuned(out / name, metrics, tail)
        known[name] = finetuning(name), done
    return out, known


@pytest.mark.parametrize("exit_code", ["0:0", "1:0", ""])
@pytest.mark.parametrize("word", WORDS)
def test_done_is_what_the_files_say_whatever_slurm_says(
    runs: tuple[Path, dict[str, tuple[Cell, bool]]], word: str, exit_code: str
):
    out, known = runs
    grid = Grid(out / "grids" / "g", tuple(cell for cell, _ in known.values()), {}, "slurm")
    sent = [Submission(name, f"1_{i}", 1, 0.0, "") for i, name in enumerate(known)]
    answers = {one.job: JobState(word, "", exit_code) for one in sent}
    rows = status_of(grid, answers, sent, now=1e12)
    assert {row.cell: row.state == DONE for row in rows} == {n: d for n, (_, d) in known.items()}


def test_what_slurm_says_waits_or_runs_is_never_to_be_submitted_again(
    runs: tuple[Path, dict[str, tuple[Cell, bool]]],
):
    out, known = runs
    undone = tuple(cell for cell, done in known.values() if not done)
    grid = Grid(out / "grids" / "g", undone, {}, "slurm")
    sent = [Submission(cell.name, f"1_{i}", 1, 0.0, "") for i, cell in enumerate(undone)]
    for word in queue.ACTIVE:
        answers = {one.job: JobState(word, "") for one in sent}
        assert {row.state for row in status_of(grid, answers, sent, now=1e12)} <= set(ACTIVE)


@pytest.mark.parametrize(
    ("squeue", "sacct"),
    [
        ("none", "none"),
        ("none", "lies"),
        ("fails", "off"),
        ("empty", "off"),
        ("empty", "lies"),
        ("lies", "none"),
        ("lies", "lies"),
    ],
)
def test_done_is_the_same_whatever_the_commands_on_the_path_do(
    runs: tuple[Path, dict[str, tuple[Cell, bool]]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    squeue: str,
    sacct: str,
):
    out, known = runs
    grid = grid_of(out / "grids" / tmp_path.name, [cell for cell, _ in known.values()])
    for i, name in enumerate(known):
        submitted(grid, name, f"5_{i}")
    last = len(known) - 1
    # each says of the whole array what is true of some of it
    says = {
        "squeue": {
            "fails": "echo no controller >&2; exit 1",
            "empty": ":",
            "lies": f"echo '5_[0-{last}]|FAILED|None|256|0|n1|'",
        },
        "sacct": {
            "off": "echo Slurm accounting storage is disabled >&2; exit 1",
            "lies": f"echo '5_[0-{last}]|COMPLETED|0:0|n1'",
        },
    }
    for command, how in (("squeue", squeue), ("sacct", sacct)):
        if how != "none":
            (tmp_path / command).write_text(f"#!/bin/sh\n{says[command][how]}\n")
            (tmp_path / command).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    rows = current_status(grid)
    assert {row.cell: row.state == DONE for row in rows} == {n: d for n, (_, d) in known.items()}
    assert {row.state for row in rows if row.state != DONE} <= {*OPEN, *ACTIVE}
