"""A signal asks a run to stop: it is noted at once, and all ranks stop together after a step.

SIGUSR2 is SLURM's warning before pre-emption and the time limit: the job is to be requeued. SIGTERM
and Ctrl-C come from a person, or a machine that shuts down, SIGHUP from a terminal that is closed:
the job is to end.
"""

import signal
import threading
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any, Self

from maskedclip.engine.closed_terminal import hangs_up, terminals, write_nowhere
from maskedclip.engine.distributed import gathered

STOP, REQUEUE = 1, 2  # what a signal requests; of several the larger one holds
_REQUESTS = {
    signal.SIGINT: STOP,
    signal.SIGTERM: STOP,
    signal.SIGHUP: STOP,
    signal.SIGUSR2: REQUEUE,
}


class Preempted(RuntimeError):  # noqa: N818
    """The run was asked to stop, and has saved its last step."""

    def __init__(self, run: Path, step: int, request: int) -> None:
        super().__init__(
            f"{run}: asked to stop; step {step} is saved, and the same command goes on from it"
        )
        self.step, self.request = step, request


class Preemption:
    """Notes the signals that ask to stop, while its block runs.

    At the end the previous handlers are restored, and where the block ends without `Preempted`,
    they get what was noted. A run that is to be queued again ignores SIGUSR2 and SIGTERM from then
    on, also in what it starts: another one would break off its leaving. A second Ctrl-C interrupts
    at once. SIGHUP is left alone where it was ignored (nohup). Outside of the main thread, where
    Python takes no handlers, nothing is noted.
    """

    def __init__(self) -> None:
        self._terminals = terminals()
        self.request = 0  # nothing, STOP or REQUEUE
        self._noted: list[int] = []
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in _REQUESTS:
                if number == signal.SIGHUP and not hangs_up():
                    continue
                self._before[number] = signal.signal(number, self._note)
        return self

    def _note(self, number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGINT and number in self._noted:
            raise KeyboardInterrupt
        if number == signal.SIGHUP:
            write_nowhere(self._terminals)
        self._noted.append(number)
        self.request = max(self.request, _REQUESTS[signal.Signals(number)])

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: object
    ) -> None:
        leaves = isinstance(error, Preempted) and error.request == REQUEUE
        for number, handler in self._before.items():
            ignored = leaves and number != signal.SIGINT
            signal.signal(number, signal.SIG_IGN if ignored else handler)
        if self._noted and kind is None:  # too late to stop here
            signal.raise_signal(self._noted[-1])


_PREFIX = "request "


def gathered_with_request(lines: Sequence[str], request: int) -> tuple[list[str], int]:
    """Return the lines of all ranks, as `gathered` does, and the largest request of any rank.

    Every rank calls it and gets the same; without lines and requests it costs one exchange of a
    number. No line begins with the word `request`.
    """
    received = gathered([*lines, f"{_PREFIX}{request}"] if request else lines)
    requests = [int(line.removeprefix(_PREFIX)) for line in received if line.startswith(_PREFIX)]
    return [line for line in received if not line.startswith(_PREFIX)], max(requests, default=0)
