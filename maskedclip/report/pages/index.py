"""index.html: the tables with a link behind every number, the figure, and what is missing."""

import base64
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from maskedclip.report.pages.cells import Average, Cell, Column, Comparison, shown
from maskedclip.report.pages.html import escaped, items, link, page, rows
from maskedclip.report.pages.label_efficiency import Drawn
from maskedclip.report.pages.measurements import NAMES, TABLED, Measurement
from maskedclip.report.pages.tables import Line, Table, column_marks


class Addresses(NamedTuple):
    """Where a measurement's run directory, predictions and page are, seen from index.html."""

    run: Callable[[Measurement], str]
    predictions: Callable[[Measurement], str]
    page: Callable[[Measurement], str]


class Content(NamedTuple):
    """All that the page shows."""

    title: str
    table_1: Table
    table_2: Table
    about_table_2: Sequence[str]  # what is missing in it, or not the same
    figure: Drawn | None
    measured: Sequence[Measurement]
    problems: Sequence[str]
    other_protocols: Mapping[str, int]


_LEVEL = 0.05  # p-values from here on are shown as no difference
_READING = (
    "Values are per cent: ROC is the macro one-vs-rest area under the ROC curve, PRC the average "
    "precision. With several seeds: their mean and standard deviation.",
    "The best of a column is bold and the second underlined, within the same number of labels; "
    "values that are written alike are marked alike. A single value is not marked.",
    "The 95 % interval is a bootstrap over the patients of the test split (images where no patient "
    "is known); of several seeds, the mean of their intervals. That of an average takes the tasks' "
    "test images as independent.",
    "p is of a paired bootstrap by patient, of the mean over seeds against the best of the column "
    "on the same test images, adjusted for the number of methods compared (Holm). It is dark where "
    "the two cannot be told apart (p of 0.05 or more).",
    "An average over fewer tasks than all says over how many, and is not compared.",
    "A dagger marks values of weights that were trained on images of that dataset, as far as their "
    "makers say: its test images may be among them.",
)


def index(content: Content, addresses: Addresses) -> str:
    """Return the page; it needs nothing beside it but the directories that it links to."""
    table = content.table_1
    missing = table.missing
    cells = sum(len(block.lines) for block in table.blocks) * len(table.columns)
    runs = {run.directory for run in content.measured}
    counts = (
        (len({run.method for run in content.measured}), "method"),
        (len(table.columns), "task"),
        (len(runs), "run"),
    )
    words = ", ".join(f"{n} {name}{'' if n == 1 else 's'}" for n, name in counts)
    summary = f"{words}, {cells - len(missing)} of {cells} cells measured."
    body = [f"<h1>{escaped(content.title)}</h1>", f'<p class="soft">{summary}</p>']
    if content.problems:
        lines = items(escaped(line) for line in content.problems)
        body.append(f'<div class="problem"><b>Left out, or not as it should be</b>{lines}</div>')
    body += ["<h2>Table 1: methods and tasks</h2>", _switches(), _results(table, addresses)]
    body.append(_how())
    body += ["<h2>Table 2: ablation</h2>"]
    if content.table_2.blocks:
        body.append(_results(content.table_2, addresses))
    body += [f"<p>{escaped(line)}</p>" for line in content.about_table_2]
    body += ["<h2>Figure 2: label efficiency</h2>", _figure(content.figure)]
    body.append(_missing(missing, _fewer(table), content.other_protocols))
    body.append(_measured(content.measured, addresses))
    return page(content.title, body)


def _switches() -> str:
    kinds = [("interval", "95 % intervals"), ("p", "p against the best"), ("seeds", "seeds")]
    boxes = "".join(
        f'<input type="checkbox" class="switch" id="show-{kind}" checked>'
        f'<label class="switch" for="show-{kind}"> {name} </label>'
        for kind, name in kinds
    )
    return boxes  # beside the tables that they act on: there is no script


def _results(table: Table, addresses: Addresses) -> str:
    lead = ["Labels", "Method", *(("Bridge", "L_mfd") if table.checked else ())]
    top = "".join(f'<th class="name" rowspan="2">{escaped(name)}</th>' for name in lead)
    for group in table.groups:
        name = group.name if group else "Average"
        top += f'<th class="group" colspan="{len(TABLED)}">{escaped(name)}</th>'
    second = "".join(f"<th>{NAMES[metric]}</th>" for _ in table.groups for metric in TABLED)
    body = ""
    for block in table.blocks:
        marks = column_marks(block, table.groups)
        body += '<tbody class="block">'
        for number, line in enumerate(block.lines):
            body += f'<tr><td class="name">{escaped(block.name) if number == 0 else ""}</td>'
            body += f'<td class="name">{escaped(line.label or line.method)}</td>'
            body += "".join(f"<td>{chr(10003) if check else ''}</td>" for check in line.checks)
            for group in table.groups:
                for metric in TABLED:
                    mark = marks[line.method, group, metric]
                    found = table.comparisons.get((block.budget, group, metric, line.method))
                    body += _cell(line, (group, metric), mark, found, addresses)
            body += "</tr>"
        body += "</tbody>"
    return (
        f'<div class="wide"><table class="results"><thead><tr>{top}</tr><tr>{second}</tr></thead>'
        f"{body}</table></div>"
        + "".join(f'<p class="soft">&dagger; {escaped(line)}</p>' for line in table.trained_on)
    )


