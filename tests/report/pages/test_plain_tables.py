"""Tables as a terminal shows them."""

from maskedclip.report.pages.tables import table
from maskedclip.report.pages.text_tables import markdown, plain
from tests.report.pages.test_tables import PAPER, result


def test_a_terminal_shows_no_markdown_and_the_best_by_a_star() -> None:
    runs = [result(name, task, 0.9 - i / 10) for i, name in enumerate(("my_run", "other"))
            for task in ("aptos2019", "idrid")]  # fmt: skip
    found = table(runs, PAPER)
    assert "**90.0**" in markdown(found)
    assert "my\\_run" in markdown(found)
    text = plain(found, caption="Some encoders.")
    assert not set(text) & set("|<>\\")
    assert "**" not in text
    (line,) = [line for line in text.splitlines() if "my_run" in line]
    assert line.count("90.0* [80.0, 95.0]") >= 4  # one seed: an interval, unasked
    assert text.startswith("Some encoders.\n\nlabels ")
    assert text.endswith("* the best of its column and block\n")


def test_several_seeds_have_their_deviation_and_intervals_where_they_are_asked_for() -> None:
    runs = [result("ours", "idrid", 0.8, seed=0), result("ours", "idrid", 0.9, seed=1)]
    found = table(runs, PAPER)
    assert "85.0 \u00b1 7.1" in plain(found)
    assert "[" not in plain(found)
    assert "85.0 \u00b1 7.1 [75.0, 90.0]" in plain(found, intervals=True)


def test_daggers_are_explained_below() -> None:
    runs = [result("flair", "idrid", 0.9, seen="FLAIR"), result("ours", "idrid", 0.8)]
    text = plain(table([*runs, result("third", "idrid", 0.7)], PAPER))
    assert "90.0\u2020 [80.0, 95.0]" in text
    assert "80.0* [70.0, 85.0]" in text
    assert "\u2020 flair: its weights (FLAIR) were trained on images of IDRiD.\n" in text
    assert "* the best of its column and block, of values without \u2020\n" in text
