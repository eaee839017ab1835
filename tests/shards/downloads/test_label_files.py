import json
from pathlib import Path

import pytest

from maskedclip.shards.downloads.label_files import cell, rows_of
from tests.downloads.drawing import book, table, write

ROWS = [{"image": "1", "grade": "0"}, {"image": "2", "grade": "4"}]
WRITTEN = (["Image", "Grade"], ["1", "0"], ["2", "4"])


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_the_delimiter_of_a_csv_is_found(delimiter: str, tmp_path: Path) -> None:
    table(tmp_path, "t.csv", *WRITTEN, delimiter=delimiter, bom=True)
    assert rows_of(tmp_path / "t.csv", ["image", "grade"]) == (ROWS, "")


def test_numbers_of_a_sheet_are_read_as_a_csv_writes_them(tmp_path: Path) -> None:
    book(tmp_path, "t.xlsx", Other=[["x"]], Grades=[["Image", "Grade"], [1, 0.0], [2, 4]])
    assert rows_of(tmp_path / "t.xlsx", ["image"], "grades") == (ROWS, "")
    with pytest.raises(ValueError, match="no sheet Third; it has Other, Grades"):
        rows_of(tmp_path / "t.xlsx", ["image"], "Third")


def test_a_json_is_a_table_whether_its_entries_have_names_or_not(tmp_path: Path) -> None:
    for content in (ROWS, {"0": ROWS[0], "1": ROWS[1]}):
        write(tmp_path, "t.json", json.dumps(content))
        assert rows_of(tmp_path / "t.json", ["image"]) == (ROWS, "")
    write(tmp_path, "t.json", "[1, 2]")
    with pytest.raises(ValueError, match=r"t\.json: not a table in JSON"):
        rows_of(tmp_path / "t.json")


def test_the_heading_is_found_under_titles_and_over_two_lines(tmp_path: Path) -> None:
    table(
        tmp_path,
        "t.csv",
        ["All the grades", "", ""],
        ["", "", ""],
        ["", "Image  ", "Experts", ""],
        ["", "", "First", "Grade"],
        ["", "1", "x", "0"],
        ["", "2", "y", "4"],
    )
    rows, lacking = rows_of(tmp_path / "t.csv", ["image", "Grade"])
    assert lacking == ""
    assert [(row["image"], row["first"], row["grade"]) for row in rows] == [
        ("1", "x", "0"),
        ("2", "y", "4"),
    ]


def test_missing_columns_are_named_beside_those_that_are_there(tmp_path: Path) -> None:
    table(tmp_path, "t.csv", ["Image ", "Level", ""], ["1", "0", ""])
    rows, lacking = rows_of(tmp_path / "t.csv", ["image", ["grade", "dr grade"], "eye"])
    assert rows == []
    assert lacking == "no column grade or dr grade, eye; it has Image, Level"
    write(tmp_path, "empty.csv", "")
    with pytest.raises(ValueError, match="is empty"):
        rows_of(tmp_path / "empty.csv", ["image"])


def test_of_several_columns_the_first_that_says_something_counts() -> None:
    row = {"left": "", "right": "2", "both": "3"}
    assert cell(row, ["Left", " right", "both"]) == "2"
    assert cell(row, "middle") == ""


def test_a_table_that_is_not_what_its_name_says_is_named(tmp_path: Path) -> None:
    write(tmp_path, "t.csv", "image,gr\xe4d".encode("latin-1"))
    with pytest.raises(ValueError, match=r"t\.csv: not UTF-8"):
        rows_of(tmp_path / "t.csv")
    write(tmp_path, "t.xlsx", "image,grade")
    with pytest.raises(ValueError, match=r"t\.xlsx: not an xlsx"):
        rows_of(tmp_path / "t.xlsx")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ('image,note,grade\n1,x,0\n2,"open,1\n3,x,0\n', 3),  # to the end of the file
        ('image,note,grade\n1,"open,0\n2,"open,1\n3,x,0\n', 2),  # to a quote inside of a cell
        ('image,note,grade\n1,",0\n2,",1\n3,x,0\n', 2),  # to another lone quote
        ('image,note,grade\n1,x,0\n2,x,"1', 3),
        ('image,note,grade\n1,"open,0\n' + "2,x,1\n" * 30_000, 2),
    ],
)
def test_an_open_quote_is_refused_with_its_line(text: str, line: int, tmp_path: Path) -> None:
    write(tmp_path, "t.csv", text)
    with pytest.raises(ValueError, match=rf"t\.csv, line {line}: a quote is opened") as raised:
        rows_of(tmp_path / "t.csv", ["image"])
    assert "\n" not in str(raised.value)


def test_quotes_that_are_closed_may_hold_lines_commas_and_quotes(tmp_path: Path) -> None:
    write(
        tmp_path,
        "t.csv",
        'image,note,grade\n1,"thin rim,\r\npale, ""large"" disc",0\n2,"5" inch,1\n3,x "y,"z"',
    )
    rows, _ = rows_of(tmp_path / "t.csv", ["image", "grade"])
    assert [(row["image"], row["grade"]) for row in rows] == [("1", "0"), ("2", "1"), ("3", "z")]
    assert rows[0]["note"] == 'thin rim,\npale, "large" disc'


