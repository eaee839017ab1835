"""One table of several encoders: a block a protocol, intervals, paired tests against the best."""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from maskedclip.data.paper_tasks import PAPER
from maskedclip.engine.whole_file import write_whole
from maskedclip.finetune.measured_rows import measured_rows
from maskedclip.metrics.pooled_folds import is_one_fold
from maskedclip.metrics.results import written
from maskedclip.report.collect import collect
from maskedclip.report.compare_methods import compare_table
from maskedclip.report.pages.run_page import address
from maskedclip.report.pages.tables import METRIC_NAMES, Column, Table, columns_of, table
from maskedclip.report.pages.text_tables import (
    csv_table,
    latex,
    markdown,
    markdown_table,
    plain,
    plain_table,
)

_LONGEST = 100  # bytes of a table's name
_TITLE = "Frozen encoders by protocol; in brackets 95 % intervals."
_CAPTION = f"{_TITLE} Best bold, second underlined, of values without a dagger."
_TESTED = (
    "Paired by patient where known, else by image, against the best of a block; p adjusted for the "
    "encoders (Holm)."
)


class EncoderTable(NamedTuple):
    """A table that was written, and its text for a terminal."""

    text: str
    path: Path  # of the Markdown; .tex and .csv are beside it


def table_name(encoders: Sequence[str]) -> str:
    """Return what the table of some encoders is called: by them, so that other ones have another.

    Of many encoders the first, their number, and a hash of all.
    """
    name = ",".join(encoders)
    if len(name.encode()) <= _LONGEST:
        return name
    of_all = hashlib.sha256(name.encode()).hexdigest()[:8]
    return f"{encoders[0][:40]},and-{len(encoders) - 1}-more-{of_all}"


def encoder_table(directories: Sequence[Path], out: Path) -> EncoderTable:
    """Write the table of encoders into `out`, as .md, .tex and .csv, with their paired tests.

    A table of the same encoders is replaced: it has all that is in their directories.

    Args:
        directories: each with the results of one encoder, in the order of the lines.
    """
    rows = [row for directory in directories for row in measured_rows(directory)]
    protocols = dict.fromkeys(str(row["protocol"]) for row in rows)
    whole = [name for name in protocols if not is_one_fold(name)]
    collected = [collect(directories, name) for name in whole]
    results = [one for each in collected for one in each.results]
    columns = columns_of(results, [Column(card.name, card.shards, card.task) for card in PAPER])
    blocks = [
        replace(block, budget=title, title=title)
        for each in collected
        for block in table(each.results, columns).blocks
        if (title := _title(each.protocol, block.budget, block.name))
    ]
    content = Table(columns, tuple(blocks), {})
    comparisons, problems = compare_table(content, set(results))
    content = replace(content, comparisons=comparisons)
    text = markdown(content, intervals=True, caption=_CAPTION)
    shown = plain(content, intervals=True, caption=_TITLE)
    tests = _tests(content)
    if len(tests) > 1:
        text += f"\n{markdown_table(tests, [_TESTED])}"
        shown += f"\n{plain_table(tests, [_TESTED])}"
    lines = [*(line for each in collected for line in each.problems), *problems]
    below = "".join(f"\n{line}\n" for line in dict.fromkeys(lines))

    def link(directory: Path) -> str:
        return address(directory, out)

    name = table_name([directory.name for directory in directories])
    write_whole(out / f"{name}.md", text + below)
    write_whole(out / f"{name}.tex", latex(content, _CAPTION, f"tab:{name}", link, intervals=True))
    write_whole(out / f"{name}.csv", csv_table(content, link))
    return EncoderTable(shown + below, out / f"{name}.md")


def _title(protocol: str, budget: float | str, words: str) -> str:
    """Return what a block is called: a protocol, and the share of the labels where it trains."""
    return protocol if isinstance(budget, str) or not budget else f"{protocol}, {words}"


def _tests(content: Table) -> list[tuple[str, ...]]:
    """Return a row a paired test: how much an encoder differs from the best of its block."""
    rows: list[tuple[str, ...]] = [
        ("labels", "task", "metric", "method", "best", "difference [95 %]", "p")
    ]
    for (budget, column, metric, method), one in content.comparisons.items():
        text = written(metric, one.difference, "+")
        if one.low is not None and one.high is not None:
            text += f" [{written(metric, one.low, '+')}, {written(metric, one.high, '+')}]"
        p = "-" if one.p is None else "<0.001" if one.p < 0.001 else f"{one.p:.3f}"
        task = content.average_name if column is None else column.name
        rows.append((str(budget), task, METRIC_NAMES[metric], method, one.best, text, p))
    return rows
