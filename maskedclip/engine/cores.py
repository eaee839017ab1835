"""CPU cores that this process may use: fewer than the machine's in a container, a job, a cpuset."""

import math
import os
from collections.abc import Mapping
from pathlib import Path

SHARE = "MASKEDCLIP_CORES"  # variable: cores of a process that a launcher starts beside others
_LEAST, _MOST = 2, 16  # decoding threads; more than these wait for one another's lock
_READERS = 16
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
    """Return the cores that are this rank's own, at least 1.

    In a step of SLURM they are those of its task. Ranks that one process started on this machine
    (torchrun's, submitit's) see the same cores and share them evenly, as do processes between which
    a launcher has shared them out (SHARE).
    """
    own, share = cores(), environment.get(SHARE, "")
    if share.isdecimal():
        own = min(own, int(share))
    asked = environment.get("SLURM_CPUS_PER_TASK", "")
    started_here = "TORCHELASTIC_RUN_ID" in environment
    if "SLURM_STEP_NUM_TASKS" in environment and asked.isdecimal():
        own = min(own, int(asked))
        if not started_here:  # the rank is the task
            return max(1, own)
    ranks = environment.get("LOCAL_WORLD_SIZE", "")
    return max(1, own // int(ranks) if ranks.isdecimal() and int(ranks) else own)


def decoding_threads(asked: int | None, environment: Mapping[str, str] = os.environ) -> int:
    """Return `asked`, or if that is None the threads for the cores of this rank."""
    return decoding_threads_of(cores_of_a_rank(environment)) if asked is None else asked


def decoding_threads_of(own: int) -> int:
    """Return the threads that decode on `own` cores: all but one, which trains; at least 2."""
    return min(max(own - 1, _LEAST), _MOST)


def reading_threads(asked: int | None, decoding: int) -> int:
    """Return `asked`, or if that is None the threads that wait for the disk.

    The more decode, the more reads hang at a time where one in a hundred does.
    """
    return max(_READERS, 2 * decoding) if asked is None else asked


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
