"""The command lines, run as a user runs them: mistakes end in one line, exit code 2, no trace."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from maskedclip.command import read_config
from maskedclip.config import LaunchConfig

ROOT = Path(__file__).parents[1]
LAUNCHER = str(ROOT / "launchers" / "submit_pretrain.py")


def run(*words: str, folder: Path) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, *words], cwd=folder, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["dmo"], "did you mean demo"),
        (["demo", "tiny"], "one recipe is enough"),
        (["demo", "--optim.base_lrr=1"], "did you mean --optim.base_lr"),
        (["demo", "--gpu=1"], "did you mean --gpus"),
        (["demo", "--cluster=slrm"], "did you mean slurm"),
        (["demo", "--optim.steps=soon"], "not a whole number"),
        (["demo", "--gpus=99"], "this machine has"),
        (["demo", "--cpu_ranks=7", "--gpus=0"], "cannot be shared by 7 ranks"),
        (["demo", "--nodes=2", "--cluster=local"], "need SLURM"),
        (["maskedclip_vits"], "no shard directory is named"),
        (["maskedclip_vits", "--data.paired=nowhere", "--data.unpaired=x"], "no such directory"),
    ],
)
def test_a_mistake_ends_in_one_line_and_touches_nothing(words, said, tmp_path):
    if not any(word.startswith("--cluster") for word in words):
        words = [*words, "--cluster=local"]
    done = run(LAUNCHER, *words, folder=tmp_path)
    assert done.returncode == 2
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
    assert not done.stdout
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("words", [["--help"], ["demo", "-h"]])
@pytest.mark.parametrize("program", [[LAUNCHER], ["-m", "maskedclip.pretrain"]])
def test_help_names_recipes_and_fields_without_importing_torch(program, words, tmp_path):
    (tmp_path / "torch.py").write_text("raise SystemExit('torch was imported')")
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}:{ROOT}"}
    done = subprocess.run(
        [sys.executable, *program, *words], env=environment, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for part in ("maskedclip_vitl", "--optim.base_lr", "peak, per 256 images"):
        assert part in done.stdout


def test_flags_go_to_the_launch_or_to_the_recipe():
    words = ["demo", "--nodes", "1", "--gpus=4", "--dry-run", "--optim.base-lr=1e-4", "--name", "x"]
    config, launch, *_ = read_config("", LaunchConfig(), "maskedclip_vitl", words)
    assert (launch.nodes, launch.gpus, launch.dry_run) == (1, 4, True)
    assert (config.name, config.optim.base_lr, config.model.size) == ("x", 1e-4, "micro")


def test_without_a_recipe_it_is_the_papers():
    config = read_config("", LaunchConfig(), "maskedclip_vitl", ["--gpus", "4"]).config
    assert config.name == "maskedclip_vitl"
    assert config.data.paired_batch == config.data.unpaired_batch == 4 * 180


def test_a_dry_run_shows_the_sbatch_script_without_a_cluster_and_touches_nothing(tmp_path):
    words = ["--nodes", "2", "--gpus", "4", "--cluster", "slurm", "--partition", "gpu"]
    done = run(LAUNCHER, *words, "--dry_run", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    for line in (
        "#SBATCH --nodes=2", "#SBATCH --ntasks-per-node=4", "#SBATCH --gpus-per-node=4",
        "#SBATCH --partition=gpu", "#SBATCH --time=1440", "180 images each a step",
    ):  # fmt: skip
        assert line in done.stdout
    assert not list(tmp_path.iterdir())


def test_a_place_that_cannot_be_written_is_said_in_one_line(tmp_path, phantoms):
    (tmp_path / "taken").write_text("a file")
    done = run(
        LAUNCHER, "demo", "--out=taken", "--cluster=debug",
        f"--data.paired={phantoms['paired']}", f"--data.unpaired={phantoms['unpaired']}",
        f"--after.datasets={phantoms['heldout']}", folder=tmp_path,
    )  # fmt: skip
    assert done.returncode == 2
    assert "taken" in done.stderr
    assert "choose another --out" in done.stderr
    assert done.stderr.count("\n") == 1
