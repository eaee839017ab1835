import itertools
import threading
import time
import weakref
from collections.abc import Iterator

import numpy as np
import pytest

from maskedclip.data.threaded_loading import rows_in_order

SIZES = (5, 1, 0, 23, 8)  # rows of the steps


def steps() -> Iterator[list[int]]:
    numbers = itertools.count()
    for size in itertools.cycle(SIZES):
        yield list(itertools.islice(numbers, size))


def made(job: int, raw: str) -> tuple[int, str]:
    return job, raw


def rows(read=str, make=made, *, source=steps, readers=3, threads=2, prefetch=2):
    return rows_in_order(source(), read, make, readers=readers, threads=threads, prefetch=prefetch)


@pytest.mark.parametrize("threads", [0, 1, 2, 5])
@pytest.mark.parametrize("prefetch", [0, 1, 4])
def test_rows_come_in_order_a_step_at_a_time(threads: int, prefetch: int) -> None:
    found = list(itertools.islice(rows(threads=threads, prefetch=prefetch), 25))
    assert [len(step) for step in found] == list(SIZES) * 5
    flat = [row for step in found for row in step]
    assert flat == [(number, str(number)) for number in range(len(flat))]


def test_order_holds_where_later_reads_end_first() -> None:
    def read(job: int) -> str:
        time.sleep(0.02 if job % 16 < 8 else 0)
        return str(job)

    flat = [row for step in itertools.islice(rows(read), 10) for row in step]
    assert flat == [(number, str(number)) for number in range(len(flat))]


@pytest.mark.parametrize("threads", [0, 2])
def test_a_finite_series_of_steps_ends(threads: int) -> None:
    found = list(rows(source=lambda: [[1, 2], [3]], threads=threads))
    assert found == [[(1, "1"), (2, "2")], [(3, "3")]]


@pytest.mark.parametrize("threads", [0, 2])
@pytest.mark.parametrize("where", ["read", "make"])
def test_an_error_is_raised_at_its_step_and_not_before(threads: int, where: str) -> None:
    def fail(job: int) -> str:
        if job == 33:
            raise RuntimeError("33")
        return str(job)

    wrong = {"read": fail} if where == "read" else {"make": lambda job, _: fail(job)}
    found = rows(**wrong, threads=threads)
    assert [len(next(found)) for _ in range(4)] == list(SIZES[:4])
    with pytest.raises(RuntimeError, match="33"):
        next(found)


def test_closing_ends_the_threads() -> None:
    before = threading.active_count()
    found = rows(readers=4, threads=3)
    next(found)
    assert threading.active_count() > before
    found.close()
    assert threading.active_count() == before


@pytest.mark.parametrize("consumed", [1, 12])
def test_what_is_read_and_made_ahead_is_bounded(consumed: int) -> None:
    was_read, was_made = [], []

    def source() -> Iterator[list[int]]:
        numbers = itertools.count()
        while True:
            yield list(itertools.islice(numbers, 10))

    found = rows(
        lambda job: was_read.append(job),
        lambda job, _: was_made.append(job),
        source=source, readers=2, threads=2, prefetch=3,
    )  # fmt: skip
    for _ in range(consumed):
        next(found)
    patience = time.monotonic() + 20
    while len(was_made) < 10 * (consumed + 3) and time.monotonic() < patience:
        time.sleep(0.01)
    time.sleep(0.05)
    assert len(was_made) == 10 * (consumed + 3)
    assert 10 * (consumed + 3) < len(was_read) <= 10 * (consumed + 3 + 2) + 2 * 64
    found.close()


def test_a_read_that_hangs_holds_up_neither_other_reads_nor_the_rows_before_it() -> None:
    hangs, free = 25, threading.Event()
    was_read: list[int] = []

    def read(job: int) -> int:
        if job == hangs:
            assert free.wait(20)
        was_read.append(job)
        return job

    numbers = itertools.count()
    source = iter(lambda: list(itertools.islice(numbers, 10)), [])
    found = rows(read, lambda _, raw: raw, source=lambda: source, readers=4, threads=2, prefetch=3)
    assert [next(found), next(found)] == [list(range(10)), list(range(10, 20))]
    patience = time.monotonic() + 20
    while max(was_read) < hangs + 20 and time.monotonic() < patience:
        time.sleep(0.01)
    assert max(was_read) >= hangs + 20
    assert hangs not in was_read
    free.set()
    assert next(found) == list(range(20, 30))
    found.close()


def test_a_batch_is_forgotten_when_the_caller_forgets_it() -> None:
    found = rows(lambda _: None, lambda _, __: np.zeros(10))
    step = next(found)
    last = weakref.ref(step[0])
    del step
    assert last() is None
    found.close()
