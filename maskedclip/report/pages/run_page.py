"""A page a measurement: what is mistaken for what, the curves, calibration, the worst errors."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from maskedclip.report.pages.cells import shown
from maskedclip.report.pages.charts import Curve, chart, legend, reliability_chart
from maskedclip.report.pages.html import escaped, link, page, rows
from maskedclip.report.pages.measurements import NAMES, Measurement, Score, budget_words
from maskedclip.report.pages.run_statistics import (
    BINS,
    ClassCurve,
    Mistake,
    class_curves,
    confusion,
    reliability,
    worst,
)

_LONG = {
    "auroc": "ROC: area under the curve, mean over classes against the rest",
    "average_precision": "PRC: average precision, mean over classes against the rest",
}
_MANY = 12  # classes, from which the confusion matrix is set tight
_CURVES = 8  # that are told apart; of more classes the hardest ones are named


class Predicted(NamedTuple):
    """The predictions of a test split."""

    classes: Sequence[str]
    keys: Sequence[str]
    label_B: np.ndarray
    probability_BY: np.ndarray


class Pictures(NamedTuple):
    """Photographs by their keys, as data addresses, and why others are not there."""

    by_key: Mapping[str, str]
    note: str = ""


def mistakes(found: Predicted, most: int) -> list[Mistake]:
    """Return the surest mistakes of a test split."""
    return worst(found.keys, found.label_B, found.probability_BY, most)


def run_page(
    run: Measurement,
    found: Predicted,
    wrong: Sequence[Mistake],
    pictures: Pictures,
    addresses: tuple[str, str],
) -> str:
    """Return the page of a measurement.

    Args:
        wrong: the mistakes to show, with their pictures where there are any.
        addresses: of the run's directory and of the predictions, seen from the page.
    """
    curves = class_curves(found.classes, found.label_B, found.probability_BY)
    body = [
        '<p class="soft"><a href="../index.html">All results</a></p>',
        f"<h1>{escaped(run.method)} on {escaped(run.dataset)}</h1>",
        _facts(run, addresses),
        "<h2>Scores</h2>",
        _scores(run.scores),
        "<h2>Confusion matrix</h2>",
        _confusion(found),
        "<h2>ROC and precision-recall curves</h2>",
        _curves(curves),
        "<h2>Classes</h2>",
        _classes(curves),
        "<h2>Calibration</h2>",
        _calibration(found),
        "<h2>The worst errors</h2>",
        _worst(found, wrong, pictures),
    ]
    return page(run.title, body)


def _facts(run: Measurement, addresses: tuple[str, str]) -> str:
    lines = (
        f"Label <b>{escaped(run.task)}</b>, protocol <b>{escaped(run.protocol)}</b>, labels used "
        f"<b>{escaped(budget_words(run.budget))}</b>, seed <b>{run.seed}</b>, "
        f"<b>{run.n}</b> test images.",
        f"Run {link(addresses[0], run.directory.name)}, "
        f"{link(addresses[1], 'its predictions')}: all of this page is counted from them, but "
        "the intervals, which the run itself has written.",
    )
    return "".join(f"<p>{line}</p>" for line in lines)


def _scores(scores: Mapping[str, Score]) -> str:
    lines = []
    for metric, score in scores.items():
        interval = "-"
        if score.low is not None and score.high is not None:
            interval = f"{shown(score.low)} to {shown(score.high)}"
        name = escaped(_LONG.get(metric, NAMES.get(metric, metric)))
        lines.append([name, shown(score.value), interval, escaped(score.note)])
    noted = 4 if any(score.note for score in scores.values()) else 3
    head = ("metric", "%", "95 % interval", "note")[:noted]
    return rows(head, [line[:noted] for line in lines])


def _confusion(found: Predicted) -> str:
    count_YY = confusion(len(found.classes), found.label_B, found.probability_BY)
    total_Y = count_YY.sum(axis=1)
    dense = " dense" if len(found.classes) > _MANY else ""
    turned = max(len(name) for name in found.classes) * len(found.classes) > 90
    kind = ' class="turned"' if turned else ""
    top = "".join(f"<th{kind}>{escaped(name)}</th>" for name in found.classes)
    body = ""
    for label, name in enumerate(found.classes):
        body += f'<tr><td class="name">{escaped(name)}</td>'
        for called, count in enumerate(count_YY[label]):
            share = count / total_Y[label] if total_Y[label] else 0.0
            ink = "#fff" if share > 0.7 else "inherit"
            said = (
                f"{count} of {total_Y[label]} images of {name} are called {found.classes[called]}"
            )
            own = ' class="own"' if called == label else ""
            body += (
                f'<td{own} style="background: rgba(11, 83, 148, {share:.2f}); color: {ink}" '
                f'title="{escaped(said)}">{count or ""}</td>'
            )
        body += f"<td>{total_Y[label]}</td></tr>"
    return (
        '<p class="soft">Rows: what the image is. Columns: what it is called (the class of the '
        "highest probability). Shade: share of the row.</p>"
        f'<div class="wide"><table class="confusion{dense}"><thead><tr><th class="name"></th>{top}'
        f"<th>images</th></tr></thead><tbody>{body}</tbody></table></div>"
    )


def _curves(curves: Sequence[ClassCurve]) -> str:
    drawn = [curve for curve in curves if curve.roc_K2 is not None]
    if not drawn:
        return "<p>All test images are of one class: there is no curve.</p>"
    if len(curves) == 2:
        drawn = drawn[1:]  # the other one is its mirror
    hardest = sorted(drawn, key=lambda curve: curve.auroc or 0)[:_CURVES]
    named = [curve for curve in drawn if curve in hardest] if len(drawn) > _CURVES else drawn
    backdrop = [curve for curve in drawn if curve not in named]
    roc, precision = (
        [Curve(getattr(curve, kind), "", stepped) for curve in backdrop]
        + [Curve(getattr(curve, kind), curve.name, stepped) for curve in named]
        for kind, stepped in (("roc_K2", False), ("precision_K2", True))
    )
    more = "" if not backdrop else f" The {len(named)} lowest of {len(drawn)} are coloured."
    return (
        f'<p class="soft">Each class against all others.{more}</p><div class="charts">'
        f"<figure>{chart(roc, 'false positive rate', 'true positive rate', diagonal=True)}"
        "<figcaption>ROC. Dashed: chance.</figcaption></figure>"
        f"<figure>{chart(precision, 'recall', 'precision')}"
        "<figcaption>Precision and recall.</figcaption></figure>"
        f"<div>{legend([curve.name for curve in named])}</div></div>"
    )


def _classes(curves: Sequence[ClassCurve]) -> str:
    lines = []
    for curve in curves:
        recall = shown(curve.correct / curve.images) if curve.images else "-"
        precision = shown(curve.correct / curve.called) if curve.called else "-"
        line = [escaped(curve.name), str(curve.images), str(curve.called), recall, precision]
        lines.append([*line, shown(curve.auroc), shown(curve.average_precision)])
    head = ("class", "images", "called so", "recall %", "precision %", "ROC %", "PRC %")
    return rows(head, lines)


def _calibration(found: Predicted) -> str:
    bins, error = reliability(found.label_B, found.probability_BY)
    lines = [
        [f"{b.low:.2f} to {b.high:.2f}", str(b.images), shown(b.confidence), shown(b.accuracy)]
        for b in bins
    ]
    return (
        f"<p>Expected calibration error (ECE): <b>{shown(error)} %</b>, the mean gap between "
        f"confidence and share that is right, over {BINS} bins of equal width.</p>"
        f'<div class="charts"><figure>{reliability_chart(bins)}<figcaption>Bars and points: share '
        "that is right among images of that confidence. On the dashed line confidence is right; "
        "bars below it mean overconfidence.</figcaption></figure>"
        f"{rows(('confidence', 'images', 'mean %', 'right %'), lines)}</div>"
    )


def _worst(found: Predicted, wrong: Sequence[Mistake], pictures: Pictures) -> str:
    if not wrong:
        return "<p>No image is called by a wrong name.</p>"
    parts = []
    for each in wrong:
        image = ""
        if each.key in pictures.by_key:
            said = f"photograph {each.key}"
            image = f'<img alt="{escaped(said)}" src="{escaped(pictures.by_key[each.key])}">'
        own, called = found.classes[each.label], found.classes[each.called]
        words = (
            f"called <b>{escaped(called)}</b> with {100 * each.confidence:.1f} %; it is "
            f"<b>{escaped(own)}</b><br><small>{escaped(each.key)}</small>"
        )
        parts.append(f"<figure>{image}<figcaption>{words}</figcaption></figure>")
    note = f'<p class="problem">{escaped(pictures.note)}</p>' if pictures.note else ""
    return (
        '<p class="soft">The images that were given a wrong class with the highest probability.'
        f'</p>{note}<div class="mistakes">{"".join(parts)}</div>'
    )
