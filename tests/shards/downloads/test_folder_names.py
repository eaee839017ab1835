"""Folders of strangers: which are splits, which classes, and what is said of the rest."""

from pathlib import Path

import pytest

from maskedclip.shards.downloads.cards import read_card
from maskedclip.shards.downloads.folder_names import (
    folder_classes,
    folder_splits,
    is_pictures,
    split_name,
)
from maskedclip.shards.downloads.folder_or_csv import read_folder
from maskedclip.shards.downloads.records import Sources
from maskedclip.shards.image_folders import tree_of
from maskedclip.shards.make_command import remark_lines
from tests import downloads
from tests.downloads.drawing import draw

TRAINS = (
    "train", "TRAIN", "Training Set", "a. Training Set", "1) train", "(a) Train", "01_train",
    "train_images", "TrainingSet", "trainset", "Training400", "train-images-512", "train_val",
    "Training_Data", "train (1)", "A_Train", "IDRiD_train", "Trainingsdaten", "Entra\u00eenement",
    "\u8bad\u7ec3\u96c6", "treino",
)  # fmt: skip
TESTS = (
    "test", "Testing", "Test Set", "b. Testing Set", "2) test", "Test-set 1", "test_images",
    "TestingSet", "testdata", "Test400", "Off-site Test Set", "TEST", "IDRiD_test", "Testdaten",
    "prueba",
)  # fmt: skip


def read(root: Path, *sources: str) -> Sources:
    draw(root, *sources)
    return read_folder(read_card("folder"), root, "disease")


def facts(found: Sources) -> dict[str, tuple[str | None, str | None]]:
    return {r.source: (r.split, r.labels.get("disease")) for r in found.records}


@pytest.mark.parametrize("name", TRAINS)
def test_a_folder_of_training_images_is_one_however_it_is_called(name: str) -> None:
    found = split_name(name)
    assert found is not None
    assert found.split == "train"
    images = [f"{name}/a/1.jpg", "IDRiD_test/a/2.jpg"]
    assert folder_splits(images).of == {name: "train", "IDRiD_test": "test"} or found.others == ()


@pytest.mark.parametrize("name", TESTS)
def test_a_folder_of_test_images_is_one_however_it_is_called(name: str, tmp_path: Path) -> None:
    train = "IDRiD_train" if name.startswith("IDRiD") else "a. Training Set"
    found = read(tmp_path, f"{train}/dr/1.png", f"{train}/no/2.png", f"{name}/dr/3.png")
    assert facts(found) == {
        f"{train}/dr/1.png": ("train", "dr"),
        f"{train}/no/2.png": ("train", "no"),
        f"{name}/dr/3.png": ("test", "dr"),
    }
    assert f"{train} is train" in found.remarks["folders_taken_as_splits"]
    tree = tree_of(tmp_path)
    assert tree is not None
    assert tree.root == tmp_path


@pytest.mark.parametrize(
    "name", ["normal", "tested positive", "trained", "train_test", "validity", "a", "1", "attest"]
)
def test_other_names_are_no_split(name: str) -> None:
    found = split_name(name)
    assert found is None or found.others


def test_classes_above_the_splits_keep_them(tmp_path: Path) -> None:
    found = read(
        tmp_path, *(f"{c}/{s}/{c}{s}.png" for c in ("dr", "no") for s in ("Train_set", "Test_set"))
    )
    assert facts(found) == {
        f"{c}/{folder}/{c}{folder}.png": (split, c)
        for c in ("dr", "no")
        for folder, split in (("Train_set", "train"), ("Test_set", "test"))
    }
    assert tree_of(tmp_path) is not None


@pytest.mark.parametrize(
    "sources",
    [
        [f"B. Disease Grading/1. Original Images/{s}/1.png" for s in ("a. Training Set", "b. Test")]
        + ["A. Segmentation/1. Original Images/a. Training Set/2.png",
           "C. Localization/1. Original Images/a. Training Set/2.png"],
        ["ODIR-5K/ODIR-5K/Training Images/1.png", "ODIR-5K/ODIR-5K/Testing Images/2.png"],
        ["messidor-2/IMAGES/1.png", "messidor-2/IMAGES/2.png"],
        ["PALM-Training400/PALM-Training400/1.png", "PALM-Validation400/2.png"],
        ["ODIR-5K_Training_Images/ODIR-5K_Training_Dataset/1.png", "ODIR-5K_Testing_Images/2.png"],
        ["train/Original/1.png", "test/Original/2.png"],
        ["preprocessed_images/0_left.png", "preprocessed_images/0_right.png"],
        ["DDR/DR_grading/train/1.png", "DDR/lesion_segmentation/train/image/2.png"],
        ["Training_Set/Training_Set/Training/1.png", "Evaluation_Set/Evaluation_Set/Validation/2."
         "png", "Test_Set/Test_Set/Test/1.png"],
    ],
    ids=lambda sources: sources[0],
)  # fmt: skip
def test_downloads_whose_folders_are_no_classes_are_refused_with_classes_alone(
    sources: list[str], tmp_path: Path
) -> None:
    draw(tmp_path, *sources)
    with pytest.raises(ValueError, match="no image lies in the folder of a class, such as "):
        read_folder(read_card("folder"), tmp_path, "disease")
    with pytest.raises(ValueError, match=r"neither shards|folders deep"):
        tree_of(tmp_path)
    assert len(read_folder(read_card("folder"), tmp_path, "").records) == len(sources)


