"""Every command that is printed as next, of real short runs, is one that can be carried out."""

import contextlib
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from maskedclip.command import read_config
from maskedclip.compare import COMPARE
from maskedclip.config import LaunchConfig
from maskedclip.explain.command import read_explain
from maskedclip.finetune.command import read_evaluate, read_finetune
from maskedclip.jobs.submit import submit
from maskedclip.predict.command import read_predict
from maskedclip.report.command import read_report
from maskedclip.shards.check_command import parse as read_check
from maskedclip.shards.splits_command import SPLITS
from maskedclip.weights.export import EXPORT
from tests.docs.pages import ROOT
from tests.untrained import exported

SAID = re.compile(r"^(?:next:|   or:) (.*)$", re.MULTILINE)
HELP = ["python", "tools/make_shards.py", "--list"]


def run(*words: str, code: int = 0, none: bool = False) -> list[str]:
    """Return the commands that a command prints as next; none: there are to be none."""
    script = ROOT / words[0]
    first = [str(script)] if script.suffix == ".py" else ["-m", words[0]]
    path = f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    done = subprocess.run(
        [sys.executable, *first, *words[1:]],
        capture_output=True, text=True, check=False, env=os.environ | {"PYTHONPATH": path},
    )  # fmt: skip
    assert done.returncode == code, done.stderr
    found = SAID.findall(done.stdout)
    assert bool(found) != none, done.stdout
    return found


def plan(arguments: Sequence[str]) -> None:
    flags = [*arguments, "--dry_run", "--cluster=local", "--gpus=0"]
    config, launch, *_ = read_config(None, LaunchConfig(), "maskedclip_vitl", flags)
    submit(config, launch)


def splits(arguments: Sequence[str]) -> None:
    given = SPLITS.parse(arguments)
    assert Path(given.words[0]).is_dir()
    assert given.config().pairs is None or given.config().pairs.is_file()


def check(arguments: Sequence[str]) -> None:
    request = read_check(arguments)
    assert all(path.is_dir() for path in (*request.directories, *request.against))


READERS: dict[str, Callable[[Sequence[str]], object]] = {
    "launchers/submit_pretrain.py": plan,
    "tools/check_shards.py": check,
    "tools/make_splits.py": splits,
    "tools/export_weights.py": EXPORT.parse,
    "maskedclip.compare": COMPARE.parse,
    "maskedclip.evaluate": lambda words: read_evaluate(None, words),
    "maskedclip.explain": lambda words: read_explain(None, words),
    "maskedclip.finetune": lambda words: read_finetune(None, words),
    "maskedclip.predict": lambda words: read_predict(None, words),
    "maskedclip.report": lambda words: read_report(None, words),
}


def check_command(line: str) -> None:
    """Read a printed command as the command itself does: its flags are known, its paths exist."""
    words = shlex.split(line)
    assert words[0] == "python", line
    if words == HELP:
        return
    name, arguments = (words[2], words[3:]) if words[1] == "-m" else (words[1], words[2:])
    asks = arguments == ["--help"]  # and ends there
    with pytest.raises(SystemExit) if asks else contextlib.nullcontext():
        READERS[name](arguments)


@pytest.fixture
def here(tmp_path: Path, phantoms: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in a folder with shards in it, one of a name that the shell has to be told."""
    monkeypatch.chdir(tmp_path)
    for path in phantoms.values():
        shutil.copytree(path, tmp_path / "shards" / path.name)
    shutil.copytree(phantoms["paired"], tmp_path / "shards" / "it's a copy")


@pytest.mark.usefixtures("here")
def test_what_shards_print_as_next_can_be_carried_out() -> None:
    made = run("tools/make_shards.py", "phantom", "--count=240", "--out=shards/drawn", "--size=64")
    checked = run("tools/check_shards.py", "shards/drawn")
    divided = run("tools/make_splits.py", "shards/drawn", "--seed=1", "--task=disease")
    for line in (*made, *checked, *divided):
        check_command(line)
    assert "shards/drawn" in " ".join(made)
    assert any("submit_pretrain.py" in line for line in made)
    assert any("submit_pretrain.py" in line for line in checked)
    for more in ([], ["--drop"]):  # all of it leaks
        words = ["shards/it's a copy", "--against", "shards/paired", *more]
        for line in run("tools/check_shards.py", *words, code=1):
            check_command(line)


@pytest.mark.usefixtures("here")
def test_what_weights_print_as_next_can_be_carried_out() -> None:
    for line in run("tools/prefetch.py", "maskedclip_vitt"):  # whose shards are not named
        assert shlex.split(line) == HELP
    named = ["--data.paired=shards/paired", "--data.unpaired=shards/unpaired"]
    for line in run("tools/prefetch.py", "maskedclip_vitt", *named):
        check_command(line)


@pytest.mark.usefixtures("here")
def test_what_runs_print_as_next_can_be_carried_out() -> None:
    small = ["--size=micro", "--image_size=32", "--task=disease"]
    fast = ["--epochs=1", "--warmup_epochs=0", "--fraction=1"]
    tuned = run("maskedclip.finetune", "random", "--dataset=shards/heldout", *small, *fast)
    assert {shlex.split(line)[2] for line in tuned} >= {
        "maskedclip.report", "maskedclip.explain", "maskedclip.predict",
    }  # fmt: skip
    (directory,) = Path("runs").iterdir()
    measured = run("maskedclip.evaluate", "random", "--datasets=shards/heldout", "--protocols=knn",
                   *small)  # fmt: skip
    predicted = run("maskedclip.predict", str(directory), "shards/heldout")
    for line in (*tuned, *measured, *predicted):
        check_command(line)
    state = load_file(directory / "finetuned.safetensors")
    torch.save({"model": state}, "theirs.pth")
    for line in run("tools/convert_weights.py", "theirs.pth", "--i_trust_this_file"):
        check_command(line)


@pytest.mark.usefixtures("here")
def test_no_maps_are_proposed_of_networks_of_which_none_are_drawn() -> None:
    exported(Path("runs/d3"), positions="rotary", registers=2)
    small = ["--image_size=32", "--task=disease", "--fraction=1"]
    fast = ["--epochs=1", "--warmup_epochs=0"]
    tuned = run("maskedclip.finetune", "runs/d3", "--dataset=shards/heldout", *small, *fast)
    assert [shlex.split(line)[2] for line in tuned if " -m " in line] == [
        "maskedclip.report", "maskedclip.predict",
    ]  # fmt: skip
    (file,) = Path("runs").glob("*/finetuned.safetensors")
    assert run("maskedclip.predict", str(file.parent), "shards/heldout", none=True) == []
    for line in tuned:
        check_command(line)


def test_commands_are_printed_as_next_in_one_place() -> None:
    printed = re.compile(r"""["'](?:\\n)?next: """)
    paths = [
        path for path in (ROOT / "maskedclip").rglob("*.py") if printed.search(path.read_text())
    ]
    assert [path.name for path in paths] == ["next_step.py"]
