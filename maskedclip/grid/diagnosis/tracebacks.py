"""Errors as they stand in logs: tracebacks, and the lines of C++ code that ends a process.

Several ranks may write to one file: what bears a rank's label ("[rank1]: ", or that of `srun -l`)
is read apart from the rest.
"""

import re
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import NamedTuple

from maskedclip.grid.diagnosis import patterns as words

LOST = "lost others"  # follows from what befell another rank
TOLD = "told to go"  # follows from a signal
WATCHER = "watcher"  # tells of the failure of another process
REQUEUE = "requeue"  # submitit could not queue the job again
_SECONDARY = {LOST, TOLD, WATCHER, REQUEUE}
_BEGIN = "Traceback (most recent call last):"
_CHAINED = re.compile(
    r"^(?:The above exception was the direct cause|During handling of the above exception)"
)
_LABEL = re.compile(r"^\[(?:rank|default)(\d+)\]:\s?(?=[^\[]|$)|^\[rank(\d+)\]:(?=\[)")
_SRUN_LABEL = re.compile(r"^\s{0,4}(\d{1,5}): ?")
_STAMP = re.compile(r"(\d{4}-\d\d-\d\d)[ T](\d\d:\d\d:\d\d)")
_FOREIGN_FRAME = re.compile(r"submitit[/\\]core|<frozen (?:runpy|importlib)|torch/distributed/run")
_ERROR_LINE = re.compile(
    r"\[E\S*(?: \S+)? \w+\.cpp:\d+\]|NCCL WARN|\bwhat\(\): |^\S+: error: |^error: |c10::\w*Error"
)
_OURS = re.compile(r"^(?:[\w./-]+: )?error: ")
_GOES_ON = re.compile(r"^step \d+\b|^epoch \d+.*\bloss\b")
_RANK_IN_NAME = re.compile(r"_(\d+)_log\.(?:err|out)$")
_MESSAGE_LINES = 12
NEVER = float("inf")


class Failure(NamedTuple):
    """An error of one rank. `kind` is one of causes_words, or one of those above."""

    kind: str
    line: str
    traceback: str
    rank: int | None
    time_s: float  # NEVER where the log does not say when
    handled: bool  # the rank went on after it

    @property
    def primary(self) -> bool:
        """Whether it may be the first that went wrong."""
        return self.kind not in _SECONDARY and self.kind != words.NETWORK


def kind_of(text: str) -> str:
    """Return what an exception's type and message tell of."""
    if words.REQUEUE_FAILED.search(text):
        return REQUEUE
    if words.TOLD_TO_GO.search(text):
        return TOLD
    if words.WATCHERS.search(text):
        return WATCHER
    for kind, pattern in words.EXCEPTIONS:
        if pattern.search(text):
            return kind
    if words.TIMED_OUT.search(text):
        return words.NETWORK
    return LOST if words.LOST_OTHERS.search(text) else words.CODE


def failures(name: str, text: str) -> list[Failure]:
    """Return all errors of a log, in their order, each rank's apart."""
    found = []
    for rank, lines in _by_rank(name, text):
        found += list(_tracebacks(lines, rank))
        found += list(_lines(lines, rank))
    return found


def time_of(line: str) -> float | None:
    """Return the time that a line bears, in seconds of an unnamed zone, or None."""
    stamp = _STAMP.search(line)
    if stamp is None:
        return None
    try:
        return datetime.fromisoformat(f"{stamp[1]} {stamp[2]}").timestamp()
    except (ValueError, OverflowError):  # no day of the calendar
        return None


def short(line: str) -> str:
    """Return one line of at most 300 characters."""
    line = " ".join(line.split())
    return line if len(line) <= 300 else line[:297] + "..."


def _by_rank(name: str, text: str) -> list[tuple[int | None, list[str]]]:
    lines = text.splitlines()
    named = _RANK_IN_NAME.search(name)
    own = int(named[1]) if named else None
    label = _LABEL
    if sum(_SRUN_LABEL.match(line) is not None for line in lines) * 2 > len(lines):
        label = _SRUN_LABEL
    parts: dict[int | None, list[str]] = {}
    for line in lines:
        match = label.match(line)
        rank = int(match[match.lastindex or 1]) if match else own
        line = line[match.end() :] if match else line
        parts.setdefault(rank, []).append(_LABEL.sub("", line) if label is _SRUN_LABEL else line)
    return list(parts.items())