def test_a_known_download_that_is_no_tree_is_called_by_its_name(tmp_path: Path) -> None:
    downloads.build("idrid", tmp_path)
    with pytest.raises(ValueError, match=r"it looks like idrid: build it with tools/make_shards"):
        tree_of(tmp_path)


def test_a_split_within_a_split_is_refused_and_a_name_of_both_gives_way(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"train/valid: a split within another split; move it"):
        read(tmp_path / "a", "train/dr/1.png", "train/valid/dr/2.png", "test/dr/3.png")
    found = read(tmp_path / "b", *(f"Train_Val_Data/{s}/a/{s}.png" for s in ("Train", "Val")))
    assert [split for split, _ in facts(found).values()] == ["train", "val"]


def test_classes_in_an_unpacked_folder_are_found(tmp_path: Path) -> None:
    draw(tmp_path, "archive/dataset/dr/1.png", "archive/dataset/no/2.png")
    tree = tree_of(tmp_path / "archive")
    assert tree is not None
    assert (tree.root, tree.name) == (tmp_path / "archive" / "dataset", "archive")


def test_splits_in_file_names_alone_are_said(tmp_path: Path) -> None:
    found = read(tmp_path, *(f"{c}/{s}_{c}{n}.png" for c in "ab" for s in ("train", "test")
                             for n in range(2)))  # fmt: skip
    assert found.remarks["splits_in_file_names"] == [
        "test 4, train 4 by file name, not taken as the split; sort them into train/ and test/"
    ]


def test_two_test_sets_are_both_and_it_is_said(tmp_path: Path) -> None:
    names = ("Training", "Test-set 1", "Test-set 2")
    found = read(tmp_path, *(f"{name}/{c}/{name}{c}.png" for name in names for c in "ab"))
    assert [split for split, _ in facts(found).values()] == ["test"] * 4 + ["train"] * 2
    (line,) = [x for x in remark_lines(found.remarks) if "taken as splits" in x]
    assert "Test-set 1 is test; Test-set 2 is test; Training is train" not in line  # one word
    assert "Test-set 1 is test; Test-set 2 is test" in line


def test_a_class_and_a_split_in_one_name_is_refused_with_the_fix(tmp_path: Path) -> None:
    names = [f"{c}_{s}" for c in ("glaucoma", "normal") for s in ("train", "test")]
    with pytest.raises(ValueError, match=r"glaucoma_test and 3 more: the name says a split and"):
        read(tmp_path, *(f"{name}/{name}.png" for name in names))
    with pytest.raises(ValueError, match=r"put the images into train/CLASS/ and test/CLASS/"):
        tree_of(tmp_path)


def test_a_split_with_more_words_beside_the_plain_one_is_left_out(tmp_path: Path) -> None:
    found = read(tmp_path, "train/a/1.png", "train/b/2.png", "test/a/3.png", "test_50/a/4.png")
    assert "test_50/a/4.png" not in facts(found)
    assert found.remarks["left_out_folders"] == ["test_50: 1 images"]


def test_a_folder_of_images_in_each_class_is_no_class(tmp_path: Path) -> None:
    found = read(tmp_path, "glaucoma/images/1.png", "normal/imgs/2.png", "normal/3.png")
    assert [label for _, label in facts(found).values()] == ["glaucoma", "normal", "normal"]
    assert tree_of(tmp_path) is not None
    found = read(tmp_path / "named", "glaucoma/ORIGA/1.png", "normal/ORIGA/2.png")
    assert [label for _, label in facts(found).values()] == ["glaucoma", "normal"]
    assert found.remarks["folders_in_each_class"] == ["ORIGA: in 2 folders"]


def test_counts_of_images_are_no_part_of_a_class(tmp_path: Path) -> None:
    folders = ("train/DR (1200)", "train/No [900]", "test/DR (300)", "test/No")
    found = read(tmp_path, *(f"{folder}/1.png" for folder in folders))
    assert {label for _, label in facts(found).values()} == {"DR", "No"}
    assert found.remarks["counts_in_names_of_classes"] == [
        "DR: of DR (1200), DR (300)", "No: of No, No [900]"
    ]  # fmt: skip


