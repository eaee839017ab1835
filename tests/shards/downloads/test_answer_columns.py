"""Tables with several labels an image, and with numbers: what they answer, and what is refused."""

import json
from pathlib import Path

import pytest

from maskedclip.data.labelled import labelled
from maskedclip.data.storage.shards import Shards
from maskedclip.shards.checks.dataset import check_dataset, tables
from maskedclip.shards.downloads.answer_columns import numbers
from maskedclip.shards.downloads.cards import read_card
from maskedclip.shards.downloads.folder_or_csv import Columns, read_csv
from maskedclip.shards.downloads.records import Sources
from maskedclip.shards.make import build
from maskedclip.shards.make_command import parse, remark_lines, report
from tests.downloads.drawing import draw, write

IMAGES = tuple(f"{number}.jpg" for number in range(5))
FLAGS = Columns("image", task="findings", labels=("DR", "AMD", "MH"))


def read(root: Path, text: str, columns: Columns) -> Sources:
    draw(root / "img", *IMAGES)
    return read_csv(read_card("csv"), root / "img", write(root, "t.csv", text), columns)


def texts(found: Sources, task: str) -> list[str | None]:
    return [record.labels.get(task) for record in found.records]


def test_columns_of_0_and_1_are_labels_and_an_empty_cell_is_not_examined(tmp_path: Path) -> None:
    rows = "0,1,0,1.0\n1,no,No,FALSE\n2,1,,0\n3,y,true,0\n4,nan,0,N/A\n"
    found = read(tmp_path, "image,dr,AMD,MH\n" + rows, FLAGS)
    assert texts(found, "findings") == ["DR|MH", "", None, "DR|AMD", None]
    assert found.kinds == {"findings": "labels"}
    assert found.classes == {"findings": ("DR", "AMD", "MH")}
    assert found.remarks == {
        "images_with_an_empty_label": ["2.jpg: AMD", "4.jpg: DR, MH"],
        "images_that_left_a_task": [
            "findings: 2 images left it, a cell being empty, such as 2.jpg: AMD"
        ],
    }


def test_each_task_says_how_many_images_left_it_with_an_example_of_its_own(tmp_path: Path) -> None:
    rows = "0,1,0,0,\n1,0,0,0,\n2,1,,0,41\n3,1,1,0,old\n4,0,0,1,63\n"
    columns = FLAGS._replace(number="age", number_task="age")
    found = read(tmp_path, "image,DR,AMD,MH,age\n" + rows, columns)
    assert [sorted(record.labels) for record in found.records] == [
        ["findings"], ["findings"], ["age"], ["findings"], ["age", "findings"]
    ]  # fmt: skip
    said = [
        "age: 3 images left it, a cell being empty or no number, such as 0.jpg: age",
        "findings: 1 images left it, a cell being empty, such as 2.jpg: AMD",
    ]
    assert found.remarks["images_that_left_a_task"] == said
    lines = remark_lines(found.remarks)
    assert [line for line in lines if "empty" in line] == said  # and none of both together


def test_a_label_that_no_image_has_is_named(tmp_path: Path) -> None:
    found = read(tmp_path, "image,DR,AMD,MH\n0,1,0,0\n1,0,0,0\n", FLAGS)
    assert found.remarks["labels_of_no_image"] == ["AMD", "MH"]


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ("0,2,0,0\n", "'2' of DR is neither 0 nor 1"),
        ("0,1,mild,0\n", "'mild' of AMD is neither 0 nor 1"),
        ("0,1,,0\n1,0,1,\n2,,0,1\n", "none of the 3 rows has a 0 or a 1 in each of DR, AMD, MH"),
    ],
)
def test_columns_that_are_not_of_0_and_1_are_refused(rows: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=words):
        read(tmp_path, "image,DR,AMD,MH\n" + rows, FLAGS)


def test_a_missing_label_column_is_named_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"--label_columns: 'AMD' is not in .*; did you mean ARMD\? It has \w+,"
    ):
        read(tmp_path, "image,DR,ARMD,MH\n0,1,0,0\n", FLAGS)


@pytest.mark.parametrize("separator", ["|", ";", ",", "/"])
def test_the_labels_of_a_cell_are_parted_where_the_separator_is_given(
    separator: str, tmp_path: Path
) -> None:
    cells = ["DR", f"AMD{separator} dr", "", "nan", f"DR{separator}DR"]
    rows = "".join(f'{n},"{cell}"\n' for n, cell in enumerate(cells))
    columns = Columns("image", "dx", "findings", separator=separator)
    found = read(tmp_path, "image,dx\n" + rows, columns)
    assert texts(found, "findings") == ["DR", "AMD|DR", None, None, "DR"]
    assert found.classes == {"findings": ("AMD", "DR")}
    assert found.remarks["images_with_an_empty_label"] == ["2.jpg: dx", "3.jpg: dx"]
    assert found.remarks["spellings_joined"] == ["DR: also written dr"]


