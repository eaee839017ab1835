"""Tables 1 and 2, Figure 2 and a page a result of finished runs; the curves of any runs."""

import os
import socket
from collections.abc import Callable, Sequence
from dataclasses import replace
from html import escape
from pathlib import Path
from shlex import quote as quote_word
from typing import NamedTuple
from urllib.parse import quote

from maskedclip.config import Config
from maskedclip.config import load as load_config
from maskedclip.data.paper_tasks import PAPER
from maskedclip.engine.whole_file import refuse_unwritable, write_whole
from maskedclip.metrics.results import DAGGER, in_columns, written
from maskedclip.pretrain.reference import reference_of
from maskedclip.report.ablation import ablation
from maskedclip.report.collect import Collected, collect, run_directories
from maskedclip.report.command import ReportConfig
from maskedclip.report.compare_methods import compare_table
from maskedclip.report.operating_table import HEAD, OperatingTable, operating_table
from maskedclip.report.pages.charts import RenderedFigure, label_efficiency
from maskedclip.report.pages.curve_page import PAGE as CURVES
from maskedclip.report.pages.curve_page import curve_page, described
from maskedclip.report.pages.html import render
from maskedclip.report.pages.run_page import WrittenPages, address, page_name, write_pages
from maskedclip.report.pages.tables import (
    METRIC_NAMES,
    Column,
    Table,
    below,
    columns_of,
    table,
    tabled_of,
    trained_lines,
)
from maskedclip.report.pages.text_tables import csv_table, latex, markdown, plain
from maskedclip.report.per_label import label_csv, label_tables
from maskedclip.report.report_board import show_report
from maskedclip.report.result import Result, budget_text
from maskedclip.report.run_curves import PRETRAINING, RunCurves, curves_of, reference_points

_PROTOCOLS = {
    "finetune": "fine-tuning",
    "linear": "a linear probe",
    "attentive": "an attentive probe on frozen patch tokens",
    "logistic": "logistic regression on frozen features",
    "knn": "the nearest neighbours in frozen features",
    "zeroshot": "class descriptions alone (zero-shot)",
    "transfer": "fine-tuning on one dataset, tested on another",
    "transfer-whole": "fine-tuning on one dataset, tested on all images of another",
}
INDEX, PAGES = "index.html", "runs"
_METHODS = "Methods on downstream tasks, by the share of labels."  # Table 1
_ABLATION = "Ablation: the bridge transformer and masked feature distillation."
APART = "Trained on one dataset, tested on another"  # a heading: not among the others' columns


class Report(NamedTuple):
    """What was written, and a line for each fault."""

    page: Path
    text: str  # Table 1 for a terminal
    problems: list[str]
    other_protocols: list[str]
    curves: Path | None = None  # the page of the curves


class Addresses(NamedTuple):
    """Where a result's run directory, predictions and page are, relative to index.html."""

    run: Callable[[Result], str]
    predictions: Callable[[Result], str]
    page: Callable[[Result], str]


