"""Table 1, Table 2 and Figure 2 of finished runs, and a page for each of them."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from maskedclip.config import flat
from maskedclip.data.paper_tasks import PAPER
from maskedclip.report.collect import find, pretraining
from maskedclip.report.command import ReportConfig
from maskedclip.report.comparisons import compare
from maskedclip.report.pages.ablation import Ablated, ablated, absent, differences, table_2
from maskedclip.report.pages.cells import Column
from maskedclip.report.pages.csv_table import sheet
from maskedclip.report.pages.index import Addresses, Content, index
from maskedclip.report.pages.label_efficiency import draw
from maskedclip.report.pages.latex import latex
from maskedclip.report.pages.markdown import markdown
from maskedclip.report.pages.measurements import TABLED, Measurement
from maskedclip.report.pages.tables import Table, columns_of, table
from maskedclip.report.run_pages import address, page_name, write_pages

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
