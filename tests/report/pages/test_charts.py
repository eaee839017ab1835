"""Charts are the same bytes each time, say in words what they show, and run no name they hold."""

import io
import re
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from maskedclip.report.pages.charts import RenderedFigure, label_efficiency
from maskedclip.report.pages.page_charts import (
    curve_legend,
    precision_recall_chart,
    reliability_chart,
    roc_chart,
)
from maskedclip.report.pages.run_statistics import ReliabilityBin, class_curves, reliability
from maskedclip.report.pages.tables import columns_of, table
from tests.report.pages.runs import predicted
from tests.report.pages.test_tables import result


def figure_of(
    seeds: dict[str, int],
    shares: tuple[float, ...] = (0.01, 0.1, 1.0),
    datasets: tuple[str, ...] = ("idrid",),
) -> RenderedFigure | None:
    runs = [
        result(method, dataset, 0.6 + 0.1 * share + 0.01 * seed, fraction=share, seed=seed)
        for method, count in seeds.items()
        for dataset in datasets
        for share in shares
        for seed in range(count)
    ]
    return label_efficiency(table(runs, columns_of(runs, ())))


def test_the_figure_is_a_png_of_a_column_and_an_svg() -> None:
    drawn = figure_of({"a": 2, "_b": 2}, datasets=("idrid", "clinic_$x$", "third"))
    image = Image.open(io.BytesIO(drawn.png))
    assert image.format == "PNG"
    assert image.width == round(4.8 * 300)
    assert drawn.svg.lstrip().startswith(b"<?xml")
    assert b"<script" not in drawn.svg


def test_the_words_name_tasks_methods_and_bands() -> None:
    words = figure_of({"a": 2, "b": 3}, datasets=("idrid", "x")).words
    assert "for idrid, x, by a, b; protocol finetune." in words
    assert words.endswith("Bands: standard deviation over 2 or 3 seeds.")
    assert "bootstrap interval (one seed)" in figure_of({"a": 1}).words
    assert "over 2 seeds; where there is one seed, 95" in figure_of({"a": 1, "b": 2}).words


def test_methods_of_one_share_of_labels_stand_beside_each_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    drawn: list[Figure] = []
    save = Figure.savefig

    def keep(figure: Figure, *where: object, **how: object) -> None:
        save(figure, *where, **how)
        drawn.append(figure)

    monkeypatch.setattr(Figure, "savefig", keep)
    assert figure_of({"a": 1, "b": 1, "c": 1}, shares=(0.1,)) is not None
    (axes,) = drawn[0].axes
    places = [float(line.get_xdata()[0]) for line in axes.lines]
    assert places == sorted(set(places))
    assert places[1] == 10.0  # per cent, where the tick is
    low, high = axes.get_xlim()
    assert low < places[0] < places[2] < high
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["10"]


def test_without_labels_there_is_no_figure() -> None:
    runs = [result("a", "idrid", 0.8, fraction=0.0, protocol="zeroshot")]
    assert label_efficiency(table(runs, columns_of(runs, ()))) is None
    runs = [result("a", "idrid", 0.8, fraction=0.1, protocol="16-shot")]
    assert label_efficiency(table(runs, columns_of(runs, ()))) is None


HOSTILE = r"</text><script>alert(1)</script> $\b_$"
FOUND = predicted("idrid", 3, 1.0, 0)
CURVES = class_curves([HOSTILE, "_b", "c"], FOUND.label_B, FOUND.probability_BY)
CHARTS = {
    "roc": lambda: roc_chart(CURVES[1:], CURVES[:1]),
    "precision-recall": lambda: precision_recall_chart(CURVES),
    "legend": lambda: curve_legend([curve.name for curve in CURVES]),
    "reliability": lambda: reliability_chart(reliability(FOUND.label_B, FOUND.probability_BY)[0]),
    "figure 2": lambda: figure_of({HOSTILE: 1, "b": 1}).inline,
}


@pytest.mark.parametrize("draw", CHARTS.values(), ids=CHARTS)
def test_a_chart_of_a_page_is_the_same_element_each_time_with_words_and_no_script(
    draw: Callable[[], str],
) -> None:
    svg = draw()
    assert svg == draw()
    assert svg.startswith('<svg class="chart" role="img" aria-label="')
    assert svg.endswith("</svg>")
    assert "<script" not in svg
    assert "http" not in svg.replace("http://www.w3.org", "")  # but the names of XML
    assert "#1b2733" not in svg  # ink is the page's, so it is light on dark


def test_curves_end_in_the_corners_that_their_points_name() -> None:
    label_B = np.array([0, 1, 0, 1])
    probability_BY = np.array([[0.9, 0.1], [0.6, 0.4], [0.7, 0.3], [0.2, 0.8]])
    (_, curve) = class_curves(["a", "b"], label_B, probability_BY)
    assert "b 100.0" in roc_chart([curve])
    assert "b 100.0" in precision_recall_chart([curve])


def test_the_legend_names_every_class_as_it_is() -> None:
    svg = curve_legend(["_hidden", "a $x$ & <b>"])
    assert "_hidden" in svg
    assert "a $x$ &amp; &lt;b&gt;" in svg


def points_of(svg: str) -> list[list[tuple[float, float]]]:
    """Return the points of every solid line in colour, in the unit square (0, 0 is 41.9, 200.1)."""
    lines = re.findall(r'<path d="M([-0-9. ]+)" stroke="#0072b2"', svg)
    found = [[float(number) for number in line.split()] for line in lines]
    inner = 196 / 1.02
    return [
        [(round((x - 41.92) / inner, 2), round((200.08 - y) / inner, 2)) for x, y in batched(line)]
        for line in found
    ]


def batched(numbers: list[float]) -> list[tuple[float, float]]:
    return list(zip(numbers[::2], numbers[1::2], strict=True))


def test_curves_are_drawn_through_their_points_and_precision_in_steps() -> None:
    label_B = np.array([0, 1, 0, 1])
    probability_BY = np.array([[0.9, 0.1], [0.3, 0.7], [0.4, 0.6], [0.8, 0.2]])
    (_, curve) = class_curves(["a", "b"], label_B, probability_BY)
    (line,) = points_of(roc_chart([curve]))
    assert line == [(0, 0), (0, 0.5), (0.5, 0.5), (0.5, 1), (1, 1)]
    (line,) = points_of(precision_recall_chart([curve]))
    corners = curve.precision_K2.round(2).tolist()
    assert line[::2] == [tuple(corner) for corner in corners]
    between = [(x, y) for (x, _), (_, y) in pairwise(corners)]
    assert line[1::2] == between  # up or down first, then along, as average precision sums


def test_bars_of_calibration_are_as_high_as_what_is_right() -> None:
    bins = [ReliabilityBin(0.5, 0.6, 4, 0.55, 0.25), ReliabilityBin(0.9, 1.0, 4, 0.95, 1.0)]
    heights = re.findall(r'height="([0-9.]+)" fill="#56b4e9"', reliability_chart(bins))
    assert [float(height) for height in heights] == pytest.approx(
        [0.25 * 196 / 1.02, 196 / 1.02], abs=0.1
    )
