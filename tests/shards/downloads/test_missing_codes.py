"""Codes for "not known" in tables: no class, no grade, no negative and no number."""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import pytest

from maskedclip.shards.downloads.cards import read_card
from maskedclip.shards.downloads.folder_or_csv import Columns, read_csv
from maskedclip.shards.downloads.missing_codes import codes_of_classes, codes_of_numbers
from maskedclip.shards.downloads.records import Sources
from tests.downloads.drawing import draw, write

GRADES = Columns("image", "grade", "dr")


def read(root: Path, heading: str, cells: Iterable[object], columns: Columns) -> Sources:
    """Read a table with a row for each image and the cells given."""
    rows = [f"{number}.jpg,{cell}\n" for number, cell in enumerate(cells)]
    draw(root / "img", *(f"{number}.jpg" for number in range(len(rows))))
    table = write(root, "t.csv", f"image,{heading}\n" + "".join(rows))
    return read_csv(read_card("csv"), root / "img", table, columns)


def test_the_hidden_labels_of_a_competition_are_no_lowest_grade(tmp_path: Path) -> None:
    cells = (0, 1, "2.0", -1, "-1.0")
    found = read(tmp_path, "grade", cells, GRADES)
    assert [record.labels.get("dr") for record in found.records] == ["0", "1", "2", None, None]
    assert found.remarks["codes_taken_for_empty_cells"] == [
        "grade -1, is no grade beside 0 to 2: 1 cells",
        "grade -1.0, is no grade beside 0 to 2: 1 cells",
    ]
    assert (
        "; taken for empty (--keep_codes keeps them): grade -1, is no grade"
        in (found.remarks["images_that_left_a_task"][0])
    )
    found = read(tmp_path, "grade", cells, GRADES._replace(keep_codes=True))
    assert {record.labels["dr"] for record in found.records} == {"-1", "0", "1", "2"}
    with pytest.raises(ValueError, match="none of the 2 rows has a class"):
        read(tmp_path, "grade", (-1, -1), GRADES)


@pytest.mark.parametrize(
    ("classes", "codes"),
    [
        ("0 1 2 3 4 -9 99", "-9 99"),
        ("0 1 255", "255"),
        ("0 1 2 (-1)", "(-1)"),
        ("1 2 3 4 8 9", "8 9"),
        ("0 1 2 3 4 5 6 7 8 9", ""),  # ten classes
        ("3 17 99 250", ""),  # numbers of diseases
        ("-1 1", ""),  # two classes, as some programs write them
        ("-2 -1 0 1 2", ""),
        ("DR AMD -1 unknown not_graded", "-1 unknown not_graded"),
        ("0 1 2 Ungradable hidden", "Ungradable hidden"),
        ("good usable ungradable", ""),  # image quality
        ("gradable ungradable", ""),
    ],
)
def test_a_code_is_what_does_not_fit_the_other_classes(classes: str, codes: str) -> None:
    assert codes_of_classes(Counter(classes.split())).keys() == {*codes.split()}


_AGES = [20 + number % 71 for number in range(200)]
_RATIOS = [0.2 + 0.01 * (number % 71) for number in range(200)]
_REFRACTIONS = [-8, -5.5, -3, -1, -0.25, 0, 0.5, 1, 2] * 20
_COUNTS = [0] * 90 + [1] * 40 + [2] * 20 + [3] * 8 + [5, 8]
_AREAS = [0.0] * 60 + [1.5**number for number in range(20)]


@pytest.mark.parametrize(
    ("numbers", "codes"),
    [
        (_AGES, set()),
        ([*_AGES, -1, 999, 888], {-1, 999, 888}),
        ([*_AGES, *[99] * 30], {99}),
        ([*_AGES, 99], set()),  # an age
        ([*range(30, 54), 77], set()),
        ([*_AGES, *[0] * 5], {0}),
        ([*_AGES, *[200] * 3], {200}),
        ([*_AGES, -1, -1, -3], {-1, -3}),  # UK Biobank: does not know, did not want to answer
        ([*_RATIOS, *[-1] * 4, *[9] * 4], {-1, 9}),
        ([*_RATIOS, *[0] * 4], {0}),
        ([0.1 * tenth for tenth in range(10)] * 7, set()),
        (_REFRACTIONS, set()),
        ([*_REFRACTIONS, -99, 999], {-99, 999}),
        (_COUNTS, set()),
        (_AREAS, set()),
        ([45, 60, -1], {-1}),
        ([0, 1, 2, 3, 4, 0, 1], set()),
        ([5] * 9, set()),
    ],
)
def test_a_number_far_from_the_rest_is_a_code(numbers: list[float], codes: set[float]) -> None:
    assert codes_of_numbers(Counter(map(float, numbers))) == codes


