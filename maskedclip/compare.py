"""Is one run better than another? Every metric on the same test images, with p-values.

python -m maskedclip.compare RUN RUN

Each RUN is a run directory, or a folder of them: runs of one dataset, protocol and fraction that
differ in their seed count as their mean. Patients are drawn with replacement, 2,000 times, the
same ones for both; with one seed on each side DeLong's test stands below for each class.
"""

from maskedclip.command import CommandLine, Word, one_line_errors

COMPARE = CommandLine(words=[Word("RUN", least=2, most=2)])

if __name__ == "__main__":  # before scikit-learn is imported: --help and mistakes answer at once
    import shlex
    import sys

    WORDS = COMPARE.read(__doc__).words

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from sklearn.metrics import roc_auc_score

from maskedclip.metrics import results
from maskedclip.metrics.comparison import Difference, delong, over_seeds, paired_bootstrap
from maskedclip.metrics.results import Predictions
from maskedclip.metrics.scores import METRICS, NEED_TWO_CLASSES, macro
from maskedclip.report.collect import run_directories

Place = tuple[str, str, str, float]  # dataset, task, protocol, fraction
_NAMES = {
    "auroc": "AUROC",
    "average_precision": "average precision",
    "quadratic_kappa": "quadratic kappa",
    "macro_f1": "macro F1",
    "balanced_accuracy": "balanced accuracy",
    "calibration_error": "calibration error (less is better)",
}


class Side(NamedTuple):
    """One side's predictions in a place: a run a seed."""

    classes: list[str]
    runs: dict[int, Predictions]


def compare(first: Path, second: Path) -> str:
    """Return a table a place (dataset, task, protocol, fraction) that both have measured.

    Raises ValueError where there is none, where a side has two runs of one seed, and where the
    two sides are not of the same test images.
    """
    sides = [_read(root) for root in (first, second)]
    both = [place for place in sides[0] if place in sides[1]]
    if not both:
        raise ValueError(
            f"{first} and {second} have measured nothing in common: {_some(sides[0])} and "
            f"{_some(sides[1])}"
        )
    return "\n".join(_table(place, *(side[place] for side in sides)) for place in both)


def _read(root: Path) -> dict[Place, Side]:
    if not root.is_dir():
        raise ValueError(f"{root}: no such directory; name a run, or a folder of runs")
    found: dict[Place, Side] = {}
    for run in run_directories([root]):
        for row in results.read_rows(run):
            if row["metric"] != METRICS[0]:
                continue
            measured, classes = results.predictions_of(run, row)
            place = (row["dataset"], row["task"], row["protocol"], row["fraction"])
            side = found.setdefault(place, Side(classes, {}))
            if row["seed"] in side.runs or side.classes != classes:
                raise ValueError(
                    f"{root}: {_words(place)} has two runs of seed {row['seed']}, or other "
                    f"classes; name one run, or a folder of runs that differ in their seed"
                )
            side.runs[row["seed"]] = measured
    if not found:
        raise ValueError(f"{root}: no {results.RESULTS}; fine-tune or evaluate first")
    return found


def _table(place: Place, first: Side, second: Side) -> str:
    if first.classes != second.classes:
        raise ValueError(f"{_words(place)}: the two runs have other classes; compare others")
    a, b = list(first.runs.values()), list(second.runs.values())
    patients = len(set(a[0].units))
    lines: list[tuple[str, ...]] = [("", "first", "second", "difference [95 %]", "p")]
    single = len(set(a[0].label_B.tolist())) < 2
    for metric in METRICS:
        if single and metric in NEED_TWO_CLASSES:
            lines.append((_NAMES[metric], "-", "-", "- (test images of one class)", "-"))
            continue
        means = [_mean(metric, side) for side in (a, b)]
        lines.append((_NAMES[metric], *means, *_cells(paired_bootstrap(metric, a, b))))
    if len(a) == len(b) == 1 and not single:
        lines += _by_class(first.classes, a[0], b[0])
    head = (
        f"{_words(place)}: {len(a[0].keys)} images of {patients} patients, "
        f"{len(a)} and {len(b)} runs\n"
    )
    return head + results.in_columns(lines)


def _by_class(classes: Sequence[str], a: Predictions, b: Predictions) -> list[tuple[str, ...]]:
    """Return DeLong's test for each class that has test images."""
    place = {key: i for i, key in enumerate(b.keys)}
    order_B = [place[key] for key in a.keys]  # that they are the same, the bootstrap has checked
    lines: list[tuple[str, ...]] = []
    for label, name in enumerate(classes):
        is_B = a.label_B == label
        if is_B.any():
            scores = a.probability_BY[:, label], b.probability_BY[order_B, label]
            auroc = [f"{100 * roc_auc_score(is_B, score_B):.1f}" for score_B in scores]
            cells = _cells(delong(is_B, *scores, a.units))
            lines.append((f"AUROC of {name}, DeLong", *auroc, *cells))
    return lines


def _mean(metric: str, side: Sequence[Predictions]) -> str:
    """Return the mean over seeds and its standard deviation, in per cent."""
    values = [macro(metric, run.label_B, run.probability_BY)[0] for run in side]
    mean, deviation = over_seeds(values)
    return f"{100 * mean:.1f}" + ("" if deviation is None else f" +- {100 * deviation:.1f}")


def _cells(found: Difference) -> tuple[str, str]:
    difference = f"{100 * found.value:+.1f}"
    if found.low is not None and found.high is not None:
        difference += f" [{100 * found.low:+.1f}, {100 * found.high:+.1f}]"
    if found.p is None:
        return difference, "-"
    return difference, "<0.001" if found.p < 0.001 else f"{found.p:.3f}"


def _words(place: Place) -> str:
    dataset, task, protocol, fraction = place
    return f"{dataset} {task}, {protocol}, {100 * fraction:.3g}% of the labels"


def _some(places: Iterable[Place]) -> str:
    """Return the first of the places in words, and how many more there are."""
    first, *rest = places
    return _words(first) + (f" and {len(rest)} more" if rest else "")


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    with one_line_errors():
        sys.stdout.write(compare(*map(Path, WORDS)))
        sys.stdout.write(
            f"p-values are not adjusted for their number; next: "
            f"python -m maskedclip.report {shlex.join(WORDS)} --out report, which adjusts them\n"
        )
