"""CPU cores that this process may use: fewer than the machine's in a container, a job, a cpuset."""

import math
import os
from pathlib import Path

_ROOT, _OWN = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


def cores(root: Path = _ROOT, own: Path = _OWN) -> int:
    """Return the cores of this process by its affinity and by the CPU quota of its cgroups.

    Args:
        root: where cgroups are mounted.
        own: the file that names this process's.
    """
    share = float(len(os.sched_getaffinity(0)))
    for quota in _quotas(root, own):
        share = min(share, quota)
    return max(1, math.floor(share))


def _quotas(root: Path, own: Path) -> list[float]:
    """Return the cores that each cgroup of this process allows, its own first."""
    try:
        lines = [line.split(":", 2) for line in own.read_text().splitlines()]
    except OSError:  # no Linux, or no /proc
        return []
    found: list[float | None] = []
    for _, controllers, name in (line for line in lines if len(line) == 3):
        if controllers == "":  # version 2
            top, read = root, _of_version_2
        elif "cpu" in controllers.split(","):
            top, read = root / controllers, _of_version_1
        else:
            continue
        folder = top / name.strip("/")
        # in a container the name is the host's, and its own group is mounted at the top
        for group in (folder, *folder.parents):
            if group.is_relative_to(top):
                found.append(read(group))
    return [quota for quota in found if quota is not None]


def _of_version_2(group: Path) -> float | None:
    words = _words(group / "cpu.max")  # 200000 100000, or max 100000
    return int(words[0]) / int(words[1]) if len(words) == 2 and words[0] != "max" else None


def _of_version_1(group: Path) -> float | None:
    quota, period = _words(group / "cpu.cfs_quota_us"), _words(group / "cpu.cfs_period_us")
    return int(quota[0]) / int(period[0]) if quota and period and int(quota[0]) > 0 else None


def _words(path: Path) -> list[str]:
    try:
        return path.read_text().split()
    except OSError:  # no such controller here
        return []
