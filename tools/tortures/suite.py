"""The sections one after the other: their shares of the time, their rows, and what failed."""

import random
import sys
import tempfile
import time
from contextlib import nullcontext
from importlib import import_module
from pathlib import Path
from types import ModuleType

from tortures.trials import ERRORS, OURS, OUTCOMES, Row, Trial, Unavailable, broken, quiet, within

SHOWN = 100  # failing trials of a section
EVERY_S = 5.0  # between lines of progress


class Suite:
    """The sections one after the other, and their rows."""

    def __init__(
        self, seed: int, minutes: float, *, most: int | None = None, number: int | None = None
    ) -> None:
        """most: trials of each section; None: its own number. number: the one to repeat, if any."""
        self._seed, self._most, self._number = seed, most, number
        self._end = time.monotonic() + 60 * minutes
        self.rows: dict[tuple[str, str], Row] = {}
        self.notes: list[str] = []  # what was said of each section's last trial, or why none was

    def run(self, section: str, left: int) -> None:
        """Repeat a section's trials in its share of the time; `left` sections are left with it."""
        setup = time.monotonic()
        module = import_module(f"tortures.{section}")
        with tempfile.TemporaryDirectory(prefix="torture-", ignore_cleanup_errors=True) as folder:
            try:
                with module.trials(Path(folder)) as trial:
                    self._end += time.monotonic() - setup  # the minutes are those of trials
                    self._repeat(section, trial, module, left)
            except Unavailable as error:
                self.notes.append(f"{section}: not run: {error}")

    def _repeat(self, section: str, trial: Trial, module: ModuleType, left: int) -> None:
        begun = told = time.monotonic()
        share = max(0.0, self._end - begun) / left
        most, first = self._most or module.NUMBER, 0
        if self._number is not None:
            most, first = 1, self._number
        for number in range(first, first + most):
            if number > first and time.monotonic() - begun > share:
                break
            self._one(section, trial, number, module.SECONDS)
            if time.monotonic() - told > EVERY_S:
                told = time.monotonic()
                self._tell(section, most, begun, share)
        self._tell(section, most, begun, share)
        self.notes.append(f"{section}, the last: {self.rows[section, OURS].last}")

    def _one(self, section: str, trial: Trial, number: int, seconds: float) -> None:
        rng = random.Random(f"{section} {self._seed} {number}")
        begun = time.monotonic()
        try:
            with quiet() if self._number is None else nullcontext(), within(seconds):
                verdicts = trial(rng, number)
        except ERRORS as error:  # of the trial itself
            verdicts = {OURS: broken(error)}
        for system, verdict in verdicts.items():
            row = self.rows.setdefault((section, system), Row(section, system))
            row.add(number, verdict)
            if self._number is not None:
                print(f"{system}: {verdict.outcome} {verdict.note}")
            elif system == OURS and number in row.failing:  # hours before the table
                print("\n".join(self._failure(row, number)), file=sys.stderr, flush=True)
        self.rows[section, OURS].seconds += time.monotonic() - begun

    def _tell(self, section: str, most: int, begun: float, share: float) -> None:
        row = self.rows[section, OURS]
        now = time.monotonic()
        left = max(0.0, self._end - now) / 60
        print(
            f"{section:12} {row.tried:,} of {most:,}; {len(row.failing)} silent or lost; "
            f"{now - begun:.0f} s of {share:.0f} s; {left:.1f} min left of all",
            file=sys.stderr, flush=True,
        )  # fmt: skip

    def table(self) -> list[str]:
        """Return the rows in Markdown, ours before the anchors' of each section."""
        lines = [
            "| section | system | tried | refused | harmless | SILENT | LOST | seconds |",
            "|---|---|---|---|---|---|---|---|",
        ]
        for row in self.rows.values():
            numbers = [f"{row.counts.get(name, 0):,}" for name in OUTCOMES]
            seconds = f"{row.seconds:.0f}" if row.system == OURS else ""
            cells = [row.section, row.system, f"{row.tried:,}", *numbers, seconds]
            lines.append("| " + " | ".join(cells) + " |")
        return lines

    def failures(self) -> list[str]:
        """Return, of ours, what was silent or lost, each with the command that repeats it."""
        lines = []
        for row in self.rows.values():
            if row.system != OURS:
                continue
            for number in list(row.failing)[:SHOWN]:
                lines += self._failure(row, number)
            if len(row.failing) > SHOWN:
                lines.append(f"{row.section}: {len(row.failing) - SHOWN} more")
        return lines

    def _failure(self, row: Row, number: int) -> list[str]:
        outcome, note = row.failing[number]
        command = f"python tools/torture.py --only={row.section} --seed={self._seed}"
        return [f"{outcome}: {note}", f"  {command} --number={number}"]
