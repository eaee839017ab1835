"""A dataset that lies in its tree twice is not built twice over: original/ and resized_48/."""

from pathlib import Path

import pytest
from PIL import Image

from maskedclip.shards.downloads.cards import read_card
from maskedclip.shards.downloads.files import list_files
from maskedclip.shards.downloads.folder_or_csv import read_folder
from maskedclip.shards.downloads.parallel_folders import parallel_folders
from maskedclip.shards.image_folders import tree_of
from maskedclip.shards.phantoms.phantom import draw as phantom
from tests.downloads.drawing import draw

INNER = [f"{c}/{c}{n}" for c in ("dr", "no") for n in range(3)]


def found(root: Path) -> list[str]:
    return parallel_folders(sorted(list_files(read_card("folder"), root).images), root)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("original", "resized_48"), ("images", "images_224"), ("cropped", "original"),
        ("images", "preprocessed"), ("raw", "clahe"), ("resized 224", "resized 512"),
        ("gaussian_filtered_images", "resized_images"), ("a/original", "a/cropped"),
        ("original/train", "resized_48/Training Set"), ("Images", "Images_Cropped/img"),
        ("release-crop/release-crop", "release-raw/release-raw"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("ending", ["png", "jpg"])
def test_the_same_names_in_two_processed_folders_are_refused_with_the_fix(
    one: str, other: str, ending: str, tmp_path: Path
) -> None:
    draw(tmp_path, *(f"{one}/{name}.jpg" for name in INNER))
    draw(tmp_path, *(f"{other}/{name}.{ending}" for name in INNER))
    assert len(found(tmp_path)) == 1
    with pytest.raises(ValueError, match=r"the same 6 names in both, such as .*--exclude='"):
        read_folder(read_card("folder"), tmp_path, "state")
    with pytest.raises(ValueError, match=r"twice; leave one out with .* --exclude='(?!original)"):
        tree_of(tmp_path)
    assert read_folder(read_card("folder"), tmp_path, "").remarks["parallel_folders"]


def test_a_processed_copy_beside_the_classes_is_found(tmp_path: Path) -> None:
    draw(tmp_path, *(f"{name}.jpg" for name in INNER))
    draw(tmp_path, *(f"resized_48/{name}.jpg" for name in INNER))
    (line,) = found(tmp_path)
    assert line.startswith("the folders beside it and resized_48: the same 6 names")


def test_augmented_copies_in_a_folder_of_their_own_are_refused_whatever_their_names(
    tmp_path: Path,
) -> None:
    draw(tmp_path, *(f"Original Dataset/{name}.jpg" for name in INNER))
    draw(tmp_path, *(f"Augmented Dataset/{c}/{n}.jpg" for c in ("dr", "no") for n in range(9)))
    with pytest.raises(ValueError, match=r"augmented copies of .*--exclude='Augmented Dataset'"):
        read_folder(read_card("folder"), tmp_path, "state")


def test_of_other_names_the_pictures_decide(tmp_path: Path) -> None:
    for number, name in enumerate(INNER):
        for folder, image in (("site", number), ("mirror", number), ("clinic", 50 + number)):
            file = tmp_path / folder / f"{name}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            size = 96 if folder == "mirror" else 128
            Image.fromarray(phantom(image, 128).image_HWC).resize((size, size)).save(file)
    (line,) = found(tmp_path)
    assert line.startswith("mirror and site: the same 6 names")
    assert line.endswith("and the same pictures")


def test_classes_splits_and_sites_that_count_alike_are_no_copies(tmp_path: Path) -> None:
    folders = ("train/dr", "train/no", "test/dr", "a/dr", "a/no", "b/dr", "b/no")
    draw(tmp_path, *(f"{folder}/{n}.png" for folder in folders for n in range(4)))
    assert found(tmp_path) == []
