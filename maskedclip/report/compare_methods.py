"""Is one run or method better than another? Every metric on the same test images, with p-values.

`compare` is the command of that name, of two runs or folders of runs; `compare_table` holds each
method of a report's table against the best of its column.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from sklearn.metrics import roc_auc_score

from maskedclip.finetune.measured_rows import measured_predictions, measured_rows
from maskedclip.metrics import results
from maskedclip.metrics.comparison import (
    Difference,
    against_best,
    delong,
    leaving_out_untrained,
    over_seeds,
    paired_bootstrap,
)
from maskedclip.metrics.few_images import few_among
from maskedclip.metrics.known_patients import images_in_words
from maskedclip.metrics.pooled_folds import is_one_fold
from maskedclip.metrics.prediction_files import Predictions
from maskedclip.metrics.result_record import RESULTS
from maskedclip.metrics.scores import NEED_TWO_CLASSES, macro, metrics_of, point
from maskedclip.metrics.seen_images import in_words, input_lines
from maskedclip.report.collect import progress, read, run_directories
from maskedclip.report.pages.tables import CellKey, Column, Comparison, LabelBlock, Table, tabled
from maskedclip.report.result import Result

Split = tuple[str, str, str, float]  # dataset, task, protocol, fraction
Sides = dict[Split, dict[int, "Side"]]  # by the size of the images; 0: not stated
_NAMES = {
    "auroc": "AUROC",
    "average_precision": "average precision",
    "quadratic_kappa": "quadratic kappa",
    "macro_f1": "macro F1",
    "balanced_accuracy": "balanced accuracy",
    "calibration_error": "calibration error (less is better)",
    "micro_f1": "micro F1",
    "odir_score": "ODIR score",
    "mae": "MAE (less is better)",
    "r2": "R2",
    "pearson": "Pearson",
}


class Side(NamedTuple):
    """One side's predictions on a test split, by seed."""

    classes: list[str]
    runs: dict[int, Predictions]
    images_seen: str  # size and colours in words; empty: the rows do not say
    pretraining: list[str]  # what its runs say of test images in pre-training


def compare(first: Path | Sequence[Path], second: Path | Sequence[Path]) -> str:
    """Return a table a test split (dataset, task, protocol, fraction) that both have results of.

    Folds by themselves are left out where there is anything else, such as their pooled value.
    Results of the same image size are compared where both sides have some, else it is said.
    A run on both sides is named. Raises ValueError where there is none, where a side has two runs
    of one seed, and where the two sides are not of the same test images.

    Args:
        first, second: runs, and folders of runs; those of one split differ in their seed.
    """
    named = [[one] if isinstance(one, Path) else [*one] for one in (first, second)]
    sides = [_sides(roots) for roots in named]
    own = [{*run_directories(roots)} for roots in named]
    twice = "".join(f"{run}: this run is on both sides.\n" for run in sorted(own[0] & own[1]))
    both = [split for split in sides[0] if split in sides[1]]
    if not both:
        raise ValueError(
            f"{' and '.join(map(_named, named))} have measured nothing in common: "
            f"{_some(sides[0])} and {_some(sides[1])}"
        )
    whole = [split for split in both if not is_one_fold(split[2])]
    pairs = [(split, *pair) for split in whole or both for pair in _of_one_size(split, sides)]
    return "\n".join(_text(*pair) for pair in pairs) + twice


def _of_one_size(split: Split, sides: Sequence[Sides]) -> list[tuple[Side, Side]]:
    """Return what is compared; ValueError where several sizes leave open which."""
    first, second = (side[split] for side in sides)
    if shared := [size for size in first if size in second]:
        return [(first[size], second[size]) for size in shared]
    if len(first) == len(second) == 1:
        return [(next(iter(first.values())), next(iter(second.values())))]
    sizes = [" and ".join(f"{size} px" for size in side) for side in (first, second)]
    raise ValueError(
        f"{_title(split)}: measured at {sizes[0]}, and at {sizes[1]}; evaluate one of them at the "
        f"other's --image_size"
    )


def _named(roots: Sequence[Path]) -> str:
    return ",".join(map(str, roots))


