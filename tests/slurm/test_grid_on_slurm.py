"""A grid on SLURM: arrays that come one behind the other, one of whose pre-trainings fails."""

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from maskedclip.config import Config, FinetuneConfig, LaunchConfig, override
from maskedclip.grid.cells import finetunings, grid_of, pretrainings, run_directory
from maskedclip.grid.manifest import (
    FINETUNE,
    PRETRAIN,
    REPORT,
    Cell,
    Grid,
    finished,
    submissions,
    write,
)
from maskedclip.grid.slurm_arrays import submit

pytestmark = pytest.mark.slurm
LAUNCH = LaunchConfig(gpus=0, cluster="slurm", hours=1, cpus_per_rank=1, partition="main")
FRACTIONS = (0.5, 1.0)


@pytest.fixture
def grid(
    small: Config, phantoms: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Grid:
    """A grid of two systems, of which the second has no shards to read."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    directory = tmp_path / "grids" / "two"
    broken = override(small, {"data.paired": (str(tmp_path / "nothing"),)})
    pretrained = pretrainings({"whole": small, "broken": broken}, directory / "runs")
    recipe = FinetuneConfig(
        dataset=str(phantoms["heldout"]), task="disease", out=str(directory / "runs"),
        image_size=32, epochs=2, warmup_epochs=1, threads=0,
    )  # fmt: skip
    tuned = [
        replace(
            recipe,
            weights=run_directory(cell),
            fraction=fraction,
            name=f"{cell.name}-{fraction:g}",
        )
        for cell in pretrained
        for fraction in FRACTIONS
    ]
    cells = [*pretrained, *finetunings(tuned, pretrained)]
    made = grid_of(directory, cells, asdict(LAUNCH), 1.0, "slurm", 2)
    write(made)
    return made


def named(grid: Grid) -> dict[str, Cell]:
    return {cell.name: cell for cell in grid.cells}


def done(grid: Grid) -> set[str]:
    return {cell.name for cell in grid.cells if finished(grid, cell)}


def logs(grid: Grid, name: str) -> str:
    """Return what the newest job of a cell wrote to stderr."""
    prefix = [one.logs for one in submissions(grid) if one.cell == name][-1]
    return "".join(path.read_text() for path in grid.directory.glob(f"{prefix}*.err"))


def test_a_pretraining_that_fails_holds_nothing_but_its_own_fine_tunings(
    grid: Grid, until_idle: Callable[[float], None]
) -> None:
    first = submit(grid).done
    assert {one.cell for one in first} == set(named(grid))
    arrays = {one.cell: one.job.partition("_")[0] for one in first}
    stages = {stage: {arrays[c.name] for c in grid.cells if c.stage == stage}
              for stage in (PRETRAIN, FINETUNE, REPORT)}  # fmt: skip
    assert [len(stages[stage]) for stage in (PRETRAIN, FINETUNE, REPORT)] == [1, 2, 1]
    assert submit(grid).done == []  # all of it waits or runs
    until_idle(400)

    assert done(grid) == {"whole", "whole-0.5", "whole-1", "report"}
    for fraction in ("0.5", "1"):
        assert "waits for broken, which is not finished\n" in logs(grid, f"broken-{fraction}")
    assert "nothing" in logs(grid, "broken")
    page = (grid.directory / "report" / "index.html").read_text()
    assert "broken-0.5: is not finished" in page
    assert "whole-0.5: is not finished" not in page

    # the shards come, and the same command runs what is missing alone, the report with it
    shards = Path(named(grid)["whole"].config["data.paired"][0])
    absent = Path(named(grid)["broken"].config["data.paired"][0])
    absent.symlink_to(shards, target_is_directory=True)
    second = submit(grid).done
    assert {one.cell for one in second} == {"broken", "broken-0.5", "broken-1", "report"}
    assert {one.attempt for one in second} == {2}
    until_idle(400)
    assert done(grid) == set(named(grid))
    assert submit(grid).done == []
    attempts = json.loads(
        (Path(run_directory(named(grid)["whole"])) / "provenance.json").read_text()
    )
    assert len(attempts) == 1