def report(runs: Sequence[Path], config: ReportConfig, absent: Sequence[str] = ()) -> Report:
    """Write the report on `runs` into config.out.

    Damaged files are named and left out. Runs that have no results yet have the page of their
    curves alone. Raises ValueError where there is nothing to report.

    Args:
        absent: a line for each run that should be there and is not; they stand among the problems.
    """
    refuse_unwritable("out", Path(config.out))
    out, curves = Path(config.out), curves_of(runs)
    if curves and not config.protocol and not any(run_directories(runs)):
        drawn = _write_curves(out, curves, config, back="")
        return Report(drawn, described(curves), list(absent), [], drawn)
    collected = collect(runs, config.protocol)
    (out / PAGES).mkdir(parents=True, exist_ok=True)
    pages = write_pages(collected.results, out / PAGES, config.pictures)
    readable, faults, by_label = pages.results, pages.problems, pages.labels
    paper = [Column(card.name, card.shards, card.task) for card in PAPER]
    whole = [one for one in collected.results if not one.group_of]  # no task counts twice
    first = table(whole, columns_of(whole, paper))
    if config.compare:
        comparisons, more = compare_table(first, readable)
        first, faults = replace(first, comparisons=comparisons), faults + more
    points = operating_table(
        [one for one in collected.results if one in readable], config.group, config.at_sensitivity
    )
    second, remarks = ablation(first)
    figure = label_efficiency(first)
    _write_tables(out, first, second, remarks, config)
    if by_label:
        text = label_csv(by_label, lambda directory: address(directory, out))
        (out / "labels.csv").write_text(text, encoding="utf-8")
    if points.lines:
        for kind, text in (("md", points.markdown()), ("tex", points.latex())):
            (out / f"operating_points.{kind}").write_text(text, encoding="utf-8")
    if figure:
        (out / "figure2.png").write_bytes(figure.png)
        (out / "figure2.svg").write_bytes(figure.svg)
    problems = [*absent, *collected.problems, *faults]
    addresses = Addresses(
        run=lambda run: address(run.directory, out) + "/",
        predictions=lambda run: address(run.directory / run.predictions, out),
        page=lambda run: f"{PAGES}/{quote(page_name(run))}" if run in readable else "",
    )
    written = _write_curves(out, curves, config, back=INDEX) if curves else None
    page = _index(
        collected, first, second, remarks, figure, problems, addresses, pages, points,
        CURVES if written else "",
    )  # fmt: skip
    (out / INDEX).write_text(page, encoding="utf-8")
    marked = _marked_caption(first, _METHODS)
    show_report(out, figure, markdown(first, intervals=config.intervals, caption=marked))
    text = plain(first, intervals=config.intervals, caption=_caption(first, _METHODS))
    text += f"\n{points.plain()}" if points.lines else ""
    text += "".join(f"\n{line}\n" for line in points.remarks if not points.lines)
    text += "".join(f"\n{line}\n" for line in pages.of_one_class)
    text += transfer_lines(collected.transfers)
    return Report(out / INDEX, text, problems, list(collected.other_protocols), written)


def _write_curves(
    out: Path, curves: Sequence[RunCurves], config: ReportConfig, *, back: str
) -> Path:
    title = f"Curves of {curves[0].name if len(curves) == 1 else f'{len(curves)} runs'}"
    path = Path(config.reference) if config.reference else _usual_reference(curves)
    reference = reference_points(path) if path else {}
    text = curve_page(
        curves, title, pictures=config.pictures > 0, back=back, reference=reference
    )  # fmt: skip
    out.mkdir(parents=True, exist_ok=True)
    write_whole(out / CURVES, text)
    return out / CURVES


def _usual_reference(curves: Sequence[RunCurves]) -> Path | None:
    """Return the measured curve of the recipe that all pre-trainings follow, if there is one."""
    found = set()
    for run in curves:
        if run.kind != PRETRAINING:
            continue
        try:
            found.add(reference_of(load_config(run.directory / "config.json", Config)))
        except (ValueError, OSError):
            return None  # of another version, or none: its recipe is not known
    return found.pop() if len(found) == 1 else None


def how_to_open(page: Path) -> str:
    """Return a line on how to look at a page, which may lie on a machine without a browser."""
    address = f"open it in a browser: {page.resolve().as_uri()}"
    if not any(os.environ.get(name) for name in ("SSH_CONNECTION", "SLURM_JOB_ID")):
        return address
    there = quote_word(f"{socket.gethostname()}:{page.resolve().parent}")
    return f"{address}\nor on your own machine: scp -r {there} . and open its {page.name}"


def report_of_nothing(config: ReportConfig, absent: Sequence[str]) -> Report:
    """Write a page that says what is missing, where no run of a study has results yet."""
    out = Path(config.out)
    out.mkdir(parents=True, exist_ok=True)
    lines = "".join(f"<li>{escape(line)}</li>\n" for line in absent)
    head = '<head><meta charset="utf-8"><title>No results yet</title></head>'
    page = (
        f'<html lang="en">{head}<body>\n<h1>No results yet</h1>\n<ul>\n{lines}</ul>\n</body></html>'
    )
    (out / INDEX).write_text(f"<!doctype html>\n{page}\n", encoding="utf-8")
    return Report(out / INDEX, "no results yet", list(absent), [])


