"""Trials and their verdicts: what a section of the torture suite gives, and how it is counted."""

import os
import random
import resource
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch.distributed.checkpoint.api import CheckpointException

Outcome = Literal["refused", "harmless", "SILENT", "LOST"]
OUTCOMES = get_args(Outcome)
OURS = "maskedclip"
# all that a program may raise that is not about to end; DCP's is no Exception
ERRORS = (Exception, CheckpointException)
MEMORY_B = 8 << 30  # of address space, that a trial may take
Tensors = Mapping[str, torch.Tensor]


class Verdict(NamedTuple):
    """What became of one trial.

    refused: named, in one line, and what is left is right. harmless: nothing changed. SILENT: a
    wrong value, or one fewer, and no word. LOST: good data is gone, or the program broke or hung.
    """

    outcome: Outcome
    note: str = ""  # what was said, or what was wrong


# one trial by its random numbers and its number: a verdict for each system
Trial = Callable[[random.Random, int], Mapping[str, Verdict]]


@dataclass
class Row:
    """The count of one system in one section."""

    section: str
    system: str
    counts: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    failing: dict[int, Verdict] = field(default_factory=dict)  # by the number of the trial
    last: str = ""  # what was said of the last trial

    def add(self, number: int, verdict: Verdict) -> None:
        self.counts[verdict.outcome] = self.counts.get(verdict.outcome, 0) + 1
        self.last = verdict.note
        if verdict.outcome in ("SILENT", "LOST"):
            self.failing[number] = verdict

    @property
    def tried(self) -> int:
        return sum(self.counts.values())


class Unavailable(Exception):  # noqa: N818
    """This machine lacks what a section needs; it says what."""


class Hung(Exception):  # noqa: N818 (what is said of it)
    """A trial took longer than it may."""


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Raise Hung in the block after so many seconds; of the main thread alone.

    What would take more than MEMORY_B beyond what the process has ends in a MemoryError.
    """

    def over(*_: object) -> None:
        raise Hung(f"no end after {seconds:g} s")

    before = signal.signal(signal.SIGALRM, over)
    limits = resource.getrlimit(resource.RLIMIT_AS)
    size_B = 4096 * int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (size_B + MEMORY_B, limits[1]))
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        resource.setrlimit(resource.RLIMIT_AS, limits)
        signal.signal(signal.SIGALRM, before)


@contextmanager
def quiet() -> Iterator[None]:
    """Drop what is printed to standard error, by libjpeg and DCP too."""
    before = os.dup(2)
    with Path(os.devnull).open("w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(before, 2)
        os.close(before)


def broken(error: BaseException) -> Verdict:
    """Return the verdict of an error that is no message: a user would see a traceback."""
    where = error.__traceback__
    while where is not None and where.tb_next is not None:
        where = where.tb_next
    place = f"{where.tb_frame.f_code.co_filename}:{where.tb_lineno}: " if where else ""
    return Verdict("LOST", f"{place}{type(error).__name__}: {error}"[:300])


def refused(error: Exception, *names: str) -> Verdict:
    """Return the verdict of a message: one line that has these names."""
    message = str(error)
    if "\n" in message or not message.isprintable():
        return Verdict("LOST", f"more than a line: {message!r}"[:300])
    if missing := [name for name in names if name not in message]:
        return Verdict("LOST", f"{missing[0]} is not named: {message}")
    return Verdict("refused", message)


def compared(found: Tensors, wanted: Tensors) -> Verdict:
    """Return whether all values are those that were written, to the bit."""
    if found.keys() != wanted.keys():
        return Verdict("SILENT", f"other names: {sorted(found.keys() ^ wanted.keys())[:3]}")
    for name, value in wanted.items():
        if not same_bits(found[name], value):
            return Verdict("SILENT", f"{name} has another value")
    return Verdict("harmless")


def same_bits(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Return whether two tensors are alike to the bit; -0 is not 0, and a NaN is itself."""
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    flat = [value.detach().reshape(-1).contiguous().view(torch.uint8) for value in (one, other)]
    return torch.equal(*flat)


def of_an_anchor(load: Callable[[], Any], judge: Callable[[Any], Verdict]) -> Verdict:
    """Return the verdict of another system: whatever it raises is a refusal, but of memory."""
    try:
        found = load()
    except Hung as error:
        return Verdict("LOST", str(error))
    except MemoryError:
        return Verdict("LOST", f"it asks for more than {MEMORY_B >> 30} GiB")
    except ERRORS as error:
        return Verdict("refused", f"{type(error).__name__}: {error}"[:200])
    return judge(found)
