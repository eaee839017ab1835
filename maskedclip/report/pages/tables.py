"""Methods by tasks by labels: Tables 1 and 2 before they become text.

A cell's mean is over the seeds. Its interval is the mean of the seeds' bootstrap intervals: of the
test images, not of the seeds, whose spread is the standard deviation beside it.
"""

import math
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from maskedclip.metrics.known_patients import drawn_lines
from maskedclip.metrics.results import written
from maskedclip.metrics.scores import LOWER_IS_BETTER, METRICS
from maskedclip.metrics.seen_images import input_lines
from maskedclip.report.result import Result, budget_text

METRIC_NAMES = dict(
    zip(
        METRICS,
        (
            "ROC", "PRC", "quadratic kappa", "macro F1", "balanced accuracy",
            "calibration error (ECE)",
        ),
        strict=True,
    )
)  # fmt: skip
METRIC_NAMES |= {
    "micro_f1": "micro F1", "odir_score": "ODIR score", "mae": "MAE", "r2": "R2",
    "pearson": "Pearson",
}  # fmt: skip
TABLED = ("auroc", "average_precision")  # the columns of a task, as in the paper
_OF_NUMBERS = ("mae", "r2")
_NOT_SEEN = "Size and colours of the images: not stated by the version that measured them."


class Column(NamedTuple):
    """A task; those of the paper count for the average."""

    name: str
    dataset: str
    task: str
    of_paper: bool = True
    kind: str = "class"


def tabled(column: Column | None) -> tuple[str, str]:
    """Return the metrics that a column shows; None is the average."""
    return _OF_NUMBERS if column and column.kind == "number" else TABLED


def tabled_of(result: Result) -> tuple[str, str]:
    """Return the metrics that a result is shown by."""
    return _OF_NUMBERS if result.kind == "number" else TABLED


class Comparison(NamedTuple):
    """A cell against the best one of its column: the difference of the means, and a paired p."""

    best: str
    difference: float
    low: float | None
    high: float | None
    p: float | None


# a cell of a table: labels, column (None: the average), metric, method
CellKey = tuple[float | str, Column | None, str, str]
Comparisons = Mapping[CellKey, Comparison]


@dataclass(frozen=True)
class TableCell:
    """The runs of one method, task and number of labels, by one metric."""

    metric: str
    runs: tuple[Result, ...] = ()

    def shown(self, value: float | None, sign: str = "") -> str:
        """Return a value of the cell as tables write it."""
        return written(self.metric, value, sign)

    @property
    def scored(self) -> tuple[Result, ...]:
        """The runs in which the metric is defined."""
        return tuple(
            run
            for run in self.runs
            if self.metric in run.scores and run.scores[self.metric].value is not None
        )

    @property
    def values(self) -> list[float]:
        return [float(run.scores[self.metric].value or 0) for run in self.scored]

    @property
    def mean(self) -> float | None:
        return statistics.fmean(self.values) if self.values else None

    @property
    def deviation(self) -> float | None:
        return statistics.stdev(self.values) if len(self.values) > 1 else None

    @property
    def interval(self) -> tuple[float, float] | None:
        scores = [run.scores[self.metric] for run in self.scored]
        lows = [score.low for score in scores if score.low is not None]
        highs = [score.high for score in scores if score.high is not None]
        complete = scores and len(lows) == len(highs) == len(scores)
        return (statistics.fmean(lows), statistics.fmean(highs)) if complete else None

    @property
    def seen(self) -> list[str]:
        """Which datasets or weights were pre-trained on images of this dataset."""
        return sorted({run.seen for run in self.scored if run.seen})

    @property
    def notes(self) -> list[str]:
        notes = [run.scores[self.metric].note for run in self.runs if self.metric in run.scores]
        of_runs = {words for run in self.scored for words in (run.unlearnt, run.seen_words)}
        return [*sorted({note for note in notes if note}), *sorted(filter(None, of_runs))]


