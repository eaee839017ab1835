import csv
import os
from collections import Counter
from pathlib import Path

import openpyxl
import pytest
from PIL import Image

from maskedclip.data.captions import EXPERT
from maskedclip.data.sources import card_names, image_files, read_card, read_tables
from maskedclip.data.sources_odir import read_odir
from maskedclip.data.sources_user import Columns, read_csv, read_folder, words_of_class

BESIDE = Path(__file__).parents[2] / ".." / "shared" / "data"
REAL = Path(os.environ.get("MASKEDCLIP_REAL_DATA", BESIDE))
HEADING = [
    "ID", "Patient Age", "Patient Sex", "Left-Fundus", "Right-Fundus",
    "Left-Diagnostic Keywords", "Right-Diagnostic Keywords", "N", "D",
]  # fmt: skip


def real(folder: str) -> Path:
    if not (REAL / folder).is_dir():
        pytest.skip(f"no {folder} under MASKEDCLIP_REAL_DATA or ../shared/data")
    return REAL / folder


def draw(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(path)


def write_csv(path: Path, *rows: list[str], encoding: str = "utf-8") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding=encoding) as file:
        csv.writer(file).writerows(rows)
    return path


def write_xlsx(path: Path, *rows: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    book = openpyxl.Workbook()
    for row in rows:
        book.worksheets[0].append(row)
    book.save(path)


def test_every_card_reads_and_says_what_a_user_needs() -> None:
    assert card_names() == ["csv", "eyepacs", "folder", "idrid", "odir5k", "phantom"]
    for name in card_names():
        card = read_card(name)
        assert card.name == name
        assert card.role in ("paired", "unpaired", "downstream")
        assert card.licence
        assert card.obtain
        for task, classes in card.classes.items():
            for category in classes.values():
                assert category in EXPERT or category == "diabetic macular edema", task


def test_a_misspelt_dataset_is_told_the_nearest() -> None:
    with pytest.raises(ValueError, match="unknown dataset 'eyepac'; did you mean eyepacs"):
        read_card("eyepac")
    with pytest.raises(ValueError, match="unknown dataset 'xyz'; use one of csv, eyepacs"):
        read_card("xyz")


def test_a_card_of_ones_own_is_read_and_its_mistakes_are_told(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    facts = ["name", "title", "role", "licence", "citation", "obtain", "reader"]
    path.write_text("\n".join(f'{name} = "x"' for name in facts))
    assert read_card(str(path)).title == "x"
    path.write_text('name = "x"\nfoo = 1')
    with pytest.raises(ValueError, match=r"mine\.toml: .*foo"):
        read_card(str(path))
    with pytest.raises(ValueError, match="no such card"):
        read_card(str(tmp_path / "none.toml"))


def test_images_are_found_whatever_the_case_and_junk_is_not(tmp_path: Path) -> None:
    draw(tmp_path / "a/1.JPG", tmp_path / "b/2.png", tmp_path / "mask/3.png")
    for junk in ("a/Thumbs.db", "a/._1.JPG", "__MACOSX/1.jpg", "a/readme.txt"):
        (tmp_path / junk).parent.mkdir(exist_ok=True)
        (tmp_path / junk).write_bytes(b"x")
    assert [path.name for path in image_files(tmp_path, ["mask"])] == ["1.JPG", "2.png"]


def test_images_behind_linked_folders_are_found_once(tmp_path: Path) -> None:
    draw(tmp_path / "disk/1.png", tmp_path / "root/2.png")
    (tmp_path / "root/linked").symlink_to(tmp_path / "disk")
    (tmp_path / "root/round").symlink_to(tmp_path / "root")
    assert [p.name for p in image_files(tmp_path / "root")] == ["2.png", "1.png"]


def test_a_root_that_is_missing_or_has_no_image_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such directory"):
        image_files(tmp_path / "none")
    with pytest.raises(ValueError, match="no image in it"):
        image_files(tmp_path)


def eyepacs(root: Path) -> Path:
    draw(*(root / f"train/train/{n}_{eye}.jpeg" for n in (10, 13) for eye in ("left", "right")))
    draw(root / "test/1_left.jpeg", root / "test/2_right.jpeg", root / "test/3_left.jpeg")
    write_csv(
        root / "trainLabels.csv",
        *(["image", "level"], ["10_left", "0"], ["10_right", "4"], ["13_left", "7"]),
        ["99_left", "1"],
    )
    write_csv(
        root / "retinopathy_solution.csv",
        *(["image", "level", "Usage"], ["1_left", "2", "Private"], ["2_right", "3", "Public"]),
        encoding="utf-8-sig",
    )
    write_csv(root / "sampleSubmission.csv", ["image", "level"], ["3_left", "0"])
    return root


def test_eyepacs_has_grades_patients_eyes_and_splits(tmp_path: Path) -> None:
    found = read_tables(read_card("eyepacs"), eyepacs(tmp_path))
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
        "unknown_classes": ["13_left: diabetic_retinopathy 7"],
        "images_without_label": ["test/3_left.jpeg", "train/train/13_right.jpeg"],
    }


def test_idrid_names_that_are_in_both_sets_are_told_apart(tmp_path: Path) -> None:
    root = tmp_path / "B. Disease Grading" / "B. Disease Grading"
    pictures, truths = root / "1. Original Images", root / "2. Groundtruths"
    draw(pictures / "a. Training Set/IDRiD_001.jpg", pictures / "b. Testing Set/IDRiD_001.jpg")
    draw(tmp_path / "A. Segmentation/1. Original Images/a. Training Set/IDRiD_01.jpg")
    heading = ["Image name", "Retinopathy grade", "Risk of macular edema "]
    write_csv(
        truths / "a. IDRiD_Disease Grading_Training Labels.csv",
        *([*heading, "", ""], ["IDRiD_001", "3", "2", "", ""]),
    )
    write_csv(
        truths / "b. IDRiD_Disease Grading_Testing Labels.csv", heading, ["IDRiD_001", "0", "0"]
    )
    train, test = read_tables(read_card("idrid"), tmp_path).records
    assert (train.split, train.labels) == (
        "train",
        {"diabetic_retinopathy": "3", "macular_edema": "2"},
    )
    assert train.categories == ("severe diabetic retinopathy", "diabetic macular edema")
    assert (test.split, test.labels["diabetic_retinopathy"]) == ("test", "0")


def test_a_root_without_the_label_file_is_refused(tmp_path: Path) -> None:
    draw(tmp_path / "10_left.jpeg")
    with pytest.raises(ValueError, match="is it the folder of EyePACS"):
        read_tables(read_card("eyepacs"), tmp_path)


ROWS = [
    HEADING,
    ["0", "69", "Female", "0_left.jpg", "0_right.jpg", "cataract", "normal fundus", "0", "0"],
    ["2", "42", "Male", "2_left.jpg", "2_right.jpg",
     "laser spot\uff0cmoderate non proliferative retinopathy", "lens dust", "0", "1"],
    ["4", "50", "Male", "4_left.jpg", "4_right.jpg",
     "drusen,glaucoma", "suspected glaucoma", "0", "1"],
]  # fmt: skip


def odir(root: Path) -> Path:
    draw(
        *(root / f"preprocessed_images/{n}_{eye}.jpg" for n in (0, 2) for eye in ("left", "right"))
    )
    draw(root / "preprocessed_images/4_left.jpg", root / "Training Images/4_left.jpg")
    draw(root / "Testing Images/9_left.jpg")
    return root


def test_an_eye_of_odir_is_told_by_its_own_keywords(tmp_path: Path) -> None:
    write_csv(odir(tmp_path) / "full_df.csv", *ROWS)
    coded = [[*row[:5], "D", "G"] for row in ROWS[1:]]
    write_xlsx(tmp_path / "data.xlsx", HEADING[:7], *coded)
    found = read_odir(read_card("odir5k"), tmp_path)
    eyes = {Path(record.source).stem: record for record in found.records}
    left, right = eyes["0_left"], eyes["0_right"]
    assert (left.patient, left.eye, left.split, left.report) == ("0", "L", "train", "cataract")
    assert (right.eye, right.report, right.categories) == ("R", "normal fundus", ("normal",))
    assert right.labels == {"disease": "normal"}
    assert eyes["2_left"].categories == ("laser scar", "moderate diabetic retinopathy")
    assert eyes["2_left"].report == "laser spot, moderate non proliferative retinopathy"
    assert eyes["2_left"].labels == {}  # the findings are not all of one class
    assert (eyes["2_right"].categories, eyes["2_right"].report) == ((), None)
    assert eyes["4_left"].source == "Training Images/4_left.jpg"
    assert (eyes["9_left"].split, eyes["9_left"].patient) == ("test", "9")
    assert found.remarks == {
        "labels_without_image": ["4_right"],
        "repeated_names": ["preprocessed_images/4_left.jpg"],
        "images_without_label": ["Testing Images/9_left.jpg"],
        "eyes_without_finding": ["preprocessed_images/2_right.jpg"],
    }


def test_odir_is_read_from_its_xlsx_too(tmp_path: Path) -> None:
    write_csv(tmp_path / "one" / "full_df.csv", *ROWS)
    write_xlsx(tmp_path / "two" / "ODIR-5K_Training_Annotations(Updated)_V2.xlsx", *ROWS)
    one, two = (read_odir(read_card("odir5k"), odir(tmp_path / name)) for name in ("one", "two"))
    assert [r._replace(path=Path()) for r in one.records] == [
        r._replace(path=Path()) for r in two.records
    ]


def test_the_test_sets_of_oia_odir_are_splits(tmp_path: Path) -> None:
    draw(tmp_path / "Off-site Test Set/Images/0_left.jpg")
    draw(
        tmp_path / "On-site_Test_Set/Images/2_left.jpg", tmp_path / "Training Set/Images/4_left.jpg"
    )
    write_xlsx(tmp_path / "Training Set/Annotation/training annotation (English).xlsx", *ROWS)
    splits = [record.split for record in read_odir(read_card("odir5k"), tmp_path).records]
    assert splits == ["off-site test", "on-site test", "train"]


def test_letters_in_place_of_keywords_are_refused(tmp_path: Path) -> None:
    coded = [[*row[:5], "D\uff0cH", "N"] for row in ROWS[1:]]
    write_xlsx(odir(tmp_path) / "data.xlsx", HEADING[:7], *coded)
    with pytest.raises(ValueError, match="only letter codes for keywords"):
        read_odir(read_card("odir5k"), tmp_path)


def test_a_tree_without_classes_is_pictures_alone(tmp_path: Path) -> None:
    draw(tmp_path / "a/1.png", tmp_path / "test/2.png")
    records = read_folder(read_card("folder"), tmp_path, "").records
    assert [(r.source, r.split, r.labels, r.categories) for r in records] == [
        ("a/1.png", None, {}, ()),
        ("test/2.png", "test", {}, ()),
    ]


def test_splits_and_classes_are_taken_from_the_folders(tmp_path: Path) -> None:
    draw(tmp_path / "IDRiD/train/2_cataract/x.png", tmp_path / "IDRiD/val/anormal/x.png")
    draw(tmp_path / "IDRiD/test/3/x.png", tmp_path / "y.png")
    found = read_folder(read_card("folder"), tmp_path, "disease")
    facts = {r.source: (r.split, r.labels.get("disease"), r.categories) for r in found.records}
    assert facts == {
        "IDRiD/train/2_cataract/x.png": ("train", "2_cataract", ("cataract",)),
        "IDRiD/val/anormal/x.png": ("val", "anormal", ("anormal",)),
        "IDRiD/test/3/x.png": ("test", "3", ()),
        "y.png": (None, None, ()),
    }
    assert found.remarks == {"images_without_label": ["y.png"]}


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
    draw(tmp_path / "a/1.png", tmp_path / "b/1.png", tmp_path / "b/2.png", tmp_path / "c.png")
    table = write_csv(
        tmp_path / "labels.csv",
        ["File ", "Grade", "Who", "Side", "Set", "Text", "Finds"],
        ["a/1.png", "glaucoma", "p1", "OD", "Validation", "  thin  rim ", ""],
        ["b\\1.png", "", "p2", "left", "fold3", "", "drusen, cataract"],
        ["2", "3", "", "", "", "", ""],
        ["none.png", "3", "", "", "", "", ""],
    )
    columns = Columns("file", "grade", "disease", "who", "side", "set", "text", "finds")
    found = read_csv(read_card("csv"), tmp_path, table, columns)
    one, two, three = found.records
    assert one[2:] == ("p1", "R", "val", {"disease": "glaucoma"}, ("glaucoma",), "thin rim")
    assert two[2:] == ("p2", "L", "fold3", {}, ("drusens", "cataract"), None)
    assert three[2:] == (None, None, None, {"disease": "3"}, (), None)
    assert found.remarks == {
        "labels_without_image": ["none.png"],
        "images_without_label": ["c.png"],
    }


def test_a_column_that_is_not_there_is_told_the_nearest(tmp_path: Path) -> None:
    draw(tmp_path / "1.png")
    table = write_csv(tmp_path / "labels.csv", ["image", "grade"], ["1", "0"])
    with pytest.raises(ValueError, match=r"--image_column 'imag' is not in .*; it has image"):
        read_csv(read_card("csv"), tmp_path, table, Columns("imag"))
    with pytest.raises(ValueError, match="no such file"):
        read_csv(read_card("csv"), tmp_path, tmp_path / "none.csv", Columns("image"))


def test_a_table_that_is_not_utf8_is_named(tmp_path: Path) -> None:
    draw(tmp_path / "1.png")
    table = write_csv(tmp_path / "labels.csv", ["image", "gr\xe4d"], encoding="latin-1")
    with pytest.raises(ValueError, match=r"labels\.csv: not UTF-8"):
        read_csv(read_card("csv"), tmp_path, table, Columns("image"))


def test_the_odir_photographs_have_their_own_findings() -> None:
    found = read_odir(read_card("odir5k"), real("odir5k"))
    eyes = {Path(record.source).stem: record for record in found.records}
    assert len(eyes) == 6113
    assert eyes["0_left"].categories == ("cataract",)
    assert eyes["0_right"].report == "normal fundus"
    assert len({record.patient for record in found.records}) == 3198
    assert Counter(r.labels.get("disease") for r in found.records)["normal"] == 2786
    assert len(found.remarks["labels_without_image"]) == 603


def test_the_idrid_photographs_have_the_official_split() -> None:
    found = read_tables(read_card("idrid"), real("idrid"))
    assert Counter(record.split for record in found.records) == {"train": 413, "test": 103}
    grades = Counter((r.split, r.labels["diabetic_retinopathy"]) for r in found.records)
    assert [grades["train", str(grade)] for grade in range(5)] == [134, 20, 136, 74, 49]
    assert found.remarks == {}


def test_the_eyepacs_photographs_have_their_grades() -> None:
    found = read_tables(read_card("eyepacs"), real("eyepacs_subset"))
    grades = Counter(record.labels["diabetic_retinopathy"] for record in found.records)
    assert [grades[str(grade)] for grade in range(5)] == [816, 65, 167, 30, 20]
    assert {record.eye for record in found.records} == {"L", "R"}
