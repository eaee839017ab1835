"""Each benchmark that a processor can run, at its smallest: it runs to its end and has numbers."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).resolve().parents[2] / "tools" / "bench.py"


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        "phantom",
        "shards --images=20 --rounds=1",
        "loader --size=256 --rounds=1",
        "stalls --size=256 --rounds=1",
        "reads --size=256 --rounds=1",
        "save --millions=1 --rounds=1",
        "frozen --images=60 --size=micro",
        "start --rounds=1",
        "step --size=micro --paired=2 --unpaired=2 --rounds=1",
    ],
)
def test_a_benchmark_runs_to_its_end_and_its_last_line_is_json(words: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(BENCH), *words.split(), "--json"],
        capture_output=True, text=True, cwd=tmp_path, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert "ratio" in found
    assert any(isinstance(value, float) for value in found.values())
