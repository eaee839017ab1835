from pathlib import Path

import pytest

from maskedclip.shards.downloads.cards import card_names, read_card
from maskedclip.shards.downloads.files import list_files
from maskedclip.shards.downloads.folder_or_csv import Columns, read_csv, read_folder
from maskedclip.shards.downloads.recognise import fits, known_datasets
from maskedclip.shards.downloads.records import read_dataset
from maskedclip.shards.downloads.stare import read_stare
from tests import downloads
from tests.downloads.drawing import draw, table, write

TWINS = {"aptos2019", "messidor2"}  # RETFound's folders are called the same in both


@pytest.mark.parametrize("form", downloads.FORMS)
def test_every_form_of_a_download_is_recognised_as_its_dataset_alone(
    form: str, tmp_path: Path
) -> None:
    downloads.build(form, tmp_path)
    name = downloads.FORMS[form]
    files = list_files(read_card(name), tmp_path)
    found = {other for other in card_names() if fits(read_card(other), tmp_path, files)}
    assert found in ({name}, TWINS if name in TWINS else {name})


def test_a_tree_that_hands_out_other_datasets_is_remarked_on(tmp_path: Path) -> None:
    draw(tmp_path, "SMDG-19/full-fundus/1.png", "mine/2.png")
    names = ["jsiec", "lag", "odir5k", "origa", "refuge"]
    found = read_folder(read_card("folder"), tmp_path, "").remarks["known_datasets"]
    assert found == [f"{name}: SMDG-19 is known to hold its images" for name in names]
    table(tmp_path, "t.csv", ["image"], ["2.png"])
    again = read_csv(read_card("csv"), tmp_path, tmp_path / "t.csv", Columns("image"))
    assert again.remarks["known_datasets"] == found
    downloads.build("jsiec", tmp_path / "more")
    files = list_files(read_card("folder"), tmp_path / "more")
    assert known_datasets(tmp_path / "more", files) == ["jsiec: its files are here"]


def refused(name: str, root: Path) -> str:
    with pytest.raises(ValueError, match="--root") as raised:
        read_dataset(read_card(name), root)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_what_was_looked_for_and_what_is_there_is_said(tmp_path: Path) -> None:
    draw(tmp_path, *(f"{folder}/cat.jpg" for folder in "abcdefg"))
    write(tmp_path, "notes.txt", "x")
    message = refused("eyepacs", tmp_path)
    assert "expected trainLabels.csv or train.csv or retinopathy_solution.csv, found " in message
    assert (
        "found notes.txt, a, b, c, d and 3 more (images: 7); give the folder of EyePACS" in message
    )


@pytest.mark.parametrize(
    ("form", "name"),
    [(form, name) for form, name in downloads.FORMS.items() if form in ("eyepacs", "lag", "fives")]
    + [("odir5k_kaggle", "odir5k"), ("stare", "stare"), ("origa", "origa"), ("jsiec", "jsiec")],
)
def test_another_dataset_is_recognised(form: str, name: str, tmp_path: Path) -> None:
    downloads.build(form, tmp_path)
    message = refused("acrima", tmp_path)
    assert f"it looks like {name}, not acrima: use `make_shards.py {name}`" in message


def test_an_archive_that_was_not_unpacked_is_named(tmp_path: Path) -> None:
    write(tmp_path, "CFPs.rar", "x")
    write(tmp_path, "ROI images.rar", "x")
    assert "no image but CFPs.rar and 1 more archives; unpack it first" in (
        refused("grape", tmp_path)
    )
    draw(tmp_path, "ROI images/1_OD_1.jpg")
    assert "no image of GRAPE" in refused("grape", tmp_path)


def test_images_without_their_label_file_are_refused_with_a_way_out(tmp_path: Path) -> None:
    draw(tmp_path, "10_left.jpeg")
    assert "with its label files, or use `make_shards.py folder` for images alone" in (
        refused("eyepacs", tmp_path)
    )
    draw(tmp_path / "stare", "im0001.ppm")
    with pytest.raises(ValueError, match=r"expected all-mg-codes\.txt .* with its label files"):
        read_stare(read_card("stare"), tmp_path / "stare")


def test_a_label_file_without_its_columns_is_named(tmp_path: Path) -> None:
    draw(tmp_path, "10_left.jpeg")
    table(tmp_path, "trainLabels.csv", ["image", "grade"], ["10_left", "0"])
    with pytest.raises(ValueError, match=r"trainLabels\.csv: no column level; it has image, grade"):
        read_dataset(read_card("eyepacs"), tmp_path)


@pytest.mark.parametrize(
    ("name", "files", "heading", "words"),
    [
        ("messidor2", ["2005_PP.tif"], "Image name,Ophthalmologic department,Retinopathy grade",
         "Messidor-1"),
        ("airogs", ["train/RG/EyePACS-TRAIN-1.jpg"], "a,b", "AIROGS-light"),
        ("airogs", ["0/TRAIN000000.JPG"], "Eye ID;Final Label;Age", "JustRAIGS"),
        ("aptos2019", ["MESSIDOR2/train/anodr/x.png"], "a,b", "MESSIDOR-2 as RETFound"),
        ("messidor2", ["train/eproDR/x.png"], "a,b", "IDRiD as RETFound"),
    ],
)  # fmt: skip
def test_a_dataset_that_is_easily_taken_for_another_is_told_apart(
    name: str, files: list[str], heading: str, words: str, tmp_path: Path
) -> None:
    draw(tmp_path, *files)
    write(tmp_path, "labels.csv", (heading + "\nD\xe9p,1,2\n").encode("latin-1"))
    assert f"shows that this is {words}" in refused(name, tmp_path)
