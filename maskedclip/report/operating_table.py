"""Sensitivity and specificity of tasks of two classes, and of classes that are joined into two.

The threshold of each run is chosen on the predictions of its validation split.
"""

import statistics
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from maskedclip.finetune.threshold_rows import left_out_note, point_of
from maskedclip.metrics.class_groups import ClassGroup, group_of, grouped
from maskedclip.metrics.operating_points import OPERATING, OperatingPoint, rule_of
from maskedclip.metrics.prediction_files import Predictions
from maskedclip.metrics.results import DAGGER, validation_of
from maskedclip.metrics.scores import Score, score
from maskedclip.report.collect import read
from maskedclip.report.pages.tables import below, percent, trained_lines
from maskedclip.report.pages.text_tables import latex_escaped, markdown_table, plain_table
from maskedclip.report.result import Result, budget_text

HEAD = (
    "method", "task", "positive", "labels", "images (positive)", "ROC", "sensitivity",
    "specificity", "PPV", "NPV", "threshold",
)  # fmt: skip


class OperatingTable(NamedTuple):
    """A line a method, task and share of labels; what stands below."""

    lines: list[tuple[str, ...]]
    remarks: list[str]
    trained_on: list[str]  # what its daggers mark, as under Table 1

    def markdown(self) -> str:
        trained = [f"{DAGGER} {line}" for line in self.trained_on]
        return markdown_table([HEAD, *self.lines], [*trained, *self.remarks])

    def plain(self) -> str:
        """Return the table for a terminal."""
        trained = [f"{DAGGER} {line}" for line in self.trained_on]
        return plain_table([HEAD, *self.lines], [*trained, *self.remarks])

    def latex(self) -> str:
        """Return the table in LaTeX; it needs booktabs and graphicx."""
        rows = [" & ".join(map(latex_escaped, line)) + r" \\" for line in (HEAD, *self.lines)]
        below = [rf"\par\footnotesize $^\dagger${latex_escaped(one)}" for one in self.trained_on]
        below += [rf"\par\footnotesize {latex_escaped(line)}" for line in self.remarks]
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
    positives: int
    run: Result  # as one of the two classes


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
                measured = _measured(result, own, validation, at_sensitivity)
            except ValueError as error:
                without.append(str(error))
                continue
            cells.setdefault(key, []).append(measured)
    lines = [_line(key, runs) for key, runs in cells.items()]
    placed = [(key[0], key[1], one.run) for key, runs in cells.items() for one in runs]
    protocol = [f"Protocol: {results[0].protocol}."] if lines else []
    remarks = [*protocol, *below(placed), *_remarks(lines, without, notes, at_sensitivity)]
    return OperatingTable(lines, remarks, trained_lines(placed))


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
    result: Result, own: _Binary, validation: Predictions, at_sensitivity: float
) -> _Measured:
    test, images = own.test, len(own.test.keys)
    point, positive = point_of(own.classes, validation, test, at_sensitivity)
    auroc = score("auroc", test.label_B, test.probability_BY, test.units, untrained=test.untrained)
    count = int((test.label_B == own.classes.index(positive)).sum())
    # seen images were counted with those of classes in neither group, as in group_rows
    seen = None if images < result.n else result.seen_images
    run = replace(result, n=images, seen_images=seen)
    return _Measured(point, positive, auroc, count, run)


def _line(key: tuple[str, ...], runs: Sequence[_Measured]) -> tuple[str, ...]:
    method, task, labels = key
    thresholds = sorted({f"{run.point.threshold:.3g}" for run in runs}, key=float)
    images = sorted({f"{one.run.n} ({one.positives})" for one in runs})
    values = [
        _cell([(run.auroc, run.run) for run in runs]),
        *(_cell([(run.point.scores[name], run.run) for run in runs]) for name in OPERATING),
    ]
    ends = thresholds if len(thresholds) < 3 else [thresholds[0], thresholds[-1]]
    return (
        method, task, runs[0].positive, labels, " or ".join(images), *values, " to ".join(ends),
    )  # fmt: skip


def _cell(scored: Sequence[tuple[Score, Result]]) -> str:
    """Return the mean over runs, its dagger, its deviation, and the mean of the intervals."""
    scores = [one for one, _ in scored]
    values = [one.value for one in scores if one.value is not None]
    if not values:
        return "-"
    seen = any(run.seen for one, run in scored if one.value is not None)
    text = percent(statistics.fmean(values)) + DAGGER * seen
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
            f"{rule_of(at_sensitivity)}. In brackets 95 % intervals by patient, where known; of 0 "
            f"and 100 % the exact binomial one. PPV and NPV are at the test split's share of "
            f"positives."
        )
    remarks += dict.fromkeys(notes)
    if without:
        remarks.append(f"Results without a threshold: {len(without)}. {without[0]}.")
    return remarks
