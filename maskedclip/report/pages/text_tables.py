"""Tables as Markdown, as LaTeX in the paper's layout, and as CSV with a line a cell."""

import csv
import io
from collections.abc import Callable, Sequence
from pathlib import Path

from maskedclip.data.csv_files import UnixLines
from maskedclip.metrics.results import DAGGER, in_columns
from maskedclip.report.pages.tables import (
    METRIC_NAMES,
    TABLED,
    Average,
    CellKey,
    Column,
    Comparisons,
    Line,
    Table,
    TableCell,
    tabled,
)

Link = Callable[[Path], str]  # a run's directory to its address
_MARKDOWN_MARKS = {"best": "**{}**", "second": "<u>{}</u>", "": "{}"}
_LATEX_MARKS = {"best": r"\textbf{%s}", "second": r"\underline{%s}", "": "%s"}
_SPECIAL = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", "\u2020": r"$^\dagger$",
}  # fmt: skip
_CSV_HEAD = (
    "protocol", "labels", "method", "row", "task", "dataset", "label", "metric", "mean", "sd",
    "low", "high", "images", "image_size", "images_seen", "seeds", "mark", "tasks", "best",
    "difference", "difference_low", "difference_high", "p", "note", "runs",
)  # fmt: skip


def markdown(
    table: Table, link: Link | None = None, *, intervals: bool = False, caption: str = ""
) -> str:
    """Return a table; without `link` no value leads to its run, and columns have one width.

    A dagger marks values of test images that were in pre-training.

    Args:
        link: a run's directory to the address that leads there.
        intervals: the 95 % interval stands under each value, without `link` behind it.
        caption: stands above.
    """
    if not table.blocks:
        return "No row.\n"

    def text_of(cell: TableCell | Average, mark: str) -> str:
        text = _value(cell, _MARKDOWN_MARKS[mark])
        if intervals and cell.interval:
            low, high = map(cell.shown, cell.interval)
            text += f"<br>{low} to {high}" if link else f" [{low}, {high}]"
        return _linked(text, cell, link)

    above = f"{_markdown_escaped(caption)}\n\n" if caption else ""
    rows = _rows(table, _markdown_escaped, text_of)
    notes = "".join(f"\n{DAGGER} {_markdown_escaped(line)}\n" for line in table.trained_on)
    notes += "".join(f"\n{_markdown_escaped(line)}\n" for line in table.footnotes)
    return above + _markdown_lines(rows, padded=link is None) + notes


def plain(table: Table, *, intervals: bool = False, caption: str = "") -> str:
    """Return a table for a terminal, without marks of Markdown.

    A value of one seed has its 95 % interval, as nothing else says how sure it is; that of several
    seeds has their deviation, and with `intervals` both.
    """
    if not table.blocks:
        return "No row.\n"

    def text_of(cell: TableCell | Average, mark: str) -> str:
        text = _value(cell, "{}" + ("*" if mark == "best" else ""))
        if cell.interval and (intervals or cell.deviation is None):
            text += f" [{', '.join(map(cell.shown, cell.interval))}]"
        return text

    rows = _rows(table, _plain, text_of)
    marked = any("*" in cell for row in rows[1:] for cell in row[2:])
    below = [f"{DAGGER} {line}" for line in table.trained_on] + list(table.footnotes)
    of = f", of values without {DAGGER}" if table.trained_on else ""
    below += [f"* the best of its column and block{of}"] if marked else []
    return (f"{caption}\n\n" if caption else "") + plain_table(rows, below)


def plain_table(rows: Sequence[Sequence[str]], below: Sequence[str] = ()) -> str:
    """Return rows of text, the first the heading, and lines below, for a terminal."""
    return in_columns(rows) + "".join(f"{line}\n" for line in below)


def _rows(
    table: Table,
    escaped: Callable[[str], str],
    text_of: Callable[[TableCell | Average, str], str],
) -> list[list[str]]:
    """Return the cells of a table, its heading first; text_of is given a value and its mark."""
    head = ["labels", "method", *(("bridge", "L_mfd") if table.checked else ())]
    average = table.average_name
    names = [escaped(group.name) if group else average for group in table.groups]
    head += [
        f"{name} {METRIC_NAMES[metric]}"
        for name, group in zip(names, table.groups, strict=True)
        for metric in tabled(group)
    ]
    rows = [head]
    for block in table.blocks:
        marks = block.marks(table.groups)
        for line in block.lines:
            row = [block.name, escaped(line.label or line.method)]
            row += ["\u2713" if check else "" for check in line.checks]
            row += [
                text_of(line.at(group, metric), marks[line.method, group, metric])
                for group in table.groups
                for metric in tabled(group)
            ]
            rows.append(row)
    return rows