@pytest.mark.parametrize("separator", ["|", ";", ",", "/", "+"])
def test_cells_that_hold_several_classes_are_refused_without_a_separator(
    separator: str, tmp_path: Path
) -> None:
    rows = f'image,dx\n0,DR\n1,AMD\n2,"DR{separator} AMD"\n'
    with pytest.raises(ValueError, match=r"1 of 3 cells hold .* add --label_separator='"):
        read(tmp_path, rows, Columns("image", "dx", "findings"))
    whole = read(tmp_path, rows, Columns("image", "dx", "findings", separator="none"))
    assert texts(whole, "findings") == ["DR", "AMD", f"DR{separator} AMD"]


def test_a_class_with_a_comma_is_one_class_and_said_where_it_may_be_two(tmp_path: Path) -> None:
    rows = 'image,dx\n0,"glaucoma, early"\n1,"glaucoma, late"\n2,"retina, normal"\n'
    found = read(tmp_path, rows, Columns("image", "dx", "findings"))
    assert texts(found, "findings") == ["glaucoma, early", "glaucoma, late", "retina, normal"]
    assert found.remarks["taken_as_one_class"] == [
        "glaucoma, early (several labels with --label_separator=',')",
        "glaucoma, late (several labels with --label_separator=',')",
    ]


def test_a_separator_that_no_cell_holds_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no cell of dx holds it"):
        read(tmp_path, "image,dx\n0,DR\n", Columns("image", "dx", "f", separator=";"))
    with pytest.raises(ValueError, match=r"the label 'a\|b' holds \|"):
        read(tmp_path, "image,dx\n0,DR;a|b\n", Columns("image", "dx", "f", separator=";"))


def test_lists_that_a_program_wrote_are_labels_where_the_comma_is_given(tmp_path: Path) -> None:
    rows = "image,dx\n0,\"['DR', 'AMD']\"\n1,['N']\n2,[]\n3,\"['MH', 'ME']\"\n"
    with pytest.raises(ValueError, match=r"2 of 4 cells hold ,.* add --label_separator=','"):
        read(tmp_path, rows, Columns("image", "dx", "findings"))
    found = read(tmp_path, rows, Columns("image", "dx", "findings", separator=","))
    assert texts(found, "findings") == ["AMD|DR", "N", None, "ME|MH"]


def test_a_row_a_label_is_several_labels_where_that_is_said(tmp_path: Path) -> None:
    rows = "image,who,dx\n0,p,DR\n0,p,AMD\n1,q,DR\n2,q,\n3,p,DR\n3,q,AMD\n"
    columns = Columns("image", "dx", "findings", "who")
    found = read(tmp_path, rows, columns)
    assert texts(found, "findings") == ["DR", None]
    assert found.remarks["images_with_two_rows"] == ["0.jpg", "3.jpg"]
    assert found.remarks["rows_that_differ_in_their_label"] == [
        "1 (labels of one image with --label_separator=rows)"
    ]
    found = read(tmp_path, rows, columns._replace(separator="rows"))
    assert texts(found, "findings") == ["AMD|DR", "DR", None]
    assert found.remarks["images_with_two_rows"] == ["3.jpg"]  # of two patients


def test_a_label_column_that_is_named_twice_is_refused(tmp_path: Path) -> None:
    columns = Columns("image", task="f", labels=("DR", "dr"))
    with pytest.raises(ValueError, match="'dr' is named twice"):
        read(tmp_path, "image,DR\n0,1\n", columns)


def test_numbers_are_read_and_what_is_none_is_left_out_by_name(tmp_path: Path) -> None:
    rows = "0,57\n1,57.50\n2,57 years\n3,NaN\n4,1e999\n"
    found = read(tmp_path, "image,age\n" + rows, Columns("image", number="age", number_task="age"))
    assert texts(found, "age") == ["57", "57.5", None, None, None]
    assert found.kinds == {"age": "number"}
    assert found.remarks == {
        "images_with_an_empty_label": ["2.jpg: age", "3.jpg: age", "4.jpg: age"],
        "images_that_left_a_task": [
            "age: 3 images left it, a cell being empty or no number, such as 2.jpg: age"
        ],
        "cells_that_are_no_number": [
            "age 1e999: 1 cells", "age 57 years: 1 cells", "age NaN: 1 cells",
        ],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("cells", "values"),
    [
        (["0,57", "1,2"], [0.57, 1.2]),
        (["0,57", "1,234"], [0.57, 1.234]),  # the first says what commas are here
        (["1,234", "5,678"], [None, None]),  # thousands, or not
        (["0,57", "1.234"], [0.57, None]),
        (["0.5", "1,234", "0,5"], [0.5, None, 0.5]),
        (["\N{MINUS SIGN}3", " 4 ", "+5", ".5", "6.", "1e2"], [-3, 4, 5, 0.5, 6, 100]),
        (["inf", "-", "1_000", "0x1", "1,234.5", ""], [None] * 6),
    ],
)
def test_a_decimal_comma_is_read_only_where_it_can_be_nothing_else(
    cells: list[str], values: list[float | None]
) -> None:
    assert list(numbers(cells).values()) == values


