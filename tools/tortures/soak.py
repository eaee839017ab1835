"""A long run: its memory, handles, threads and shared memory stay as they are."""

import math
import random
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tortures.commands import Running
from tortures.trials import OURS, Trial, Verdict

from maskedclip.config import override
from tests.conftest import a_small_run, small_phantoms
from tests.jobs.test_torchrun import flags

NUMBER = 360  # windows
SECONDS = 300.0
WINDOW_S, EVERY_S = 10.0, 0.5
LEAST_STEPS = 5000  # of the second half, which is judged: in the first, caches and pools fill
LIMIT = 1.0  # MB a thousand steps, that the slope is surely above, is a leak
SHM = Path("/dev/shm")


class Sample(NamedTuple):
    """A moment of the process."""

    seconds: float
    step: int
    memory_mb: float
    handles: int
    threads: int
    shared_mb: float


@contextmanager
def trials(folder: Path) -> Iterator[Trial]:
    """One run without end; each trial watches it ten seconds longer, and judges all since."""
    phantoms = small_phantoms(folder / "shards")
    changes = {
        "optim.steps": 10**6, "engine.log_every": 5, "engine.save_every": 25, "data.threads": 1,
        "engine.pictures_every": 200, "log.health_every": 50, "log.shares_every": 100,
    }  # fmt: skip
    config = override(a_small_run(phantoms, folder), changes)
    words = ["-m", "maskedclip.pretrain", "demo", *flags(config)]
    running = Running(words, folder)
    rows, samples = config.directory / "metrics.jsonl", list[Sample]()
    begun = time.monotonic()

    def trial(_: random.Random, __: int) -> Mapping[str, Verdict]:
        end = time.monotonic() + WINDOW_S
        while time.monotonic() < end:
            if running.codes() != [None]:
                return {OURS: Verdict("LOST", f"it ended: {running.ended()[0].err[-300:]}")}
            if rows.exists():
                samples.append(taken(running.pids[0], rows, time.monotonic() - begun))
            time.sleep(EVERY_S)
        return {OURS: judged(samples)}

    try:
        yield trial
    finally:
        running.signal(signal.SIGKILL)
        running.wait(60)


def taken(pid: int, rows: Path, seconds: float) -> Sample:
    process = Path(f"/proc/{pid}")
    fields = dict(
        line.split(":", 1) for line in (process / "status").read_text().splitlines() if ":" in line
    )
    memory_mb = int(fields["VmRSS"].split()[0]) / 1024
    handles = len(list((process / "fd").iterdir()))
    shared = 0
    for path in SHM.iterdir():
        try:
            shared += path.stat().st_size
        except FileNotFoundError:  # another program's
            continue
    step = 5 * rows.read_bytes().count(b"\n")
    return Sample(seconds, step, memory_mb, handles, int(fields["Threads"]), shared / 1e6)


def judged(samples: list[Sample]) -> Verdict:
    last = samples[-1].step if samples else 0
    warm = [sample for sample in samples if 2 * sample.step > last]
    if last < 2 * LEAST_STEPS:
        return Verdict("harmless", f"not judged before step {2 * LEAST_STEPS}: at {last}")
    kilosteps = np.array([sample.step for sample in warm]) / 1000
    slope, half = slope_of(kilosteps, np.array([sample.memory_mb for sample in warm]))
    said = (
        f"steps {warm[0].step} to {last}, {warm[-1].seconds / 60:.1f} min: memory {slope:+.2f} "
        f"[{slope - half:+.2f}, {slope + half:+.2f}] MB a thousand steps, {warm[-1].memory_mb:.0f} "
        f"MB"
    )
    for name in ("handles", "threads", "shared_mb"):
        values = [getattr(sample, name) for sample in warm]
        third = len(values) // 3
        early, late = max(values[:third]), max(values[-third:])
        said += f"; {name} {early:g} -> {late:g}"
        if late > early + 2 and name != "shared_mb":  # which is the machine's, not the run's
            return Verdict("LOST", said)
    return Verdict("LOST" if slope - half > LIMIT else "harmless", said)


def slope_of(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Return the slope of a line and half its 95 % interval.

    The residuals are those of blocks of ten samples, since neighbours are alike.
    """
    blocks = max(3, len(x) // 10)
    x = np.array([block.mean() for block in np.array_split(x, blocks)])
    y = np.array([block.mean() for block in np.array_split(y, blocks)])
    centred = x - x.mean()
    spread = float(centred @ centred)
    if not spread:
        return 0.0, math.inf
    slope = float(centred @ y) / spread
    left = y - y.mean() - slope * centred
    error = math.sqrt(float(left @ left) / max(1, len(x) - 2) / spread)
    return slope, 2.0 * error if len(x) > 20 else 3.0 * error