def _value(cell: TableCell | Average, form: str) -> str:
    text = form.format(cell.shown(cell.mean)) + (DAGGER if cell.seen else "")
    if cell.deviation is not None:
        text += f" \u00b1 {cell.shown(cell.deviation)}"
    if isinstance(cell, Average) and cell.mean is not None and not cell.complete:
        text += f" ({cell.tasks} of {cell.of})"
    return text


def _linked(text: str, cell: TableCell | Average, link: Link | None) -> str:
    if link is None or isinstance(cell, Average) or not cell.scored:
        return text
    if len(cell.scored) == 1:
        return f"[{text}]({link(cell.scored[0].directory)})"
    seeds = [f"[{run.seed}]({link(run.directory)})" for run in cell.scored]
    return f"{text} (seeds {' '.join(seeds)})"


def _markdown_escaped(text: str) -> str:
    """Return text that Markdown shows as it is, in one line and one cell."""
    plain = " ".join(text.split())
    for character in "\\|*_`[]":
        plain = plain.replace(character, "\\" + character)
    return plain.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def markdown_table(rows: Sequence[Sequence[str]], below: Sequence[str] = ()) -> str:
    """Return rows of plain text, the first the heading, and lines below, as Markdown."""
    cells = [[_markdown_escaped(cell) for cell in row] for row in rows]
    notes = "".join(f"\n{_markdown_escaped(line)}\n" for line in below)
    return _markdown_lines(cells, padded=True) + notes


def _markdown_lines(rows: Sequence[Sequence[str]], *, padded: bool) -> str:
    widths = [max(len(row[i]) for row in rows) if padded else 0 for i in range(len(rows[0]))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
        for row in rows
    ]
    rule = "|" + "|".join("-" * (max(width, 3) + 2) for width in widths) + "|"
    return "\n".join([lines[0], rule, *lines[1:]]) + "\n"


def latex_escaped(text: str) -> str:
    """Return text that LaTeX prints as it is, in one line."""
    return "".join(_SPECIAL.get(character, character) for character in " ".join(text.split()))


def latex(table: Table, caption: str, label: str, link: Link, *, intervals: bool = False) -> str:
    """Return a table environment; comments below it name the runs behind each line.

    Args:
        link: a run's directory to its address in the comments.
        intervals: the 95 % intervals stand in a second line of each method.
    """
    if not table.blocks:
        return "% no row\n"
    groups = table.groups
    lead = ["Labels", "Method", *(("Bridge", r"$\mathcal{L}_{mfd}$") if table.checked else ())]
    width = len(lead) + len(TABLED) * len(groups)
    names = [latex_escaped(group.name) if group else table.average_name for group in groups]
    top = [*lead, *(rf"\multicolumn{{{len(TABLED)}}}{{c}}{{{name}}}" for name in names)]
    second = ["" for _ in lead] + [
        latex_escaped(METRIC_NAMES[metric]) for group in groups for metric in tabled(group)
    ]
    rules = [
        rf"\cmidrule(lr){{{start}-{start + len(TABLED) - 1}}}"
        for start in range(len(lead) + 1, width + 1, len(TABLED))
    ]
    body: list[str] = []
    for block in table.blocks:
        body.append(r"\midrule")
        marks = block.marks(groups)
        for number, line in enumerate(block.lines):
            opening = latex_escaped(block.name) if number == 0 else ""
            own = [
                marks[line.method, group, metric] for group in groups for metric in tabled(group)
            ]
            body += _latex_rows(line, opening, groups, own, intervals)
    return "\n".join(
        [
            r"% needs \usepackage{booktabs,graphicx,amssymb}",
            r"\begin{table}[t]", r"\centering",
            rf"\caption{{{latex_escaped(caption)}}}", rf"\label{{{label}}}",
            r"\setlength{\tabcolsep}{3pt}",
            r"\resizebox{\textwidth}{!}{%", rf"\begin{{tabular}}{{{'l' * 2}{'c' * (width - 2)}}}",
            r"\toprule", _latex_row(top), "".join(rules), _latex_row(second), *body, r"\bottomrule",
            r"\end{tabular}}", *_below(table), r"\end{table}", *_sources(table, link), "",
        ]
    )  # fmt: skip


