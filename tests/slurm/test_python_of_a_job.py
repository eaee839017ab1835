"""A job whose Python is in a container: a wrapper stands in for apptainer, and hides SLURM."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from maskedclip.config import Config, override
from maskedclip.grid.manifest import read, submissions
from tests.slurm.attempts import assert_equal, logs, rows, saved, state, submitted, until

pytestmark = pytest.mark.slurm
APPTAINER = """#!/bin/bash
# apptainer exec [--nv] [--bind PLACE] IMAGE COMMAND...: of the programs it has those of IMAGE alone
[ "$1" = exec ] || exit 64
shift
while [[ $1 == --* ]]; do [ "$1" = --bind ] && shift; shift; done
image=$1; shift
echo "$PWD" >> "$image/starts"
PATH="$image/bin" exec "$@"
"""


@pytest.fixture
def python(tmp_path: Path) -> str:
    """Return what starts Python in an image whose path, as apptainer's own, has blanks."""
    image = tmp_path / "my image.sif"
    (image / "bin").mkdir(parents=True)
    (image / "bin" / "python").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    apptainer = tmp_path / "my tools" / "apptainer"
    apptainer.parent.mkdir()
    apptainer.write_text(APPTAINER)
    for path in (image / "bin" / "python", apptainer):
        path.chmod(0o755)
    return f"'{apptainer}' exec --nv --bind \"{tmp_path}\" '{image}' python"


def test_a_run_in_a_container_without_scontrol_is_queued_again_and_ends_as_if_nothing_was(
    run: Config,
    uninterrupted: list,
    python: str,
    tmp_path: Path,
    until_idle: Callable[[float], None],
) -> None:
    node = tmp_path / "node local"
    node.mkdir()
    config = override(run, {"data.stage": "$SLURM_TMPDIR"})
    job = submitted(config, python=python, setup=(f"export SLURM_TMPDIR='{node}'",))
    until(lambda: list(node.glob("*/*.tar")), 60)
    subprocess.run(["scancel", "--signal=USR2", job], check=True)
    until(lambda: saved(run), 30)
    until_idle(240)
    assert "Restarts=1" in state(job)
    assert "JobState=COMPLETED" in state(job), logs(run)
    assert_equal(rows(run.directory), uninterrupted)
    starts = (tmp_path / "my image.sif" / "starts").read_text().splitlines()
    assert len(starts) == 2 * 2  # two ranks, two starts
    assert list(node.iterdir()) == []
    assert list((run.directory / "jobs").glob("*_not_queued_again.txt")) == []


def test_a_run_in_a_container_that_fails_has_failed(
    run: Config, python: str, until_idle: Callable[[float], None]
) -> None:
    job = submitted(
        override(run, {"optim.lr": 1e30, "engine.log_every": 1}), steps=1, python=python
    )
    until_idle(120)
    assert "JobState=FAILED" in state(job)


def test_the_cells_of_a_study_run_in_the_container_that_the_profile_names(
    run: Config,
    python: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    until_idle: Callable[[float], None],
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    profile = tmp_path / "config" / "maskedclip" / "cluster.toml"
    profile.parent.mkdir(parents=True)
    profile.write_text(f"[default]\npartition = 'main'\npython = '''{python}'''\n")
    heldout = Path(run.data.paired[0]).with_name("heldout")
    command = [
        sys.executable, "launchers/submit_finetune.py", "random", "--size", "micro", "--datasets",
        str(heldout), "--fractions", "1.0", "--seeds", "2", "--gpus", "0", "--cluster", "slurm",
        "--cpus_per_rank", "1", "--out", str(tmp_path / "out"), "--name", "inside", "--epochs", "1",
        "--warmup_epochs", "0", "--image_size", "32",
    ]  # fmt: skip
    subprocess.run(command, cwd=Path(__file__).parents[2], env=os.environ, check=True)
    until_idle(300)
    grid = read(tmp_path / "out" / "grids" / "inside")
    assert {"COMPLETED" in state(one.job) for one in submissions(grid)} == {True}
    starts = (tmp_path / "my image.sif" / "starts").read_text().splitlines()
    assert len(starts) == len(grid.cells) > 2
