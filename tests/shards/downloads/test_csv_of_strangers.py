"""Tables that people hand in: what is unclear is left out by name or refused, never guessed."""

from pathlib import Path

import pytest

from maskedclip.shards.downloads.cards import read_card
from maskedclip.shards.downloads.folder_or_csv import Columns, read_csv
from maskedclip.shards.downloads.records import Sources
from maskedclip.shards.make_command import remark_lines
from tests.downloads.drawing import draw, write

COLUMNS = Columns("image", "grade", "dr", "patient", split="split", report="note")
IMAGES = tuple(f"{number:03d}.jpg" for number in range(4))


def read(root: Path, text: str, *images: str, lost_zeros: bool = False) -> Sources:
    """Read a table with those of the columns that its heading has."""
    draw(root / "img", *(images or IMAGES))
    path = write(root, "t.csv", text)
    heading = text.partition("\n")[0].split(",")
    present = {
        name: column
        for name, column in COLUMNS._asdict().items()
        if name == "task" or column in heading
    }
    columns = Columns(**({"image": "image"} | present))
    return read_csv(read_card("csv"), root / "img", path, columns, lost_zeros=lost_zeros)


def test_numbers_and_words_in_several_spellings_are_one_class(tmp_path: Path) -> None:
    found = read(tmp_path, "image,grade\n000,0\n001,0.0\n002,1\n003,1.0\n")
    assert [record.labels["dr"] for record in found.records] == ["0", "0", "1", "1"]
    assert found.remarks == {"spellings_joined": ["0: also written 0.0", "1: also written 1.0"]}
    found = read(tmp_path, "image,grade\n000,Normal\n001,normal\n002,NORMAL\n003,drusen\n")
    assert {record.labels["dr"] for record in found.records[:3]} == {"normal"}


@pytest.mark.parametrize("word", ["nan", "NA", "N/A", "None", "null", "?", "-", "#N/A"])
def test_a_word_for_no_entry_is_no_class_no_caption_and_no_report(
    word: str, tmp_path: Path
) -> None:
    found = read(tmp_path, f"image,grade,note\n000,{word},{word}\n001,drusen,x\n002,,\n")
    first, second, third = found.records
    assert (first.labels, first.categories, first.report) == ({}, (), None)
    assert third[3:] == first[3:]
    assert (second.labels, second.report) == ({"dr": "drusen"}, "x")
    assert found.remarks["labels_that_state_nothing"] == [f"{word}: 1 cells"]


def test_a_column_without_one_class_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="none of the 2 rows has a class"):
        read(tmp_path, "image,grade\n000,nan\n001,\n")


def test_an_image_whose_rows_disagree_is_left_out_by_name(tmp_path: Path) -> None:
    rows = "000,0,train\n000,1,train\n001,0,\n001.jpg,0.0,test\n002,1,train\n002,1,test\n003,1,\n"
    found = read(tmp_path, "image,grade,split\n" + rows)
    assert [(r.source, r.labels, r.split) for r in found.records] == [
        ("001.jpg", {"dr": "0"}, "test"),
        ("003.jpg", {"dr": "1"}, None),
    ]
    assert found.remarks["images_with_two_rows"] == ["000.jpg", "002.jpg"]
    assert found.remarks["unclear_images_left_out"] == ["000.jpg", "002.jpg"]
    with pytest.raises(ValueError, match=r"every image that it names is unclear, such as 000\.jpg"):
        read(tmp_path, "image,grade\n000,0\n000,1\n")


def test_one_name_in_two_folders_is_left_out_by_name_or_refused(tmp_path: Path) -> None:
    images = ("NORMAL/1.jpg", "AMD/1.jpg", "AMD/2.jpg")
    found = read(tmp_path, "image,grade\n1.jpg,0\n2.jpg,1\n", *images)
    assert [record.source for record in found.records] == ["AMD/2.jpg"]
    assert found.remarks["names_of_several_images"] == ["AMD/1.jpg", "NORMAL/1.jpg"]
    with pytest.raises(ValueError, match="no row names one image"):
        read(tmp_path, "image,grade\n1.jpg,0\n1.jpg,1\n", *images)


def test_the_split_of_a_row_decides_between_folders_of_splits(tmp_path: Path) -> None:
    images = [f"{split}/{n}.jpg" for split in ("train", "test") for n in range(3)]
    rows = "".join(
        f"{n}.jpg,{grade},{s}\n" for s, grade in (("test", 1), ("train", 0)) for n in range(3)
    )
    found = read(tmp_path, "image,grade,split\n" + rows, *images)
    assert {r.source: (r.split, r.labels["dr"]) for r in found.records} == {
        image: ("test", "1") if image.startswith("test") else ("train", "0") for image in images
    }