def _tracebacks(lines: Sequence[str], rank: int | None) -> Iterator[Failure]:
    goes_on = _last_step(lines)
    time_s, at, chain = NEVER, 0, list[tuple[str, list[str]]]()
    while at < len(lines):
        line = lines[at].rstrip()
        if not line.endswith(_BEGIN):
            stamp = time_of(line)
            if stamp is not None:
                time_s = stamp
            at += 1
            continue
        ignored = at > 0 and "Exception ignored" in lines[at - 1]
        message, body, at = _one(lines, at)
        chain.append((message, body))
        following = next((i for i in range(at, len(lines)) if lines[i].strip()), len(lines))
        if following < len(lines) and _CHAINED.match(lines[following].strip()):
            at = following + 1
            begins = next((i for i in range(at, len(lines)) if lines[i].strip()), len(lines))
            if begins < len(lines) and lines[begins].rstrip().endswith(_BEGIN):
                continue
        handled = ignored or at <= goes_on
        yield _failure(chain, rank, time_s, handled)
        chain = []


def _last_step(lines: Sequence[str]) -> int:
    """Return where the last line of a run's progress stands, -1 where there is none."""
    return max((n for n, line in enumerate(lines) if _GOES_ON.match(line)), default=-1)


def _one(lines: Sequence[str], at: int) -> tuple[str, list[str], int]:
    """Return message, all lines, and the end of the traceback that begins at `at`."""
    indent = len(lines[at]) - len(lines[at].lstrip())
    body, at = [_BEGIN], at + 1
    while at < len(lines) and (lines[at][indent : indent + 2] == "  " or not lines[at].strip()):
        body.append(lines[at][indent:].rstrip())
        at += 1
    message: list[str] = []
    while at < len(lines) and len(message) < _MESSAGE_LINES:
        line = lines[at].rstrip()
        if not line.strip() or line.endswith(_BEGIN) or _GOES_ON.match(line):
            break
        if message and words.USELESS.match(line):
            break
        message.append(line[indent:] if not line[:indent].strip() else line)
        at += 1
    return " ".join(message), [*body, *message], at


def _failure(
    chain: Sequence[tuple[str, list[str]]], rank: int | None, time_s: float, handled: bool
) -> Failure:
    """Return the failure of an exception and those it came from, the last one first asked."""
    message = chain[-1][0]
    kind = kind_of(message)
    if kind in {words.CODE, LOST}:
        for before, _ in reversed(chain[:-1]):
            other = kind_of(before)
            if other not in {words.CODE, *_SECONDARY}:
                kind, message = other, before
                break
    whole = "\n\n".join("\n".join(_own_frames(body)) for _, body in chain)
    line = short(message) or "a traceback that is cut short; " + short(chain[-1][1][-1])
    return Failure(kind, line, whole, rank, time_s, handled)


def _own_frames(body: Sequence[str]) -> list[str]:
    """Leave out the frames before the job's own, and the marks under them."""
    body = [line for line in body if not re.fullmatch(r"\s*[~^]+\s*|\s*", line)]
    starts = [i for i, line in enumerate(body) if line.lstrip().startswith("File ")]
    first = next((i for i in starts if not _FOREIGN_FRAME.search(body[i])), None)
    return [body[0], *body[first:]] if first is not None else body


def _lines(lines: Sequence[str], rank: int | None) -> Iterator[Failure]:
    """Yield errors that come without a traceback; those of C++ and of our commands."""
    goes_on = _last_step(lines)
    for number, line in enumerate(lines):
        if not _ERROR_LINE.search(line):
            continue
        ours = _OURS.match(line) is not None and not words.USELESS.match(line)
        kind = kind_of(line)
        if kind == words.CODE and not ours:
            continue
        stamp = time_of(line)
        handled = number < goes_on
        yield Failure(kind, short(line), "", rank, NEVER if stamp is None else stamp, handled)
