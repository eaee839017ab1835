"""What the commands of the pages write into a clone is no change of it for git."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.docs.pages import PAGES, ROOT, commands, words_of

# files of the root's own folders whose name is one that is ignored at the root
OURS = ("maskedclip/report/new.py", "maskedclip/weights/new.py", "tests/report/test_new.py",
        "maskedclip/shards/checks/new.py", "shards/README.md", "docs/new.png")  # fmt: skip
# written without an --out: a run, shards, their key, a check, a report's next, its other protocols
USUAL = ("runs/small/metrics.jsonl", "shards/idrid/manifest.json", "shards/.maskedclip_key",
         "check/pairs.csv", "report/index.html", "report_knn/index.html",
         "predictions.rows.jsonl",
         "RETFound_mae_natureCFP.pth", "eyeclip_visual.pt")  # fmt: skip


def outs() -> list[str]:
    """Return what stands behind --out in the pages, but for places outside of the clone."""
    lines = [" ".join(words_of(line)) for page in PAGES for line in commands(page)]
    found = {out for line in lines for out in re.findall(r"--out[= ](\S+)", line)}
    return sorted(out for out in found if not out.startswith("/"))


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    shutil.copy(ROOT / ".gitignore", tmp_path)
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    return tmp_path


def ignored(clone: Path, path: str) -> bool:
    # nothing of the user's own configuration
    own = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
    words = ["git", "check-ignore", "-q", path]
    return subprocess.run(words, cwd=clone, check=False, env=os.environ | own).returncode == 0


def test_what_the_pages_commands_write_is_ignored(clone: Path) -> None:
    named = outs()
    assert {"report", "predictions.csv", "maps"} <= {*named}
    for out in named:
        inside = out if Path(out).suffix else f"{out}/file"
        assert ignored(clone, inside), out
    for path in USUAL:
        assert ignored(clone, path), path


def test_files_of_the_package_are_not_ignored(clone: Path) -> None:
    assert [path for path in OURS if ignored(clone, path)] == []
