"""Tables as LaTeX in the paper's layout, for booktabs, graphicx and amssymb."""

from collections.abc import Callable, Sequence
from pathlib import Path

from maskedclip.report.pages.cells import Average, Cell, Column, shown
from maskedclip.report.pages.measurements import NAMES as METRICS
from maskedclip.report.pages.measurements import TABLED
from maskedclip.report.pages.tables import Line, Table, column_marks

_SPECIAL = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}",
}  # fmt: skip
_MARKS = {"best": r"\textbf{%s}", "second": r"\underline{%s}", "": "%s"}


def escaped(text: str) -> str:
    """Return text that LaTeX prints as it is, in one line."""
    return "".join(_SPECIAL.get(character, character) for character in " ".join(text.split()))


def latex(
    table: Table, title: tuple[str, str], link: Callable[[Path], str], *, intervals: bool = False
) -> str:
    """Return a table environment; comments below it name the runs behind each line.

    Args:
        title: caption and label.
        link: a run's directory to what the comments call it.
        intervals: the 95 % intervals stand in a second line of each method.
    """
    if not table.blocks:
        return "% no row\n"
    groups = table.groups
    lead = ["Labels", "Method", *(("Bridge", r"$\mathcal{L}_{mfd}$") if table.checked else ())]
    width = len(lead) + len(TABLED) * len(groups)
    names = [escaped(group.name) if group else "Average" for group in groups]
    top = [*lead, *(rf"\multicolumn{{{len(TABLED)}}}{{c}}{{{name}}}" for name in names)]
    second = ["" for _ in lead] + [METRICS[metric] for _ in groups for metric in TABLED]
    rules = [
        rf"\cmidrule(lr){{{start}-{start + len(TABLED) - 1}}}"
        for start in range(len(lead) + 1, width + 1, len(TABLED))
    ]
    body: list[str] = []
    for block in table.blocks:
        body.append(r"\midrule")
        marks = column_marks(block, groups)
        for number, line in enumerate(block.lines):
            opening = escaped(block.name) if number == 0 else ""
            mine = [marks[line.method, group, metric] for group in groups for metric in TABLED]
            body += _rows(line, opening, groups, mine, intervals)
    return "\n".join(
        [
            r"% needs \usepackage{booktabs,graphicx,amssymb}",
            r"\begin{table}[t]", r"\centering",
            rf"\caption{{{escaped(title[0])}}}", rf"\label{{{title[1]}}}",
            r"\setlength{\tabcolsep}{3pt}",
            r"\resizebox{\textwidth}{!}{%", rf"\begin{{tabular}}{{{'l' * 2}{'c' * (width - 2)}}}",
            r"\toprule", _row(top), "".join(rules), _row(second), *body, r"\bottomrule",
            r"\end{tabular}}", *_trained_on(table), r"\end{table}", *_sources(table, link), "",
        ]
    )  # fmt: skip


def _trained_on(table: Table) -> list[str]:
    return [rf"\par\footnotesize $^\dagger${escaped(line)}" for line in table.trained_on]


def _rows(
    line: Line,
    opening: str,
    groups: Sequence[Column | None],
    marks: list[str],
    intervals: bool,
) -> list[str]:
    found: list[Cell | Average] = [line.at(group, metric) for group in groups for metric in TABLED]
    lead = [opening, escaped(line.label or line.method)]
    lead += [r"\checkmark" if check else "" for check in line.checks]
    values = [_value(cell, mark) for cell, mark in zip(found, marks, strict=True)]
    rows = [_row([*lead, *values])]
    if intervals:
        ends = [cell.interval for cell in found]
        written = [rf"{{\tiny {shown(e[0])}--{shown(e[1])}}}" if e else "" for e in ends]
        rows.append(_row(["" for _ in lead] + written))
    return rows


def _value(cell: Cell | Average, mark: str) -> str:
    if cell.mean is None:
        return "--"
    text = _MARKS[mark] % shown(cell.mean) + (r"$^\dagger$" if cell.seen else "")
    if cell.deviation is not None:
        text += rf"{{\tiny$\pm${shown(cell.deviation)}}}"
    if isinstance(cell, Average) and not cell.complete:
        text += rf"{{\tiny\ ({cell.tasks} of {cell.of})}}"
    return text


def _row(cells: list[str]) -> str:
    return " & ".join(cells) + r" \\"


def _sources(table: Table, link: Callable[[Path], str]) -> list[str]:
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
