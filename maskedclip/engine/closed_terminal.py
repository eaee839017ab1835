"""A terminal that is closed under a command (SIGHUP), where there may be something to save.

Torch is not imported here: the launcher of a local run does without it.
"""

import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any


def hangs_up() -> bool:
    """Return whether SIGHUP means something: under nohup it is ignored, and stays so."""
    return signal.getsignal(signal.SIGHUP) != signal.SIG_IGN


def terminals() -> list[int]:
    """Return which of stdout and stderr are a terminal, by their numbers."""
    return [number for number in (1, 2) if os.isatty(number)]


def write_nowhere(numbers: Sequence[int]) -> None:
    """Point these files at nowhere: each line to a terminal that has gone would be an error."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for number in numbers:
        os.dup2(nowhere, number)
    os.close(nowhere)


@contextmanager
def stops_as_by_ctrl_c() -> Iterator[None]:
    """Let SIGTERM and a terminal that is closed do what Ctrl-C does: raise KeyboardInterrupt."""
    ours = terminals()

    def hang_up(_number: int, _frame: FrameType | None) -> None:
        write_nowhere(ours)
        raise KeyboardInterrupt

    before: dict[int, Any] = {
        signal.SIGTERM: signal.signal(signal.SIGTERM, signal.default_int_handler)
    }
    if hangs_up():
        before[signal.SIGHUP] = signal.signal(signal.SIGHUP, hang_up)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