def _cell(
    line: Line,
    place: tuple[Column | None, str],
    mark: str,
    found: Comparison | None,
    addresses: Addresses,
) -> str:
    cell = line.at(*place)
    kind = "average" if isinstance(cell, Average) else ""
    if cell.mean is None:
        why = "; ".join(cell.notes) if isinstance(cell, Cell) and cell.runs else "no run"
        return f'<td class="{kind}" title="{escaped(why)}">-</td>'
    said = "; ".join(cell.notes) if isinstance(cell, Cell) else ""
    text = shown(cell.mean)
    if isinstance(cell, Cell) and len(cell.measured) == 1:
        text = link(addresses.run(cell.measured[0]), text, said or _where(cell.measured[0]))
    dagger = "&dagger;" if cell.seen else ""
    text = f'<span class="{mark}">{text}</span>{dagger}'
    small = [("", f"\u00b1 {shown(cell.deviation)}" if cell.deviation is not None else "")]
    if cell.interval:
        small.append(("interval", f"{shown(cell.interval[0])}&ndash;{shown(cell.interval[1])}"))
    if isinstance(cell, Average) and not cell.complete:
        small.append(("", f"{cell.tasks} of {cell.of} tasks"))
    if found and found.p is not None:
        alike = " alike" if found.p >= _LEVEL else ""
        said = f"{100 * found.difference:+.1f} against {found.best}"
        if found.low is not None and found.high is not None:
            said += f", 95 % interval {100 * found.low:+.1f} to {100 * found.high:+.1f}"
        small.append((f"p{alike}", f'<span title="{escaped(said)}">p {found.p:.2g}</span>'))
    if isinstance(cell, Cell) and len(cell.measured) > 1:
        seeds = " ".join(link(addresses.run(run), run.seed, _where(run)) for run in cell.measured)
        small.append(("seeds", f"seeds {seeds}"))
    rest = "".join(f'<small class="{name}">{words}</small>' for name, words in small if words)
    return f'<td class="{kind}">{text}{rest}</td>'


def _where(run: Measurement) -> str:
    return f"{run.title}: {run.directory.name}"


def _how() -> str:
    return f"<details><summary>How to read it</summary>{items(map(escaped, _READING))}</details>"


def _figure(figure: Drawn | None) -> str:
    if figure is None:
        return "<p>No task was measured with a share of the labels; see --protocol.</p>"
    inside = base64.b64encode(figure.svg).decode()
    return (
        f'<img class="figure" width="{figure.width}" alt="{escaped(figure.words)}" '
        f'src="data:image/svg+xml;base64,{inside}"><p class="soft">{escaped(figure.words)}</p>'
    )


def _missing(
    missing: Sequence[tuple[str, str, str]], fewer: str, other_protocols: Mapping[str, int]
) -> str:
    parts = [f"<h2>Missing cells: {len(missing)}</h2>"]
    by_line: dict[tuple[str, str], list[str]] = {}
    for labels, method, task in missing:
        by_line.setdefault((labels, method), []).append(task)
    if by_line:
        lines = (
            [escaped(method), escaped(labels), escaped(", ".join(tasks))]
            for (labels, method), tasks in by_line.items()
        )
        parts.append(rows(("method", "labels", "tasks without a run"), lines))
    if fewer:
        parts.append(f"<p>{escaped(fewer)}</p>")
    if other_protocols:
        words = ", ".join(f"{name} ({count})" for name, count in other_protocols.items())
        parts.append(
            f'<p class="soft">Also measured, and shown with --protocol: {escaped(words)}.</p>'
        )
    return "".join(parts)


def _fewer(table: Table) -> str:
    """Return how many cells have fewer seeds than the most that a cell has."""
    counts = [
        len(line.cells[column, TABLED[0]].runs)
        for block in table.blocks
        for line in block.lines
        for column in table.columns
    ]
    short = sum(0 < count < max(counts) for count in counts)
    return f"{short} cells are of fewer seeds than the {max(counts)} of others." if short else ""


def _measured(measured: Sequence[Measurement], addresses: Addresses) -> str:
    head = ("measurement", "labels", "seed", "images", *NAMES.values(), "run", "predictions")
    lines = []
    for run in measured:
        name = f"{run.method}, {run.dataset}, {run.task}"
        target = addresses.page(run)
        line = [link(target, name) if target else escaped(name)]
        line += [f"{100 * run.fraction:g} %", str(run.seed), str(run.n)]
        for metric in NAMES:
            score = run.scores.get(metric)
            text = shown(score.value if score else None)
            line.append(link(addresses.run(run), text, score.note) if score else text)
        line.append(link(addresses.run(run), run.directory.name))
        line.append(link(addresses.predictions(run), "CSV") if run.predictions else "-")
        lines.append(line)
    older = sum(not run.predictions for run in measured)
    note = f" {older} of an older format name no predictions, and have no page." if older else ""
    return (
        f"<h2>All measurements</h2><p>Each leads to its page: curves, confusion matrix, "
        f'calibration, and the worst errors.{note}</p><div class="wide">{rows(head, lines)}</div>'
    )