class Average(NamedTuple):
    """The mean over the tasks that have a value, `tasks` of `of`."""

    mean: float | None
    deviation: float | None
    interval: tuple[float, float] | None
    tasks: int
    of: int
    seen: bool = False  # whether weights were trained on images of one of them

    @property
    def complete(self) -> bool:
        return self.tasks == self.of

    def shown(self, value: float | None, sign: str = "") -> str:
        """Return a value of the average as tables write it: numbers have no part in it."""
        return written(TABLED[0], value, sign)


def average(cells: Sequence[TableCell]) -> Average:
    """Return the mean over tasks; its interval takes their test images as independent."""
    scored = [cell for cell in cells if cell.mean is not None]
    if not scored:
        return Average(None, None, None, 0, len(cells))
    mean = statistics.fmean(float(cell.mean or 0) for cell in scored)
    by_seed = [
        {run.seed: run.scores[cell.metric].value or 0.0 for run in cell.scored} for cell in scored
    ]
    shared = set.intersection(*(set(values) for values in by_seed))
    same = all(set(values) == shared for values in by_seed)
    totals = [statistics.fmean(values[seed] for values in by_seed) for seed in sorted(shared)]
    deviation = statistics.stdev(totals) if same and len(totals) > 1 else None
    below, above = [], []
    for cell in scored:
        if cell.interval and cell.mean is not None:
            below.append((cell.mean - cell.interval[0]) ** 2)
            above.append((cell.interval[1] - cell.mean) ** 2)
    interval = None
    if len(below) == len(scored):
        low, high = (math.sqrt(sum(squares)) / len(scored) for squares in (below, above))
        interval = (mean - low, mean + high)
    seen = any(cell.seen for cell in scored)
    return Average(mean, deviation, interval, len(scored), len(cells), seen)


@dataclass(frozen=True)
class Line:
    """A method in a block."""

    method: str
    cells: Mapping[tuple[Column, str], TableCell]
    averages: Mapping[str, Average]
    label: str = ""  # the method's name in the table; empty: the method
    checks: tuple[bool, ...] = ()  # of an ablation: bridge, distillation

    def at(self, column: Column | None, metric: str) -> TableCell | Average:
        return self.averages[metric] if column is None else self.cells[column, metric]


@dataclass(frozen=True)
class LabelBlock:
    """All methods with the same number of labels."""

    budget: float | str
    lines: tuple[Line, ...]
    title: str = ""  # empty: the budget

    @property
    def name(self) -> str:
        return self.title or budget_text(self.budget)

    def measured(self, columns: Sequence[Column]) -> list[Column]:
        """Return the tasks that a run has with these labels."""
        return [c for c in columns if any(x.cells[c, tabled(c)[0]].runs for x in self.lines)]

    def marks(self, columns: Sequence[Column | None]) -> dict[tuple[str, Column | None, str], str]:
        """Return (method, column, metric) -> mark.

        Averages over too few tasks take no part, and no value of test images that were in
        pre-training: it is not the best of what it was not measured like.
        """
        placed: dict[tuple[str, Column | None, str], str] = {}
        for column in columns:
            for metric in tabled(column):
                cells = [line.at(column, metric) for line in self.lines]
                values = [None if _left_out(cell) else cell.mean for cell in cells]
                for line, mark in zip(self.lines, marks(values, metric), strict=True):
                    placed[line.method, column, metric] = mark
        return placed


def _left_out(cell: TableCell | Average) -> bool:
    return bool(cell.seen) or (isinstance(cell, Average) and not cell.complete)


