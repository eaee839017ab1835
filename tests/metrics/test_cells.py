from pathlib import Path

import numpy as np
import pytest

from maskedclip.metrics.cells import given_text, safe_path, safe_text
from maskedclip.metrics.prediction_files import read_predictions, write_predictions

TEXTS = ["", "a", "=1+1", "+", "-", "@x", "\tx", "'", "'=x", "''=x", "-1.5", "+2e3", "it's"]


@pytest.mark.parametrize("text", TEXTS)
def test_no_cell_begins_a_formula_and_each_text_comes_back(text: str) -> None:
    cell = safe_text(text)
    assert given_text(cell) == text
    assert not cell.startswith(("=", "@", "\t"))
    assert safe_text(text) == text or cell == f"'{text}"


def test_a_table_of_classes_that_look_like_formulas_is_read_as_it_was(tmp_path: Path) -> None:
    path, classes = tmp_path / "p.csv", ["=cmd|' /C calc'!A0", "+"]
    probability_BY = np.array([[0.25, 0.75], [0.5, 0.5]])
    sources = ["-x.jpg", "a/=b.jpg"]
    write_predictions(path, classes, ["k1", "k2"], np.array([1, 0]), probability_BY, sources)
    cells = [cell.strip('"') for line in path.read_text().split("\n") for cell in line.split(",")]
    assert not [cell for cell in cells if cell.startswith(("=", "+", "-", "@"))]
    assert safe_path("-x.jpg") == "./-x.jpg" in cells
    keys, named, label_B, found_BY = read_predictions(path)
    assert (keys, list(named), label_B.tolist()) == (["k1", "k2"], classes, [1, 0])
    assert np.array_equal(found_BY, probability_BY)
