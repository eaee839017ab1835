"""Sensitivity and specificity of tasks of two classes, and of classes that are joined into two.

The threshold of each run is chosen on the predictions of its validation split.
"""

import statistics
from collections.abc import Sequence
from typing import NamedTuple

from maskedclip.finetune.threshold_rows import left_out_note, point_of
from maskedclip.metrics.class_groups import ClassGroup, group_of, grouped
from maskedclip.metrics.operating_points import OPERATING, OperatingPoint, rule_of
from maskedclip.metrics.results import Predictions, validation_of
from maskedclip.metrics.scores import Score, score
from maskedclip.report.collect import Result, budget_text, read
from maskedclip.report.pages.tables import percent
from maskedclip.report.pages.text_tables import latex_escaped, markdown_table

HEAD = (
    "method", "task", "positive", "labels", "images (positive)", "ROC", "sensitivity",
    "specificity", "PPV", "NPV", "threshold",
)  # fmt: skip


class OperatingTable(NamedTuple):
    """A line a method, task and share of labels; what stands below."""

    lines: list[tuple[str, ...]]
    remarks: list[str]

    def markdown(self) -> str:
        return markdown_table([HEAD, *self.lines], self.remarks)

    def latex(self) -> str:
        """Return the table in LaTeX; it needs booktabs and graphicx."""
        rows = [" & ".join(map(latex_escaped, line)) + r" \\" for line in (HEAD, *self.lines)]
        below = [rf"\par\footnotesize {latex_escaped(line)}" for line in self.remarks]
        return "\n".join(
            [
                r"\begin{table}[t]", r"\centering", r"\caption{Sensitivity and specificity.}",
                r"\label{tab:operating}", r"\resizebox{\textwidth}{!}{%",
                rf"\begin{{tabular}}{{llll{'c' * (len(HEAD) - 4)}}}", r"\toprule", rows[0],
                r"\midrule", *rows[1:], r"\bottomrule", r"\end{tabular}}", *below,
                r"\end{table}", "",
            ]
        )  # fmt: skip


class _Binary(NamedTuple):
    """The predictions of a run as those of two classes."""

    task: str
    classes: list[str]
    test: Predictions
    group: ClassGroup | None  # where classes were joined
    note: str = ""


class _Measured(NamedTuple):
    """One run's operating point."""

    point: OperatingPoint
    positive: str
    auroc: Score
    images: int
    positives: int


def operating_table(results: Sequence[Result], group: str, at_sensitivity: float) -> OperatingTable:
    """Return the table of the results that have two classes, or classes that `group` joins.

    Raises ValueError where no result has the classes that `group` names.
    """
    cells: dict[tuple[str, ...], list[_Measured]] = {}
    without: list[str] = []
    notes: list[str] = []
    every = {result: read(result) for result in results}
    if group and not any(_joins(group, names, test.kind) for test, names in every.values()):
        for test, names in every.values():
            group_of(group, names, test.kind)  # says which name is no class
    for result, (test, classes) in every.items():
        for own in _tasks(result, test, classes, group, results):
            key = (result.method, f"{result.dataset} {own.task}", budget_text(result.budget))
            if result.protocol.endswith(" folds"):
                without.append("in cross-validation each fold would have its own")
                continue
            notes += [f"{own.task}: {own.note}."] if own.note else []
            row = {"validation": result.validation}
            try:
                validation = validation_of(result.directory, row, classes)
                validation = grouped(validation, own.group) if own.group else validation
                measured = _measured(own.classes, validation, own.test, at_sensitivity)
            except ValueError as error:
                without.append(str(error))
                continue
            cells.setdefault(key, []).append(measured)
    lines = [_line(key, runs) for key, runs in cells.items()]
    return OperatingTable(lines, _remarks(lines, without, notes, at_sensitivity))


def _joins(group: str, classes: Sequence[str], kind: str = "class") -> bool:
    try:
        group_of(group, classes, kind)
    except ValueError:
        return False
    return True


def _tasks(
    result: Result, test: Predictions, classes: list[str], group: str, others: Sequence[Result]
) -> list[_Binary]:
    """Return the result as one of two classes, itself or with classes joined; none for others."""
    if test.kind != "class":
        return []
    stated = result.scores.get("auroc") if result.group_of else None  # who was left out
    own = _Binary(result.task, classes, test, None, stated.note if stated else "")
    tasks = [own] if len(classes) == 2 else []
    if group and _joins(group, classes):
        side = group_of(group, classes)
        name = side.task(result.task)
        place = (result.method, result.dataset, name, result.budget, result.seed)
        there = {(one.method, one.dataset, one.task, one.budget, one.seed) for one in others}
        if place not in there:  # evaluate --group has joined them already
            note = left_out_note(side, classes, test)
            tasks.append(_Binary(name, side.names(classes), grouped(test, side), side, note))
    return tasks


def _measured(
    classes: Sequence[str], validation: Predictions, test: Predictions, at_sensitivity: float
) -> _Measured:
    point, positive = point_of(classes, validation, test, at_sensitivity)
    auroc = score("auroc", test.label_B, test.probability_BY, test.units, untrained=test.untrained)
    count = int((test.label_B == classes.index(positive)).sum())
    return _Measured(point, positive, auroc, len(test.keys), count)


def _line(key: tuple[str, ...], runs: Sequence[_Measured]) -> tuple[str, ...]:
    method, task, labels = key
    thresholds = sorted({f"{run.point.threshold:.3g}" for run in runs}, key=float)
    images = sorted({f"{run.images} ({run.positives})" for run in runs})
    values = [
        _cell([run.auroc for run in runs]),
        *(_cell([run.point.scores[name] for run in runs]) for name in OPERATING),
    ]
    ends = thresholds if len(thresholds) < 3 else [thresholds[0], thresholds[-1]]
    return (
        method, task, runs[0].positive, labels, " or ".join(images), *values, " to ".join(ends),
    )  # fmt: skip


def _cell(scores: Sequence[Score]) -> str:
    """Return the mean over runs, its deviation, and the mean of the intervals."""
    values = [one.value for one in scores if one.value is not None]
    if not values:
        return "-"
    text = percent(statistics.fmean(values))
    if len(values) > 1:
        text += f" \u00b1 {percent(statistics.stdev(values))}"
    ends = [(one.low, one.high) for one in scores if one.low is not None and one.high is not None]
    if len(ends) == len(values):
        low, high = (statistics.fmean(side) for side in zip(*ends, strict=True))
        text += f" [{percent(low)}, {percent(high)}]"
    return text


def _remarks(
    lines: Sequence[object], without: Sequence[str], notes: Sequence[str], at_sensitivity: float
) -> list[str]:
    remarks = []
    if lines:
        remarks.append(
            f"A class is called at its threshold or above, chosen on validation images by "
            f"{rule_of(at_sensitivity)}. In brackets 95 % intervals by patient; of 0 and 100 % the "
            f"exact binomial one. PPV and NPV are at the test split's share of positives."
        )
    remarks += dict.fromkeys(notes)
    if without:
        remarks.append(f"Results without a threshold: {len(without)}. {without[0]}.")
    return remarks
