"""Tables as Markdown: a number links to the directory of its run."""

from collections.abc import Callable, Sequence
from pathlib import Path

from maskedclip.report.pages.cells import Average, Cell, shown
from maskedclip.report.pages.measurements import NAMES as METRICS
from maskedclip.report.pages.measurements import TABLED
from maskedclip.report.pages.tables import Table, column_marks

_MARKS = {"best": "**{}**", "second": "<u>{}</u>", "": "{}"}
_CHECKS = {True: "\u2713", False: ""}


def markdown(
    table: Table, link: Callable[[Path], str] | None = None, *, intervals: bool = False
) -> str:
    """Return a table; without `link` for a terminal: no links, and columns of one width.

    A dagger marks values of weights that were trained on images of the dataset.

    Args:
        link: a run's directory to the address that leads there.
        intervals: the 95 % interval stands under each value.
    """
    if not table.blocks:
        return "No row.\n"
    head = ["labels", "method", *(("bridge", "L_mfd") if table.checked else ())]
    names = [_escaped(group.name) if group else "average" for group in table.groups]
    head += [f"{name} {METRICS[metric]}" for name in names for metric in TABLED]
    rows = [head]
    for block in table.blocks:
        marks = column_marks(block, table.groups)
        for line in block.lines:
            row = [block.name, _escaped(line.label or line.method)]
            row += [_CHECKS[check] for check in line.checks]
            for group in table.groups:
                for metric in TABLED:
                    cell = line.at(group, metric)
                    text = _text(cell, marks[line.method, group, metric], intervals)
                    row.append(_linked(text, cell, link))
            rows.append(row)
    notes = "".join(f"\n\u2020 {_escaped(line)}\n" for line in table.trained_on)
    return _lines(rows, padded=link is None) + notes


def _text(cell: Cell | Average, mark: str, intervals: bool) -> str:
    text = _MARKS[mark].format(shown(cell.mean)) + ("\u2020" if cell.seen else "")
    if cell.deviation is not None:
        text += f" \u00b1 {shown(cell.deviation)}"
    if isinstance(cell, Average) and cell.mean is not None and not cell.complete:
        text += f" ({cell.tasks} of {cell.of})"
    if intervals and cell.interval:
        low, high = cell.interval
        text += f"<br>{shown(low)} to {shown(high)}"
    return text


def _linked(text: str, cell: Cell | Average, link: Callable[[Path], str] | None) -> str:
    if link is None or isinstance(cell, Average) or not cell.measured:
        return text
    if len(cell.measured) == 1:
        return f"[{text}]({link(cell.measured[0].directory)})"
    seeds = [f"[{run.seed}]({link(run.directory)})" for run in cell.measured]
    return f"{text} (seeds {' '.join(seeds)})"


def _escaped(text: str) -> str:
    """Return text that Markdown shows as it is, in one line and one cell."""
    plain = " ".join(text.split())
    for character in "\\|*_`[]":
        plain = plain.replace(character, "\\" + character)
    return plain.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _lines(rows: Sequence[Sequence[str]], *, padded: bool) -> str:
    widths = [max(len(row[i]) for row in rows) if padded else 0 for i in range(len(rows[0]))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
        for row in rows
    ]
    rule = "|" + "|".join("-" * (max(width, 3) + 2) for width in widths) + "|"
    return "\n".join([lines[0], rule, *lines[1:]]) + "\n"
