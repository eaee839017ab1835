"""How long it takes from the command of a run to its first step."""

import ctypes
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from benches.turns import ROOTS, OtherWork, called, child_environment, tree_cpu_s

LAUNCHER = ROOTS[0] / "launchers" / "submit_pretrain.py"
PROMISED = 8.0  # seconds, on two cores
_LONGEST = 300.0  # seconds
_PR_SET_CHILD_SUBREAPER = 36  # of Linux's prctl


def start(rounds: int = 5) -> dict[str, float | str | None]:
    """Return the seconds, and processor seconds of all its processes, until `demo` has a step.

    Its phantoms are drawn before. The first turn, which finds cold caches, is apart.
    """
    # the rank's time would be that of other programs, as its launcher is killed beside it
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        draw(place)
        first = first_step(place)
        others = OtherWork()
        turns = [first_step(place) for _ in range(rounds)]
        share = others.share()
    seconds, cpu = zip(*turns, strict=True)
    return {
        "s": statistics.median(seconds),
        "cpu_s": statistics.median(cpu),
        "lowest_cpu_s": min(cpu),
        "highest_cpu_s": max(cpu),
        "first_s": first[0],
        "cores": len(os.sched_getaffinity(0)),
        **called(share, ratio=[PROMISED / one for one in seconds]),
    }


def draw(place: Path) -> None:
    """Draw the demo's phantoms as the command does, in a process of its own."""
    code = (
        "from maskedclip.pretrain.preflight import prepare;"
        "from maskedclip.recipes import demo;"
        "prepare(demo())"
    )
    command = [sys.executable, "-c", code]
    subprocess.run(command, cwd=place, env=child_environment(), check=True)


def first_step(place: Path) -> tuple[float, float]:
    """Run `demo` in `place` up to its first step; return (seconds, processor seconds)."""
    shutil.rmtree(place / "runs", ignore_errors=True)
    row = place / "runs" / "demo" / "metrics.jsonl"
    log = place / "log.txt"
    start = time.perf_counter()
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, LAUNCHER, "demo", "--cluster=local", "--engine.log_every=1"],
            cwd=place, stdout=output, stderr=output, start_new_session=True,
        )  # fmt: skip
        try:
            while not (row.exists() and row.stat().st_size):
                if process.poll() is not None or time.perf_counter() - start > _LONGEST:
                    raise RuntimeError(f"demo came to no step: {log.read_text()[-500:]}")
                time.sleep(0.01)
            return time.perf_counter() - start, tree_cpu_s(process.pid)
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            with suppress(ChildProcessError):  # until there is none
                while True:
                    os.waitpid(-1, 0)
