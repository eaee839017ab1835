from collections import Counter
from pathlib import Path

import pytest

from maskedclip.shards.downloads.cards import read_card
from maskedclip.shards.downloads.records import read_dataset
from tests.downloads.drawing import draw, table
from tests.real_data import real


def eyepacs(root: Path) -> Path:
    draw(root, *(f"train/train/{n}_{eye}.jpeg" for n in (10, 13) for eye in ("left", "right")))
    draw(root, "test/1_left.jpeg", "test/2_right.jpeg", "test/3_left.jpeg")
    rows = (["10_left", "0"], ["10_right", "4"], ["13_left", "7"], ["99_left", "1"])
    table(root, "trainLabels.csv", ["image", "level"], *rows)
    rows = (["1_left", "2", "Private"], ["2_right", "3", "Public"])
    table(root, "retinopathy_solution.csv", ["image", "level", "Usage"], *rows, bom=True)
    table(root, "sampleSubmission.csv", ["image", "level"], ["3_left", "0"])
    return root


def test_eyepacs_has_grades_patients_eyes_and_splits(tmp_path: Path) -> None:
    found = read_dataset(read_card("eyepacs"), eyepacs(tmp_path))
    facts = {
        Path(r.source).stem: (r.patient, r.eye, r.split, r.labels, r.categories)
        for r in found.records
    }
    grade = "diabetic_retinopathy"
    assert facts["10_left"] == ("10", "L", "train", {grade: "0"}, ("no diabetic retinopathy",))
    assert facts["10_right"][3:] == ({grade: "4"}, ("proliferative diabetic retinopathy",))
    assert facts["1_left"][:3] == ("1", "L", "test")
    assert facts["2_right"][1:4] == ("R", "val", {grade: "3"})
    assert facts["3_left"][2:] == (None, {}, ())  # the sample submission holds no grades
    assert found.remarks == {
        "labels_without_image": ["99_left"],
        "unknown_classes": ["train/train/13_left.jpeg: diabetic_retinopathy 7"],
        "images_without_label": ["test/3_left.jpeg", "train/train/13_right.jpeg"],
    }


def write_card(path: Path, more: str) -> Path:
    names = ("name", "title", "role", "licence", "citation", "obtain")
    path.write_text("\n".join([*(f'{name} = "mine"' for name in names), more]))
    return path


GRADES = """
[[table]]
file = '/labels[^/]*\\.csv$'
image = "image"
labels = { grade = "grade" }
[values.grade]
"stage  two" = "2"
[classes.grade]
1 = "mild diabetic retinopathy"
2 = ""
"""


def test_an_image_is_found_by_its_name_or_by_its_path(tmp_path: Path) -> None:
    card = read_card(str(write_card(tmp_path / "mine.toml", GRADES)))
    root = tmp_path / "root"
    draw(root, "a/x/1.png", "b/x/1.PNG", "b/2.jpg", "b/3.x.jpg")
    rows = (["b\\x\\1.tif", 1], ["a/x/1.png", "2.0"], ["2", "Stage two"], ["3.x", ""])
    table(root, "labels.csv", ["Image", " grade"], *rows)
    found = read_dataset(card, root)
    assert {r.source: (r.labels.get("grade"), r.categories) for r in found.records} == {
        "a/x/1.png": ("2", ()),
        "b/x/1.PNG": ("1", ("mild diabetic retinopathy",)),
        "b/2.jpg": ("2", ()),
        "b/3.x.jpg": (None, ()),
    }
    assert found.remarks == {
        "images_with_an_empty_label": ["b/3.x.jpg: grade"],
        "images_that_left_a_task": [
            "grade: 1 images left it, a cell being empty, such as b/3.x.jpg"
        ],
    }


def test_of_copies_with_one_name_the_one_nearest_the_root_is_taken(tmp_path: Path) -> None:
    card = read_card(str(write_card(tmp_path / "mine.toml", GRADES)))
    root = tmp_path / "root"
    draw(root, "small/again/1.png", "z/1.png", "other/4.png", "small/4.png")
    table(root, "labels.csv", ["image", "grade"], ["1", 1])
    found = read_dataset(card, root)
    assert [record.source for record in found.records] == [
        "other/4.png", "small/4.png", "z/1.png",
    ]  # fmt: skip
    assert found.remarks == {
        "images_without_label": ["other/4.png", "small/4.png"],
        "repeated_names": ["small/again/1.png"],
    }