def test_a_column_without_a_number_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"none of the 2 rows has a number \(such as '1,234'"):
        read(tmp_path, "image,a\n0,1,234\n".replace("1,234", '"1,234"') + '1,"2,345"\n',
             Columns("image", number="a", number_task="a"))  # fmt: skip


def test_labels_and_numbers_are_built_counted_split_and_checked(tmp_path: Path) -> None:
    images = [f"{number}.png" for number in range(40)]
    draw(tmp_path / "img", *images)
    rows = [f"{n},{n % 2},{n % 3 // 2},{20 + n},p{n // 2}" for n in range(40)]
    rows[0] = "0,1,,no,p0"
    table = write(tmp_path, "t.csv", "\n".join(["image,DR,AMD,age in years,patient", *rows]) + "\n")
    request = parse(
        [
            "csv", "--root", str(tmp_path / "img"), "--csv", str(table), "--out",
            str(tmp_path / "out"), "--image_column=image", "--label_columns=AMD,DR",
            "--task=findings", "--number_column=age in years", "--patient_column=patient",
            "--workers=1", "--size=32",
        ]
    )  # fmt: skip
    summary = build(request, progress=False)
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["kinds"] == {"age_in_years": "number", "findings": "labels"}
    assert manifest["classes"] == {"findings": ["AMD", "DR"]}
    counts = manifest["counts"]
    assert counts["labels"] == {"findings": {"AMD": 13, "DR": 20}}
    assert counts["labels_an_image"] == {"findings": {"0": 12, "1": 21, "2": 6}}
    assert counts["numbers"] == {
        "age_in_years": {"images": 39, "lowest": 21, "median": 40, "highest": 59}
    }
    shards = Shards(tmp_path / "out")
    assert labelled(shards).kind == "number"
    assert labelled(shards, "findings").classes == ("AMD", "DR")
    assert {path.name for path in (tmp_path / "out/splits").iterdir()} == {
        "age_in_years.csv", "findings.csv",
    }  # fmt: skip
    checked = check_dataset(tmp_path / "out", 1, lambda _: None)
    assert checked.problems == []
    found = tables(checked)["labels"]
    assert found["age_in_years"] == {"a number": {"none": 39}}
    assert found["findings"]["DR"] == {"none": 20}
    assert found["findings"][""] == {"none": 12}
    assert "findings: AMD 13, DR 20" in report(summary)


def test_the_order_and_the_names_of_stored_labels_are_checked(tmp_path: Path) -> None:
    from maskedclip.data.storage.shards import ShardWriter
    from maskedclip.shards.building.prepare_sample import encode
    from maskedclip.shards.phantoms.phantom import draw as phantom

    jpeg = encode(phantom(0, 64).image_HWC, 90)
    facts = {"dataset": "d", "source": "a", "sha256": "0" * 64, "phash": "0" * 16}
    kinds, classes = {"f": "labels", "n": "number"}, {"f": ["a", "b"]}
    with ShardWriter(tmp_path / "d", "d", kinds=kinds, classes=classes) as writer:
        for key, labels in {
            "right": {"f": "a|b", "n": "1.5"}, "none": {"f": ""}, "order": {"f": "b|a"},
            "other": {"f": "c"}, "word": {"n": "x"}, "endless": {"n": "inf"}, "empty": {"g": ""},
        }.items():  # fmt: skip
            writer.add(key, jpeg, facts | {"width": 64, "height": 64, "labels": labels})
    problems = check_dataset(tmp_path / "d", 1, lambda _: None).problems
    assert {problem.key: problem.reason for problem in problems} == {
        "order": "metadata: the labels f are 'b|a', not of manifest.json in its order",
        "other": "metadata: the labels f are 'c', not of manifest.json in its order",
        "word": "metadata: the label n is 'x', no finite number",
        "endless": "metadata: the label n is 'inf', no finite number",
        "empty": "metadata: the label g is empty",
    }