@dataclass(frozen=True)
class Table:
    """Blocks of lines by columns, and the comparisons of their cells."""

    columns: tuple[Column, ...]
    blocks: tuple[LabelBlock, ...]
    comparisons: Comparisons
    protocol: str = ""  # by which all of it was measured

    @property
    def groups(self) -> tuple[Column | None, ...]:
        """The columns in the order shown; None, the average of several, stands after them."""
        own = tuple(column for column in self.columns if column.of_paper) or self.columns
        mean = (None,) if sum(column.kind != "number" for column in own) > 1 else ()
        return (*own, *mean, *(column for column in self.columns if column not in own))

    @property
    def checked(self) -> bool:
        """Whether the lines state which components a method has."""
        return any(line.checks for block in self.blocks for line in block.lines)

    @property
    def trained_on(self) -> list[str]:
        """A footnote for what the daggers mark: test images that were in pre-training."""
        return trained_lines(self._runs())

    def _runs(self) -> Iterator[tuple[str, str, Result]]:
        """Yield each run with a value, with its method's name and its column's."""
        for block in self.blocks:
            for line in block.lines:
                for column in self.columns:
                    for run in line.cells[column, tabled(column)[0]].scored:
                        yield line.label or line.method, column.name, run

    @property
    def footnotes(self) -> list[str]:
        """The lines under the table: of cells with fewer seeds, and those of `below`."""
        own = below(
            (line.label or line.method, column.name, run)
            for block in self.blocks
            for line in block.lines
            for column in self.columns
            for run in line.cells[column, tabled(column)[0]].runs
        )
        return [*self._fewer_seeds(), *own]

    def _fewer_seeds(self) -> Iterator[str]:
        """Yield a line for the cells of equal seeds which are fewer than others of their column."""
        cells: dict[tuple[str, str], list[str]] = {}
        for block in self.blocks:
            for column in self.columns:
                first = tabled(column)[0]
                seeds = {
                    line.label or line.method: {run.seed for run in line.cells[column, first].runs}
                    for line in block.lines
                }
                every = set[int]().union(*seeds.values())
                of = f", {block.name}" if len(self.blocks) > 1 else ""
                for name, own in seeds.items():
                    if own and own != every:
                        key = _listed(own), _listed(every)
                        cells.setdefault(key, []).append(f"{name}, {column.name}{of}")
        for (own_seeds, all_seeds), where in cells.items():
            yield (
                f"Over seeds {own_seeds} where others are over {all_seeds}, differences from the "
                f"best, too: {'; '.join(where)}."
            )

    @property
    def missing(self) -> list[tuple[str, str, str]]:
        """(labels, method, task) of the cells without a run that others of the same labels have."""
        return [
            (block.name, line.label or line.method, column.name)
            for block in self.blocks
            for line in block.lines
            for column in block.measured(self.columns)
            if not line.cells[column, tabled(column)[0]].runs
        ]

    @property
    def average_name(self) -> str:
        """What the average is called: by its number of tasks, which may not be the paper's."""
        counted = [c for c in self.columns if c.of_paper] or self.columns
        return f"Average of {sum(column.kind != 'number' for column in counted)}"


def _listed(seeds: Iterable[int]) -> str:
    return " ".join(map(str, sorted(seeds)))


def below(runs: Iterable[tuple[str, str, Result]]) -> list[str]:
    """Return what is to be known beside the values of (method, task, run).

    What is not known of pre-training, how images were seen, what intervals draw, which classes have
    few test images, which runs learnt nothing, and what values leave out or why there is none.
    """
    runs = list(runs)
    seen = input_lines((name, run.images_seen) for name, _, run in runs)
    return [
        *unknown_lines(runs),
        *(seen or [_NOT_SEEN] * bool(runs)),
        *drawn_lines((task, run.drawn) for _, task, run in runs),
        *drawn_lines((task, run.few_images) for _, task, run in runs),
        *drawn_lines((f"{name}, {task}", run.unlearnt) for name, task, run in runs),
        *drawn_lines(
            (task, run.noted(metric)) for _, task, run in runs for metric in tabled_of(run)
        ),
    ]


def trained_lines(runs: Iterable[tuple[str, str, Result]]) -> list[str]:
    """Return what the daggers of (method, task, run) mark: test images in pre-training."""
    forms: dict[tuple[str, str], list[str]] = {}
    counted: list[str] = []
    for name, task, run in runs:
        if run.seen and run.seen_images is None:
            forms.setdefault((name, run.seen), []).append(task)
        elif run.seen:
            counted.append(f"{name}, {task}: {run.seen_words}.")
    by_makers = [
        f"{name}: its weights ({form}) were trained on images of {', '.join(dict.fromkeys(tasks))}."
        for (name, form), tasks in forms.items()
    ]
    return [*dict.fromkeys(counted), *by_makers]