def test_a_binary_or_old_sheet_is_named_with_what_to_do(tmp_path: Path) -> None:
    write(tmp_path, "t.xls", b"\xd0\xcf\x11\xe0")
    with pytest.raises(ValueError, match=r"t\.xls: cannot be read: a sheet of an old Excel; save"):
        rows_of(tmp_path / "t.xls")
    write(tmp_path, "t.csv", "image,grade\n1,\0")
    with pytest.raises(ValueError, match=r"t\.csv: holds null bytes"):
        rows_of(tmp_path / "t.csv")


def test_a_comment_beside_a_sheet_shifts_no_row_but_a_comma_in_a_text_does(tmp_path: Path) -> None:
    book(tmp_path, "t.xlsx", Grades=[["Image", "Grade"], [1, 0, "blurred"], [2, 4]])
    assert rows_of(tmp_path / "t.xlsx", ["image"]) == (ROWS, "")
    write(tmp_path, "t.csv", "Image,Grade\n1,0,blurred\n2,4\n")
    assert rows_of(tmp_path / "t.csv", ["image"])[0] == [ROWS[0] | {"": "blurred"}, ROWS[1]]


def test_a_sheet_under_another_name_and_other_codings_are_read(tmp_path: Path) -> None:
    book(tmp_path, "t.xlsx", Grades=[["Image", "Grade"], [1, 0], [2, 4]])
    (tmp_path / "t.xlsx").rename(tmp_path / "t.csv")
    assert rows_of(tmp_path / "t.csv", ["image"]) == (ROWS, "")
    text = "Image{0}Grade\n1{0}0\n2{0}4\n"
    for coding in ("utf-16", "utf-16-le"):
        mark = "\ufeff" * (coding == "utf-16-le")
        write(tmp_path, "t.csv", (mark + text.format(",")).encode(coding))
        assert rows_of(tmp_path / "t.csv", ["image"]) == (ROWS, "")
    for written in (
        "\ufeff\ufeff" + text.format(","),  # a mark of order twice
        text.format("|"),
        text.format("  "),
        "sep=;\n" + text.format(";"),
        "# by an expert, 2020\n" + text.format(";"),
        '"Image ", " Grade\u200b"\n"1", "0"\n"2", "4"\n',
    ):
        write(tmp_path, "t.csv", written)
        rows, _ = rows_of(tmp_path / "t.csv", ["image", "grade"])
        assert [{name: row[name] for name in ("image", "grade")} for row in rows] == ROWS


def test_json_is_read_in_lines_and_by_columns(tmp_path: Path) -> None:
    lines = "".join(json.dumps(row) + "\n" for row in ROWS)
    columns = json.dumps({"image": {"0": "1", "1": "2"}, "grade": {"0": 0, "1": 4}})
    for name, written in (("t.jsonl", lines), ("t.json", lines), ("t.json", columns)):
        write(tmp_path, name, written)
        assert rows_of(tmp_path / name, ["image"]) == (ROWS, "")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"PAR1\x15\x04", "parquet; pandas"),
        (b"\xd0\xcf\x11\xe0", "a sheet of an old Excel"),
        (b"\x1f\x8b\x08", "compressed; gunzip it"),
        (b'{"images": [], "annotations": []}', "COCO, which has lists"),
        (b'{"1.jpg": 0}', "not a table in JSON; write a list of objects"),
        (b'[{"image": "1", "label": {"dr": 0}}]', "label holds objects; write their values"),
        (b"PK\x03\x04", "not an xlsx"),
    ],
)
def test_a_file_that_is_no_table_is_named_in_one_line(
    content: bytes, words: str, tmp_path: Path
) -> None:
    write(tmp_path, "t.csv", content)
    with pytest.raises(ValueError, match=words) as raised:
        rows_of(tmp_path / "t.csv", ["image"])
    assert "\n" not in str(raised.value)


def test_of_several_sheets_the_one_with_the_columns_is_meant(tmp_path: Path) -> None:
    grades = [["Image", "Grade"], [1, 0], [2, 4]]
    book(tmp_path, "t.xlsx", About=[["by an expert"]], Grades=grades)
    assert rows_of(tmp_path / "t.xlsx", ["image"], once=True) == (ROWS, "")
    book(tmp_path, "t.xlsx", Left=grades, Right=grades)
    with pytest.raises(ValueError, match="the sheets Left and Right have these columns"):
        rows_of(tmp_path / "t.xlsx", ["image"], once=True)


def test_a_cell_that_spans_rows_stands_in_each_of_them(tmp_path: Path) -> None:
    openpyxl = pytest.importorskip("openpyxl")
    workbook = openpyxl.Workbook()
    for line in (["Image", "Patient"], ["1", "p1"], ["2", None], ["3", "p2"]):
        workbook.active.append(line)
    workbook.active.merge_cells("B2:B3")
    workbook.save(tmp_path / "t.xlsx")
    rows, _ = rows_of(tmp_path / "t.xlsx", ["image"])
    assert [row["patient"] for row in rows] == ["p1", "p1", "p2"]


def test_a_heading_over_three_lines_is_found_as_papila_has_it(tmp_path: Path) -> None:
    heading = [["", "Age", "Refractive error", ""], ["", "", "dioptre_1", "dioptre_2"], ["ID"]]
    book(tmp_path, "t.xlsx", Left=[*heading, ["#002", 47, 0.75, -1.75]])
    rows, _ = rows_of(tmp_path / "t.xlsx", ["id", "age", "dioptre_2"])
    assert (rows[0]["id"], rows[0]["age"], rows[0]["dioptre_2"]) == ("#002", "47", "-1.75")
    assert rows_of(tmp_path / "t.xlsx", ["grade"])[1].endswith("it has Age, Refractive error")
