"""Tasks of several labels an image, label by label: a table of the report, and a CSV of all."""

import csv
import io
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from maskedclip.data.csv_files import UnixLines
from maskedclip.metrics.results import DAGGER
from maskedclip.metrics.scores import Score
from maskedclip.report.pages.run_statistics import LabelScores
from maskedclip.report.pages.tables import TABLED, below, percent, trained_lines
from maskedclip.report.result import Result, budget_text

ByResult = Mapping[Result, Sequence[LabelScores]]
_HEAD = (
    "dataset", "task", "method", "labels", "seed", "label", "images", "positives", "metric",
    "value", "low", "high", "threshold", "note", "run", "protocol", "images_seen",
)  # fmt: skip


class LabelLine(NamedTuple):
    """A label: how many test images have it, and its values by each method."""

    name: str
    positives: str
    cells: list[tuple[str, str]]  # value and interval; empty where there is none
    note: str


class PerLabelTable(NamedTuple):
    """The labels of a task; each method has two columns, AUROC and average precision."""

    title: str
    methods: list[str]  # with a dagger where test images were in pre-training
    lines: list[LabelLine]
    seen: list[str]  # what the daggers mark, and where it is not known


def label_tables(found: ByResult) -> list[PerLabelTable]:
    """Return a table a task; of several seeds the means of values and of intervals."""
    tasks: dict[tuple[str, str], dict[str, list[Result]]] = {}
    for result in found:
        by_method = tasks.setdefault((result.dataset, result.task), {})
        by_method.setdefault(f"{result.method}, {budget_text(result.budget)}", []).append(result)
    tables = []
    for (dataset, task), methods in tasks.items():
        own = [found[result] for results in methods.values() for result in results]
        names = dict.fromkeys(one.curve.name for scores in own for one in scores)
        lines = [_line(name, [_named(found, runs, name) for runs in methods.values()])
                 for name in names]  # fmt: skip
        images = " or ".join(
            sorted({str(result.n) for results in methods.values() for result in results})
        )
        marked = [
            name + DAGGER * any(run.seen for run in results) for name, results in methods.items()
        ]
        runs = [(name, task, run) for name, results in methods.items() for run in results]
        seen = [*(f"{DAGGER} {line}" for line in trained_lines(runs)), *below(runs)]
        tables.append(
            PerLabelTable(f"{dataset}, {task}: {images} test images", marked, lines, seen)
        )
    return tables


def _named(found: ByResult, runs: Sequence[Result], name: str) -> list[LabelScores]:
    return [one for run in runs for one in found[run] if one.curve.name == name]


def _line(name: str, methods: Sequence[Sequence[LabelScores]]) -> LabelLine:
    every = [one for scores in methods for one in scores]
    positives = " or ".join(map(str, sorted({one.curve.images for one in every})))
    cells = [
        _cell([score for one in scores if (score := getattr(one, metric)).value is not None])
        for scores in methods
        for metric in TABLED
    ]
    notes = "; ".join(dict.fromkeys(one.note for one in every if one.note))
    return LabelLine(name, positives, cells, notes)


def _cell(scores: Sequence[Score]) -> tuple[str, str]:
    if not scores:
        return "-", ""
    value = percent(statistics.fmean(score.value or 0.0 for score in scores))
    ends = [
        [end for score in scores if (end := getattr(score, side)) is not None]
        for side in ("low", "high")
    ]
    if any(len(end) < len(scores) for end in ends):
        return value, ""
    low, high = (percent(statistics.fmean(end)) for end in ends)
    return value, f"{low}\u2013{high}"


def label_csv(found: ByResult, link: Callable[[Path], str]) -> str:
    """Return CSV with a line a run, label and metric, values of 0 to 1."""
    file = io.StringIO()
    writer = csv.writer(UnixLines(file))
    writer.writerow(_HEAD)
    for result, scores in found.items():
        for one in scores:
            for metric in (*TABLED, "calibration_error"):
                score: Score = getattr(one, metric)
                values = ("" if v is None else v for v in (score.value, score.low, score.high))
                writer.writerow([
                    result.dataset, result.task, result.method, result.budget, result.seed,
                    one.curve.name, result.n, one.curve.images, metric, *values, one.threshold,
                    "; ".join(filter(None, (one.note, result.seen_words if result.seen else ""))),
                    link(result.directory), result.protocol, result.images_seen,
                ])  # fmt: skip
    return file.getvalue()