def unknown_lines(runs: Iterable[tuple[str, str, Result]]) -> list[str]:
    """Return a line a reason why it is not known of (method, task, run)."""
    cells: dict[str, list[str]] = {}
    for name, task, run in runs:
        if run.seen_words and not run.seen:
            cells.setdefault(run.seen_words, []).append(f"{name}, {task}")
    return [
        f"{words[0].upper()}{words[1:]}: {'; '.join(dict.fromkeys(where))}."
        for words, where in cells.items()
    ]


def columns_of(results: Iterable[Result], paper: Sequence[Column]) -> tuple[Column, ...]:
    """Return those of the paper's columns that have a result, then those of other tasks."""
    kinds = {(run.dataset, run.task): run.kind for run in results}
    tasks = list(kinds)
    known = {(column.dataset, column.task) for column in paper}
    datasets = [dataset for dataset, _ in tasks]
    others = tuple(
        Column(
            f"{dataset} {task}" if datasets.count(dataset) > 1 else dataset,
            dataset,
            task,
            False,
            kinds[dataset, task],
        )
        for dataset, task in tasks
        if (dataset, task) not in known
    )
    return (*(column for column in paper if (column.dataset, column.task) in kinds), *others)


def table(
    results: Sequence[Result],
    columns: Sequence[Column],
    comparisons: Comparisons | None = None,
) -> Table:
    """Return the table of the results; methods stand in the order of their first one."""
    methods = list(dict.fromkeys(run.method for run in results))
    shares = sorted({run.budget for run in results if not isinstance(run.budget, str)})
    shots = sorted({run.budget for run in results if isinstance(run.budget, str)}, key=_natural)
    blocks: list[LabelBlock] = []
    budgets: list[float | str] = [*shots, *shares]
    for budget in budgets:
        runs = [run for run in results if run.budget == budget]
        own = [method for method in methods if any(run.method == method for run in runs)]
        lines = tuple(_line(method, runs, columns) for method in own)
        blocks.append(LabelBlock(budget, lines))
    protocol = results[0].protocol if results else ""
    return Table(tuple(columns), tuple(blocks), comparisons or {}, protocol)


def _natural(name: str) -> tuple[int, str]:
    digits = name.split("-")[0]
    return (int(digits) if digits.isdecimal() else 0, name)


def _line(method: str, runs: Sequence[Result], columns: Sequence[Column]) -> Line:
    own = [run for run in runs if run.method == method]
    cells: dict[tuple[Column, str], TableCell] = {}
    for column in columns:
        here = [run for run in own if (run.dataset, run.task) == (column.dataset, column.task)]
        here.sort(key=lambda run: run.seed)
        cells |= {(column, metric): TableCell(metric, tuple(here)) for metric in tabled(column)}
    counted = [column for column in columns if column.of_paper] or list(columns)
    counted = [column for column in counted if column.kind != "number"]
    averages = {metric: average([cells[column, metric] for column in counted]) for metric in TABLED}
    return Line(method, cells, averages)


def marks(values: Sequence[float | None], metric: str = TABLED[0]) -> list[str]:
    """Return "best", "second" or "" for each value of a column; equal as written is equal.

    A single value is not marked: nothing was compared.
    """
    shown = [None if value is None else float(written(metric, value)) for value in values]
    lower_is_better = metric in LOWER_IS_BETTER
    ranked = sorted({value for value in shown if value is not None}, reverse=not lower_is_better)
    if sum(value is not None for value in shown) < 2:
        return [""] * len(values)
    names = {value: ("best", "second")[rank] for rank, value in enumerate(ranked[:2])}
    return ["" if value is None else names.get(value, "") for value in shown]


def percent(value: float | None) -> str:
    """Return a value of 0 to 1 in per cent as the tables write it, a dash for none."""
    return "-" if value is None else f"{100 * value:.1f}"
