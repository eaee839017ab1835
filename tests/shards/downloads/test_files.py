from pathlib import Path

import pytest

from maskedclip.shards.downloads.cards import DatasetCard, PathRule
from maskedclip.shards.downloads.files import files_under, left_out_folders, list_files
from maskedclip.shards.downloads.folder_or_csv import read_folder
from tests.downloads.drawing import draw, write


def card(*patterns: str, exclude: tuple[str, ...] = (), nearest: bool = False) -> DatasetCard:
    return DatasetCard(
        name="x", title="", role="", licence="", citation="", obtain="",
        paths=tuple(PathRule(pattern) for pattern in patterns), exclude=exclude, nearest=nearest,
    )  # fmt: skip


def test_images_are_found_whatever_the_case_and_junk_is_not(tmp_path: Path) -> None:
    draw(tmp_path, "a/1.JPG", "b/2.png", "mask/3.png")
    for junk in ("a/Thumbs.db", "a/._1.JPG", "a/~$1.jpg", "__MACOSX/1.jpg", "a/readme.txt"):
        write(tmp_path, junk, "x")
    assert list(list_files(card(exclude=("mask",)), tmp_path).images) == ["a/1.JPG", "b/2.png"]


def test_images_behind_linked_folders_are_found_once(tmp_path: Path) -> None:
    draw(tmp_path, "disk/1.png", "root/2.png")
    (tmp_path / "root/linked").symlink_to(tmp_path / "disk")
    (tmp_path / "root/round").symlink_to(tmp_path / "root")
    assert list(list_files(card(), tmp_path / "root").images) == ["2.png", "linked/1.png"]
    assert len(files_under(tmp_path / "root")) == 2


def test_a_root_that_is_missing_or_has_no_image_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such directory"):
        read_folder(card(), tmp_path / "none", "")
    with pytest.raises(ValueError, match="no image in it"):
        read_folder(card(), tmp_path, "")


def test_the_first_rule_that_matches_a_path_tells_of_the_image(tmp_path: Path) -> None:
    draw(tmp_path, "Train/7_OS.JPG", "Test/8_OD.jpg", "9.jpg")
    rules = [r"/(?P<split>train)/(?P<patient>\d+)_(?P<eye>OD|OS)\.", r"/(?P<patient>8|9)"]
    assert list_files(card(*rules), tmp_path).images == {
        "Train/7_OS.JPG": {"split": "Train", "patient": "7", "eye": "OS"},
        "Test/8_OD.jpg": {"patient": "8"},
        "9.jpg": {"patient": "9"},
    }


def test_what_no_rule_matches_or_a_folder_excludes_is_counted_by_folder(tmp_path: Path) -> None:
    draw(tmp_path, "set/image/1.jpg", "set/image/other.jpg")
    draw(tmp_path, *(f"set/map/{n}/soft/{n}.png" for n in range(3)), "set/masks_2/1.jpg")
    for junk in ("set/image/._1.jpg", "__MACOSX/set/image/._1.jpg"):
        write(tmp_path, junk, "x")
    files = list_files(card(r"/\d+\.\w+$", exclude=("map", "masks*")), tmp_path)
    assert list(files.images) == ["set/image/1.jpg"]
    assert left_out_folders(files) == [
        "__MACOSX: 1 images",
        "set/image: 2 images",
        "set/map: 3 images",
        "set/masks_2: 1 images",
    ]


def test_of_a_tree_within_itself_the_outer_one_is_taken(tmp_path: Path) -> None:
    draw(tmp_path, "top/set/a/1.jpg", "top/set/set/a/1.jpg")
    files = list_files(card(r"/a/\d\.jpg$", nearest=True), tmp_path)
    assert list(files.images) == ["top/set/a/1.jpg"]
    assert left_out_folders(files) == ["top/set/set: 1 images"]
