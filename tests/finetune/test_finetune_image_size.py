"""A size that the patch does not divide is refused in one line, before a directory is made."""

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize("more", [[], ["--dry_run"]])
def test_a_size_that_does_not_fit_is_the_only_line(
    more: list[str], phantoms: dict[str, Path], tmp_path: Path
) -> None:
    words = ["random", "--size=micro", f"--dataset={phantoms['heldout']}", "--task=disease"]
    done = subprocess.run(
        [sys.executable, "-m", "maskedclip.finetune", *words, "--image_size=33", *more],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    said = "image_size 33 is not a multiple of 16, the patch; use 32\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", said)
    assert not list(tmp_path.iterdir())
