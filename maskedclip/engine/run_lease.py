"""A lease on the run directory: only the most recently started attempt may write.

SLURM requeues a job whose node it has lost, though the processes there may still run: two attempts
would write the same files. So each attempt takes the lease before it reads a checkpoint, and checks
it before each row and before a checkpoint gets its name; one that no longer holds it stops.
"""

import json
import os
import platform
import secrets
from pathlib import Path
from typing import Any

import torch.distributed as dist

from maskedclip.engine.distributed import gathered
from maskedclip.engine.preemption import STOP, Preempted
from maskedclip.engine.whole_file import remove_leftovers, write_whole

LEASE = "lease.json"
_OLD_LEASE = "life.json"  # until November 2026: an attempt of older code checks this file alone


class Superseded(Preempted):
    """A later attempt has taken the lease of the run: this one writes nothing any more."""

    def __init__(self, run: Path, step: int, by: str) -> None:
        RuntimeError.__init__(
            self, f"{run}: a later attempt of this run holds its lease ({by}); this one stops"
        )
        self.step, self.request = step, STOP


def is_later_restart(run: Path) -> bool:
    """Return whether this is a later start of the very job of SLURM that holds the lease."""
    last, mine = _read(run / LEASE), _of_job()
    return (
        bool(mine["job"])
        and last.get("job") == mine["job"]
        and (last["restarts"] < mine["restarts"])
    )


def _of_job() -> dict[str, Any]:
    return {
        "job": os.environ.get("SLURM_JOB_ID", ""),
        "restarts": int(os.environ.get("SLURM_RESTART_COUNT", "0")),
    }


def _read(path: Path) -> dict[str, Any]:
    """Return the lease as it was last taken; nothing where it is not there, or half a file.

    Nor where the file system does not hand it out at the moment: that ends no run.
    """
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) and "token" in content else {}


class RunLease:
    """The lease of one attempt. Every rank has it and calls it alike; rank 0 reads and writes."""

    def __init__(self, run: Path) -> None:
        self._run, self._path = run, run / LEASE
        self.token = gathered([secrets.token_hex(8)])[0]  # of this attempt, on all its ranks
        self._mine: dict[str, Any] = {
            **_of_job(),
            "host": platform.node(),
            "pid": os.getpid(),
            "token": self.token,
        }

    def take(self) -> None:
        """Take the lease, before anything of the run is read.

        Raises Superseded on all ranks where a later restart of the same job holds it.
        """
        self._stop_if(0, self._take_or_holder() if dist.get_rank() == 0 else "")

    def check(self, step: int) -> None:
        """Raise Superseded on all ranks where another attempt has taken the lease since."""
        self._stop_if(step, self.other_holder() if dist.get_rank() == 0 else "")

    def other_holder(self) -> str:
        """Return who has taken the lease since, or ""; a rank may ask this alone."""
        last = _read(self._path)
        return _name(last) if last and last["token"] != self.token else ""

    def _stop_if(self, step: int, holder: str) -> None:
        if holders := gathered([holder] if holder else []):
            raise Superseded(self._run, step, holders[0])

    def _take_or_holder(self) -> str:
        """Take the lease; where a later restart of the same job holds it, return who that is."""
        last, mine = _read(self._path), self._mine
        if mine["job"] and last.get("job") == mine["job"] and last["restarts"] > mine["restarts"]:
            return _name(last)
        old = self._path.with_name(_OLD_LEASE)
        for path in (self._path, old) if old.exists() else (self._path,):
            write_whole(path, json.dumps(mine) + "\n")
        remove_leftovers(self._run)
        return ""


def _name(holder: dict[str, Any]) -> str:
    job = f"job {holder['job']}, restart {holder['restarts']}, " if holder["job"] else ""
    return f"{job}process {holder['pid']} on {holder['host']}"
