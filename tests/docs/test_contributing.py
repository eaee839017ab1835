"""The changes that CONTRIBUTING.md shows: each is made on a copy of the repository, and runs."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import pytest

from maskedclip.shards.phantoms.phantom import draw
from tests.docs.pages import CONTRIBUTING, ROOT

TEXT = CONTRIBUTING.read_text()
# a run of seconds in place of the demo's minutes
SMALL = [
    "--data.paired_batch=4",
    "--data.unpaired_batch=4",
    "--data.draw_phantoms=0",
    "--data.threads=0",
    "--model.image_size=32",
    "--model.bridge_depth=0",
    "--model.feature_decoder_depth=1",
    "--engine.precision=fp32",
    "--engine.log_every=1",
    "--after.datasets=",
]


def section(title: str) -> str:
    start = TEXT.index(f"## {title}\n")
    end = TEXT.find("\n## ", start)
    return TEXT[start : end if end > 0 else None]


def blocks(title: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", section(title), re.DOTALL | re.MULTILINE)


def change(path: Path, hunk: str) -> None:
    """Replace the lines of a hunk that are there by those that shall be; they stand there once."""
    lines = hunk.splitlines(keepends=True)
    before = "".join(line[1:] for line in lines if line[0] in " -")
    after = "".join(line[1:] for line in lines if line[0] in " +")
    text = path.read_text()
    assert text.count(before) == 1, f"{path} has not once:\n{before}"
    path.write_text(text.replace(before, after))


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    tree = tmp_path / "tree"
    ignored = shutil.ignore_patterns("__pycache__", "runs", "*.tar")
    for folder in ("maskedclip", "launchers", "tools", "tests"):
        shutil.copytree(ROOT / folder, tree / folder, ignore=ignored)
    for file in ("setup.cfg", "pyproject.toml"):
        shutil.copy(ROOT / file, tree / file)
    return tree


def apply(title: str, tree: Path) -> tuple[set[str], set[str]]:
    """Make a section's change; return the files that it adds and those that it edits."""
    added, edited = set(), set()
    for block in blocks(title, "python"):
        name, text = re.fullmatch(r"# (\S+)\n(.*)", block, re.DOTALL).groups()
        assert not (tree / name).exists(), name
        (tree / name).write_text(text)
        added.add(name)
    for block in blocks(title, "diff"):
        name, hunks = re.fullmatch(r"--- (\S+)\n(.*)", block, re.DOTALL).groups()
        for hunk in re.split(r"^@@.*\n", hunks, flags=re.MULTILINE):
            change(tree / name, hunk)
        edited.add(name)
    return added, edited


def command(title: str, start: str) -> list[str]:
    (line,) = [
        line
        for block in blocks(title, "bash")
        for line in block.splitlines()
        if line.startswith(start)
    ]
    return line.split()


def started(words: list[str], tree: Path, *more: str) -> str:
    programs = {"python": [sys.executable], "pytest": [sys.executable, "-m", "pytest", "-q"]}
    environment = os.environ | {"PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*programs[words[0]], *words[1:], *more],
        cwd=tree, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def pretrained(title: str, tree: Path, phantoms: dict[str, Path], *more: str) -> list[dict]:
    """Run the section's pre-training for two steps on small phantoms; return its metrics."""
    words = [
        "--optim.steps=2" if word.startswith("--optim.steps=") else word
        for word in command(title, "python launchers/submit_pretrain.py")
        if not word.startswith("--data.")
    ]
    data = [f"--data.{name}={phantoms[name]}" for name in ("paired", "unpaired")]
    started(words, tree, *data, *SMALL, *more)
    name = words[words.index("--name") + 1]
    rows = (tree / "runs" / name / "metrics.jsonl").read_text().splitlines()
    return [json.loads(row) for row in rows]


def formatted(tree: Path, names: set[str]) -> None:
    for verb in (["format", "--check", "-q"], ["check", "-q"]):
        done = subprocess.run(["ruff", *verb, *sorted(names)], cwd=tree, capture_output=True)
        assert done.returncode == 0, done.stdout.decode() + done.stderr.decode()


def test_the_changes_fit_the_code_as_it_stands_and_its_format(copy: Path):
    added, edited = apply("A loss", copy)
    assert len([name for name in added | edited if name.startswith("maskedclip/")]) == 3
    formatted(copy, added | edited)
    added, edited = apply("A method", copy)
    assert added == {"maskedclip/pretrain/methods/rotation.py"}
    assert len(edited) == 3
    formatted(copy, added | edited)


@pytest.mark.slow
def test_the_loss_is_learnt_and_logged(copy: Path, phantoms: dict[str, Path]):
    apply("A loss", copy)
    started(command("A loss", "pytest"), copy)
    rows = pretrained("A loss", copy, phantoms)
    assert len(rows) == 2
    assert all(-8 <= row["loss_uniformity"] <= 0 for row in rows)
    weights = json.loads((copy / "runs" / "uniform" / "config.json").read_text())["loss"]
    assert weights["uniformity"] == 0.1
    for row in rows:
        terms = ("mim", "clip", "mfd", "uniformity")
        weighted = sum(weights[name] * row[f"loss_{name}"] for name in terms)
        assert row["loss"] == pytest.approx(weighted, rel=1e-5)


@pytest.mark.slow
def test_the_method_of_one_file_trains_and_is_measured(copy: Path, phantoms: dict[str, Path]):
    apply("A method", copy)
    rows = pretrained("A method", copy, phantoms, "--model.size=micro")
    assert len(rows) == 2
    assert all(0.5 < row["loss"] < 3 for row in rows)  # ln 4 = 1.39 for a guess
    run = copy / "runs" / "turned"
    more = [f"--datasets={phantoms['heldout']}", "--task=disease", "--protocols=knn"]
    started(["python", "-m", "maskedclip.evaluate", str(run)], copy, *more)
    results = [json.loads(row) for row in (run / "results.jsonl").read_text().splitlines()]
    assert {row["protocol"] for row in results} == {"knn"}


def test_the_card_builds_its_dataset_without_touching_the_code(copy: Path, tmp_path: Path):
    (card,) = blocks("A dataset", "toml")
    (copy / "my_clinic.toml").write_text(card)
    root = tmp_path / "my_clinic"
    for number, name in enumerate(("train/0012_OD", "train/0014_OD", "test/0013_OS")):
        path = root / "photographs" / f"{name}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        assert cv2.imwrite(str(path), draw(number, 96).image_HWC[:, :, ::-1])
    grades = ["File name,DR grade", "0012_OD.jpg,2", "0013_OS.jpg,none", "0014_OD.jpg,1"]
    (root / "grades 2024.csv").write_text("\n".join(grades) + "\n")
    words = command("A dataset", "python tools/make_shards.py")
    words[words.index("--root") + 1] = str(root)
    words[words.index("--out") + 1] = str(tmp_path / "built")
    started(words, copy)
    manifest = json.loads((tmp_path / "built" / "manifest.json").read_text())
    assert manifest["recipe"]["name"] == "my_clinic"
    assert manifest["counts"]["splits"] == {"test": 1, "train": 2}
