"""Tables as CSV: a line a cell, with everything that is known of it."""

import csv
import io
from collections.abc import Callable
from pathlib import Path

from maskedclip.report.pages.cells import Average, Cell, Column, Comparisons, Place
from maskedclip.report.pages.measurements import TABLED
from maskedclip.report.pages.tables import Line, Table, column_marks

HEAD = (
    "labels", "method", "row", "task", "dataset", "label", "metric", "mean", "sd", "low", "high",
    "images", "seeds", "mark", "tasks", "best", "difference", "difference_low", "difference_high",
    "p", "note", "runs",
)  # fmt: skip


def sheet(table: Table, link: Callable[[Path], str]) -> str:
    """Return CSV with values of 0 to 1; a cell without a run has a line, and no value."""
    file = io.StringIO()
    writer = csv.DictWriter(file, HEAD, lineterminator="\n", restval="")
    writer.writeheader()
    for block in table.blocks:
        marks = column_marks(block, table.groups)
        for line in block.lines:
            for group in table.groups:
                for metric in TABLED:
                    row = {
                        "labels": block.budget, "method": line.method, "row": line.label,
                        "metric": metric, "mark": marks[line.method, group, metric],
                        **_values(line.at(group, metric)),
                    }  # fmt: skip
                    row |= _where(line, group, metric, link)
                    row |= _compared(table.comparisons, (block.budget, group, metric, line.method))
                    writer.writerow(_safe(row))
    return file.getvalue()


def _where(
    line: Line, column: Column | None, metric: str, link: Callable[[Path], str]
) -> dict[str, object]:
    if column is None:
        average = line.averages[metric]
        return {"task": "average", "tasks": f"{average.tasks} of {average.of}"}
    cell = line.cells[column, metric]
    return {
        "task": column.name, "dataset": column.dataset, "label": column.task,
        "images": " ".join(sorted({str(run.n) for run in cell.measured})),
        "seeds": " ".join(str(run.seed) for run in cell.measured),
        "note": "; ".join(cell.notes) if cell.runs else "no run",
        "runs": " ".join(link(run.directory) for run in cell.runs),
    }  # fmt: skip


def _compared(comparisons: Comparisons, place: Place) -> dict[str, object]:
    found = comparisons.get(place)
    if found is None:
        return {}
    return {
        "best": found.best, "difference": found.difference, "difference_low": found.low,
        "difference_high": found.high, "p": found.p,
    }  # fmt: skip


def _values(cell: Cell | Average) -> dict[str, object]:
    low, high = cell.interval or ("", "")
    mean = "" if cell.mean is None else cell.mean
    deviation = "" if cell.deviation is None else cell.deviation
    return {"mean": mean, "sd": deviation, "low": low, "high": high}


def _safe(row: dict[str, object]) -> dict[str, object]:
    """Return the row with no text that a spreadsheet would take for a formula."""
    return {
        name: f"'{value}" if isinstance(value, str) and value[:1] in tuple("=+-@\t\r") else value
        for name, value in row.items()
    }
