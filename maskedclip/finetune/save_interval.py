"""When to save again: as often as asked, as long as it takes a small share of the time."""

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Pace:
    """Spaces out what takes time, so that at most `share` of all the time goes to it.

    pace = Pace(0.1)
    if pace.due():
        with pace.measured():
            ...
    """

    def __init__(self, share: float) -> None:
        self._share = share
        self._next = time.monotonic()

    def due(self) -> bool:
        return time.monotonic() >= self._next

    @contextmanager
    def measured(self) -> Iterator[None]:
        start = time.monotonic()
        yield
        end = time.monotonic()
        self._next = end + (end - start) * (1 - self._share) / self._share
