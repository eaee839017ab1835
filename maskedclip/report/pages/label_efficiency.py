"""Figure 2: the share of labels against AUROC, a panel a task, a line a method."""

import io
import textwrap
from collections.abc import Sequence
from typing import NamedTuple

import matplotlib as mpl
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from maskedclip.report.pages.cells import Cell, Column
from maskedclip.report.pages.charts import COLOURS
from maskedclip.report.pages.tables import Table

METRIC = "auroc"
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
_LINES = ("-", "--", "-.", ":")
_LONGEST = 28  # characters of a name in one line of the legend
_IN_PANEL = 8  # methods that an empty panel has room for
_WIDTH, _PANEL = 4.8, 1.75  # inches: a column of text, and the height of a panel
_PIXELS = 150  # of a page, an inch of the figure
_DATED = {"png": "Software", "svg": "Date"}
_STYLE = {
    "font.family": "sans-serif", "font.size": 8, "axes.titlesize": 8.5, "axes.linewidth": 0.6,
    "legend.fontsize": 7.5, "xtick.labelsize": 7, "ytick.labelsize": 7, "lines.linewidth": 1.3,
    "svg.hashsalt": "maskedclip",  # the same figure, the same bytes
}  # fmt: skip


class Drawn(NamedTuple):
    """The figure as files, and what it shows in words."""

    png: bytes
    svg: bytes
    words: str
    width: int  # on a page, in pixels


class _Point(NamedTuple):
    share: float  # per cent of the labels
    mean: float
    low: float
    high: float
    seeds: int


def draw(table: Table) -> Drawn | None:
    """Return the figure of what the table holds; None where no task has a value."""
    columns = [column for column in table.columns if _lines(table, column)]
    if not columns:
        return None
    methods = list(dict.fromkeys(line.method for b in table.blocks for line in b.lines))
    across = min(2, len(columns))
    down = -(-len(columns) // across)
    # the legend has an empty panel, or rows of its own below
    free = down * across > len(columns) and len(methods) <= _IN_PANEL
    room = 0.0 if free else 0.4 + 0.17 * -(-len(methods) // across)
    size = (_WIDTH if across > 1 else 0.7 * _WIDTH, _PANEL * down + room)  # inches
    bands = _bands(table)
    with mpl.rc_context(_STYLE):  # type: ignore[arg-type]
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.subplots(down, across, squeeze=False)
        handles: dict[str, Artist] = {}
        for place, column in enumerate(columns):
            handles |= _panel(axes.flat[place], table, column, methods)
        for empty in axes.flat[len(columns) :]:
            empty.set_axis_off()
        for bottom in axes.flat[max(0, len(columns) - across) : len(columns)]:
            bottom.set_xlabel("labels used (%, log scale)")
        for left in axes[:, 0]:
            left.set_ylabel("AUROC (%)")
        owner: Axes | Figure = axes.flat[-1] if free else figure
        letters = 34 if free else round(15 * size[0])  # that a line of the title has room for
        owner.legend(
            [handles[name] for name in methods if name in handles],
            [_label(name) for name in methods if name in handles],
            ncols=1 if free else across, frameon=False, handlelength=3.2,
            loc="center" if free else "outside lower center",
            title=textwrap.fill(bands, letters), title_fontsize=7,
        )  # fmt: skip
        png, svg = (_saved(figure, kind) for kind in ("png", "svg"))
    names = ", ".join(column.name for column in columns)
    words = f"AUROC against the share of labels, for {names}, by {', '.join(methods)}. {bands}."
    return Drawn(png, svg, words, round(_PIXELS * size[0]))


def _saved(figure: Figure, kind: str) -> bytes:
    file = io.BytesIO()
    # no date and version: the same figure, the same bytes
    figure.savefig(file, format=kind, dpi=300, metadata={_DATED[kind]: None})
    return file.getvalue()


def _lines(table: Table, column: Column) -> dict[str, list[_Point]]:
    """Return a method's points in a panel, by rising share of labels."""
    found: dict[str, list[_Point]] = {}
    for block in table.blocks:
        if isinstance(block.budget, str) or block.budget <= 0:
            continue
        for line in block.lines:
            point = _point(float(block.budget), line.cells[column, METRIC])
            if point:
                found.setdefault(line.method, []).append(point)
    return found


def _point(share: float, cell: Cell) -> _Point | None:
    if cell.mean is None:
        return None
    low, high = cell.interval or (cell.mean, cell.mean)
    if cell.deviation is not None:
        low, high = cell.mean - cell.deviation, cell.mean + cell.deviation
    return _Point(100 * share, 100 * cell.mean, 100 * low, 100 * high, len(cell.values))


def _label(name: str) -> str:
    """Return a name as it is, and no formula or hidden entry, not wider than a panel."""
    plain = textwrap.fill(name.replace("$", r"\$"), _LONGEST)
    return f" {plain}" if plain.startswith("_") else plain


def _panel(axes: Axes, table: Table, column: Column, methods: Sequence[str]) -> dict[str, Artist]:
    """Draw a task's lines and return them by method."""
    handles: dict[str, Artist] = {}
    found = _lines(table, column)
    shares = sorted({point.share for points in found.values() for point in points})
    for method, points in found.items():
        place = methods.index(method)
        colour = COLOURS[place % len(COLOURS)]
        at = [point.share for point in points]
        (handles[method],) = axes.plot(
            at, [point.mean for point in points], color=colour, markersize=3.6,
            marker=_MARKERS[place % len(_MARKERS)],
            linestyle=_LINES[(place // len(COLOURS) + place) % len(_LINES)],
        )  # fmt: skip
        low, high = [point.low for point in points], [point.high for point in points]
        if len(points) > 1:
            axes.fill_between(at, low, high, color=colour, alpha=0.16, linewidth=0)
        else:  # a band has no width there
            axes.vlines(at, low, high, color=colour, alpha=0.6)
    axes.set_xscale("log")
    axes.set_xticks(shares, [f"{share:g}" for share in shares])
    axes.set_xticks([], minor=True)
    axes.margins(x=0.06)
    if len(shares) == 1:
        axes.set_xlim(shares[0] / 2, shares[0] * 2)
    axes.set_title(_label(column.name))
    axes.grid(color="#dde3e9", linewidth=0.5)
    axes.spines[["top", "right"]].set_visible(False)
    return handles


def _bands(table: Table) -> str:
    """Return in words what the bands are."""
    seeds = {
        point.seeds
        for column in table.columns
        for points in _lines(table, column).values()
        for point in points
    }
    several = sorted(seeds - {1})
    spread = f"standard deviation over {' or '.join(map(str, several))} seeds"
    interval = "95\u00a0% bootstrap interval"  # a line must not break there
    if several and 1 in seeds:
        return f"Bands: {spread}; where there is one seed, {interval}"
    return f"Bands: {spread}" if several else f"Bands: {interval} (one seed)"
