"""CPU cores that this process may use: fewer than the machine's in a container, a job, a cpuset."""

import math
import os
from collections.abc import Mapping
from pathlib import Path

_LEAST, _MOST = 2, 16  # decoding threads; more than these wait for one another's lock
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


def cores_of_a_rank(environment: Mapping[str, str] = os.environ) -> int:
    """Return the cores of this process, within a step of SLURM those of its task."""
    asked = environment.get("SLURM_CPUS_PER_TASK", "")
    in_a_step = "SLURM_STEP_NUM_TASKS" in environment and asked.isdecimal()
    return min(cores(), int(asked)) if in_a_step else cores()


def decoding_threads(asked: int | None, environment: Mapping[str, str] = os.environ) -> int:
    """Return `asked`, or if that is None as many as this process's cores, less one that trains.

    OMP_NUM_THREADS, by which our launchers share the cores out, lowers it; never below 2.
    """
    if asked is not None:
        return asked
    share = environment.get("OMP_NUM_THREADS", "")
    own = cores_of_a_rank(environment)
    own = min(own, int(share)) if share.isdecimal() else own
    return min(max(own - 1, _LEAST), _MOST)


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