def test_a_table_that_names_no_image_says_so_and_offers_lost_zeros(tmp_path: Path) -> None:
    text = "image,grade\n0.0,0\n1.0,1\n9.0,1\n"
    with pytest.raises(ValueError, match=r"no row names one .* 2 of 3 rows fit .*--lost_zeros"):
        read(tmp_path, text)
    found = read(tmp_path, text, lost_zeros=True)
    assert [record.source for record in found.records] == ["000.jpg", "001.jpg"]
    assert found.remarks["zeros_put_back"] == ["0.0: 000.jpg", "1.0: 001.jpg"]
    found = read(tmp_path, "image,grade\n0,0\n001,1\n")
    assert [record.source for record in found.records] == ["001.jpg"]
    assert found.remarks["labels_without_image"] == ["0 (000.jpg with --lost_zeros)"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("image,grade\n", "a heading and no row below it"),
        ("000,1\n001,0\n", "--image_column 'image' is not in"),
        ("image,grade,grade\n000,1,2\n", "two columns are called grade"),
        ("image,grade\n1,000,1\n2,001,0\n", "each row has more cells than the heading"),
        ('image,grade\n000,"1\n001,0"\n', "a line break inside of a cell of grade"),
        ('image,grade\n000,"1\n001,0\n', "line 2: a quote is opened"),
        ("image,grade\nnan,1\n", "no row names one image"),
    ],
)
def test_a_table_that_is_not_whole_costs_one_line(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message) as raised:
        read(tmp_path, text)
    assert "\n" not in str(raised.value)
    assert "t.csv" in str(raised.value)


def test_a_row_that_has_shifted_is_left_out_and_counted(tmp_path: Path) -> None:
    found = read(tmp_path, "image,note,grade\n000,thin, pale,1\n001,x,0\n")
    assert [record.source for record in found.records] == ["001.jpg"]
    assert found.remarks["rows_longer_than_the_heading"] == ["t.csv: 1 rows"]
    assert "000.jpg" in found.remarks["images_without_label"]


def test_an_unknown_patient_is_nobody_and_counted(tmp_path: Path) -> None:
    found = read(tmp_path, "image,patient\n000,unknown\n001,N/A\n002,\n003,7.0\n")
    assert [record.patient for record in found.records] == [None, None, None, "7"]
    assert found.remarks == {
        "patients_unknown": [
            "N/A: 1 rows",
            "an empty cell (write the patient into each row): 1 rows",
            "unknown: 1 rows",
        ]
    }


@pytest.mark.parametrize(
    ("cells", "classes"),
    [
        ("Grade 1|1|grade_2|2", "1|1|2|2"),
        ("Grade 1|Grade 2|No DR|Grade 1", "Grade 1|Grade 2|No DR|Grade 1"),
        ('"DR,"|DR|"AMD, "|AMD', "DR|DR|AMD|AMD"),
        ("\"['N']\"|\"['D']\"|\"['N']\"|\"['D']\"", "N|D|N|D"),  # as ODIR's full_df.csv has them
        ("DR1|DR 1|DR1|dr_2", "DR1|DR1|DR1|dr_2"),
        ("No DR|no_dr|NoDR|No DR", "No DR|No DR|No DR|No DR"),
        ("DR+|DR-|DR+|DR-", "DR+|DR-|DR+|DR-"),
        ("yes|1|no|no", "yes|yes|no|no"),
        ("True|0|1|True", "True|0|True|True"),
        ("positive|negative|negative|positive", "positive|negative|negative|positive"),
    ],
)
def test_a_class_that_is_written_in_two_ways_is_one_and_said(
    cells: str, classes: str, tmp_path: Path
) -> None:
    rows = [f"{number:03d},{text}\n" for number, text in enumerate(cells.split("|"))]
    found = read(tmp_path, "image,grade\n" + "".join(rows))
    assert [record.labels["dr"] for record in found.records] == classes.split("|")
    said = bool(found.remarks.get("spellings_joined"))
    assert said == (cells.replace('"', "") != classes)


