"""What SLURM says of a thousand arrays, true or not, makes no cell done and undoes none."""

import random
from pathlib import Path

import pytest

from maskedclip.grid.manifest import Cell, Grid, Submission
from maskedclip.grid.status import board, rows_now
from maskedclip.grid.status_table import ACTIVE, DONE, OPEN, STATES
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

ARRAYS = 1000
WORDS = (
    "COMPLETED", "FAILED", "RUNNING", "PENDING", "TIMEOUT", "CANCELLED", "NODE_FAIL",
    "OUT_OF_MEMORY", "PREEMPTED", "REQUEUED", "COMPLETING", "SUSPENDED", "DONE", GONE, "",
)  # fmt: skip
CODES = ("0:0", "1:0", "3:0", "0:9", "")
REASONS = ("", "None", "Dependency", "Priority", "NonZeroExitCode", "done")
DAY = 86400.0


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, tuple[Cell, bool]]]:
    """Give a folder of runs and, by name, each run's cell and whether it is done."""
    out = tmp_path_factory.mktemp("runs")
    found: dict[str, tuple[Cell, bool]] = {}
    for number in range(24):
        name = f"whole-{number}"
        pretrained(out / name)
        found[name] = pretraining(name), True
    for damage in DAMAGES:
        name = damage.replace(" ", "-")
        pretrained(out / name, damage)
        found[name] = pretraining(name), False
    for name, metrics, tail, done in (
        ("tuned", METRICS, "", True),
        ("tuned-too", METRICS, "", True),
        ("half-tuned", METRICS[1:], "", False),
        ("damaged", METRICS, '{"metric": "au', False),
    ):
        finetuned(out / name, metrics, tail)
        found[name] = finetuning(name), done
    return out, found


def _lie(chance: random.Random) -> JobState:
    return JobState(
        chance.choice(WORDS),
        chance.choice(REASONS),
        chance.choice(CODES),
        chance.choice(("", "node1")),
        chance.choice((None, 0, 1, 7)),
    )


def test_a_thousand_arrays_of_lies_make_no_cell_done_and_miss_none(
    runs: tuple[Path, dict[str, tuple[Cell, bool]]],
):
    out, known = runs
    chance = random.Random(20261124)
    false, missed, seen = [], [], set()
    (out / "grids" / "g").mkdir(parents=True)
    for array in range(ARRAYS):
        names = chance.sample(sorted(known), chance.randint(1, 3))
        grid = Grid(out / "grids" / "g", tuple(known[n][0] for n in names), {}, "slurm")
        sent = [
            Submission(name, f"{array}_{i}", 1, chance.choice((0.0, DAY)), f"logs/{array}_{i}_")
            for i, name in enumerate(names)
            if chance.random() < 0.9
        ]
        # some answers are lost, some are those of another element
        told = {each.job: _lie(chance) for each in sent if chance.random() < 0.8}
        for row in board(grid, told, sent, now=chance.choice((DAY, 1e12))):
            assert row.state in STATES
            seen.add(row.state)
            if row.state == DONE and not known[row.cell][1]:
                false.append(row)
            if row.state != DONE and known[row.cell][1]:
                missed.append(row)
    assert not false
    assert not missed
    assert seen >= set(STATES) - {"held"}


def test_what_slurm_says_waits_or_runs_is_never_to_be_submitted_again(
    runs: tuple[Path, dict[str, tuple[Cell, bool]]],
):
    out, known = runs
    undone = tuple(cell for cell, done in known.values() if not done)
    grid = Grid(out / "grids" / "g", undone, {}, "slurm")
    sent = [Submission(cell.name, f"1_{i}", 1, 0.0, "") for i, cell in enumerate(undone)]
    for word in queue.ACTIVE:
        told = {each.job: JobState(word, "") for each in sent}
        assert {row.state for row in board(grid, told, sent, now=1e12)} <= set(ACTIVE)


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
    rows = rows_now(grid)
    assert {row.cell for row in rows if row.state == DONE} == {
        n for n, (_, d) in known.items() if d
    }
    assert {row.state for row in rows if row.state != DONE} <= {*OPEN, *ACTIVE}
