"""Copies of the code that a job runs: the same once, with what git needs to make them again."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TAKE = """
import sys
from pathlib import Path
from maskedclip.jobs.code_snapshot import snapshot
print(snapshot(Path(sys.argv[1])))
"""
ORIGIN = """
import json
from maskedclip.engine.provenance import provenance
print(json.dumps(provenance([], 0, 1, str)["git"]))
"""


def git(where: Path, *words: str) -> str:
    who = ["-c", "user.name=a", "-c", "user.email=a@b"]
    command = ["git", *who, *words]
    return subprocess.run(command, cwd=where, check=True, capture_output=True, text=True).stdout


def python(code: Path, program: str, *arguments: str) -> str:
    environment = os.environ | {"PYTHONPATH": str(code), "PYTHONSAFEPATH": "1"}
    command = [sys.executable, "-c", program, *arguments]
    ran = subprocess.run(command, env=environment, cwd="/", capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout of a package with as much of ours as a snapshot and its provenance need."""
    here = tmp_path / "checkout"
    package = here / "maskedclip"
    for folder in ("jobs", "engine"):
        (package / folder).mkdir(parents=True)
        (package / folder / "__init__.py").touch()
    engine = "engine/provenance.py", "engine/device_settings.py", "engine/whole_file.py"
    for name in ("jobs/code_snapshot.py", *engine):
        shutil.copy(ROOT / "maskedclip" / name, package / name)
    (package / "__init__.py").touch()
    (package / "steps.py").write_text("STEPS = 1\n")
    (package / "words.txt").write_text("words\n")
    (here / ".gitignore").write_text("__pycache__/\nruns/\n*.safetensors\n")
    git(here, "init", "-q")
    git(here, "add", "-A")
    git(here, "commit", "-q", "-m", "Begin")
    return here


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def taken(checkout: Path) -> Path:
    return Path(python(checkout, TAKE, str(checkout / "runs" / "a" / "jobs" / "code")))


def test_a_snapshot_is_the_package_as_it_is_on_the_disk_without_what_git_ignores(checkout: Path):
    package = checkout / "maskedclip"
    (package / "steps.py").write_text("STEPS = 2\n")
    (package / "new.py").write_text("NEW = True\n")
    (package / "words.txt").unlink()
    (package / "heavy.safetensors").write_bytes(bytes(1000))
    expected = {f"maskedclip/{name}": data for name, data in contents(package).items()}
    del expected["maskedclip/heavy.safetensors"]
    copied = contents(taken(checkout))
    assert copied.pop("commit.txt").decode() == git(checkout, "rev-parse", "HEAD")
    assert copied.pop("changes.diff")
    assert copied == expected


def test_the_commit_and_the_difference_make_the_same_code_again(checkout: Path, tmp_path: Path):
    package = checkout / "maskedclip"
    (package / "steps.py").write_text("STEPS = 2\n")
    (package / "new.py").write_text("NEW = True\n")
    (package / "mean.bin").write_bytes(bytes(range(256)))
    (package / "words.txt").unlink()
    status = git(checkout, "status", "--short")
    code = taken(checkout)
    assert git(checkout, "status", "--short") == status  # the user's index is left alone
    again = tmp_path / "again"
    git(tmp_path, "clone", "-q", str(checkout), str(again))
    git(again, "checkout", "-q", (code / "commit.txt").read_text().strip())
    git(again, "apply", str(code / "changes.diff"))
    assert contents(again / "maskedclip") == contents(code / "maskedclip")


def test_the_same_code_is_kept_once_and_other_code_beside_it(checkout: Path):
    code = taken(checkout)
    written = (code / "commit.txt").stat().st_mtime_ns
    assert taken(checkout) == code
    assert (code / "commit.txt").stat().st_mtime_ns == written
    (checkout / "maskedclip" / "steps.py").write_text("STEPS = 3\n")
    other = taken(checkout)
    assert sorted(code.parent.iterdir()) == sorted([code, other])
    assert (code / "maskedclip" / "steps.py").read_text() == "STEPS = 1\n"


def test_a_snapshot_of_a_snapshot_is_the_same_one(checkout: Path, tmp_path: Path):
    code = taken(checkout)
    assert python(code, TAKE, str(tmp_path / "again")) == str(tmp_path / "again" / code.name)
    assert contents(tmp_path / "again" / code.name) == contents(code)


def test_a_copy_that_was_changed_is_not_taken_for_what_was_submitted(checkout: Path):
    code = taken(checkout)
    (code / "maskedclip" / "steps.py").write_text("STEPS = 4\n")
    with pytest.raises(AssertionError, match="was changed after it was taken; remove it"):
        taken(checkout)


def test_a_package_that_git_does_not_keep_is_copied_whole(checkout: Path, tmp_path: Path):
    installed = checkout / "runs" / "site-packages"  # within a checkout, and no part of it
    shutil.copytree(checkout / "maskedclip", installed / "maskedclip")
    code = Path(python(installed, TAKE, str(tmp_path / "code")))
    assert contents(code) == contents(installed)
    assert json.loads(python(installed, ORIGIN)) is None


def test_a_repository_without_a_commit_is_copied_and_names_none(checkout: Path, tmp_path: Path):
    shutil.rmtree(checkout / ".git")
    git(checkout, "init", "-q")
    git(checkout, "add", "-A")
    code = Path(python(checkout, TAKE, str(tmp_path / "code")))
    assert not (code / "commit.txt").exists()
    assert (code / "maskedclip" / "steps.py").read_text() == "STEPS = 1\n"
    assert json.loads(python(checkout, ORIGIN)) is None


def test_a_child_runs_this_package_and_not_that_of_the_folder_it_starts_in(
    checkout: Path, tmp_path: Path
):
    (checkout / "maskedclip" / "steps.py").write_text("print('this checkout')\n")
    other = tmp_path / "other" / "maskedclip"
    other.mkdir(parents=True)
    (other / "__init__.py").touch()
    (other / "steps.py").write_text("print('another checkout')\n")
    asked = "import json; from maskedclip.jobs.code_snapshot import this_code; print(json.dumps("
    environment = os.environ | json.loads(python(checkout, asked + "this_code()))"))
    words = [sys.executable, "-m", "maskedclip.steps"]
    ran = subprocess.run(words, cwd=other.parent, env=environment, capture_output=True, text=True)
    assert ran.stdout == "this checkout\n"


def test_a_run_names_the_same_commit_and_difference_in_the_checkout_and_in_the_snapshot(
    checkout: Path,
):
    commit = git(checkout, "rev-parse", "HEAD").strip()
    assert json.loads(python(taken(checkout), ORIGIN)) == {"commit": commit, "diff_sha256": ""}
    (checkout / "maskedclip" / "steps.py").write_text("STEPS = 2\n")
    here = json.loads(python(checkout, ORIGIN))
    assert here["commit"] == commit
    assert here["diff_sha256"]
    assert json.loads(python(taken(checkout), ORIGIN)) == here
