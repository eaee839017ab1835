"""What a run does about a faulty step: stop, or repeat it once and then skip it.

A step that passes when repeated points to the machine, one that fails again to its batch.
"""

import json
import logging
from collections import deque
from pathlib import Path
from typing import Any

import torch.distributed as dist

from maskedclip.engine.distributed import gathered
from maskedclip.engine.step_guard import Fault

logger = logging.getLogger(__name__)
FAULTS = "faults.jsonl"
_SHOWN = 4  # sample ids in a message; the file has all


class Faults:
    """The faults of a run; `policy` is "stop" or "skip". Every rank calls each of these."""

    def __init__(self, run: Path, policy: str, log_every: int) -> None:
        self._path, self._policy = run / FAULTS, policy
        self._repeated: set[int] = set()
        self._recent: deque[tuple[int, list[str]]] = deque(maxlen=log_every)

    def remember(self, step: int, keys: list[str]) -> None:
        """Keep the ids of a step's samples until the next check of the guard."""
        self._recent.append((step, keys))

    def answer(self, fault: Fault) -> int:
        """Return the step to go on from; RuntimeError where the run stops.

        All of a stop or a skip is in faults.jsonl: step, terms, values, the ids of all ranks.
        """
        if self._policy == "stop":
            keys = self._write(fault, "stopped")
            raise RuntimeError(
                f"{self._path}: {_words(fault)}, before the weights were updated; samples "
                f"{', '.join(keys[:_SHOWN])}, ... (all {len(keys)} are there). Lower optim.base_lr "
                f"or set optim.clip_norm=1 under another --name, or leave such steps out with "
                f"engine.on_fault=skip"
            )
        if fault.step not in self._repeated:
            self._repeated.add(fault.step)
            self._write(fault, "repeated")
            return fault.step
        self._repeated.remove(fault.step)
        self._write(fault, "skipped")
        return fault.step + 1

    def passed(self, step: int) -> None:
        """Note that all steps up to `step` are finite, those that were repeated among them."""
        for before in sorted(s for s in self._repeated if s <= step):
            self._write(Fault(before, [], {}), "well when repeated: not its samples")
            self._repeated.remove(before)

    def _write(self, fault: Fault, answer: str) -> list[str]:
        mine = next((keys for step, keys in self._recent if step == fault.step), [])
        keys = gathered(mine)
        row: dict[str, Any] = fault._asdict() | {"answer": answer, "keys": keys}
        if dist.get_rank() == 0:
            try:
                with self._path.open("a") as file:
                    file.write(json.dumps(row) + "\n")
            except OSError as error:
                logger.warning("%s: its samples are not listed (%s)", self._path, error.strerror)
            logger.warning("%s: %s; %s", self._path, _words(fault), answer)
        return keys


def _words(fault: Fault) -> str:
    values = ", ".join(f"{name} is {fault.values[name]:g}" for name in fault.terms)
    return f"step {fault.step + 1}" + (f": {values}" if values else "")
