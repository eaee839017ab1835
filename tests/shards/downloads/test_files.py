import io
import os
import sys
from pathlib import Path

import pytest
from PIL import Image

from maskedclip.data.photographs.decoding import ENDINGS_OF, decode
from maskedclip.shards.downloads.cards import DatasetCard, PathRule, read_card
from maskedclip.shards.downloads.files import (
    files_not_read,
    left_out_folders,
    list_files,
)
from maskedclip.shards.downloads.folder_names import folder_splits, outside_of_splits
from maskedclip.shards.downloads.folder_or_csv import read_folder
from tests.downloads.drawing import draw, picture, write


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


@pytest.mark.parametrize(
    "junk",
    [
        ".ipynb_checkpoints", "@eaDir/1.jpg", ".Trash-1000/files/a", ".thumbnails", "thumbnails",
        "Thumbs", "a_thumbs", "$RECYCLE.BIN/S-1-5-21", "RECYCLER", "__MACOSX", "#recycle",
        "System Volume Information", "lost+found", "@Recycle", "~snapshot", ".git/annex",
    ],
)  # fmt: skip
@pytest.mark.parametrize("inside", ["", "a/"])
def test_a_folder_that_a_program_left_is_no_class_but_counted(
    junk: str, inside: str, tmp_path: Path
) -> None:
    draw(tmp_path, "a/1.png", "b/2.png", f"{inside}{junk}/3.png", f"{inside}{junk}/4.png")
    found = read_folder(read_card("folder"), tmp_path, "disease")
    assert {r.source: r.labels for r in found.records} == {
        "a/1.png": {"disease": "a"},
        "b/2.png": {"disease": "b"},
    }
    top = f"{inside}{junk}".split("/")[: 2 if inside else 1]
    assert found.remarks == {"left_out_folders": [f"{'/'.join(top)}: 2 images"]}


def test_every_ending_of_a_format_that_decodes_is_listed_in_either_case(tmp_path: Path) -> None:
    disc = Image.open(io.BytesIO(picture("1.png")))
    names = []
    for format, endings in ENDINGS_OF.items():
        for ending in endings:
            for name in (f"{ending[1:]}{ending}", f"{ending[1:]}2{ending.upper()}"):
                disc.save(tmp_path / name, format)
                assert decode((tmp_path / name).read_bytes(), 32).width == disc.width
                names.append(name)
    assert {".webp", ".jfif", ".jpe", ".gif", ".jp2"} <= {os.path.splitext(n)[1] for n in names}  # noqa: PTH122
    assert list(list_files(card(), tmp_path).images) == sorted(names)


def test_a_file_without_an_ending_is_an_image_by_its_content(tmp_path: Path) -> None:
    for name in ("IM0001", "1.2.840.113619.2", "a/photo."):
        write(tmp_path, name, picture("x.jpg"))
    write(tmp_path, "README", "a text")
    write(tmp_path, "HEIC0001", b"ftypheic" + bytes(64))
    files = list_files(card(), tmp_path)
    assert list(files.images) == ["1.2.840.113619.2", "IM0001", "a/photo."]
    assert files_not_read(files) == ["1 without an ending: not read, such as HEIC0001"]


def test_what_is_passed_over_is_counted_by_ending_with_an_example(tmp_path: Path) -> None:
    draw(tmp_path, "a/1.jpg", "b/1.jpg")
    for number in range(12):
        write(tmp_path, f"a/{number:02d}.AVIF", b"ftypavif")
    for name in ("1.jpg~", "1.jpg.1", "1.part"):
        write(tmp_path, f"a/{name}", picture("a/1.jpg"))
    for name in ("b/1.heic", "labels.csv", "LICENSE.txt", "b/Thumbs.db", "@eaDir/1.dcm"):
        write(tmp_path, name, b"x")
    found = read_folder(read_card("folder"), tmp_path, "disease")
    assert found.remarks["files_not_read"] == [
        "1 .heic: not read, such as b/1.heic",
        "1 .jpg.1: not read, such as a/1.jpg.1",
        "1 .jpg~: not read, such as a/1.jpg~",
        "1 .part: not read, such as a/1.part",
        "12 .avif: not read, such as a/00.AVIF",
    ]


def test_a_root_of_nothing_but_dicom_says_so_and_what_reads_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pydicom", None)  # as where it is not installed
    write(tmp_path, "a/1.dcm", b"x")
    words = r"\(1 .dcm: not read, such as a/1.dcm \(pip install -e '.\[dicom\]' reads DICOM\)\)"
    with pytest.raises(ValueError, match=f"no image in it {words}"):
        read_folder(read_card("folder"), tmp_path, "")


TREE = ("train/a/1.png", "train/b/2.png", "val/a/3.png", "test/b/4.png")
BESIDE = (
    "external_test/a/5.png", "dev/b/6.png", "train_50/a/7.png", "unlabeled/8.png",
    "results/heatmaps/9.png", "backup/train/a/10.png", "11.png",
)  # fmt: skip


@pytest.mark.parametrize("top", ["", "Retina/"])
def test_what_lies_beside_the_splits_of_a_tree_is_not_in_it_but_counted(
    top: str, tmp_path: Path
) -> None:
    draw(tmp_path, *(top + source for source in TREE + BESIDE))
    found = read_folder(read_card("folder"), tmp_path, "disease")
    assert {r.source: (r.split, r.labels["disease"]) for r in found.records} == {
        top + "train/a/1.png": ("train", "a"),
        top + "train/b/2.png": ("train", "b"),
        top + "val/a/3.png": ("val", "a"),
        top + "test/b/4.png": ("test", "b"),
    }
    lines = found.remarks["left_out_folders"]
    assert sum(int(line.split()[-2]) for line in lines) == len(BESIDE)
    assert f"{top}external_test: 1 images" in lines


def test_a_folder_beside_a_nested_tree_is_not_in_it(tmp_path: Path) -> None:
    draw(tmp_path, "Data/train/a/1.png", "Data/test/a/2.png", "external_test/a/3.png")
    images = list_files(card(), tmp_path).images
    assert outside_of_splits(images, folder_splits(images).of) == ["external_test/a/3.png"]


def test_sites_with_a_tree_each_and_classes_with_splits_each_are_kept(tmp_path: Path) -> None:
    draw(tmp_path, "one/train/a/1.png", "two/Train/a/2.png", "two/TEST/a/3.png")
    draw(tmp_path, "a/train/4.png", "a/test/5.png")
    images = list_files(card(), tmp_path).images
    assert outside_of_splits(images, folder_splits(images).of) == []


def test_two_folders_of_one_split_are_refused_by_name(tmp_path: Path) -> None:
    draw(tmp_path, "x/train/a/1.png", "x/val/a/2.png", "x/validation/a/2.png")
    with pytest.raises(ValueError, match=r"x/val and validation: both are the split val; keep one"):
        read_folder(read_card("folder"), tmp_path, "disease")


def test_a_folder_without_a_split_train_is_no_tree(tmp_path: Path) -> None:
    draw(tmp_path, "a/1.png", "b/2.png", "test/a/3.png")
    images = list_files(card(), tmp_path).images
    assert outside_of_splits(images, folder_splits(images).of) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every folder")
def test_a_junk_folder_that_may_not_be_read_is_no_error(tmp_path: Path) -> None:
    draw(tmp_path, "a/1.png")
    (tmp_path / "lost+found").mkdir(mode=0o000)
    assert list(list_files(card(), tmp_path).images) == ["a/1.png"]
