"""A cell of a table: the runs of one method, task and number of labels, one metric of them.

A mean is over the seeds of one cell. Its interval is the mean of the seeds' bootstrap intervals: of
the test images, not of the seeds, whose spread is the standard deviation beside it.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from maskedclip.report.pages.measurements import Measurement


class Column(NamedTuple):
    """A task; those of the paper count for the average."""

    name: str
    dataset: str
    task: str
    of_paper: bool = True


class Comparison(NamedTuple):
    """A cell against the best one of its column: the difference of the means, and a paired p."""

    best: str
    difference: float
    low: float | None
    high: float | None
    p: float | None


# a cell of a table: labels, column (None: the average), metric, method
Place = tuple[float | str, Column | None, str, str]
Comparisons = Mapping[Place, Comparison]


@dataclass(frozen=True)
class Cell:
    """The runs of one method, task and number of labels, by one metric."""

    metric: str
    runs: tuple[Measurement, ...] = ()

    @property
    def measured(self) -> tuple[Measurement, ...]:
        return tuple(r for r in self.runs if self.metric in r.scores and _value(r, self.metric))

    @property
    def values(self) -> list[float]:
        return [float(run.scores[self.metric].value or 0) for run in self.measured]

    @property
    def mean(self) -> float | None:
        return statistics.fmean(self.values) if self.values else None

    @property
    def deviation(self) -> float | None:
        return statistics.stdev(self.values) if len(self.values) > 1 else None

    @property
    def interval(self) -> tuple[float, float] | None:
        scores = [run.scores[self.metric] for run in self.measured]
        lows = [score.low for score in scores if score.low is not None]
        highs = [score.high for score in scores if score.high is not None]
        whole = scores and len(lows) == len(highs) == len(scores)
        return (statistics.fmean(lows), statistics.fmean(highs)) if whole else None

    @property
    def seen(self) -> list[str]:
        """The forms of weights that were trained on images of this dataset."""
        return sorted({run.seen for run in self.measured if run.seen})

    @property
    def notes(self) -> list[str]:
        found = [run.scores[self.metric].note for run in self.runs if self.metric in run.scores]
        trained = [f"weights ({form}) trained on images of this dataset" for form in self.seen]
        return [*sorted({note for note in found if note}), *trained]


def _value(run: Measurement, metric: str) -> bool:
    return run.scores[metric].value is not None


class Average(NamedTuple):
    """The mean over the tasks that are there, `tasks` of `of`."""

    mean: float | None
    deviation: float | None
    interval: tuple[float, float] | None
    tasks: int
    of: int
    seen: bool = False  # whether weights were trained on images of one of them

    @property
    def complete(self) -> bool:
        return self.tasks == self.of


def average(cells: Sequence[Cell]) -> Average:
    """Return the mean over tasks; its interval takes their test images as independent."""
    there = [cell for cell in cells if cell.mean is not None]
    if not there:
        return Average(None, None, None, 0, len(cells))
    mean = statistics.fmean(float(cell.mean or 0) for cell in there)
    by_seed = [
        {run.seed: run.scores[cell.metric].value or 0.0 for run in cell.measured} for cell in there
    ]
    shared = set.intersection(*(set(values) for values in by_seed))
    same = all(set(values) == shared for values in by_seed)
    totals = [statistics.fmean(values[seed] for values in by_seed) for seed in sorted(shared)]
    deviation = statistics.stdev(totals) if same and len(totals) > 1 else None
    below, above = [], []
    for cell in there:
        if cell.interval and cell.mean is not None:
            below.append((cell.mean - cell.interval[0]) ** 2)
            above.append((cell.interval[1] - cell.mean) ** 2)
    interval = None
    if len(below) == len(there):
        low, high = (math.sqrt(sum(squares)) / len(there) for squares in (below, above))
        interval = (mean - low, mean + high)
    seen = any(cell.seen for cell in there)
    return Average(mean, deviation, interval, len(there), len(cells), seen)


def shown(value: float | None) -> str:
    """Return a value of 0 to 1 in per cent as the tables write it, a dash for none."""
    return "-" if value is None else f"{100 * value:.1f}"
