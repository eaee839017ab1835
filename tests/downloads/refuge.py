"""Miniatures of REFUGE: as the challenge hands it out, in two editions, and as Kaggle does."""

import json
from pathlib import Path

from tests.downloads.drawing import book, copy, cut_short, draw, empty, write
from tests.downloads.expected import Expected, Facts, expected
from tests.downloads.glaucoma import told


def official(root: Path) -> Expected:
    """The archives of the challenge side by side, the first in a folder of its own name."""
    train = "REFUGE-Training400/Training400"
    return _refuge(root, (f"{train}/Glaucoma/", f"{train}/Non-Glaucoma/"), ("",) * 3)


def flat(root: Path) -> Expected:
    """A copy whose training images lie in one folder, told apart by g and n alone."""
    return _refuge(root, ("REFUGE-Training400/",) * 2, ("",) * 3)


def second_edition(root: Path) -> Expected:
    """The same files as REFUGE2 hands them out."""
    parts = tuple(f"REFUGE2/Train/REFUGE1-{part}/" for part in ("train", "val", "test"))
    folders = tuple(f"{parts[0]}Training400/{name}/" for name in ("Glaucoma", "Non-Glaucoma"))
    return _refuge(root, folders, parts)


def _refuge(root: Path, train: tuple[str, ...], parts: tuple[str, ...]) -> Expected:
    val, test = f"{parts[1]}REFUGE-Validation400", f"{parts[2]}Test400"
    samples = {
        f"{train[0]}g0001.jpg": told("glaucoma", "train"),
        f"{train[0]}g0040.jpg": told("glaucoma", "train"),
        f"{train[1]}n0001.jpg": told("no glaucoma", "train"),
        f"{train[1]}n0360.JPG": told("no glaucoma", "train"),
        f"{val}/V0001.jpg": told("glaucoma", "val"),
        f"{val}/V0002.jpg": told("no glaucoma", "val"),
        f"{val}/V0400.jpg": Facts(split="val"),
        f"{test}/T0001.jpg": told("no glaucoma", "test"),
        f"{test}/T0002.jpg": told("glaucoma", "test"),
    }
    marks = f"{parts[0]}Annotation-Training400"
    masks = [
        f"{marks}/Disc_Cup_Masks/Glaucoma/g0001.bmp",
        f"{marks}/Disc_Cup_Masks/Non-Glaucoma/n0001.bmp",
        f"{parts[1]}REFUGE-Validation400-GT/Disc_Cup_Masks/V0001.bmp",
        f"{parts[2]}REFUGE-Test-GT/Disc_Cup_Masks/T0001.bmp",
    ]
    draw(root, *samples, *masks)
    broken = [cut_short(root, f"{train[0]}g0040.jpg"), empty(root, f"{test}/T0002.jpg")]
    heading = ["ImgName", "Fovea_X", "Fovea_Y"]
    book(root, f"{marks}/Fovea_location.xlsx", Sheet1=[heading, ["g0001.jpg", 1057.5, 1064.2]])
    rows = [["V0001.jpg", 800.1, 801.2, 1], ["V0002.jpg", 802.3, 803.4, 0], ["V0399.jpg", 1, 2, 0]]
    name = f"{parts[1]}REFUGE-Validation400-GT/Fovea_locations.xlsx"
    book(root, name, Sheet1=[[*heading, "Glaucoma Label"], *rows])
    rows = [["T0001.jpg", 0, 804.5, 805.6], ["T0002.jpg", 1, 806.7, 807.8]]
    name = f"{parts[2]}REFUGE-Test-GT/Glaucoma_label_and_Fovea_location.xlsx"
    book(root, name, Sheet1=[["ImgName", "Label(Glaucoma=1)", *heading[1:]], *rows])
    return expected(
        samples,
        ignored=masks,
        labels_without_image=["V0399"],
        images_without_label=[f"{val}/V0400.jpg"],
        unreadable=broken,
    )


def kaggle(root: Path) -> Expected:
    """Kaggle's bundle: an index.json a split, the last without labels, and all images again."""
    samples = {
        "REFUGE/train/Images/g0001.jpg": told("glaucoma", "train"),
        "REFUGE/train/Images/n0001.jpg": told("no glaucoma", "train"),
        "REFUGE/val/Images/V0001.jpg": told("glaucoma", "val"),
        "REFUGE/val/Images/V0002.jpg": told("no glaucoma", "val"),
        "REFUGE/test/Images/T0001.jpg": Facts(split="test"),
    }
    draw(root, *samples)
    broken = [cut_short(root, "REFUGE/val/Images/V0002.jpg")]
    places = ("Images_Cropped", "Images_Square")
    copies = {name.replace("/Images/", f"/{p}/"): name for p in places for name in samples}
    masks = ["REFUGE/train/Masks/g0001.png", "REFUGE/train/gts/g0001.bmp"]
    draw(root, *masks, "G1020/Images/image_0.jpg")
    for split in ("train", "val", "test"):
        index = {}
        for name, facts in samples.items():
            if facts.split == split:
                entry: dict[str, object] = {"ImgName": Path(name).name, "Fovea_X": 1057.5}
                entry |= {"Fovea_Y": 1064.2, "Size_X": 2124, "Size_Y": 2056}
                if split != "test":
                    entry["Label"] = int(facts.labels["glaucoma"] == "glaucoma")
                index[str(len(index))] = entry
        if split == "val":
            index[str(len(index))] = {"ImgName": "V0399.jpg", "Label": 0}
        write(root, f"REFUGE/{split}/index.json", json.dumps(index))
    return expected(
        samples,
        ignored=[*copy(root, copies), *masks, "G1020/Images/image_0.jpg"],
        labels_without_image=["V0399"],
        images_without_label=["REFUGE/test/Images/T0001.jpg"],
        unreadable=broken,
    )