def _below(table: Table) -> list[str]:
    trained = [rf"\par\footnotesize $^\dagger${latex_escaped(line)}" for line in table.trained_on]
    return trained + [rf"\par\footnotesize {latex_escaped(line)}" for line in table.footnotes]


def _latex_rows(
    line: Line,
    opening: str,
    groups: Sequence[Column | None],
    marks: list[str],
    intervals: bool,
) -> list[str]:
    cells = [line.at(group, metric) for group in groups for metric in tabled(group)]
    lead = [opening, latex_escaped(line.label or line.method)]
    lead += [r"\checkmark" if check else "" for check in line.checks]
    values = [_latex_value(cell, mark) for cell, mark in zip(cells, marks, strict=True)]
    rows = [_latex_row([*lead, *values])]
    if intervals:
        ends = [
            rf"{{\tiny {cell.shown(cell.interval[0])}--{cell.shown(cell.interval[1])}}}"
            if cell.interval
            else ""
            for cell in cells
        ]
        rows.append(_latex_row(["" for _ in lead] + ends))
    return rows


def _latex_value(cell: TableCell | Average, mark: str) -> str:
    if cell.mean is None:
        return "--"
    text = _LATEX_MARKS[mark] % cell.shown(cell.mean) + (r"$^\dagger$" if cell.seen else "")
    if cell.deviation is not None:
        text += rf"{{\tiny$\pm${cell.shown(cell.deviation)}}}"
    if isinstance(cell, Average) and not cell.complete:
        text += rf"{{\tiny\ ({cell.tasks} of {cell.of})}}"
    return text


def _latex_row(cells: list[str]) -> str:
    return " & ".join(cells) + r" \\"


def _sources(table: Table, link: Link) -> list[str]:
    """Return a comment a line of the table: where its numbers come from."""
    lines = []
    for block in table.blocks:
        for line in block.lines:
            runs = {run.directory for cell in line.cells.values() for run in cell.runs}
            where = ", ".join(_plain(link(directory)) for directory in sorted(runs))
            lines.append(f"% {_plain(block.name)}, {_plain(line.method)}: {where}")
    return lines


def _plain(text: str) -> str:
    return " ".join(str(text).split())


def csv_table(table: Table, link: Link) -> str:
    """Return CSV with values of 0 to 1; a cell without a run has a line, and no value."""
    file = io.StringIO()
    writer = csv.DictWriter(UnixLines(file), _CSV_HEAD, restval="")
    writer.writeheader()
    for block in table.blocks:
        marks = block.marks(table.groups)
        for line in block.lines:
            for group in table.groups:
                for metric in tabled(group):
                    row = {
                        "protocol": table.protocol, "labels": block.budget, "method": line.method,
                        "row": line.label, "metric": metric,
                        "mark": marks[line.method, group, metric],
                        **_csv_values(line.at(group, metric)),
                    }  # fmt: skip
                    row |= _csv_source(line, group, metric, link)
                    row |= _compared(table.comparisons, (block.budget, group, metric, line.method))
                    writer.writerow(_safe(row))
    return file.getvalue()


def _csv_source(line: Line, column: Column | None, metric: str, link: Link) -> dict[str, object]:
    if column is None:
        average = line.averages[metric]
        return {"task": "average", "tasks": f"{average.tasks} of {average.of}"}
    cell = line.cells[column, metric]
    return {
        "task": column.name, "dataset": column.dataset, "label": column.task,
        "images": " ".join(sorted({str(run.n) for run in cell.scored})),
        "image_size": " ".join(
            sorted({str(run.image_size) for run in cell.scored if run.image_size})
        ),
        "images_seen": "; ".join(
            sorted({run.images_seen for run in cell.scored if run.images_seen})
        ),
        "seeds": " ".join(str(run.seed) for run in cell.scored),
        "note": "; ".join(cell.notes) if cell.runs else "no run",
        "runs": " ".join(link(run.directory) for run in cell.runs),
    }  # fmt: skip


def _compared(comparisons: Comparisons, key: CellKey) -> dict[str, object]:
    comparison = comparisons.get(key)
    if comparison is None:
        return {}
    return {
        "best": comparison.best, "difference": comparison.difference,
        "difference_low": comparison.low, "difference_high": comparison.high, "p": comparison.p,
    }  # fmt: skip


def _csv_values(cell: TableCell | Average) -> dict[str, object]:
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
