"""Which start of a run may write: the last that began, since one before it can be alive unseen.

SLURM queues a job again when it loses a node, whose processes may run on: both would write the
same files. So each start signs the run before it reads a checkpoint, and one that finds another's
name leaves: it looks before each row, and before a checkpoint gets its name.
"""

import json
import os
import platform
import secrets
from pathlib import Path
from typing import Any

import torch.distributed as dist

from maskedclip.engine.distributed import gathered
from maskedclip.engine.preemption import Replaced

SIGNED = "life.json"


class Life:
    """One start of a run. Every rank has it and calls it alike; the first alone signs and looks."""

    def __init__(self, run: Path) -> None:
        self._run, self._path = run, run / SIGNED
        self.token = _of_first(secrets.token_hex(8))  # of this start alone, on all its ranks
        self._mine: dict[str, Any] = {
            "job": os.environ.get("SLURM_JOB_ID", ""),
            "restarts": int(os.environ.get("SLURM_RESTART_COUNT", "0")),
            "host": platform.node(),
            "pid": os.getpid(),
            "token": self.token,
        }

    def begin(self) -> None:
        """Sign the run, before anything of it is read.

        Raises Replaced on all ranks where a later start of the same job has signed it.
        """
        self._leave(0, self._signed_or_who() if dist.get_rank() == 0 else "")

    def check(self, step: int) -> None:
        """Raise Replaced on all ranks where another start has signed the run since."""
        self._leave(step, self.replaced() if dist.get_rank() == 0 else "")

    def replaced(self) -> str:
        """Return who has signed the run since, or ""; a rank may ask this alone."""
        last = self._signed()
        return _name(last) if last and last["token"] != self._mine["token"] else ""

    def _leave(self, step: int, to: str) -> None:
        if found := gathered([to] if to else []):
            raise Replaced(self._run, step, found[0])

    def _signed_or_who(self) -> str:
        """Sign the run; where a later start of the same job has, return who that is."""
        last, mine = self._signed(), self._mine
        if mine["job"] and last.get("job") == mine["job"] and last["restarts"] > mine["restarts"]:
            return _name(last)
        temporary = self._path.with_suffix(".tmp")
        temporary.write_text(json.dumps(self._mine) + "\n")
        temporary.replace(self._path)
        return ""

    def _signed(self) -> dict[str, Any]:
        """Return the last signature; nothing where there is none, or a lost machine left half."""
        try:
            found: dict[str, Any] = json.loads(self._path.read_text())
        except (FileNotFoundError, ValueError):
            return {}
        return found


def _of_first(word: str) -> str:
    return gathered([word])[0]


def _name(life: dict[str, Any]) -> str:
    job = f"job {life['job']}, restart {life['restarts']}, " if life["job"] else ""
    return f"{job}process {life['pid']} on {life['host']}"
