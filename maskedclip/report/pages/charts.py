"""Charts of a report by matplotlib: Figure 2, and predicted over true numbers."""

import io
import re
import textwrap
from collections.abc import Sequence
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
from markupsafe import Markup
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from maskedclip.metrics.results import DAGGER
from maskedclip.report.pages.page_charts import COLOURS
from maskedclip.report.pages.tables import Column, Table, TableCell

_METRIC = "auroc"
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
_LINES = ("-", "--", "-.", ":")
_LONGEST = 28  # characters of a name in one line of the legend
_IN_PANEL = 8  # methods that an empty panel has room for
_WIDTH, _PANEL = 4.8, 1.75  # inches: a column of text, and the height of a panel
_SQUARE = 3.3  # inches: side of a chart of the unit square
_INK, _GRID, _BACKDROP = "#1b2733", "#dde3e9", "#a9b4bf"
_ON_PAGE = {  # a colour of a figure -> what it is on a page, light or dark
    _INK: "currentColor", "#000000": "currentColor", _GRID: "var(--line)",
    _BACKDROP: "var(--soft)", "#ffffff": "none",
}  # fmt: skip
_FILE_STYLE: dict[Any, Any] = {
    "font.family": "sans-serif", "font.size": 8, "axes.titlesize": 8.5, "axes.linewidth": 0.6,
    "legend.fontsize": 7.5, "xtick.labelsize": 7, "ytick.labelsize": 7, "lines.linewidth": 1.3,
    "svg.hashsalt": "maskedclip",  # the same figure, the same bytes
    "text.parse_math": False,  # a name is no formula
}  # fmt: skip
_PAGE_STYLE = _FILE_STYLE | {
    "text.color": _INK, "axes.edgecolor": _INK, "axes.labelcolor": _INK, "xtick.color": _INK,
    "ytick.color": _INK, "svg.fonttype": "none",  # text stays text: searched, and read aloud
}  # fmt: skip
_CHART_STYLE = _PAGE_STYLE | {
    "font.size": 9, "xtick.labelsize": 8.5, "ytick.labelsize": 8.5, "legend.fontsize": 9,
    "lines.linewidth": 1.6,
}  # fmt: skip
_NO_METADATA = {
    "png": {"Software": None},
    "svg": {"Date": None},  # no date and version: the same figure, the same bytes
}


class RenderedFigure(NamedTuple):
    """Figure 2 as files and as an element of a page, and its content in words."""

    png: bytes
    svg: bytes
    inline: Markup
    words: str


class _Point(NamedTuple):
    share: float  # per cent of the labels
    mean: float
    low: float
    high: float
    seeds: int


def scatter_chart(value_B: np.ndarray, predicted_B: np.ndarray, name: str) -> Markup:
    """Return an <svg> of predicted over true numbers, a point an image, and the diagonal."""
    low = float(min(value_B.min(), predicted_B.min()))
    high = float(max(value_B.max(), predicted_B.max()))
    margin = 0.03 * (high - low) or 1.0
    ends = (low - margin, high + margin)
    with mpl.rc_context(_CHART_STYLE):
        figure = Figure(figsize=(_SQUARE, _SQUARE))
        axes = figure.add_axes((0.18, 0.14, 0.80, 0.84))
        axes.set(xlim=ends, ylim=ends, xlabel=_label(name), ylabel="predicted")
        axes.set_axisbelow(True)
        axes.grid(color=_GRID, linewidth=0.6)
        axes.plot(ends, ends, color=_INK, linestyle="--", linewidth=0.8)
        axes.plot(value_B, predicted_B, "o", color="#0072b2", markersize=3, alpha=0.6)
        words = f"Predicted over true {name} of {len(value_B)} images, from {low:.4g} to {high:.4g}"
        return _inline(figure, f"{words}.")


def _inline(figure: Figure, words: str) -> Markup:
    """Return the figure as an <svg> element of a page, in the page's colours, said in `words`."""
    svg = _saved(figure, "svg").decode()
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    svg = re.sub(r"\n\s*", "\n", svg).rstrip()
    for colour, on_page in _ON_PAGE.items():
        svg = svg.replace(colour, on_page)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)  # several figures of a page would share them
    attributes = Markup('<svg class="chart" role="img" aria-label="{}"').format(words)
    return attributes + Markup(svg.removeprefix("<svg"))


def label_efficiency(table: Table) -> RenderedFigure | None:
    """Return Figure 2, the share of labels against AUROC; None where no task has a value."""
    if not any(_lines(table, column) for column in table.columns):
        return None
    methods = list(dict.fromkeys(line.method for b in table.blocks for line in b.lines))
    with mpl.rc_context(_FILE_STYLE):
        figure = _figure_2(table, methods)
        png, svg = (_saved(figure, kind) for kind in ("png", "svg"))
    names = ", ".join(column.name for column in table.columns if _lines(table, column))
    words = f"AUROC against the share of labels, for {names}, by {', '.join(methods)}; "
    words += f"protocol {table.protocol}. "
    words += f"{_bands(table)}."
    if marked := _pretrained_on_tests(table):
        words += f" {DAGGER} Test images were in pre-training ({', '.join(marked)}): see Table 1."
    with mpl.rc_context(_PAGE_STYLE):
        inline = _inline(_figure_2(table, methods), words)
    return RenderedFigure(png, svg, inline, words)