@pytest.mark.parametrize(
    ("texts", "fix"),
    [
        ([0.37 * number for number in range(20)], "--number_column=grade takes numbers"),
        ([30 + number % 40 for number in range(200)], "40 different cells in 200 rows"),
        ([f"P{number}" for number in range(20)], "--label_separator=none if each is a class"),
    ],
)
def test_a_column_of_measurements_or_names_is_no_class(
    texts: list[object], fix: str, tmp_path: Path
) -> None:
    rows = [f"{number},{text}\n" for number, text in enumerate(texts)]
    with pytest.raises(ValueError, match=fix):
        read(tmp_path, "image,grade\n" + "".join(rows))
    many = "".join(f"{number},{number % 39}\n" for number in range(200))  # as JSIEC has
    assert read(tmp_path, "image,grade\n000,1\n" + many).records


def test_a_row_of_two_images_and_unknown_eyes_are_said(tmp_path: Path) -> None:
    table = write(
        tmp_path,
        "t.csv",
        "id,image,Right,grade,eye,index\n1,000.jpg,001.jpg,0,1,3\n2,002.jpg,003.jpg,1,OD,1\n",
    )
    draw(tmp_path / "img", *IMAGES)
    columns = Columns("image", "grade", "dr", eye="eye")
    found = read_csv(read_card("csv"), tmp_path / "img", table, columns)
    assert [record.eye for record in found.records] == [None, "R"]
    assert found.remarks["eyes_unknown"] == ["1 (write L or R): 1 rows"]
    assert found.remarks["columns_that_name_further_images"] == [
        "right (001.jpg): they get no label of their row, which may be one of both eyes; write a "
        "row an image"
    ]


def test_images_whose_class_is_empty_are_counted(tmp_path: Path) -> None:
    found = read(tmp_path, "image,grade\n000,0\n001,\n002,1\n003,nan\n")
    assert found.remarks["images_that_left_a_task"] == [
        "dr: 2 images left it, a cell being empty, such as 001.jpg: grade"
    ]


def test_a_class_among_grades_and_a_patient_in_two_spellings_are_said(tmp_path: Path) -> None:
    rows = "000,0,01\n001,1,1\n002,2,P1\n003,1?,p1\n"
    found = read(tmp_path, "image,grade,patient\n" + rows)
    assert found.remarks["taken_as_one_class"] == ["1? (beside 0 to 2)"]
    line = "classes that are no number, as the others are: 1, such as 1? (beside 0 to 2)"
    assert line in remark_lines(found.remarks)
    (said,) = found.remarks["patients_spelt_in_two_ways"]
    assert said.startswith("2 pairs of patients differ in case or zeros alone: kept apart")
    rows = "000,0,1\n001,1,2\n002,2,3\n003,1,9999\n003,1,9999\n"
    found = read(tmp_path, "image,grade,patient\n" + rows)
    assert [record.patient for record in found.records] == ["1", "2", "3", None]


def test_folders_called_as_splits_are_said_where_no_column_says_splits(tmp_path: Path) -> None:
    images = ("Training Set/a.jpg", "Training Set/b.jpg", "b. Testing Set/c.jpg")
    rows = "".join(f"{name},{number}\n" for number, name in enumerate(images))
    found = read(tmp_path, "image,grade\n" + rows, *images)
    assert [record.split for record in found.records] == [None] * 3
    assert found.remarks["folders_of_splits_not_taken"] == [
        "Training Set is called as train is (a column of splits and --split_column take them)",
        "b. Testing Set is called as test is (a column of splits and --split_column take them)",
    ]
    rows = "".join(
        f"{name},{number},{'test' if number else 'train'}\n" for number, name in enumerate(images)
    )
    found = read(tmp_path, "image,grade,split\n" + rows, *images)
    assert "folders_of_splits_not_taken" not in found.remarks


def test_signs_within_quotes_part_no_columns(tmp_path: Path) -> None:
    reports = ['"Exsudate; Blutung"', '"Blutung; Drusen; Narben"', "ohne Befund", "unklar"]
    rows = [f"{number:03d};0,{number};{text};0" for number, text in enumerate(reports)]
    found = read(tmp_path, "\n".join(["image;Visus;note;grade", *rows]))
    assert [record.source for record in found.records] == list(IMAGES)
    columns = Columns("image", "grade", "dr", report="note")
    path = tmp_path / "t.csv"
    found = read_csv(read_card("csv"), tmp_path / "img", path, columns, lost_zeros=False)
    assert found.records[0].report == "Exsudate; Blutung"
    assert found.records[3].labels == {"dr": "0"}