def _sides(roots: Sequence[Path]) -> Sides:
    for root in roots:
        if not root.is_dir():
            raise ValueError(f"{root}: no such directory; name a run, or a folder of runs")
    sides: Sides = {}
    for run in run_directories(roots):
        for row in measured_rows(run):
            if row["metric"] != metrics_of(str(row.get("kind") or "class"))[0]:
                continue
            predictions, classes = measured_predictions(run, row)
            split = (row["dataset"], row["task"], row["protocol"], row["fraction"])
            size = int(row.get("image_size") or 0)
            by_size = sides.setdefault(split, {})
            side = by_size.setdefault(size, Side(classes, {}, in_words(row), []))
            if row["seed"] in side.runs or side.classes != classes:
                raise ValueError(
                    f"{_named(roots)}: {_title(split)} has two runs of seed {row['seed']}, or "
                    f"other classes; name one run, or runs that differ in their seed: A,B"
                )
            side.runs[row["seed"]] = predictions
            side.pretraining.append(results.seen_line(row))
            side.pretraining.append(str(row.get("unlearnt") or ""))
            if row.get("trained_on"):
                side.pretraining.append(f"fine-tuned on {row['trained_on']}")
    if not sides:
        raise ValueError(f"{_named(roots)}: no {RESULTS}; fine-tune or evaluate first")
    return sides


def _text(split: Split, first: Side, second: Side) -> str:
    if first.classes != second.classes:
        raise ValueError(f"{_title(split)}: the two runs have other classes; compare others")
    a, b = leaving_out_untrained(list(first.runs.values()), list(second.runs.values()))
    marks = (results.DAGGER * any(map(_is_marked, side.pretraining)) for side in (first, second))
    heads = (f"{name}{mark}" for name, mark in zip(("first", "second"), marks, strict=True))
    lines: list[tuple[str, ...]] = [("", *heads, "difference [95 %]", "p")]
    for metric in metrics_of(a[0].kind):
        if why := _undefined(metric, a, b):
            lines.append((_NAMES[metric], "-", "-", f"- ({why})", "-"))
            continue
        means = [_mean(metric, side) for side in (a, b)]
        lines.append((_NAMES[metric], *means, *_cells(paired_bootstrap(metric, a, b), metric)))
    if len(a) == len(b) == 1 and a[0].kind != "number":
        lines += _by_class(first.classes, a[0], b[0])
    head = (
        f"{_title(split)}: {images_in_words(a[0].keys, a[0].units)}, {len(a)} and {len(b)} runs\n"
    )
    sides = (("first", first), ("second", second))
    notes = {f"{name}: {line}": None for name, side in sides for line in side.pretraining if line}
    seen = [*notes, *input_lines([(name, side.images_seen) for name, side in sides])]
    if len(set(a[0].units)) < 2:
        seen.append("No interval and no p: the test images are of one patient.")
    if few := few_among(first.classes, a[0].label_B, a[0].kind):
        seen.append(f"{few}.")
    return head + results.in_columns(lines) + "".join(f"{line}\n" for line in seen)


def _undefined(metric: str, a: Sequence[Predictions], b: Sequence[Predictions]) -> str:
    """Return why a metric of two runs has no value, "" where it has one."""
    first = a[0]
    if first.kind == "class":
        if len(set(first.label_B.tolist())) < 2 and metric in NEED_TWO_CLASSES:
            return "test images of one class"
        ordered = all(run.ordered is not False for run in (*a, *b))
        return "" if ordered or metric != "quadratic_kappa" else "no known order of the classes"
    judged = ((run.label_B, run.probability_BY, run.untrained, run.thresholds) for run in (*a, *b))
    if all(point(metric, *one)[0] is not None for one in judged):
        return ""
    return "all numbers alike" if first.kind == "number" else "no label has both answers"


def _is_marked(line: str) -> bool:
    return line.startswith(results.DAGGER)


def _by_class(classes: Sequence[str], a: Predictions, b: Predictions) -> list[tuple[str, ...]]:
    """Return DeLong's test for each class or label that has test images and is not on all."""
    index = {key: i for i, key in enumerate(b.keys)}
    order_B = [index[key] for key in a.keys]  # the bootstrap has checked that they are the same
    lines: list[tuple[str, ...]] = []
    for label, name in enumerate(classes):
        is_B = a.label_B[:, label] == 1 if a.kind == "labels" else a.label_B == label
        if is_B.any() and not is_B.all() and label not in a.untrained:
            scores = a.probability_BY[:, label], b.probability_BY[order_B, label]
            auroc = [f"{100 * roc_auc_score(is_B, score_B):.1f}" for score_B in scores]
            cells = _cells(delong(is_B, *scores, a.units))
            lines.append((f"AUROC of {name}, DeLong", *auroc, *cells))
    return lines


