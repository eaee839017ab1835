"""Reports and findings of a table that say nothing are no captions, and are counted."""

from collections.abc import Iterable
from pathlib import Path

from maskedclip.shards.downloads.cards import read_card
from maskedclip.shards.downloads.folder_or_csv import Columns, read_csv
from maskedclip.shards.downloads.records import Sources
from tests.downloads.drawing import draw, write


def read(root: Path, texts: Iterable[str], columns: Columns) -> Sources:
    rows = [f'{number}.jpg,"{text}"\n' for number, text in enumerate(texts)]
    draw(root / "img", *(f"{number}.jpg" for number in range(len(rows))))
    table = write(root, "t.csv", "image,text\n" + "".join(rows))
    return read_csv(read_card("csv"), root / "img", table, columns)


def test_a_report_that_says_nothing_is_no_caption(tmp_path: Path) -> None:
    texts = [
        "drusen",
        "Lorem ipsum dolor",
        "No report.",
        "7",
        "007.jpg",
        "N/A",
        "no drusen, CNV",
    ]
    found = read(tmp_path, texts, Columns("image", report="text"))
    assert [record.report for record in found.records] == [
        "drusen", None, None, None, None, None, "no drusen, CNV",
    ]  # fmt: skip
    assert found.remarks == {
        "texts_that_are_no_caption": [
            "text has no word: 1 cells",
            "text is the name of a file: 1 cells",
            "text states nothing, such as Lorem ipsum dolor: 2 cells",
        ]
    }


def test_a_report_that_most_images_have_and_impossible_ages_are_said(tmp_path: Path) -> None:
    texts = ["Colour photograph"] * 5 + ["999 years old, drusen", "-1 y/o", "71 years old"]
    found = read(tmp_path, texts, Columns("image", report="text"))
    assert found.remarks == {
        "reports_that_are_the_same": ["Colour photograph: 5 of 8 reports"],
        "reports_with_an_age_that_may_be_a_code": ["-1 y/o: 1 reports", "999 years: 1 reports"],
    }
    assert all(record.report for record in found.records)


def test_a_finding_that_states_nothing_is_left_out_of_the_others(tmp_path: Path) -> None:
    texts = ["drusen, unknown", "-1", "ungradable", "none", "cataract, glaucoma"]
    found = read(tmp_path, texts, Columns("image", categories="text"))
    assert [record.categories for record in found.records] == [
        ("drusens",), (), (), (), ("cataract", "glaucoma"),
    ]  # fmt: skip
    assert found.remarks["texts_that_are_no_caption"] == [
        "text has no word: 1 cells",
        "text states nothing, such as ungradable: 2 cells",
    ]
