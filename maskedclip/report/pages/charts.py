"""Charts of the unit square as SVG: ROC and PR curves, and the reliability diagram."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from maskedclip.report.pages.html import escaped
from maskedclip.report.pages.run_statistics import Bin

# Okabe and Ito: told apart by colour-blind eyes, and by their dashes in grey print
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#8b6914")
DASHES = ("", "7 3", "2 2", "9 3 2 3", "4 2", "1 3", "12 3", "6 2 2 2 2 2")
_SIDE, _LEFT, _TOP, _BOTTOM, _RIGHT = 270, 46, 10, 42, 12  # pixels


class Curve(NamedTuple):
    """A line in the unit square; one without a name is drawn as a backdrop."""

    points_K2: np.ndarray
    name: str = ""
    stepped: bool = (
        False  # a point's height holds from the one before it, as average precision counts
    )


def chart(curves: Sequence[Curve], across: str, upwards: str, *, diagonal: bool = False) -> str:
    """Return an SVG with axes from 0 to 1."""
    parts = _axes(across, upwards)
    if diagonal:
        parts.append(_line(np.array([[0, 0], [1, 1]]), "#8896a4", "4 4", 1))
    named = 0
    for curve in curves:
        points_K2 = _steps(curve.points_K2) if curve.stepped else curve.points_K2
        if not curve.name:
            parts.append(_line(points_K2, "#c3ccd5", "", 1))
            continue
        colour, dash = COLOURS[named % len(COLOURS)], DASHES[named % len(DASHES)]
        parts.append(_line(points_K2, colour, dash, 2, curve.name))
        named += 1
    return _svg(parts, f"{upwards} against {across}")


def legend(names: Sequence[str]) -> str:
    """Return the names beside the dashes and colours that `chart` gives them."""
    lines = []
    for place, name in enumerate(names):
        colour, dash = COLOURS[place % len(COLOURS)], DASHES[place % len(DASHES)]
        stroke = (
            f'<svg width="34" height="10" aria-hidden="true"><line x1="1" y1="5" x2="33" y2="5" '
            f'stroke="{colour}" stroke-width="2.5" stroke-dasharray="{dash}"/></svg>'
        )
        lines.append(f"<div>{stroke} {escaped(name)}</div>")
    return "".join(lines)


def reliability_chart(bins: Sequence[Bin]) -> str:
    """Return bars of accuracy over confidence, and the gap to the diagonal."""
    parts = _axes("confidence (highest probability)", "share that is right")
    for each in bins:
        left, width = _x(each.low), _x(each.high) - _x(each.low)
        top, bottom = _y(each.accuracy), _y(0)
        said = f"{each.images} images: confidence {each.confidence:.3f}, right {each.accuracy:.3f}"
        parts.append(
            f'<rect x="{left + 1:.1f}" y="{top:.1f}" width="{width - 2:.1f}" '
            f'height="{bottom - top:.1f}" fill="#56b4e9" stroke="#0072b2">'
            f"<title>{escaped(said)}</title></rect>"
        )
        parts.append(
            f'<circle cx="{_x(each.confidence):.1f}" cy="{top:.1f}" r="3" fill="#d55e00">'
            f"<title>{escaped(said)}</title></circle>"
        )
    parts.append(_line(np.array([[0, 0], [1, 1]]), "#5b6b7a", "4 4", 1))
    return _svg(parts, "reliability diagram")


def _x(value: float) -> float:
    return _LEFT + value * _SIDE


def _y(value: float) -> float:
    return _TOP + (1 - value) * _SIDE


def _axes(across: str, upwards: str) -> list[str]:
    parts = [
        f'<rect x="{_LEFT}" y="{_TOP}" width="{_SIDE}" height="{_SIDE}" fill="none" '
        f'stroke="#8896a4"/>'
    ]
    for tick in (0, 0.25, 0.5, 0.75, 1):
        parts.append(
            f'<line x1="{_LEFT}" x2="{_LEFT + _SIDE}" y1="{_y(tick)}" y2="{_y(tick)}" '
            f'stroke="#e4e9ee"/>'
            f'<text x="{_LEFT - 6}" y="{_y(tick) + 4}" text-anchor="end">{tick:g}</text>'
            f'<text x="{_x(tick)}" y="{_TOP + _SIDE + 16}" text-anchor="middle">{tick:g}</text>'
        )
    middle = _TOP + _SIDE / 2
    parts.append(
        f'<text x="{_LEFT + _SIDE / 2}" y="{_TOP + _SIDE + 36}" text-anchor="middle">'
        f"{escaped(across)}</text>"
        f'<text x="12" y="{middle}" text-anchor="middle" '
        f'transform="rotate(-90 12 {middle})">{escaped(upwards)}</text>'
    )
    return parts


def _steps(points_K2: np.ndarray) -> np.ndarray:
    """Return the points with the corners of a line that goes up or down, then across."""
    corner_K2 = np.stack([points_K2[:-1, 0], points_K2[1:, 1]], axis=1)
    both_K2 = np.empty((2 * len(points_K2) - 1, 2))
    both_K2[0::2], both_K2[1::2] = points_K2, corner_K2
    return both_K2


def _line(points_K2: np.ndarray, colour: str, dash: str, width: int, name: str = "") -> str:
    points = " ".join(f"{_x(x):.1f},{_y(y):.1f}" for x, y in points_K2)
    title = f"<title>{escaped(name)}</title>" if name else ""
    return (
        f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="{width}" '
        f'stroke-dasharray="{dash}">{title}</polyline>'
    )


def _svg(parts: Sequence[str], said: str) -> str:
    width, height = _LEFT + _SIDE + _RIGHT, _TOP + _SIDE + _BOTTOM
    return (
        f'<svg role="img" aria-label="{escaped(said)}" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="12" fill="#1b2733">'
        + "".join(parts)
        + "</svg>"
    )
