"""Each method of a report against the best of its column, on the same test images."""

from collections import Counter

from maskedclip.metrics.comparison import against_best
from maskedclip.metrics.results import Predictions
from maskedclip.report.collect import read
from maskedclip.report.pages.cells import Comparison, Place
from maskedclip.report.pages.measurements import TABLED, Measurement
from maskedclip.report.pages.tables import Table
from maskedclip.report.run_pages import progress


def compare(first: Table, there: set[Measurement]) -> tuple[dict[Place, Comparison], list[str]]:
    """Hold each method against the best of its column; return also what could not be compared.

    Args:
        there: the measurements whose predictions can be read.
    """
    compared: dict[Place, Comparison] = {}
    problems: list[str] = []
    places = [(block, column) for block in first.blocks for column in first.columns]
    for block, column in progress(places, "comparisons"):
        for metric in TABLED:
            runs = {line.method: line.cells[column, metric].measured for line in block.lines}
            runs = {name: own for name, own in runs.items() if own and there.issuperset(own)}
            if len(runs) < 2:
                continue
            predictions = {name: [read(run)[0] for run in own] for name, own in runs.items()}
            alike, elsewhere = _on_the_same_images(predictions)
            if elsewhere and metric == TABLED[0]:
                problems.append(
                    f"{block.name} of labels, {column.name}: {', '.join(elsewhere)} measured on "
                    f"other test images than {', '.join(alike)}; not compared"
                )
            if not alike:
                continue
            try:
                best, others = against_best(metric, alike)
            except ValueError as error:
                problems.append(f"{block.name} of labels, {column.name}: no comparison ({error})")
                break
            for name, other in others.items():
                compared[block.budget, column, metric, name] = Comparison(
                    best, other.value, other.low, other.high, other.p
                )
    return compared, problems


def _on_the_same_images(
    predictions: dict[str, list[Predictions]],
) -> tuple[dict[str, list[Predictions]], list[str]]:
    """Return the methods of the test images that most have in all runs, and the others."""
    images = {name: {frozenset(run.keys) for run in runs} for name, runs in predictions.items()}
    counts = Counter(next(iter(sets)) for sets in images.values() if len(sets) == 1)
    usual = {counts.most_common(1)[0][0]} if counts else set()
    alike = {name: runs for name, runs in predictions.items() if images[name] == usual}
    return alike, [name for name in predictions if name not in alike]
