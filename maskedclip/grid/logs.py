"""What the jobs of a cell have written, read as text: their pickles are left alone."""

import os
import re
from collections.abc import Iterable
from pathlib import Path

from maskedclip.grid.diagnosis.diagnose import Evidence
from maskedclip.grid.manifest import Grid, Submission
from maskedclip.jobs.slurm_queue import GONE, JobState

_TEXTS = (".out", ".err", ".log", ".txt")
_FILES = 256  # logs read of one job, by name: a file a rank and stream


class Logs:
    """The folders of logs of a grid, each listed once."""

    def __init__(self, grid: Grid) -> None:
        self._root = grid.directory
        self._listed: dict[Path, list[str]] = {}

    def of(self, submission: Submission) -> list[Path]:
        """Return the text files of a job, in the order of its ranks; none outside of the grid."""
        place = Path(submission.logs)
        if not submission.logs or place.is_absolute() or ".." in place.parts:
            return []
        folder, prefix = self._root / place.parent, place.name
        names = [n for n in self._names(folder) if n.startswith(prefix) and n.endswith(_TEXTS)]
        # job 12 is not job 123
        whole = prefix[-1:].isalnum()
        mine = [n for n in names if not (whole and n[len(prefix) :][:1].isalnum())]
        return [folder / name for name in sorted(mine, key=_in_order)[:_FILES]]

    def _names(self, folder: Path) -> list[str]:
        if folder not in self._listed:
            try:
                self._listed[folder] = [entry.name for entry in os.scandir(folder)]
            except OSError:
                self._listed[folder] = []
        return self._listed[folder]


def _in_order(name: str) -> list[tuple[int, str]]:
    return [
        (int(word), "") if word.isdecimal() else (-1, word) for word in re.split(r"(\d+)", name)
    ]


def evidence(logs: Iterable[Path], answer: JobState, tail: int) -> Evidence:
    """Return what there is to judge an end by; of each log its last `tail` bytes."""
    texts = tuple((path.name, _tail(path, tail)) for path in logs)
    state = "" if answer.state == GONE else answer.state  # which is no word of SLURM's
    return Evidence(texts, state, answer.exit_code, answer.reason)


def _tail(path: Path, most: int) -> str:
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - most))
            return file.read(most).decode("utf-8", "replace")
    except OSError as error:
        return f"({error.strerror})"