def _figure_2(table: Table, methods: Sequence[str]) -> Figure:
    columns = [column for column in table.columns if _lines(table, column)]
    across = min(2, len(columns))
    down = -(-len(columns) // across)
    # the legend has an empty panel, or rows of its own below
    free = down * across > len(columns) and len(methods) <= _IN_PANEL
    room = 0.0 if free else 0.4 + 0.17 * -(-len(methods) // across)
    size = (_WIDTH if across > 1 else 0.7 * _WIDTH, _PANEL * down + room)  # inches
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(down, across, squeeze=False)
    handles: dict[str, Artist] = {}
    for panel, column in zip(axes.flat, columns, strict=False):
        handles |= _panel(panel, table, column, methods)
    for empty in axes.flat[len(columns) :]:
        empty.set_axis_off()
    for bottom in axes.flat[max(0, len(columns) - across) : len(columns)]:
        bottom.set_xlabel(f"labels used (%{', log scale' * (len(table.blocks) > 1)})")
    for left in axes[:, 0]:
        left.set_ylabel("AUROC (%)")
    owner: Axes | Figure = axes.flat[-1] if free else figure
    marked = _pretrained_on_tests(table)
    letters = 34 if free else round(15 * size[0])  # that a line of the title has room for
    owner.legend(
        [handles[name] for name in methods if name in handles],
        [_label(f"{name}{DAGGER * (name in marked)}") for name in methods if name in handles],
        ncols=1 if free else across, frameon=False, handlelength=3.2,
        loc="center" if free else "outside lower center",
        title=textwrap.fill(_bands(table), letters), title_fontsize=7,
    )  # fmt: skip
    return figure


def _saved(figure: Figure, kind: str) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format=kind, dpi=300, metadata=_NO_METADATA[kind])
    return file.getvalue()


def _lines(table: Table, column: Column) -> dict[str, list[_Point]]:
    """Return a method's points in a panel, by rising share of labels."""
    lines: dict[str, list[_Point]] = {}
    for block in table.blocks if column.kind != "number" else ():
        if isinstance(block.budget, str) or block.budget <= 0:
            continue
        for line in block.lines:
            point = _point(float(block.budget), line.cells[column, _METRIC])
            if point:
                lines.setdefault(line.method, []).append(point)
    return lines


def _point(share: float, cell: TableCell) -> _Point | None:
    if cell.mean is None:
        return None
    low, high = cell.interval or (cell.mean, cell.mean)
    if cell.deviation is not None:
        low, high = cell.mean - cell.deviation, cell.mean + cell.deviation
    return _Point(100 * share, 100 * cell.mean, 100 * low, 100 * high, len(cell.values))


def _label(name: str) -> str:
    """Return a name, wrapped; matplotlib would hide one that begins with an underscore."""
    plain = textwrap.fill(name, _LONGEST)
    return f" {plain}" if plain.startswith("_") else plain


def _pretrained_on_tests(table: Table) -> list[str]:
    """Return the methods of which a value that is drawn is of images that were in pre-training."""
    drawn = [column for column in table.columns if _lines(table, column)]
    lines = [line for block in table.blocks for line in block.lines]
    seen = (x.method for x in lines if any(x.cells[column, _METRIC].seen for column in drawn))
    return list(dict.fromkeys(seen))


def _panel(axes: Axes, table: Table, column: Column, methods: Sequence[str]) -> dict[str, Artist]:
    """Draw a task's lines and return them by method."""
    handles: dict[str, Artist] = {}
    lines = _lines(table, column)
    shares = sorted({point.share for points in lines.values() for point in points})
    for place, (method, points) in enumerate(lines.items()):
        index = methods.index(method)
        colour = COLOURS[index % len(COLOURS)]
        # of one share the methods stand beside each other; their intervals would hide one another
        aside = 2 ** ((place + 0.5) / len(lines) - 0.5) if len(shares) == 1 else 1.0
        share = [aside * point.share for point in points]
        (handles[method],) = axes.plot(
            share, [point.mean for point in points], color=colour, markersize=3.6,
            marker=_MARKERS[index % len(_MARKERS)],
            linestyle=_LINES[(index // len(COLOURS) + index) % len(_LINES)],
        )  # fmt: skip
        low, high = [point.low for point in points], [point.high for point in points]
        if len(points) > 1:
            axes.fill_between(share, low, high, color=colour, alpha=0.16, linewidth=0)
        else:  # a band has no width there
            axes.vlines(share, low, high, color=colour, alpha=0.6)
    axes.set_xscale("log")
    axes.set_xticks(shares, [f"{share:g}" for share in shares])
    axes.set_xticks([], minor=True)
    axes.margins(x=0.06)
    if len(shares) == 1:
        axes.set_xlim(shares[0] / 2, shares[0] * 2)
    axes.set_title(_label(column.name))
    axes.grid(color=_GRID, linewidth=0.5)
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
