"""LaTeX that compiles: special characters are escaped, braces and cells are balanced."""

import re
from pathlib import Path

import pytest

from maskedclip.report.pages.tables import table
from maskedclip.report.pages.text_tables import latex, latex_escaped
from tests.report.pages.test_tables import PAPER, result


def written(*, intervals: bool = False) -> str:
    runs = [result("a_b & 50%", "idrid", 0.8, fraction=0.1), result("b#{", "idrid", 0.7)]
    runs += [result("b#{", "idrid", 0.71, seed=1), result("b#{", "aptos2019", 0.6)]
    found = table(runs, PAPER)
    return latex(found, "Per cent & co.", "tab:x", lambda _: "../runs/a", intervals=intervals)


def code(text: str) -> str:
    """Return LaTeX without its comments."""
    return re.sub(r"(?<!\\)%.*", "", text)


def test_every_special_character_is_latex_escaped() -> None:
    assert latex_escaped("a_b & 50% #1 {x} ~^ $\\") == (
        r"a\_b \& 50\% \#1 \{x\} \textasciitilde{}\textasciicircum{} \$\textbackslash{}"
    )
    assert latex_escaped("two\nlines") == "two lines"


@pytest.mark.parametrize("intervals", [False, True])
def test_braces_and_environments_are_balanced(intervals: bool) -> None:
    plain = re.sub(r"\\[{}\\]", "", code(written(intervals=intervals)))
    assert plain.count("{") == plain.count("}")
    for environment in ("table", "tabular"):
        for word in ("begin", "end"):
            assert len(re.findall(rf"\\{word}{{{environment}}}", written())) == 1


@pytest.mark.parametrize("intervals", [False, True])
def test_every_row_has_as_many_cells_as_columns(intervals: bool) -> None:
    text = code(written(intervals=intervals))
    columns = len(re.search(r"\\begin{tabular}{([lc]+)}", text).group(1))
    body = text[text.index(r"\toprule") : text.index(r"\bottomrule")]
    rows = [row for row in body.split("\n") if row.endswith(r"\\")]
    assert len(rows) == 2 + 2 * (2 if intervals else 1)
    for row in rows:
        spans = [int(n) for n in re.findall(r"\\multicolumn{(\d+)}", row)]
        cells = len(re.findall(r"(?<!\\)&", row)) + 1
        assert cells + sum(spans) - len(spans) == columns


def test_comments_name_the_runs_of_each_line() -> None:
    assert "% 10 %, a_b & 50%: ../runs/a\n" in written()


def test_a_missing_cell_is_a_dash_and_a_short_average_says_so() -> None:
    assert " & -- & -- & " in written()
    assert "(1 of 2)" in written()


def test_a_file_name_cannot_leave_its_comment() -> None:
    runs = [result("a\n\\input{secret}", "idrid", 0.8)]
    text = latex(table(runs, PAPER), "", "", lambda path: f"{Path(path)}\n\\input{{x}}")
    assert r"\input" not in code(text)
