"""Rows made by threads, in order: readers that wait for the disk run ahead of those that decode."""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Semaphore
from typing import TypeVar

Job = TypeVar("Job")
Raw = TypeVar("Raw")
Row = TypeVar("Row")
Item = TypeVar("Item")

_CHUNK = 16  # rows handed to a thread at once: with 8, hand-overs cost a tenth of the speed
# Reads from a cache take turns, as many threads at once would be in the way of those that decode;
# who waits this long, in seconds, goes on: others hang
_AT_ONCE, _PATIENCE = 1, 0.01
_READ_AHEAD = 64  # rows a reader, read and not yet in use: they hide reads that hang


def rows_in_order(
    steps: Iterable[Sequence[Job]],
    read: Callable[[Job], Raw],
    make: Callable[[Job, Raw], Row],
    *,
    readers: int,
    threads: int,
    prefetch: int,
) -> Generator[list[Row], None, None]:
    """Yield the rows of each step, `make(job, read(job))` of each of its jobs, in their order.

    Args:
        readers: threads that `read`; they run 64 rows each, and a step, ahead of `make`.
        threads: threads that `make`; 0 does all in the caller's thread, a step at a time.
        prefetch: steps made ahead of the one in use.

    An error of `read` or `make` is raised at the step it belongs to. Closing ends the threads.
    """
    if not threads:
        for jobs in steps:
            yield [make(job, read(job)) for job in jobs]
        return

    turn = Semaphore(_AT_ONCE)

    def read_chunk(jobs: Sequence[Job]) -> list[tuple[Job, Raw]]:
        mine = turn.acquire(timeout=_PATIENCE)
        try:
            return [(job, read(job)) for job in jobs]
        finally:
            if mine:
                turn.release()

    def make_chunk(chunk: "Future[list[tuple[Job, Raw]]]") -> list[Row]:
        return [make(job, raw) for job, raw in chunk.result()]

    with ThreadPoolExecutor(max(1, readers)) as reading, ThreadPoolExecutor(threads) as making:
        being_read = (
            [reading.submit(read_chunk, jobs[i : i + _CHUNK]) for i in range(0, len(jobs), _CHUNK)]
            for jobs in steps
        )
        read_steps = _ahead(being_read, _READ_AHEAD * max(1, readers) // _CHUNK, weigh=len)
        being_made = ([making.submit(make_chunk, chunk) for chunk in step] for step in read_steps)
        try:
            for chunks in _ahead(being_made, prefetch, weigh=lambda _: 1):
                yield _results(chunks)
        finally:
            reading.shutdown(wait=False, cancel_futures=True)
            making.shutdown(wait=False, cancel_futures=True)


def _ahead(items: Iterable[Item], ahead: int, weigh: Callable[[Item], int]) -> Iterator[Item]:
    """Yield the items, each once those that follow it weigh `ahead` together."""
    held: deque[Item] = deque()
    following = 0
    for item in items:
        following += weigh(item) if held else 0
        held.append(item)
        while held and following >= ahead:
            yield held.popleft()
            following -= weigh(held[0]) if held else 0
    while held:
        yield held.popleft()


def _results(chunks: "list[Future[list[Row]]]") -> list[Row]:
    """Return the rows and forget them: they are the caller's, who may be long with them."""
    rows = [row for chunk in chunks for row in chunk.result()]
    chunks.clear()
    return rows
