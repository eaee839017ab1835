"""Folders that are not what a card wants, with words that its error has to hold."""

import zipfile
from pathlib import Path

from tests.downloads import downstream, glaucoma, grading
from tests.downloads.drawing import book, draw, table
from tests.downloads.expected import WrongRoot


def wrong_root(root: Path) -> list[WrongRoot]:
    """Make each wrong folder under `root`; say the card, the folder and words of the error."""
    return [
        _another_dataset(root / "jsiec"),
        _another_table(root / "airogs"),
        _another_tree(root / "paraguay"),
        _archive_only(root / "archive"),
        _missing_column(root / "column"),
        _missing_column_of_a_sheet(root / "sheet"),
        _first_messidor(root / "messidor1"),
        _pairs_without_grades(root / "pairs"),
        _no_table(root / "bare"),
        _light_edition(root / "light"),
    ]


def _another_dataset(root: Path) -> WrongRoot:
    downstream.jsiec(root)
    return WrongRoot("eyepacs", root, ("1000images", "EyePACS"))


def _another_table(root: Path) -> WrongRoot:
    glaucoma.airogs(root)
    return WrongRoot("aptos2019", root, ("train.csv", "train_labels.csv"))


def _another_tree(root: Path) -> WrongRoot:
    grading.paraguay(root)
    return WrongRoot("fives", root, ("Dataset_from_fundus_images",))


def _archive_only(root: Path) -> WrongRoot:
    root.mkdir(parents=True)
    with zipfile.ZipFile(root / "B. Disease Grading.zip", "w") as archive:
        archive.writestr(zipfile.ZipInfo("B. Disease Grading/LICENSE.txt"), "CC BY 4.0")
    return WrongRoot("idrid", root, ("B. Disease Grading.zip", "unpack"))


def _missing_column(root: Path) -> WrongRoot:
    draw(root, "train_images/000c1434d8d7.png")
    table(root, "train.csv", ["id_code", "label"], ["000c1434d8d7", 2])
    return WrongRoot("aptos2019", root, ("train.csv", "diagnosis"))


def _missing_column_of_a_sheet(root: Path) -> WrongRoot:
    draw(root, "Training Images/0_left.jpg", "Training Images/0_right.jpg")
    rows = [["ID", "Left-Fundus", "Right-Fundus", "N"], [0, "0_left.jpg", "0_right.jpg", 1]]
    book(root, "data.xlsx", Sheet1=rows)
    return WrongRoot("odir5k", root, ("data.xlsx", "Left-Diagnostic Keywords"))


def _first_messidor(root: Path) -> WrongRoot:
    draw(root, "20051019_38557_0100_PP.tif")
    heading = ["Image name", "Ophthalmologic department", "Retinopathy grade"]
    row = ["20051019_38557_0100_PP.tif", "Service Ophtalmologie Lariboisiere", 3, 1]
    table(root, "annotations.csv", [*heading, "Risk of macular edema"], row)
    return WrongRoot("messidor2", root, ("annotations.csv", "MESSIDOR-1"))


def _pairs_without_grades(root: Path) -> WrongRoot:
    draw(root, "IMAGES/IM000012.JPG", "IMAGES/IM000013.JPG")
    rows = [["left", "right"], ["IM000012.jpg", "IM000013.jpg"]]
    table(root, "messidor-2.csv", *rows, delimiter=";")
    return WrongRoot("messidor2", root, ("messidor_data.csv", "messidor-2.csv"))


def _no_table(root: Path) -> WrongRoot:
    draw(root, "ORIGA/Images/001.jpg")
    return WrongRoot("origa", root, ("OrigaList.csv",))


def _light_edition(root: Path) -> WrongRoot:
    draw(root, *(f"{split}/{name}/{split}.jpg" for split in ("train", "test")
                 for name in ("RG", "NRG")))  # fmt: skip
    return WrongRoot("airogs", root, ("light",))
