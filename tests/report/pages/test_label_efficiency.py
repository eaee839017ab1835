"""Figure 2 is a PNG and an SVG that say what their bands are."""

import io

from PIL import Image

from maskedclip.report.pages.label_efficiency import Drawn, draw
from maskedclip.report.pages.tables import columns_of, table
from tests.report.pages.test_table_cells import measured


def figure_of(
    seeds: dict[str, int],
    shares: tuple[float, ...] = (0.01, 0.1, 1.0),
    datasets: tuple[str, ...] = ("idrid",),
) -> Drawn | None:
    runs = [
        measured(method, dataset, 0.6 + 0.1 * share + 0.01 * seed, fraction=share, seed=seed)
        for method, count in seeds.items()
        for dataset in datasets
        for share in shares
        for seed in range(count)
    ]
    return draw(table(runs, columns_of(runs, ())))


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
    runs = [measured("a", "idrid", 0.8, fraction=0.0, protocol="zeroshot")]
    assert draw(table(runs, columns_of(runs, ()))) is None
    runs = [measured("a", "idrid", 0.8, fraction=0.1, protocol="16-shot")]
    assert draw(table(runs, columns_of(runs, ()))) is None
