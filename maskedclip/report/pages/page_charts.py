"""Charts of a run's page, written as SVG by hand: ROC, precision-recall, calibration, legend.

matplotlib took most of the time of a report of some hundred runs, and a page needs lines, bars and
ticks of the unit square alone. Colours are those of the page, light or dark; text stays text.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup, escape

from maskedclip.report.pages.run_statistics import ClassCurve, ReliabilityBin

# Okabe and Ito: distinct to colour-blind eyes, and by their dashes in grey print
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#8b6914")
_DASHES = ("", "6 3", "1.6 2", "8 2.5 1.6 2.5", "4 2", "1 3", "12 4", "8 3 2 3 2 3")
_SIDE, _LEFT, _TOP, _SQUARE = 238, 40, 6, 196  # points: the chart, and the unit square in it
_TICKS = (0, 0.25, 0.5, 0.75, 1)
_LINE = 15  # points a line of the legend
_INK, _GRID, _BACKDROP = "currentColor", "var(--line)", "var(--soft)"
_ON_PAGE = {"#000000": _INK}


def roc_chart(curves: Sequence[ClassCurve], backdrop: Sequence[ClassCurve] = ()) -> Markup:
    """Return an <svg> of the ROC curves; those of the backdrop are thin and unnamed."""
    drawn = [_diagonal(_BACKDROP)]
    drawn += [_path(_roc(curve), _BACKDROP, 0.7) for curve in backdrop]
    drawn += [_styled(_roc(curve), i) for i, curve in enumerate(curves)]
    areas = ", ".join(f"{c.name} {100 * (c.auroc or 0):.1f}" for c in curves)
    words = f"ROC curves. Area under the curve in per cent: {areas}."
    return _unit_square("false positive rate", "true positive rate", drawn, words)


def precision_recall_chart(
    curves: Sequence[ClassCurve], backdrop: Sequence[ClassCurve] = ()
) -> Markup:
    """Return an <svg> of precision against recall, in the steps that average precision sums."""
    drawn = [_path(_steps(curve), _BACKDROP, 0.7) for curve in backdrop]
    drawn += [_styled(_steps(curve), i) for i, curve in enumerate(curves)]
    areas = ", ".join(f"{c.name} {100 * (c.average_precision or 0):.1f}" for c in curves)
    words = f"Precision-recall curves. Average precision, per cent: {areas}."
    return _unit_square("recall", "precision", drawn, words)


def reliability_chart(bins: Sequence[ReliabilityBin], *, of_labels: bool = False) -> Markup:
    """Return an <svg> of accuracy over confidence as bars, and the diagonal.

    Of several labels an image: of the share that has a label over its probability.
    """
    drawn = []
    for one in bins:
        (left, top), (right, bottom) = _at(one.low, one.accuracy), _at(one.high, 0)
        drawn.append(
            f'<rect x="{left:.1f}" y="{top:.1f}" width="{right - left:.1f}" '
            f'height="{bottom - top:.1f}" fill="#56b4e9" stroke="#0072b2" stroke-width="0.8"/>'
        )
    for one in bins:
        x, y = _at(one.confidence, one.accuracy)
        drawn.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2" fill="#d55e00"/>')
    values = ", ".join(f"{100 * b.confidence:.0f}: {100 * b.accuracy:.0f}" for b in bins)
    axes = "confidence (highest probability)", "share that is right"
    words = f"Reliability diagram. Confidence: share right, per cent: {values}."
    if of_labels:
        axes = "probability of a label", "share that has the label"
        words = f"Reliability diagram. Probability: share that has the label, per cent: {values}."
    return _unit_square(*axes, [*drawn, _diagonal(_INK)], words)


def curve_legend(names: Sequence[str]) -> Markup:
    """Return an <svg> of the names beside the lines that the two charts draw for them."""
    drawn = []
    for i, name in enumerate(names):
        y = _LINE * (i + 0.5)
        drawn.append(f'<path d="M2 {y}H32" {_style(i)}/>')
        drawn.append(f'<text x="40" y="{y + 3}">{escape(name)}</text>')
    longest = max((len(name) for name in names), default=0)
    size = 46 + 5.2 * longest, _LINE * max(len(names), 1)
    return _svg(size, drawn, f"Classes: {', '.join(names)}.")


def _roc(curve: ClassCurve) -> np.ndarray:
    assert curve.roc_K2 is not None
    return curve.roc_K2


def _steps(curve: ClassCurve) -> np.ndarray:
    """Return the corners of the steps between the points: up or down first, then along."""
    assert curve.precision_K2 is not None
    corner_K2 = np.repeat(curve.precision_K2, 2, axis=0)[:-1]
    corner_K2[1::2, 1] = curve.precision_K2[1:, 1]
    return corner_K2


def _at(x: Any, y: Any) -> tuple[Any, Any]:
    """Return where a point of the unit square lies in a chart; a curve at its edge is whole."""
    inner = _SQUARE / 1.02
    return _LEFT + (x + 0.01) * inner, _TOP + _SQUARE - (y + 0.01) * inner


def _path(point_K2: np.ndarray, colour: str, width: float) -> str:
    return f'<path d="{_line(point_K2)}" stroke="{colour}" stroke-width="{width}"/>'


def _styled(point_K2: np.ndarray, number: int) -> str:
    return f'<path d="{_line(point_K2)}" {_style(number)}/>'


def _line(point_K2: np.ndarray) -> str:
    x_K, y_K = _at(*point_K2.T)
    places = np.stack([x_K, y_K], axis=1).ravel().tolist()
    return "M" + " ".join(["%.1f %.1f"] * len(point_K2)) % tuple(places)  # one call: many points


def _style(number: int) -> str:
    colour, dashes = COLOURS[number % len(COLOURS)], _DASHES[number % len(_DASHES)]
    dashed = f' stroke-dasharray="{dashes}"' if dashes else ""
    return f'stroke="{_ON_PAGE.get(colour, colour)}" stroke-width="1.6"{dashed}'


def _diagonal(colour: str) -> str:
    ends_K2 = np.array([[0.0, 0.0], [1.0, 1.0]])
    return _path(ends_K2, colour, 0.8).replace("/>", ' stroke-dasharray="3 2"/>')


def _unit_square(across: str, upwards: str, drawn: Iterable[str], words: str) -> Markup:
    parts = []
    bottom = _TOP + _SQUARE
    for tick in _TICKS:
        x, y = _at(tick, tick)
        parts.append(f'<path d="M{x:.1f} {_TOP}V{bottom}M{_LEFT} {y:.1f}H{_LEFT + _SQUARE}" '
                     f'stroke="{_GRID}" stroke-width="0.6"/>')  # fmt: skip
        parts.append(f'<text x="{x:.1f}" y="{bottom + 11}" text-anchor="middle">{tick:g}</text>')
        parts.append(f'<text x="{_LEFT - 4}" y="{y + 3:.1f}" text-anchor="end">{tick:g}</text>')
    frame = f'<rect x="{_LEFT}" y="{_TOP}" width="{_SQUARE}" height="{_SQUARE}"'
    parts += [*drawn, f'{frame} stroke="{_INK}" stroke-width="0.6"/>']
    middle, half = _LEFT + _SQUARE / 2, _TOP + _SQUARE / 2
    parts.append(f'<text x="{middle}" y="{_SIDE - 8}" text-anchor="middle">{across}</text>')
    parts.append(f'<text transform="translate(11 {half}) rotate(-90)" text-anchor="middle">'
                 f"{upwards}</text>")  # fmt: skip
    return _svg((_SIDE, _SIDE), parts, words)


def _svg(size: tuple[float, float], parts: Iterable[str], words: str) -> Markup:
    width, height = (f"{length:.0f}" for length in size)
    head = Markup('<svg class="chart" role="img" aria-label="{}"').format(words)
    head += Markup(
        f' width="{width}pt" height="{height}pt" viewBox="0 0 {width} {height}" '
        f'xmlns="http://www.w3.org/2000/svg" fill="none" font-family="sans-serif" font-size="8.5">'
    )
    text = "\n".join(parts).replace("<text ", f'<text fill="{_INK}" ')  # names are escaped
    return head + Markup(f"{text}</svg>")
