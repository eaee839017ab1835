"""Methods by tasks by labels: Tables 1 and 2 before they become text."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from maskedclip.report.pages.cells import Average, Cell, Column, Comparisons, average, shown
from maskedclip.report.pages.measurements import TABLED, Measurement, budget_words


@dataclass(frozen=True)
class Line:
    """A method in a block."""

    method: str
    cells: Mapping[tuple[Column, str], Cell]
    averages: Mapping[str, Average]
    label: str = ""  # what the table calls it; empty: the method
    checks: tuple[bool, ...] = ()  # of an ablation: bridge, distillation

    def at(self, column: Column | None, metric: str) -> Cell | Average:
        return self.averages[metric] if column is None else self.cells[column, metric]


@dataclass(frozen=True)
class Block:
    """All methods with the same number of labels."""

    budget: float | str
    lines: tuple[Line, ...]

    @property
    def name(self) -> str:
        return budget_words(self.budget)


@dataclass(frozen=True)
class Table:
    """Blocks of lines, what they are compared in, and what the comparisons found."""

    columns: tuple[Column, ...]
    blocks: tuple[Block, ...]
    comparisons: Comparisons

    @property
    def groups(self) -> tuple[Column | None, ...]:
        """The columns as they are shown; None, the average of several, stands after them."""
        own = tuple(column for column in self.columns if column.of_paper) or self.columns
        mean = (None,) if len(own) > 1 else ()
        return (*own, *mean, *(column for column in self.columns if column not in own))

    @property
    def checked(self) -> bool:
        """Whether the lines say which parts a method has."""
        return any(line.checks for block in self.blocks for line in block.lines)

    @property
    def trained_on(self) -> list[str]:
        """A line a method whose weights were trained on images of a dataset in the table."""
        found: dict[tuple[str, str], list[str]] = {}
        for block in self.blocks:
            for line in block.lines:
                for column in self.columns:
                    for form in line.cells[column, TABLED[0]].seen:
                        names = found.setdefault((line.label or line.method, form), [])
                        names += [column.name] if column.name not in names else []
        return [
            f"{method}: its weights ({form}) were trained on images of {', '.join(names)}."
            for (method, form), names in found.items()
        ]

    @property
    def missing(self) -> list[tuple[str, str, str]]:
        """(labels, method, task) of the cells without a run."""
        return [
            (block.name, line.label or line.method, column.name)
            for block in self.blocks
            for line in block.lines
            for column in self.columns
            if not line.cells[column, TABLED[0]].runs
        ]


def columns_of(found: Iterable[Measurement], paper: Sequence[Column]) -> tuple[Column, ...]:
    """Return the paper's columns if one of them is there, then those of other tasks."""
    there = list(dict.fromkeys((run.dataset, run.task) for run in found))
    known = {(column.dataset, column.task) for column in paper}
    datasets = [dataset for dataset, _ in there]
    others = tuple(
        Column(
            f"{dataset} {task}" if datasets.count(dataset) > 1 else dataset, dataset, task, False
        )
        for dataset, task in there
        if (dataset, task) not in known
    )
    return (*(paper if known & set(there) else ()), *others)


def table(
    found: Sequence[Measurement],
    columns: Sequence[Column],
    comparisons: Comparisons | None = None,
) -> Table:
    """Return the table of the measurements; methods stand in the order of their first one."""
    methods = list(dict.fromkeys(run.method for run in found))
    shares = sorted({run.budget for run in found if not isinstance(run.budget, str)})
    shots = sorted({run.budget for run in found if isinstance(run.budget, str)}, key=_natural)
    blocks: list[Block] = []
    budgets: list[float | str] = [*shots, *shares]
    for budget in budgets:
        runs = [run for run in found if run.budget == budget]
        there = [method for method in methods if any(run.method == method for run in runs)]
        lines = tuple(_line(method, runs, columns) for method in there)
        blocks.append(Block(budget, lines))
    return Table(tuple(columns), tuple(blocks), comparisons or {})


def _natural(name: str) -> tuple[int, str]:
    digits = name.split("-")[0]
    return (int(digits) if digits.isdecimal() else 0, name)


def _line(method: str, runs: Sequence[Measurement], columns: Sequence[Column]) -> Line:
    mine = [run for run in runs if run.method == method]
    cells: dict[tuple[Column, str], Cell] = {}
    for column in columns:
        here = [run for run in mine if (run.dataset, run.task) == (column.dataset, column.task)]
        here.sort(key=lambda run: run.seed)
        cells |= {(column, metric): Cell(metric, tuple(here)) for metric in TABLED}
    counted = [column for column in columns if column.of_paper] or list(columns)
    averages = {metric: average([cells[column, metric] for column in counted]) for metric in TABLED}
    return Line(method, cells, averages)


def marks(values: Sequence[float | None]) -> list[str]:
    """Return "best", "second" or "" for each value of a column; equal as written is equal.

    A single value is not marked: nothing was compared.
    """
    written = [None if value is None else float(shown(value)) for value in values]
    ranked = sorted({value for value in written if value is not None}, reverse=True)
    if sum(value is not None for value in written) < 2:
        return [""] * len(values)
    names = {value: ("best", "second")[place] for place, value in enumerate(ranked[:2])}
    return ["" if value is None else names.get(value, "") for value in written]


def column_marks(
    block: Block, columns: Sequence[Column | None]
) -> dict[tuple[str, Column | None, str], str]:
    """Return (method, column, metric) -> mark; averages over too few tasks take no part."""
    found: dict[tuple[str, Column | None, str], str] = {}
    for column in columns:
        for metric in TABLED:
            cells = [line.at(column, metric) for line in block.lines]
            values = [
                None if isinstance(cell, Average) and not cell.complete else cell.mean
                for cell in cells
            ]
            for line, mark in zip(block.lines, marks(values), strict=True):
                found[line.method, column, metric] = mark
    return found
