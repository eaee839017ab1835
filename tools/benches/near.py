"""How long check_shards takes on datasets that lie there."""

import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

from benches.turns import ROOTS, OtherWork, called, child_environment

PROMISED = 120.0  # seconds of processor time, for the 7,787 photographs of docs/leakage.md


def near(root: str | None = None, rounds: int = 2) -> dict[str, float | str | None]:
    """Return the processor time of check_shards on the datasets in `root`, one command a round.

    Raises:
        ValueError: without a root.
        RuntimeError: the check could not be carried out.
    """
    if root is None:
        raise ValueError("near measures on your datasets: give --root DIR, a folder of shards")
    used, samples = [], 0
    others = OtherWork()
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as out:
            before = _children_s()
            checked = subprocess.run(
                [sys.executable, ROOTS[0] / "tools" / "check_shards.py", root, "--out", out],
                env=child_environment(), capture_output=True, text=True, check=False,
            )  # fmt: skip
            if checked.returncode not in (0, 1):  # 1: copies were found
                raise RuntimeError(f"{root}: {checked.stderr.strip()[-500:]}")
            used.append(_children_s() - before)
            samples = json.loads((Path(out) / "report.json").read_text())["samples"]
    return {
        "samples": samples,
        "cpu_s": min(used),
        **called(others.share(), ratio=[PROMISED / one for one in used]),
    }


def _children_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
