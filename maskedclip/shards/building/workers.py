"""Processes that prepare photographs, a few ahead of the one who writes them."""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from itertools import islice
from typing import TypeVar

import cv2

Given = TypeVar("Given")
Made = TypeVar("Made")

_TOGETHER = 4  # given to a process at once: each hand-over takes time of both
_AHEAD = 3  # of these a process: more would only take memory


@contextmanager
def made_in_order(
    make: Callable[[Given], Made], given: Iterable[Given], workers: int
) -> Iterator[Iterator[Made]]:
    """Give `make` of each, in the order given, worked out in `workers` processes; 1 is this one."""
    if workers == 1:
        yield map(make, given)
        return
    # Not fork: OpenCV and the progress bar hold threads. Not threads: much of the work is Python's.
    context = multiprocessing.get_context("forkserver")
    pool = ProcessPoolExecutor(workers, context, initializer=_start_worker)

    def in_order() -> Iterator[Made]:
        waiting: deque[Future[list[Made]]] = deque()
        source = iter(given)
        while few := list(islice(source, _TOGETHER)):
            waiting.append(pool.submit(_each, make, few))
            if len(waiting) > _AHEAD * workers:
                yield from waiting.popleft().result()
        while waiting:
            yield from waiting.popleft().result()

    try:
        yield in_order()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _each(make: Callable[[Given], Made], given: Sequence[Given]) -> list[Made]:
    return [make(one) for one in given]


def _start_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent hears it, and ends the workers
    threading.Thread(target=_end_with_parent, daemon=True).start()
    cv2.setNumThreads(1)
    os.environ["OMP_NUM_THREADS"] = "1"


def _end_with_parent() -> None:
    """A worker waits for work for ever where its parent was killed: end it then."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
