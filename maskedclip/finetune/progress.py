"""A line an epoch, with the time that is left."""

import sys
import time
from datetime import timedelta


class Epochs:
    """Shows how far a run is that began, or went on, with `done` of its epochs behind it."""

    def __init__(self, total: int, done: int, rest: float) -> None:
        """rest: what waits behind this run, as a multiple of all its epochs."""
        self.done = done
        self._total, self._rest, self._start = total, rest, time.monotonic()

    def show(self, epoch: int, loss: float, score: float) -> None:
        """Write the line of an epoch that has ended; score is the validation's."""
        each = (time.monotonic() - self._start) / (epoch - self.done)
        left = each * (self._total - epoch)
        words = f"{_words(left)} left"
        if self._rest:
            words += f", {_words(left + each * self._total * self._rest)} with all that waits"
        sys.stderr.write(
            f"epoch {epoch}/{self._total}  loss {loss:.4f}  validation {score:.3f}  {words}\n"
        )


def _words(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))
