"""Turns of a benchmark and what else the machine did meanwhile: disturbed ones give no ratio."""

import os
import statistics
from collections.abc import Sequence
from pathlib import Path

SPREAD = 1.5  # highest over lowest of the middle turns, beyond which a median says nothing
OTHERS = 0.1  # share of the processors that other programs may take
ROOTS = [Path(__file__).resolve().parents[up] for up in (2, 1)]  # of maskedclip, of benches
_TICKS = os.sysconf("SC_CLK_TCK")  # a second


def disturbance(turns: Sequence[float], others: float) -> str:
    """Return why these turns give no ratio, "" where they give one.

    The middle eight of ten turns may differ by a half.

    Args:
        turns: ratios, one a turn.
        others: share of the processors that other programs took.
    """
    out = len(turns) // 10  # at each end
    middle = sorted(turns)[out : len(turns) - out]
    reasons = []
    if middle[-1] > SPREAD * middle[0]:
        reasons.append(f"turns {middle[0]:.3g} to {middle[-1]:.3g}")
    if others > OTHERS:
        reasons.append(f"other programs took {others:.0%} of the processors")
    return f"disturbed: {', '.join(reasons)}; no ratio" if reasons else ""


def called(others: float, **turns: Sequence[float]) -> dict[str, float | str | None]:
    """Return the median, lowest and highest of named ratios; no median where one was disturbed."""
    reasons = [disturbance(values, others) for values in turns.values()]
    disturbed = next(filter(None, reasons), "")
    found: dict[str, float | str | None] = {}
    for name, values in turns.items():
        found[name] = None if disturbed else statistics.median(values)
        found |= {f"lowest_{name}": min(values), f"highest_{name}": max(values)}
    found["others_share"] = others
    return found | ({"disturbed": disturbed} if disturbed else {})


def child_environment() -> dict[str, str]:
    """Return the variables of a child that imports this checkout's package and benches."""
    paths = [*map(str, ROOTS), os.environ.get("PYTHONPATH", "")]
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}


class OtherWork:
    """How much of the machine other programs take, from when this is made."""

    def __init__(self) -> None:
        self._before = self._now()

    def share(self) -> float:
        """Return the share of all processors' time that others took, the hypervisor included."""
        busy, every, own = (b - a for a, b in zip(self._before, self._now(), strict=True))
        return max(0.0, busy - own) / max(every, 1e-9)

    @staticmethod
    def _now() -> tuple[float, float, float]:
        """Return seconds: of busy processors, of all, and of this process and its children."""
        first = Path("/proc/stat").read_text().splitlines()[0]
        user, nice, system, idle, waiting, irq, soft, stolen = map(int, first.split()[1:9])
        busy = user + nice + system + irq + soft + stolen
        return busy / _TICKS, (busy + idle + waiting) / _TICKS, tree_cpu_s(os.getpid())


def tree_cpu_s(root: int) -> float:
    """Return the processor seconds of a process and of all it started, ended ones too."""
    parents: dict[int, int] = {}
    used: dict[int, int] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:  # it has ended meanwhile
            continue
        pid = int(path.parent.name)
        parents[pid], used[pid] = int(fields[1]), sum(map(int, fields[11:15]))

    def below(pid: int) -> int:
        return used.get(pid, 0) + sum(below(child) for child, own in parents.items() if own == pid)

    return below(root) / _TICKS