def test_a_later_table_counts_more_and_one_without_columns_is_named(tmp_path: Path) -> None:
    card = read_card(str(write_card(tmp_path / "mine.toml", GRADES)))
    root = tmp_path / "root"
    draw(root, "1.png", "2.png", "3.png")
    table(root, "labels_1.csv", ["image", "grade"], ["1", 5], ["2", 1], ["3", 1])
    table(root, "labels_2.csv", ["image", "grade"], ["1", 2], ["2", "nan"], ["3", "2.0"])
    table(root, "labels_4.csv", ["image", "grade"], ["1", 1], ["1", 2], ["", 2])
    table(root, "labels_3.csv", ["image", "level"], ["1", 1])
    found = read_dataset(card, root)
    assert {record.source: record.labels for record in found.records} == {
        "2.png": {"grade": "1"},
        "3.png": {"grade": "2"},
    }
    assert found.remarks["images_with_two_rows"] == ["labels_4.csv: 1"]
    assert found.remarks["unclear_images_left_out"] == ["1.png"]
    assert found.remarks["rows_that_name_no_image"] == ["labels_4.csv: 1 rows"]
    (words,) = found.remarks["label_files_not_read"]
    assert "labels_3.csv: no column grade; it has image, level" in words
    assert str(tmp_path) not in words  # it goes to the manifest


def test_the_idrid_photographs_have_the_official_split() -> None:
    found = read_dataset(read_card("idrid"), real("idrid"))
    assert Counter(record.split for record in found.records) == {"train": 413, "test": 103}
    grades = Counter((r.split, r.labels["diabetic_retinopathy"]) for r in found.records)
    assert [grades["train", str(grade)] for grade in range(5)] == [134, 20, 136, 74, 49]
    assert found.remarks == {}


def test_the_eyepacs_photographs_have_their_grades() -> None:
    found = read_dataset(read_card("eyepacs"), real("eyepacs_subset"))
    grades = Counter(record.labels["diabetic_retinopathy"] for record in found.records)
    assert [grades[str(grade)] for grade in range(5)] == [816, 65, 167, 30, 20]
    assert {record.eye for record in found.records} == {"L", "R"}


def test_the_aptos_photographs_have_their_grades() -> None:
    found = read_dataset(read_card("aptos2019"), real("aptos2019_subset"))
    grades = Counter(record.labels["diabetic_retinopathy"] for record in found.records)
    assert grades == {"2": 20, "3": 20, "4": 20}
    assert {record.split for record in found.records} == {"train"}


def test_of_a_folder_of_other_photographs_too_the_retina_card_takes_its_own() -> None:
    found = read_dataset(read_card("retina"), real("eye_diseases_4class"))
    diseases = Counter(record.labels["disease"] for record in found.records)
    assert diseases == {"cataract": 100, "glaucoma": 101}
    assert sum(int(t.split()[-2]) for t in found.remarks["left_out_folders"]) == 60


def test_a_row_of_a_card_that_is_unclear_labels_no_image(tmp_path: Path) -> None:
    card = read_card(str(write_card(tmp_path / "mine.toml", GRADES)))
    root = tmp_path / "root"
    draw(root, "a/1.png", "b/1.png", "2.png", "3.png", "4.png")
    rows = (["1", 1], ["2", 1], ["2", "1.0"], ["3", 1], ["3", 2], ["4", "N/A"], ["nan", 1])
    table(root, "labels.csv", ["image", "grade"], *rows, ["4", 1, "shifted"])
    found = read_dataset(card, root)
    assert {r.source: r.labels for r in found.records} == {"2.png": {"grade": "1"}, "4.png": {}}
    assert found.remarks == {
        "images_with_an_empty_label": ["4.png: grade"],
        "images_that_left_a_task": ["grade: 1 images left it, a cell being empty, such as 4.png"],
        "images_with_two_rows": ["labels.csv: 3"],
        "names_of_several_images": ["labels.csv: 1"],
        "rows_longer_than_the_heading": ["labels.csv: 1 rows"],
        "rows_that_name_no_image": ["labels.csv: 1 rows"],
        "unclear_images_left_out": ["3.png", "a/1.png", "b/1.png"],
    }


def test_a_table_of_a_card_that_names_no_image_is_refused(tmp_path: Path) -> None:
    card = read_card(str(write_card(tmp_path / "mine.toml", GRADES)))
    draw(tmp_path / "root", "001.png")
    table(tmp_path / "root", "labels.csv", ["image", "grade"], ["1", 1])
    with pytest.raises(ValueError, match=r"no row of the label files .*such as 1, but 001\.png"):
        read_dataset(card, tmp_path / "root")


def test_an_unknown_patient_of_a_card_is_nobody(tmp_path: Path) -> None:
    more = GRADES.replace('image = "image"', 'image = "image"\npatient = "who"')
    card = read_card(str(write_card(tmp_path / "mine.toml", more)))
    draw(tmp_path / "root", *(f"{n}.png" for n in range(5)))
    rows = ([n, 1, who] for n, who in enumerate(("7", "7.0", "unknown", "nan", "")))
    table(tmp_path / "root", "labels.csv", ["image", "grade", "who"], *rows)
    found = read_dataset(card, tmp_path / "root")
    assert [record.patient for record in found.records] == ["7", "7", None, None, None]
    nobodies = ["labels.csv: nan: 1 rows", "labels.csv: unknown: 1 rows"]
    assert found.remarks["patients_unknown"] == nobodies
