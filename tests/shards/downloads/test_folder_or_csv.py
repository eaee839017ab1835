from collections import Counter
from pathlib import Path

import pytest

from maskedclip.shards.downloads.cards import read_card
from maskedclip.shards.downloads.class_words import words_of_class
from maskedclip.shards.downloads.folder_or_csv import Columns, read_csv, read_folder
from tests.downloads.drawing import draw, table
from tests.real_data import real


def test_a_tree_without_classes_is_pictures_alone(tmp_path: Path) -> None:
    draw(tmp_path, "a/1.png", "test/2.png")
    records = read_folder(read_card("folder"), tmp_path, "").records
    assert [(r.source, r.split, r.labels, r.categories) for r in records] == [
        ("a/1.png", None, {}, ()),
        ("test/2.png", "test", {}, ()),
    ]


def test_splits_and_classes_are_taken_from_the_folders(tmp_path: Path) -> None:
    draw(tmp_path, "IDRiD/train/4_cataract/x.png", "IDRiD/val/anormal/x.png")
    draw(tmp_path, "IDRiD/test/3/x.png", "y.png")
    found = read_folder(read_card("folder"), tmp_path, "disease")
    facts = {r.source: (r.split, r.labels.get("disease"), r.categories) for r in found.records}
    assert facts == {
        "IDRiD/train/4_cataract/x.png": ("train", "4_cataract", ("cataract",)),
        "IDRiD/val/anormal/x.png": ("val", "anormal", ("anormal",)),
        "IDRiD/test/3/x.png": ("test", "3", ()),
        "y.png": (None, None, ()),
    }
    assert found.remarks == {
        "images_without_label": ["y.png"],
        "classes_of_one_split_alone": ["3: test", "4_cataract: train", "anormal: val"],
    }


@pytest.mark.parametrize(
    ("name", "category"),
    [
        ("1_normal", "normal"),
        ("0.1.Tessellated fundus", "tessellation"),
        ("20.Massive hard exudates", "massive hard exudates"),
        ("2_retina_disease", "retina disease"),
    ],
)
def test_a_class_folder_says_a_category(name: str, category: str) -> None:
    assert words_of_class(name) == (category,)
    assert words_of_class("3") == ()


def test_a_csv_gives_what_its_columns_say(tmp_path: Path) -> None:
    draw(tmp_path, "a/1.png", "b/1.png", "b/2.png", "c.png")
    table(
        tmp_path,
        "labels.csv",
        ["File ", "Grade", "Who", "Side", "Set", "Text", "Finds"],
        ["a/1.png", "glaucoma", "p1", "OD", "Validation", "  thin  rim ", ""],
        ["b\\1.png", "", "p2", "left", "Testing", "", "drusen, cataract"],
        ["2", "3", "", "", "", "", ""],
        ["none.png", "3", "", "", "", "", ""],
    )
    columns = Columns("file", "grade", "disease", "who", "side", "set", "text", "finds")
    found = read_csv(read_card("csv"), tmp_path, tmp_path / "labels.csv", columns)
    one, two, three = found.records
    assert one[2:] == ("p1", "R", "val", {"disease": "glaucoma"}, ("glaucoma",), "thin rim")
    assert two[2:] == ("p2", "L", "test", {}, ("drusens", "cataract"), None)
    assert three[2:] == (None, None, None, {"disease": "3"}, (), None)
    assert found.remarks == {
        "labels_without_image": ["none.png"],
        "images_without_label": ["c.png"],
        "images_that_left_a_task": [
            "disease: 1 images left it, a cell being empty, such as b/1.png: grade"
        ],
        "patients_unknown": ["an empty cell (write the patient into each row): 2 rows"],
    }


def test_a_column_that_is_not_there_is_told_the_nearest(tmp_path: Path) -> None:
    draw(tmp_path, "1.png")
    table(tmp_path, "labels.csv", ["image", "grade"], ["1", "0"])
    with pytest.raises(
        ValueError, match=r"--image_column 'imag' is not in .*; did you mean image\? It has image,"
    ):
        read_csv(read_card("csv"), tmp_path, tmp_path / "labels.csv", Columns("imag"))
    with pytest.raises(ValueError, match="no such file"):
        read_csv(read_card("csv"), tmp_path, tmp_path / "none.csv", Columns("image"))


def test_folders_of_real_photographs_are_their_classes() -> None:
    found = read_folder(read_card("folder"), real("eye_diseases_4class"), "disease")
    assert Counter(r.labels["disease"] for r in found.records)["glaucoma"] >= 101
    assert {r.categories for r in found.records} == {("cataract",), ("glaucoma",), ("normal",)}


def test_a_folder_whose_name_holds_a_bar_is_one_class_and_said(tmp_path: Path) -> None:
    draw(tmp_path, "DR|AMD/1.png", "DR/2.png")
    found = read_folder(read_card("folder"), tmp_path, "t")
    assert [record.labels["t"] for record in found.records] == ["DR", "DR|AMD"]
    (said,) = found.remarks["taken_as_one_class"]
    assert said.startswith("DR|AMD (for several labels an image, write a table")