def transfer_lines(results: Sequence[Result]) -> str:
    """Return as text the networks that were tested on another dataset than they learnt."""
    if not results:
        return ""
    metrics = [name for name in METRIC_NAMES if any(name in tabled_of(one) for one in results)]
    names = [METRIC_NAMES[name] for name in metrics]
    lines = [("method", "tested on", "protocol", "labels", "seed", *names, "n")]
    for one in results:
        scores = (_with_dagger(one, name) if name in one.scores else "-" for name in metrics)
        facts = (one.method, one.dataset, one.protocol, budget_text(one.budget), str(one.seed))
        lines.append((*facts, *scores, str(one.n)))
    return f"\n{APART}:\n{in_columns(lines)}" + "".join(f"{x}\n" for x in _transfer_notes(results))


def _with_dagger(result: Result, metric: str) -> str:
    value = result.scores[metric].value
    return written(metric, value) + DAGGER * bool(result.seen and value is not None)


def _transfer_notes(results: Sequence[Result]) -> list[str]:
    """Return what is known of their test images in pre-training, as under Table 1."""
    runs = [(one.method, f"{one.dataset} {one.task}", one) for one in results]
    return [*(f"{DAGGER} {line}" for line in trained_lines(runs)), *below(runs)]


def _write_tables(
    out: Path, first: Table, second: Table, remarks: Sequence[str], config: ReportConfig
) -> None:
    def link(directory: Path) -> str:
        return address(directory, out)

    tables: list[tuple[str, Table, str, Sequence[str]]] = [
        ("table1", first, _METHODS, []),
        ("table2", second, _ABLATION, remarks),
    ]
    for name, content, title, lines in tables:
        caption = _marked_caption(content, title)
        files = {
            "md": markdown(content, link, intervals=config.intervals, caption=caption)
            + "".join(f"\n{line}\n" for line in lines),
            "tex": latex(content, caption, f"tab:{name}", link, intervals=config.intervals)
            + "".join(f"% {line}\n" for line in lines),
            "csv": csv_table(content, link),
        }
        for kind, text in files.items():
            (out / f"{name}.{kind}").write_text(text, encoding="utf-8")


def _caption(content: Table, title: str) -> str:
    words = _PROTOCOLS.get(content.protocol, "")
    protocol = f"{content.protocol} ({words})" if words else content.protocol
    return f"{title} Protocol: {protocol}."


def _marked_caption(content: Table, title: str) -> str:
    without = f", of values without a {DAGGER}" if content.trained_on else ""
    return f"{_caption(content, title)} Best bold, second underlined{without}."


def _index(
    collected: Collected,
    first: Table,
    second: Table,
    remarks: Sequence[str],
    figure: RenderedFigure | None,
    problems: Sequence[str],
    addresses: Addresses,
    pages: WrittenPages,
    points: OperatingTable,
    curves: str,
) -> str:
    results, missing = collected.results, first.missing
    cells = sum(len(block.lines) * len(block.measured(first.columns)) for block in first.blocks)
    counts = (
        (len({run.method for run in results}), "method"),
        (len(first.columns), "task"),
        (len({run.directory for run in results}), "run"),
    )
    summary = ", ".join(f"{n} {name}{'' if n == 1 else 's'}" for n, name in counts)
    missing_by_line: dict[tuple[str, str], list[str]] = {}
    for labels, method, task in missing:
        missing_by_line.setdefault((labels, method), []).append(task)
    return render(
        "index",
        title=f"Results by {_PROTOCOLS.get(collected.protocol, collected.protocol)}",
        summary=f"{summary}, {cells - len(missing)} of {cells} cells measured.",
        problems=problems, table_1=first, table_2=second, remarks=remarks, figure=figure,
        missing=missing, missing_by_line=missing_by_line,
        transfers=collected.transfers, apart=APART,
        transfer_notes=_transfer_notes(collected.transfers),
        other_protocols=collected.other_protocols, listed=results, addresses=addresses,
        label_tables=label_tables(pages.labels),
        older=sum(not run.predictions for run in results),
        metrics=[name for name in METRIC_NAMES if any(name in run.scores for run in results)],
        points=points, points_head=HEAD, curves=curves,
        of_one_class=pages.of_one_class,
        is_ablation=len({line.checks for block in second.blocks for line in block.lines}) > 1,
        transfer_metrics=[
            name for name in METRIC_NAMES if any(name in run.scores for run in collected.transfers)
        ],
    )  # fmt: skip
