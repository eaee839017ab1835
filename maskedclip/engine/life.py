"""Which start of a run may write: the last that began, since one before it can be alive unseen.

SLURM queues a job again when it loses a node, whose processes may run on: both would write the
same files. So each start signs the run, and one that finds another's name leaves.
"""

import json
import os
import platform
import secrets
from pathlib import Path
from typing import Any

SIGNED = "life.json"


class Life:
    """One start of a run; its first rank alone signs and looks."""

    def __init__(self, run: Path) -> None:
        self._path = run / SIGNED
        self._mine: dict[str, Any] = {
            "job": os.environ.get("SLURM_JOB_ID", ""),
            "restarts": int(os.environ.get("SLURM_RESTART_COUNT", "0")),
            "host": platform.node(),
            "pid": os.getpid(),
            "token": secrets.token_hex(8),
        }

    def begin(self) -> str:
        """Sign the run; where a later start of the same job has, leave it, and return who that is.

        Otherwise returns "".
        """
        last, mine = self._signed(), self._mine
        if mine["job"] and last.get("job") == mine["job"] and last["restarts"] > mine["restarts"]:
            return _name(last)
        temporary = self._path.with_suffix(".tmp")
        temporary.write_text(json.dumps(self._mine) + "\n")
        temporary.replace(self._path)
        return ""

    def replaced(self) -> str:
        """Return who has signed the run since, or ""."""
        last = self._signed()
        return _name(last) if last and last["token"] != self._mine["token"] else ""

    def _signed(self) -> dict[str, Any]:
        """Return the last signature; nothing where there is none, or a lost machine left half."""
        try:
            found: dict[str, Any] = json.loads(self._path.read_text())
        except (FileNotFoundError, ValueError):
            return {}
        return found


def _name(life: dict[str, Any]) -> str:
    job = f"job {life['job']}, restart {life['restarts']}, " if life["job"] else ""
    return f"{job}process {life['pid']} on {life['host']}"
