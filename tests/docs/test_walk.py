"""The commands of the README in their order, on drawn data, in a folder of their own."""

import csv
import os
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import pytest

from maskedclip.shards.phantoms.phantom import draw
from tests.docs.pages import README, ROOT, blocks, commands, words_of
from tests.downloads import build

# what makes minutes of hours, by the words that a command has
SHORTER = {
    "launchers/submit_pretrain.py": ["--optim.steps=2", "--cluster=local"],
    "maskedclip.finetune": ["--epochs=1", "--warmup_epochs=0"],
    "maskedclip.evaluate": ["--protocols=knn"],
}
# a command that is not run here, by a part of it, and why
LEFT_OUT = {
    "submit_pretrain.py demo": "the demo is run by .ci/run",
    "--nodes 1 --gpus 4 --data.paired": "it needs 4 GPUs or a cluster",
    "submit_ablation.py --nodes 1 --gpus 4": "tests/grid and tests/slurm run grids",
    "maskedclip.slurm status runs/grids": "tests/grid and tests/slurm run grids",
    "maskedclip.slurm retry": "tests/grid and tests/slurm run grids",
    "submit_finetune.py": "tests/grid runs it",
    "submit_sweep.py": "tests/grid runs it",
    "tools/prefetch.py": "it needs a network",
    "maskedclip_vits_continue --gpus 0": "its weights come from a hub",
    "mae_pretrain_vit_large.pth": "the file is not here",
    "maskedclip_vitl --nodes 1 --gpus 4": "counts for minutes; tests/plan and tests/doctor",
    "--cluster slurm": "plans for minutes; tests/jobs",
}


def photograph(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), draw(seed, 96).image_HWC[:, :, ::-1])


def table(path: Path, *rows: tuple[object, ...]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as stream:
        csv.writer(stream).writerows(rows)


def downloads(data: Path) -> None:
    """Draw ODIR-5K in miniature, a folder of a clinic with a table, and a small IDRiD."""
    build("odir5k_kaggle", data / "ODIR-5K")
    for number in range(24):
        photograph(data / "clinic" / f"{number:02}.jpg", number)
    rows = [(f"{number:02}.jpg", number % 3) for number in range(24)]
    table(data / "clinic" / "table.csv", ("file", "grade"), *rows)
    grading = data / "IDRiD" / "B. Disease Grading"
    for letter, part, images in (("a", "Training", 25), ("b", "Testing", 10)):
        names = [f"IDRiD_{number:03}" for number in range(1, images + 1)]
        for number, name in enumerate(names):
            folder = grading / "1. Original Images" / f"{letter}. {part} Set"
            photograph(folder / f"{name}.jpg", 1000 * images + number)
        table(
            grading / "2. Groundtruths" / f"{letter}. IDRiD_Disease Grading_{part} Labels.csv",
            ("Image name", "Retinopathy grade", "Risk of macular edema "),
            *((name, number % 5, number % 3) for number, name in enumerate(names)),
        )


def steps() -> list[str]:
    lines = [line for line in commands(README) if line.startswith("python ")]
    return [line for line in lines if not any(part in line for part in LEFT_OUT)]


@pytest.mark.slow
def test_the_commands_of_the_readme_run_in_their_order_on_drawn_data(tmp_path: Path):
    downloads(tmp_path / "data")
    for folder in ("tools", "launchers"):
        (tmp_path / folder).symlink_to(ROOT / folder)
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    assert len(steps()) > 12
    for line in steps():
        words = words_of(line.replace("/data/", f"{tmp_path}/data/"))
        program = words[2] if words[1] == "-m" else words[1]
        more = [] if words[-1] == "--help" else SHORTER.get(program, [])
        done = subprocess.run(
            [sys.executable, *words[1:], *more],
            cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=900,
        )  # fmt: skip
        # the report's exit code is 1 where a cell of the paper's tables is missing
        wanted = (0, 1) if program == "maskedclip.report" else (0,)
        assert done.returncode in wanted, f"{line}\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
    photograph(tmp_path / "my_images" / "eye.jpg", 1)
    (block,) = blocks(README, "python")
    done = subprocess.run(
        [sys.executable, "-c", block],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.startswith("eye.jpg ")
    assert (tmp_path / "report" / "index.html").is_file()
    assert (tmp_path / "runs" / "small" / "export" / "timm").is_dir()
    shutil.copy(ROOT / ".gitignore", tmp_path)
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    status = ["git", "status", "--porcelain", "--untracked-files=normal"]
    changed = subprocess.run(status, cwd=tmp_path, capture_output=True, text=True, check=True)
    given = {".gitignore", "data/", "launchers", "my_images/", "tools"}
    assert {line.split()[1] for line in changed.stdout.splitlines()} == given


@pytest.mark.parametrize("part", LEFT_OUT)
def test_what_is_left_out_stands_in_the_readme(part: str):
    assert any(part in line for line in commands(README)), part
