"""Masks beside photographs are no samples, whatever they are called; photographs stay."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from maskedclip.predict.photographs import FolderPictures
from maskedclip.shards.downloads.cards import read_card
from maskedclip.shards.downloads.folder_or_csv import read_folder
from maskedclip.shards.downloads.masks import photographs_below
from maskedclip.shards.image_folders import tree_of
from maskedclip.shards.phantoms.phantom import draw as phantom
from tests.downloads.drawing import draw


def mask(root: Path, *sources: str, levels: tuple[int, ...] = (255,)) -> None:
    for source in sources:
        value_HW = np.zeros((48, 56), np.uint8)
        for number, level in enumerate(levels, 1):
            value_HW[10 * number : 10 * number + 8, 20:40] = level
        (root / source).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(value_HW).save(root / source)


def kept(root: Path) -> list[str]:
    return sorted(photographs_below(read_card("folder"), root)[0].images)


@pytest.mark.parametrize(
    "folder",
    [
        "masks", "Mask", "Groundtruths", "Ground Truth", "2. All Segmentation Groundtruths", "GT",
        "segmentation", "annotations", "manual1", "1st_manual", "vessel", "Vessels", "labels",
        "Disc_Cup_Masks", "gt_od", "Annotation-Training400/Disc_Cup_Masks",
    ],
)  # fmt: skip
def test_folders_that_are_called_masks_are_left_out_and_counted(
    folder: str, tmp_path: Path
) -> None:
    draw(tmp_path, "Images/1.png", "Images/2.png", f"{folder}/1.png", f"{folder}/2.png")
    found = read_folder(read_card("folder"), tmp_path, "")
    assert [record.source for record in found.records] == ["Images/1.png", "Images/2.png"]
    kinds = ("masks_left_out", "left_out_folders")
    (line,) = (line for kind in kinds for line in found.remarks.get(kind, ()))  # said once
    assert "2 images" in line


@pytest.mark.parametrize(
    "name", ["{x}_mask.png", "{x}_seg.png", "{x}_GT.tif", "mask_{x}.png", "{x}_1stHO.png",
             "{x}_OD.png", "{x}_EX.tif", "{x}.bmp", "{x}_disc.png", "{x}_vessel.gif"]
)  # fmt: skip
def test_files_that_are_masks_of_the_photograph_beside_them_are_left_out(
    name: str, tmp_path: Path
) -> None:
    photographs = [f"dr/{n}.jpg" for n in range(3)]
    draw(tmp_path, *photographs)
    mask(tmp_path, *(f"dr/{name.format(x=n)}" for n in range(3)))
    assert kept(tmp_path) == photographs
    found = read_folder(read_card("folder"), tmp_path, "state")
    assert found.remarks["masks_left_out"][0].startswith("3 files beside photographs, such as dr/")


def test_eyes_and_other_photographs_of_such_names_are_kept(tmp_path: Path) -> None:
    names = [f"{c}/{n}_{s}.png" for c in ("dr", "no") for n in (1, 2) for s in ("OD", "OS")]
    names += ["dr/1.png", "dr/2.jpg", "dr/2.png", "no/segment.png", "no/7_ex.png"]
    draw(tmp_path, *names)
    assert kept(tmp_path) == sorted(names)


def test_a_folder_of_unknown_name_that_holds_masks_is_left_out_by_its_content(
    tmp_path: Path,
) -> None:
    draw(tmp_path, "pictures/1.jpg", "pictures/2.jpg")
    mask(tmp_path, "soft/1.png", "soft/2.png", levels=(128, 255))
    mask(tmp_path, "hard/1.jpg", "hard/2.jpg")
    mask(tmp_path, "hard/3.jpg", levels=())  # of an eye without any
    files, lines = photographs_below(read_card("folder"), tmp_path)
    assert sorted(files.images) == ["pictures/1.jpg", "pictures/2.jpg"]
    assert lines == ["hard: 3 images", "soft: 2 images"]


def test_original_images_within_a_folder_called_segmentation_are_photographs(
    tmp_path: Path,
) -> None:
    top = "A. Segmentation"
    draw(tmp_path, f"{top}/1. Original Images/a. Training Set/1.jpg")
    mask(tmp_path, f"{top}/2. Groundtruths/a. Training Set/1_EX.tif")
    assert kept(tmp_path) == [f"{top}/1. Original Images/a. Training Set/1.jpg"]


def test_a_folder_of_nothing_but_masks_is_what_was_asked_for(tmp_path: Path) -> None:
    mask(tmp_path, "masks_of_mine/1.png", "masks_of_mine/2.png")
    assert len(kept(tmp_path)) == 2


def test_dark_and_even_photographs_are_no_masks(tmp_path: Path) -> None:
    for number in range(3):
        image_HWC = phantom(number, 96).image_HWC // 12  # near black
        grey_HW = phantom(number, 96).image_HWC.mean(axis=2).astype(np.uint8)
        for ending in ("jpg", "png"):
            Image.fromarray(image_HWC).save(tmp_path / f"{number}.{ending}")
            Image.fromarray(grey_HW).save(tmp_path / f"grey{number}.{ending}")
    assert len(kept(tmp_path)) == 12


def test_a_tree_and_predictions_leave_them_out_by_the_same_rule(tmp_path: Path) -> None:
    photographs = [f"{c}/{n}.jpg" for c in ("dr", "no") for n in range(3)]
    draw(tmp_path, *photographs)
    mask(tmp_path, *(name.replace(".jpg", "_mask.png") for name in photographs))
    assert tree_of(tmp_path) is not None
    pictures = FolderPictures(tmp_path, None)
    assert [picture.path for picture in pictures.pictures] == photographs
    assert (
        "left out as masks: 6 files beside photographs, such as dr/0_mask.png" in pictures.remarks
    )
