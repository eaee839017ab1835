"""A signal asks a run to leave: it is noted at once, and obeyed by all ranks at a step's end.

SIGUSR2 is SLURM's warning before pre-emption and the time limit: the job shall go on later. SIGTERM
and Ctrl-C are a person's, or a machine's, wish that it ends.
"""

import signal
import threading
from collections.abc import Sequence
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Self

from maskedclip.engine.distributed import gathered

LEAVE, GO_ON_LATER = 1, 2  # what is asked; of several ranks' the larger one holds
_MEANINGS = {
    signal.SIGINT: LEAVE,
    signal.SIGTERM: LEAVE,
    signal.SIGUSR2: GO_ON_LATER,
}


class Preempted(RuntimeError):  # noqa: N818
    """The run was asked to leave, and has saved the step it stands at."""

    def __init__(self, run: Path, step: int, asked: int) -> None:
        super().__init__(
            f"{run}: asked to stop; step {step} is saved, and the same command goes on from it"
        )
        self.step, self.asked = step, asked


class Replaced(Preempted):
    """Another start of the run has taken it over: this one writes nothing any more."""

    def __init__(self, run: Path, step: int, by: str) -> None:
        RuntimeError.__init__(
            self, f"{run}: a later start of this run has it now ({by}); this one leaves it alone"
        )
        self.step, self.asked = step, LEAVE


class Preemption:
    """Notes the signals that ask to leave, while its block runs.

    At the end the handlers from before stand again, and where the block ends without `Preempted`,
    they get what was noted. A second Ctrl-C interrupts at once. Outside of the main thread, where
    Python takes no handlers, nothing is noted.
    """

    def __init__(self) -> None:
        self.asked = 0  # nothing, LEAVE or GO_ON_LATER
        self._noted: list[int] = []
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in _MEANINGS:
                self._before[number] = signal.signal(number, self._note)
        return self

    def _note(self, number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGINT and number in self._noted:
            raise KeyboardInterrupt
        self._noted.append(number)
        self.asked = max(self.asked, _MEANINGS[signal.Signals(number)])

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if self._noted and kind is None:  # too late to be obeyed here
            signal.raise_signal(self._noted[-1])


_ASKED = "asked "


def agreed(lines: Sequence[str], asked: int) -> tuple[list[str], int]:
    """Return the lines of all ranks, as `gathered` does, and the most that any rank was asked.

    Every rank calls it and gets the same; where there are no lines and nothing is asked, it costs
    one exchange of a number. No line begins with the word `asked`.
    """
    found = gathered([*lines, f"{_ASKED}{asked}"] if asked else lines)
    wishes = [int(line.removeprefix(_ASKED)) for line in found if line.startswith(_ASKED)]
    return [line for line in found if not line.startswith(_ASKED)], max(wishes, default=0)