def test_ages_that_are_codes_move_no_mean(tmp_path: Path) -> None:
    columns = Columns("image", number="age", number_task="age")
    found = read(tmp_path, "age", (41, 58, 63, 70, 999, -9), columns)
    assert [record.labels.get("age") for record in found.records] == [
        "41", "58", "63", "70", None, None,
    ]  # fmt: skip
    assert found.remarks["codes_taken_for_empty_cells"] == [
        "age -9, far from the rest (41 to 70): 1 cells",
        "age 999, far from the rest (41 to 70): 1 cells",
    ]
    assert found.remarks["images_that_left_a_task"] == [
        "age: 2 images left it, a cell being a code, such as 4.jpg: age; taken for "
        "empty (--keep_codes keeps them): age -9, far from the rest (41 to 70): 1 cells; age 999, "
        "far from the rest (41 to 70): 1 cells"
    ]


def test_a_label_that_was_not_annotated_is_no_negative(tmp_path: Path) -> None:
    columns = Columns("image", task="f", labels=("A", "B"))
    found = read(tmp_path, "A,B", ("1,0", "0,-1", "0,unknown", "0,1", "1,9"), columns)
    assert [record.labels.get("f") for record in found.records] == ["A", None, None, "B", None]
    assert "B -1, is neither 0 nor 1: 1 cells" in found.remarks["codes_taken_for_empty_cells"]
    with pytest.raises(ValueError, match=r"1 cells of B say .* 2 are empty or a code, and none"):
        read(tmp_path, "A,B", ("0,-1", "1,1", "0,"), columns)


def test_a_code_among_the_labels_of_a_cell_is_no_label(tmp_path: Path) -> None:
    columns = Columns("image", "label", "f", separator="|")
    found = read(tmp_path, "label", ("DR|unknown", "AMD|DR", "-1", "#####"), columns)
    assert [record.labels.get("f") for record in found.records] == ["DR", "AMD|DR", None, None]
    assert len(found.remarks["codes_taken_for_empty_cells"]) == 3


def test_a_number_far_from_the_rest_that_is_no_code_is_kept_and_said(tmp_path: Path) -> None:
    columns = Columns("image", number="age", number_task="age")
    found = read(tmp_path, "age", [*range(40, 60), 43831], columns)
    assert {record.labels["age"] for record in found.records} >= {"40", "59", "43831"}
    assert found.remarks == {"numbers_far_from_the_rest": ["age 43831: 1 cells"]}


def test_images_that_a_code_keeps_from_a_task_are_counted_beside_empty_cells(
    tmp_path: Path,
) -> None:
    cells = (0, 1, 2, "", "nan", "unknown", -1, 99, -1)
    # as make_shards asks: a number would be of this task
    found = read(tmp_path, "grade", cells, GRADES._replace(number_task="dr"))
    (line,) = found.remarks["images_that_left_a_task"]
    assert line == (
        "dr: 6 images left it, 2 with a cell that is empty and 4 with a code, such as 3.jpg: grade;"
        " taken for empty (--keep_codes keeps them): grade -1, is no grade beside 0 to 2: 2 cells; "
        "grade 99, is no grade beside 0 to 2: 1 cells; grade unknown, says that nothing is known: "
        "1 cells"
    )
    columns = Columns("image", "grade", "dr", number="age", number_task="age")
    found = read(tmp_path, "grade,age", ("0,50", "1,-1", "-1,52", "1,54", "0,", "0,x"), columns)
    age, dr = found.remarks["images_that_left_a_task"]
    assert age.startswith("age: 3 images left it, 2 with a cell that is empty or no number and 1")
    assert dr.startswith("dr: 1 images left it, a cell being a code, such as 2.jpg: grade; taken")
