"""Real photographs for tests, where this machine has them."""

import os
from pathlib import Path

import pytest

BESIDE = Path(__file__).parents[1] / ".." / "shared" / "data"
REAL = Path(os.environ.get("MASKEDCLIP_REAL_DATA", BESIDE))


def real(folder: str) -> Path:
    """Return a folder of real photographs; skip the test where it is absent."""
    if not (REAL / folder).is_dir():
        pytest.skip(f"no {folder} under MASKEDCLIP_REAL_DATA or ../shared/data")
    return REAL / folder
