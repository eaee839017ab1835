"""The board as it is shown: a row a cell, in columns, and the words for what became of it."""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

DONE, PENDING, GOING, EVICTED = "done", "pending", "running", "pre-empted"
FAILED, TIMED_OUT, CANCELLED = "failed", "timed out", "cancelled"
HELD, LOST, MISSING = "held", "lost", "missing"
STATES = (
    DONE, GOING, PENDING, EVICTED, FAILED, TIMED_OUT, CANCELLED, HELD, LOST, MISSING
)  # fmt: skip
ACTIVE = (GOING, PENDING, EVICTED)
OPEN = (FAILED, TIMED_OUT, CANCELLED, HELD, LOST, MISSING)  # which retry submits again


class Row(NamedTuple):
    """A cell on the board; numbers are None where nothing tells them."""

    cell: str
    stage: str
    state: str  # one of STATES
    note: str  # one line: the reason, what it waits for, or what is odd
    job: str
    attempt: int
    step: int | None
    steps: int | None
    loss: float | None
    images_per_s: float | None
    left_s: float | None
    checkpoint_age_s: float | None


def one_line(text: str) -> str:
    """Return text in one line of printable characters."""
    return "".join(c if c.isprintable() else " " for c in " ".join(text.split()))


def summary(rows: Sequence[Row]) -> str:
    """Return how many cells are in which state, in a line."""
    counts = Counter(row.state for row in rows)
    found = ", ".join(f"{counts[state]} {state}" for state in STATES if counts[state])
    return f"{len(rows)} cell{'' if len(rows) == 1 else 's'}: {found or 'none'}"


def span(seconds: float) -> str:
    """Return a time span in its largest unit, such as 4 min."""
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


def table(rows: Sequence[Row]) -> str:
    """Return the rows as text, each column as wide as its widest cell; empty columns are left out.

    The note comes last.
    """
    lines = [_cells(row) for row in rows]
    head = ("stage", "cell", "state", "step", "loss", "images/s", "left", "saved", "note")
    used = [i for i in range(len(head)) if any(line[i] for line in lines)]
    every = [[line[i] for i in used] for line in (head, *lines)]
    widths = [max(len(line[i]) for line in every) for i in range(len(used))]
    return "".join(
        "  ".join(word.ljust(width) for word, width in zip(line, widths, strict=True)).rstrip()
        + "\n"
        for line in every
    )


def _cells(row: Row) -> tuple[str, ...]:
    step = "" if row.step is None else str(row.step) + (f"/{row.steps}" if row.steps else "")
    moving = row.state in ACTIVE
    loss = "" if row.loss is None else f"{row.loss:.4f}"
    rate = f"{row.images_per_s:.0f}" if row.images_per_s and row.state == GOING else ""
    left = "" if row.left_s is None or row.state != GOING else _clock(row.left_s)
    age = row.checkpoint_age_s
    saved = "" if age is None or not moving else f"{span(age)} ago"
    return row.stage, one_line(row.cell), row.state, step, loss, rate, left, saved, row.note


def _clock(seconds: float) -> str:
    hours, rest = divmod(round(seconds), 3600)
    return f"{hours}:{rest // 60:02}:{rest % 60:02}"
