"""Processes of this machine by names that stay theirs: a number alone is soon another's."""

import os
import signal
import socket
from pathlib import Path

_LOCKS, _READS = Path("/proc/locks"), 3


def named(process: int) -> str:
    """Return HOST:PID:START of a process, START being when the kernel began it.

    Raises RuntimeError where there is no such process.
    """
    started = _started(process)
    if started is None:
        raise RuntimeError(f"process {process}: has ended already; see what it wrote")
    return f"{socket.gethostname()}:{process}:{started}"


def is_name(name: str) -> bool:
    """Return whether `named` could have said it."""
    host, _, numbers = name.partition(":")
    process, _, started = numbers.partition(":")
    return bool(host) and process.isdecimal() and started.isdecimal() and int(process) > 1


def here(name: str) -> bool:
    """Return whether a process was started on this machine: of others nothing is known here."""
    return name.partition(":")[0] == socket.gethostname()


def alive(name: str) -> bool:
    """Return whether the very process of that name runs on this machine."""
    _, process, started = name.split(":")
    return here(name) and _started(int(process)) == int(started)


def end(name: str) -> bool:
    """Send SIGTERM to a process and its group, where it leads one; return whether it was there."""
    if not alive(name):
        return False
    process = int(name.split(":")[1])
    try:
        if os.getpgid(process) == process:
            os.killpg(process, signal.SIGTERM)
        else:
            os.kill(process, signal.SIGTERM)
    except ProcessLookupError:
        return False
    return True


def holder(lock: Path) -> str | None:
    """Return the name of the process of this machine that holds a lock on a file, None: none."""
    try:
        number = lock.stat().st_ino
        # the kernel hands the list out in pieces, and one that shrinks between them loses a line
        held = [line for _ in range(_READS) for line in _LOCKS.read_text().splitlines()]
    except OSError:
        return None
    for line in held:  # 1: FLOCK ADVISORY WRITE 4711 fe:01:131 0 EOF, with -> before who waits
        words = line.split()
        if len(words) == 8 and words[5].rpartition(":")[2] == str(number) and int(words[4]) > 1:
            process = int(words[4])
            if _has_open(process, lock):
                return named(process)
    return None


def _has_open(process: int, path: Path) -> bool:
    """Return whether a process has a file open: an inode's number is unique on its device alone."""
    wanted = str(path.resolve())
    try:
        return any(_target(link) == wanted for link in Path(f"/proc/{process}/fd").iterdir())
    except OSError:
        return False


def _target(link: Path) -> str:
    try:
        return str(link.readlink())
    except OSError:  # closed meanwhile
        return ""


def _started(process: int) -> int | None:
    """Return the kernel's start time of a process, None where it has ended."""
    try:
        facts = Path(f"/proc/{process}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # the name of the program, in brackets, may hold spaces and brackets
    words = facts.rpartition(")")[2].split()
    return None if words[0] in "ZX" else int(words[19])