def _mean(metric: str, side: Sequence[Predictions]) -> str:
    """Return the mean over seeds and its standard deviation, in per cent but for numbers."""
    values = [
        macro(metric, run.label_B, run.probability_BY, run.untrained, run.thresholds)[0]
        for run in side
    ]
    mean, deviation = over_seeds(values)
    spread = "" if deviation is None else f" +- {results.written(metric, deviation)}"
    return results.written(metric, mean) + spread


def _cells(difference: Difference, metric: str = "auroc") -> tuple[str, str]:
    text = results.written(metric, difference.value, "+")
    if difference.low is not None and difference.high is not None:
        ends = (results.written(metric, end, "+") for end in (difference.low, difference.high))
        text += f" [{', '.join(ends)}]"
    if difference.p is None:
        return text, "-"
    return text, "<0.001" if difference.p < 0.001 else f"{difference.p:.3f}"


def _title(split: Split) -> str:
    dataset, task, protocol, fraction = split
    return f"{dataset} {task}, {protocol}, {100 * fraction:.3g}% of the labels"


def _some(splits: Iterable[Split]) -> str:
    """Return the title of the first split, and how many more there are."""
    first, *rest = splits
    return _title(first) + (f" and {len(rest)} more" if rest else "")


def compare_table(
    table: Table, readable: set[Result]
) -> tuple[dict[CellKey, Comparison], list[str]]:
    """Compare each method with the best of its column; return also what could not be compared.

    Args:
        readable: the results whose predictions can be read.
    """
    comparisons: dict[CellKey, Comparison] = {}
    problems: list[str] = []
    # column by column: what is drawn of a test split serves all shares of labels
    columns = [(block, column) for column in table.columns for block in table.blocks]
    for block, column in progress(columns, "comparisons"):
        where = f"{block.name} of labels, {column.name}"
        opened: dict[Result, Predictions] = {}
        for metrics, runs in _compared(block, column, readable):
            for run in (run for own in runs.values() for run in own if run not in opened):
                opened[run] = read(run)[0]
            predictions = {name: [opened[run] for run in own] for name, own in runs.items()}
            alike, others = _on_the_same_images(predictions)
            if others and tabled(column)[0] in metrics:
                problems.append(
                    f"{where}: {', '.join(others)} measured on other test images than "
                    f"{', '.join(alike)}; not compared"
                )
            if not alike:
                continue
            try:
                found = against_best(metrics, alike)
            except ValueError as error:
                problems.append(f"{where}: no comparison ({error})")
                break
            for metric, (best, differences) in found.items():
                for name, other in differences.items():
                    comparisons[block.budget, column, metric, name] = Comparison(best, *other)
    return comparisons, problems


def _compared(
    block: LabelBlock, column: Column, readable: set[Result]
) -> list[tuple[list[str], dict[str, tuple[Result, ...]]]]:
    """Return metrics and the runs of each method that have them: both metrics where they can."""
    found: list[tuple[list[str], dict[str, tuple[Result, ...]]]] = []
    for metric in tabled(column):
        cells = {line.method: line.cells[column, metric] for line in block.lines}
        # as in the marks: images of pre-training make no best, and no difference from it
        runs = {name: cell.scored for name, cell in cells.items() if not cell.seen}
        runs = {name: own for name, own in runs.items() if own and readable.issuperset(own)}
        same = [metrics for metrics, own in found if own == runs]
        if same:
            same[0].append(metric)
        elif len(runs) > 1:
            found.append(([metric], runs))
    return found


def _on_the_same_images(
    predictions: dict[str, list[Predictions]],
) -> tuple[dict[str, list[Predictions]], list[str]]:
    """Return the methods of the test images that most have in all runs, and the others."""
    images = {name: {frozenset(run.keys) for run in runs} for name, runs in predictions.items()}
    counts = Counter(next(iter(sets)) for sets in images.values() if len(sets) == 1)
    usual = {counts.most_common(1)[0][0]} if counts else set()
    alike = {name: runs for name, runs in predictions.items() if images[name] == usual}
    return alike, [name for name in predictions if name not in alike]
