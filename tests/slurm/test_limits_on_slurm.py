"""A study on a cluster that takes fewer jobs at a time than the study has."""

import getpass
import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest

from maskedclip.config import FinetuneConfig, LaunchConfig
from maskedclip.grid.cells import finetunings, grid_of
from maskedclip.grid.manifest import Grid, finished, submissions, waiting, write
from maskedclip.grid.slurm_arrays import submit

pytestmark = pytest.mark.slurm
LAUNCH = LaunchConfig(gpus=0, cluster="slurm", hours=1, cpus_per_rank=1, partition="main")
USER = getpass.getuser()


@pytest.fixture
def tunings(
    phantoms: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Grid]:
    """Give a function that makes a grid of five fine-tunings and their report."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    directory = tmp_path / "grids" / "five"

    def made(parallelism: int | None, pack: int = 1, **launch: object) -> Grid:
        configs = [
            FinetuneConfig(
                weights="random", size="micro", dataset=str(phantoms["heldout"]), task="disease",
                out=str(directory / "runs"), image_size=32, epochs=2, warmup_epochs=1, threads=0,
                seed=seed, name=f"seed{seed}",
            )
            for seed in range(5)
        ]  # fmt: skip
        launched = asdict(LAUNCH) | launch
        cells = finetunings(configs, [])
        grid = grid_of(directory, cells, launched, 1.0, "slurm", parallelism, pack)
        write(grid)
        return grid

    return made


def states() -> list[str]:
    words = ["squeue", "--noheader", "--array", "--format=%T"]
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout.split()


def until_done(grid: Grid, seconds: float) -> int:
    """Run `status --watch` until it ends; return the most jobs that ran at a time."""
    words = [sys.executable, "-m", "maskedclip.slurm", "status", str(grid.directory), "--watch=2"]
    most, end = 0, time.monotonic() + seconds
    with subprocess.Popen(words, stdout=subprocess.DEVNULL) as watch:
        while watch.poll() is None:
            most = max(most, states().count("RUNNING"))
            if time.monotonic() > end:
                watch.kill()
                pytest.fail(f"not done after {seconds} s: {states()}, {waiting(grid)}")
            time.sleep(0.3)
    return most


def test_under_a_limit_what_fits_is_submitted_and_the_rest_as_it_drains(
    limited: Callable[[str], None], tunings: Callable[..., Grid]
) -> None:
    limited("add qos tight set MaxSubmitJobsPerUser=2")
    limited(f"modify user {USER} set qos+=tight")
    grid = tunings(1, 2, qos="tight")
    first = submit(grid)
    assert first.limit == "QOSMaxSubmitJobPerUserLimit"
    assert [one.cell for one in first.done] == ["seed0", "seed1", "seed2", "seed3"]
    jobs = [one.job for one in first.done]
    assert jobs[0] == jobs[1] != jobs[2] == jobs[3]
    assert first.waiting == ["seed4", "report"]
    shown = subprocess.run(
        [sys.executable, "-m", "maskedclip.slurm", "status", str(grid.directory), "--json"],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    rows = {row["cell"]: row for row in json.loads(shown)["cells"]}
    assert rows["seed4"]["state"] == "pending"
    assert "for room under the limit" in rows["seed4"]["note"]
    leftovers = [path.name for path in (grid.directory / "logs").glob("*.pkl")]
    assert all("_submitted" in name or "_result" in name for name in leftovers), leftovers
    assert until_done(grid, 400) == 1
    assert all(finished(grid, cell) for cell in grid.cells)
    assert [one.attempt for one in submissions(grid)] == [1] * 6
    assert waiting(grid) == {}
    logs = {one.cell: grid.directory / f"{one.logs}log" for one in submissions(grid)}
    assert logs["seed1"].name == f"{jobs[1]}_seed1.log"
    assert logs["seed1"].read_text().count("epoch 2/2") == 1


def test_what_no_draining_helps_is_an_error_and_a_refused_retry_keeps_what_it_changes(
    limited: Callable[[str], None], tunings: Callable[..., Grid]
) -> None:
    grid = tunings(None, partition="nowhere")
    with pytest.raises(RuntimeError, match="invalid partition specified: nowhere"):
        submit(grid)
    assert submissions(grid) == []
    limited(f"modify user {USER} set MaxSubmitJobs=1")
    first = submit(grid, ["seed0", "seed1"], {"partition": "brief", "hours": 2.0})
    assert [one.cell for one in first.done] == ["seed0"]
    assert first.limit == "AssocMaxSubmitJobLimit"
    assert waiting(grid) == {"seed1": {"partition": "brief", "hours": 2.0}}
    shown = subprocess.run(
        ["squeue", "--noheader", "--format=%P %l"], capture_output=True, text=True
    )
    assert shown.stdout.split() == ["brief", "2:00:00"]
    words = [sys.executable, "-m", "maskedclip.slurm", "cancel", str(grid.directory)]
    said = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    assert "1 cells wait for room no longer" in said
    assert waiting(grid) == {}
    limited(f"modify user {USER} set MaxSubmitJobs=-1")


def test_an_array_larger_than_the_cluster_takes_is_split_and_its_parts_share_the_parallelism(
    limited: Callable[[str], None], tunings: Callable[..., Grid]
) -> None:
    limited(f"modify user {USER} set MaxSubmitJobs=-1")
    grid = tunings(1)
    try:
        assert submit(grid).waiting == []
        arrays = [one.job.partition("_")[0] for one in submissions(grid)]
        first, second = arrays[0], arrays[3]
        assert arrays[:5] == [first] * 3 + [second] * 2  # MaxArraySize is 3
        words = ["scontrol", "--oneliner", "show", "job", second]
        shown = subprocess.run(words, capture_output=True, text=True, check=True).stdout
        assert f"afterany:{first}_" in shown
    finally:
        words = [sys.executable, "-m", "maskedclip.slurm", "cancel", str(grid.directory)]
        subprocess.run(words, check=True)
