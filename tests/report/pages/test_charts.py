"""Charts are the same bytes each time, say in words what they show, and run no name they hold."""

import io
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from maskedclip.report.pages.charts import (
    RenderedFigure,
    curve_legend,
    label_efficiency,
    precision_recall_chart,
    reliability_chart,
    roc_chart,
)
from maskedclip.report.pages.run_statistics import class_curves, reliability
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
    assert "for idrid, x, by a, b." in words
    assert words.endswith("Bands: standard deviation over 2 or 3 seeds.")
    assert "bootstrap interval (one seed)" in figure_of({"a": 1}).words
    assert "over 2 seeds; where there is one seed, 95" in figure_of({"a": 1, "b": 2}).words


def test_one_share_of_labels_is_drawn_too() -> None:
    assert figure_of({"a": 1}, shares=(0.1,)) is not None


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
