"""Table 1, Table 2 and Figure 2 of finished runs, and a page for each of them.

python -m maskedclip.report RUNS... --out DIR [--protocol finetune]

RUNS are run directories, or folders that hold some. DIR gets table1 and table2 as .md, .tex and
.csv, figure2.png and .svg, index.html with all of it and a link behind every number, and runs/
with a page a run.
"""

if __name__ == "__main__":  # before torch is imported: --help and mistakes answer at once
    from maskedclip.command import one_line_errors
    from maskedclip.report_command import read_report

    RUNS, OPTIONS = read_report(__doc__)

import logging
import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from maskedclip.config import flat
from maskedclip.data.tasks import PAPER
from maskedclip.pages.ablation import Ablated, ablated, absent, differences, table_2
from maskedclip.pages.cells import Column
from maskedclip.pages.index import Addresses, Content, index
from maskedclip.pages.label_efficiency import draw
from maskedclip.pages.latex import latex
from maskedclip.pages.markdown import markdown
from maskedclip.pages.measurements import TABLED, Measurement
from maskedclip.pages.sheet import sheet
from maskedclip.pages.tables import Table, columns_of, table
from maskedclip.report_command import ReportConfig
from maskedclip.report_comparisons import compare
from maskedclip.report_pages import address, page_name, write_pages
from maskedclip.report_runs import find, pretraining

_WORDS = {
    "finetune": "fine-tuning",
    "linear": "a linear probe",
    "logistic": "logistic regression on frozen features",
    "knn": "the nearest neighbours in frozen features",
    "zeroshot": "class descriptions alone (zero-shot)",
}
INDEX, PAGES = "index.html", "runs"


class Report(NamedTuple):
    """What was written, and a line for each thing that is not as it should be."""

    page: Path
    text: str  # Table 1 for a terminal
    problems: list[str]
    other_protocols: list[str]


class Ablation(NamedTuple):
    """Table 2, and what is missing in it or not the same."""

    table: Table
    about: list[str]


def report(runs: Sequence[Path], config: ReportConfig, absent: Sequence[str] = ()) -> Report:
    """Write the report on `runs` into config.out.

    Damaged files are named and left out. Raises ValueError where there is nothing to report.

    Args:
        absent: a line for each run that should be there and is not; they stand among the problems.
    """
    found = find(runs, config.protocol)
    out = Path(config.out)
    (out / PAGES).mkdir(parents=True, exist_ok=True)
    there, faults = write_pages(found.measured, out / PAGES, config.pictures)
    paper = [Column(card.name, card.shards, card.task) for card in PAPER]
    first = table(found.measured, columns_of(found.measured, paper))
    if config.compare:
        compared, more = compare(first, there)
        first, faults = replace(first, comparisons=compared), faults + more
    second, figure = _ablation(first), draw(first)
    _write_tables(out, first, second, replace(config, protocol=found.protocol))
    if figure:
        (out / "figure2.png").write_bytes(figure.png)
        (out / "figure2.svg").write_bytes(figure.svg)
    problems = [*absent, *found.problems, *faults]
    title = f"Results by {_WORDS.get(found.protocol, found.protocol)}"
    content = Content(
        title, first, second.table, second.about, figure,
        found.measured, problems, found.other_protocols,
    )  # fmt: skip
    (out / INDEX).write_text(index(content, _addresses(out, there)), encoding="utf-8")
    text = markdown(first, intervals=config.intervals)
    return Report(out / INDEX, text, problems, list(found.other_protocols))


def _ablation(first: Table) -> Ablation:
    """Return Table 2, each method told by the pre-training of its weights."""
    parts: dict[str, Ablated] = {}
    configs: dict[str, dict[str, Any]] = {}
    about: list[str] = []
    for method, runs in _by_method(first).items():
        sources = dict(source for run in runs if (source := pretraining(run.directory)))
        if len(sources) > 1:
            about.append(f"{method}: its runs start from {len(sources)} pre-trainings; left out.")
            continue
        for config in sources.values():
            found = ablated(config)
            if found:
                parts[method], configs[method] = found, flat(config)
    second = table_2(first, parts)
    missing = absent(parts)
    if missing:
        about.append(
            f"Not measured: {', '.join(missing)}. A method is told by model.bridge_depth and "
            f"loss.mfd in the config.json of the pre-training that its runs start from."
        )
    differing = differences(configs)
    if differing:
        about.append(f"These pre-trainings also differ in {', '.join(differing)}.")
    return Ablation(second, about)


def _by_method(first: Table) -> dict[str, list[Measurement]]:
    found: dict[str, list[Measurement]] = {}
    for block in first.blocks:
        for line in block.lines:
            for column in first.columns:
                found.setdefault(line.method, []).extend(line.cells[column, TABLED[0]].runs)
    return found


def _write_tables(out: Path, first: Table, second: Ablation, config: ReportConfig) -> None:
    def link(directory: Path) -> str:
        return address(directory, out)

    ablation = "Ablation: the bridge transformer and masked feature distillation."
    tables: list[tuple[str, Table, str, list[str]]] = [
        ("table1", first, "Methods on downstream tasks, by the share of labels.", []),
        ("table2", second.table, ablation, second.about),
    ]
    for name, each, caption, about in tables:
        caption = f"{caption} Protocol: {config.protocol}. Best bold, second underlined."
        files = {
            "md": markdown(each, link, intervals=config.intervals)
            + "".join(f"\n{line}\n" for line in about),
            "tex": latex(each, (caption, f"tab:{name}"), link, intervals=config.intervals)
            + "".join(f"% {line}\n" for line in about),
            "csv": sheet(each, link),
        }
        for kind, content in files.items():
            (out / f"{name}.{kind}").write_text(content, encoding="utf-8")


def _addresses(out: Path, there: set[Measurement]) -> Addresses:
    return Addresses(
        run=lambda run: address(run.directory, out) + "/",
        predictions=lambda run: address(run.directory / run.predictions, out),
        page=lambda run: f"{PAGES}/{quote(page_name(run))}" if run in there else "",
    )


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    with one_line_errors():
        WRITTEN = report(RUNS, OPTIONS)
    sys.stdout.write(f"{WRITTEN.text}\n{WRITTEN.page}\n")
    for line in WRITTEN.problems:
        sys.stderr.write(line + "\n")
    for protocol in WRITTEN.other_protocols[:1]:
        words = ["python", "-m", "maskedclip.report", *map(str, RUNS)]
        words += ["--out", f"{OPTIONS.out}_{protocol}", f"--protocol={protocol}"]
        sys.stdout.write(f"next: {shlex.join(words)}\n")
    sys.exit(1 if WRITTEN.problems else 0)
