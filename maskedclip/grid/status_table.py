"""The status of cells as a table: on a terminal in colour and no wider than it, plain elsewhere."""

import math
import textwrap
from collections.abc import Sequence

from maskedclip.grid.status import (
    ACTIVE,
    CANCELLED,
    DONE,
    EVICTED,
    FAILED,
    GOING,
    LOST,
    PENDING,
    TIMED_OUT,
    CellStatus,
    clock,
    one_line,
    span,
)

_HEAD = ("stage", "cell", "state", "step", "loss", "images/s", "left", "saved", "note")
_STATE = _HEAD.index("state")
_SPARED = ("saved", "images/s", "loss", "stage", "left")  # the first goes first from a narrow one
_GREEN, _CYAN, _YELLOW, _RED = 32, 36, 33, 31
_COLOURS = {
    DONE: _GREEN, GOING: _CYAN, PENDING: _YELLOW, EVICTED: _YELLOW, FAILED: _RED, TIMED_OUT: _RED,
    LOST: _RED, CANCELLED: _RED,
}  # fmt: skip
_BOLD, _DIM = 1, 2
_GAP, _INDENT = 2, 4  # characters between columns, and before a note below its row


def table(rows: Sequence[CellStatus], width: int | None = None, *, coloured: bool = False) -> str:
    """Return the rows as text, each column as wide as its widest cell; empty columns are left out.

    The note comes last.

    Args:
        width: characters of a line. Where a row has more, notes stand below their rows, then
            columns go, which is said. None: no matter.
    """
    lines = [_columns(row) for row in rows]
    used = [i for i, name in enumerate(_HEAD) if any(line[i] for line in lines)]
    room = math.inf if width is None else width
    below = _needed(lines, used) > room
    note = len(_HEAD) - 1
    if below:
        used = [i for i in used if i != note]
    gone = []
    for name in _SPARED:
        i = _HEAD.index(name)
        if _needed(lines, used) > room and i in used:
            used.remove(i)
            gone.append(name)
    widths = [max(len(line[i]) for line in (_HEAD, *lines)) for i in used]
    text = _painted(_row(_HEAD, used, widths, False), _BOLD, coloured) + "\n"
    for line in lines:
        text += _row(line, used, widths, coloured) + "\n"
        if below and line[note] and width is not None:
            folded = textwrap.wrap(line[note], max(20, width - _INDENT))
            text += "".join(f"{'':{_INDENT}}{_painted(part, _DIM, coloured)}\n" for part in folded)
    return text + (f"(no room here for: {', '.join(gone)})\n" if gone else "")


def _needed(lines: Sequence[tuple[str, ...]], used: Sequence[int]) -> int:
    """Return the characters of the widest row."""
    widths = [max(len(line[i]) for line in (_HEAD, *lines)) for i in used]
    return sum(widths) + _GAP * (len(used) - 1)


def _row(line: tuple[str, ...], used: Sequence[int], widths: Sequence[int], coloured: bool) -> str:
    words = [line[i].ljust(width) for i, width in zip(used, widths, strict=True)]
    plain = (" " * _GAP).join(words).rstrip()
    if not coloured:
        return plain
    place = used.index(_STATE)
    words[place] = _painted(words[place], _COLOURS.get(line[_STATE], _YELLOW), coloured)
    return (" " * _GAP).join(words).rstrip()


def _painted(text: str, colour: int, coloured: bool) -> str:
    return f"\x1b[{colour}m{text}\x1b[0m" if coloured else text


def _columns(row: CellStatus) -> tuple[str, ...]:
    step = "" if row.step is None else str(row.step) + (f"/{row.steps}" if row.steps else "")
    loss = "" if row.loss is None else f"{row.loss:.4f}"
    rate = f"{row.images_per_s:.0f}" if row.images_per_s and row.state == GOING else ""
    left = "" if row.left_s is None or row.state != GOING else clock(row.left_s)
    age = row.checkpoint_age_s
    saved = "" if age is None or row.state not in ACTIVE else f"{span(age)} ago"
    return row.stage, one_line(row.cell), row.state, step, loss, rate, left, saved, row.note
