"""Published weights for tests, where this machine has them."""

import os
from pathlib import Path

import pytest

ROOT = os.environ.get("MASKEDCLIP_REAL_WEIGHTS", "")


def published(folder: str) -> Path:
    """Return a folder of published weights; skip the test where it is absent."""
    if not ROOT or not (Path(ROOT) / folder).is_dir():
        pytest.skip(f"no {folder} under MASKEDCLIP_REAL_WEIGHTS")
    return Path(ROOT) / folder