def test_a_folder_of_all_images_beside_the_classes_is_no_class(tmp_path: Path) -> None:
    found = read(tmp_path, "dr/1.png", "no/2.png", "All images/3.png")
    assert found.remarks["images_without_label"] == ["All images/3.png"]


def test_numbers_in_brackets_that_tell_classes_apart_are_kept_or_asked_about(
    tmp_path: Path,
) -> None:
    found = read(tmp_path / "a", "Grade (1)/1.png", "Grade (2)/2.png")
    assert {label for _, label in facts(found).values()} == {"Grade (1)", "Grade (2)"}
    with pytest.raises(ValueError, match=r"DR and DR \(2\): one class, or a copy of its folder"):
        read(tmp_path / "b", "DR/1.png", "DR (2)/2.png", "No/3.png")


def test_sites_folds_and_datasets_that_are_pooled_are_said(tmp_path: Path) -> None:
    found = read(tmp_path, *(f"fold{n}/{c}/{n}{c}.png" for n in (1, 2) for c in ("dr", "no")))
    assert found.remarks["pooled_folders_above_classes"] == ["fold1: 2 images", "fold2: 2 images"]
    with pytest.raises(ValueError, match=r"trees side by side \(fold1: 2 images, fold2: 2 images"):
        tree_of(tmp_path)


def test_an_empty_folder_of_a_class_is_said(tmp_path: Path) -> None:
    (tmp_path / "train/severe").mkdir(parents=True)
    (tmp_path / "elsewhere/x").mkdir(parents=True)
    found = read(tmp_path, "train/a/1.png", "train/b/images/2.png")
    assert found.remarks["empty_class_folders"] == ["train/severe"]


def test_a_class_that_only_one_split_has_is_said(tmp_path: Path) -> None:
    found = read(tmp_path, "train/DR/1.png", "train/No/2.png", "test/D.R/3.png", "test/No/4.png")
    assert found.remarks["classes_of_one_split_alone"] == ["D.R: test", "DR: train"]


def test_folders_of_patients_are_not_taken_as_classes(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"24 folders such as dr/P0d would be classes, and look"):
        read(tmp_path, *(f"{c}/P{n}{c[0]}/{n}.png" for n in range(12) for c in ("dr", "no")))


def test_many_numbered_classes_of_several_splits_are_classes() -> None:
    sources = [
        f"JSIEC/{split}/{n}.0.Class {n}/{split}{k}.png"
        for split, count in (("train", 14), ("val", 4), ("test", 7))
        for n in range(39)
        for k in range(count)
    ]
    splits = folder_splits(sources).of
    assert len({*folder_classes(sources, splits).of.values()}) == 39


@pytest.mark.parametrize("inner", [("OD", "OS"), ("left", "right"), ("visit 1", "visit 2")])
def test_eyes_and_visits_within_classes_are_no_classes(
    inner: tuple[str, str], tmp_path: Path
) -> None:
    found = read(tmp_path, *(f"{c}/{i}/{c}{i}.png" for c in ("dr", "no") for i in inner))
    assert [label for _, label in facts(found).values()] == ["dr", "dr", "no", "no"]
    assert found.remarks["folders_in_each_class"] == [f"{', '.join(inner)}: in 4 folders"]
    alone = read(tmp_path / "alone", *(f"{i}/{i}.png" for i in inner))
    assert {label for _, label in facts(alone).values()} == {*inner}


def test_a_class_within_a_folder_of_its_name_is_one_and_a_copied_one_is_asked_about(
    tmp_path: Path,
) -> None:
    found = read(tmp_path / "a", "dr/dr/1.png", "no/no/2.png")
    assert [label for _, label in facts(found).values()] == ["dr", "no"]
    assert "pooled_folders_above_classes" not in found.remarks
    with pytest.raises(ValueError, match="DR and DR - Copy: one class, or a copy of its folder"):
        read(tmp_path / "b", "DR/1.png", "DR - Copy/1.png", "No/3.png")


def test_short_names_of_splits_are_some_only_beside_each_other() -> None:
    assert folder_splits(["tr/a/1.png", "te/a/2.png"]).of == {"tr": "train", "te": "test"}
    assert folder_splits(["tr/1.png", "other/2.png"]).of == {}


def test_a_class_within_a_class_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="dr and dr/full: both would be classes, one within the"):
        read(tmp_path, "dr/1.png", "no/2.png", "dr/full/3.png")


def test_classes_that_differ_in_a_number_and_are_no_grades_are_said(tmp_path: Path) -> None:
    found = read(tmp_path / "a", "Base11/1.png", "Base12/2.png")
    assert found.remarks["classes_that_differ_in_a_number"] == [
        "Base11, Base12 (are they parts of the download?)"
    ]
    found = read(tmp_path / "b", "grade 1/1.png", "grade 2/2.png")
    assert "classes_that_differ_in_a_number" not in found.remarks


def test_a_folder_of_jpeg_images_is_no_class() -> None:
    assert is_pictures("JPEGImages")
