"""The time that a run takes: a line an epoch with what is left, and how often to save."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta

_NAMES = {
    "val_auroc": "AUROC", "val_retfound": "mean of F1, AUROC and kappa",
    "val_mae": "mean absolute error",
}  # fmt: skip


class EpochProgress:
    """Writes a line an epoch for a run that started, or resumed, after `done` epochs."""

    def __init__(self, total: int, done: int, rest: float, selected_by: str) -> None:
        """rest: the runs that wait behind this one, as a multiple of all its epochs."""
        self._done, self._total, self._rest = done, total, rest
        self._selected_by = selected_by
        self._start = time.monotonic()

    def show(self, epoch: int, loss: float, score: float) -> None:
        """Write the line of an epoch that has ended; score is what selects it, on validation."""
        epoch_s = (time.monotonic() - self._start) / (epoch - self._done)
        left_s = epoch_s * (self._total - epoch)
        left = f"{_duration(left_s)} left"
        if self._rest:
            left += (
                f", {_duration(left_s + epoch_s * self._total * self._rest)} with all that waits"
            )
        value = f"{score:.4g}" if self._selected_by == "val_mae" else f"{100 * score:.1f} %"
        scored = f"validation {_NAMES[self._selected_by]} {value}"
        line = f"epoch {epoch}/{self._total}  loss {loss:.4f}  {scored}  {left}\n"
        with suppress(OSError):  # a log on a full disk
            sys.stderr.write(line)


def _duration(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))


class SaveInterval:
    """Spaces saves out, so that they take at most `share` of the time.

    saves = SaveInterval(0.1)
    if saves.due():
        with saves.measured():
            ...
    """

    def __init__(self, share: float) -> None:
        self._share = share
        self._next = time.monotonic()

    def due(self) -> bool:
        return time.monotonic() >= self._next

    @contextmanager
    def measured(self) -> Iterator[None]:
        """Time a save, and put the next one off accordingly."""
        start = time.monotonic()
        yield
        end = time.monotonic()
        self._next = end + (end - start) * (1 - self._share) / self._share
