from pathlib import Path

import pytest

from maskedclip.shards.downloads.image_names import ImageNames, Named
from tests.downloads.drawing import copy, draw


def images(root: Path, *sources: str, nearest: bool = False) -> ImageNames:
    draw(root, *sources)
    return ImageNames(sources, root, nearest=nearest)


def test_a_name_in_two_folders_means_neither_until_a_folder_or_a_split_decides(
    tmp_path: Path,
) -> None:
    names = images(tmp_path, "train/1.jpg", "test/1.jpg", "test/2.jpg")
    assert names.named("1.jpg") == Named(unclear=("test/1.jpg", "train/1.jpg"))
    assert names.named("train/1.jpg") == Named("train/1.jpg")
    assert names.named("C:\\home\\test\\1.png") == Named("test/1.jpg")
    assert names.named("1", "train") == Named("train/1.jpg")
    assert names.named("2.jpg") == Named("test/2.jpg")


def test_a_row_of_another_split_is_not_given_the_picture_of_this_one(tmp_path: Path) -> None:
    names = images(tmp_path, "test/1.jpg", "photos/2.jpg")
    assert names.named("train/1.jpg") == Named()
    assert names.named("pictures/2.jpg") == Named("photos/2.jpg", elsewhere=True)


def test_the_path_under_the_root_is_its_image_and_copies_are_one(tmp_path: Path) -> None:
    names = images(tmp_path, "1.jpg", "small/1.jpg", "a/3.jpg", "a/3.png")
    assert names.named("1") == Named("1.jpg")
    assert names.named("3") == Named(unclear=("a/3.jpg", "a/3.png"))  # perhaps a mask
    assert names.named("3.png") == Named("a/3.png")
    draw(tmp_path, "a/b/5.jpg")
    copy(tmp_path, {"a/5.jpg": "a/b/5.jpg"})
    copies = ImageNames(["a/b/5.jpg", "a/5.jpg"], tmp_path)
    assert copies.named("5.jpg") == Named("a/5.jpg", copies=("a/b/5.jpg",))


def test_for_a_card_the_image_nearest_the_root_is_meant_if_it_is_one(tmp_path: Path) -> None:
    names = images(tmp_path, "a/1.jpg", "a/small/1.jpg", "a/2.jpg", "b/2.jpg", nearest=True)
    assert names.named("1") == Named("a/1.jpg", copies=("a/small/1.jpg",))
    assert names.named("2") == Named(unclear=("a/2.jpg", "b/2.jpg"))


@pytest.mark.parametrize(
    ("name", "image"),
    [
        ("1", "001.jpg"),
        ("1.0", "001.jpg"),
        ("2", ""),
        ("a/1.jpg", "001.jpg"),
        ("1.5", ""),
        ("x", ""),
    ],
)
def test_lost_zeros_are_put_back_only_where_one_image_has_the_number(
    name: str, image: str, tmp_path: Path
) -> None:
    names = images(tmp_path, "001.jpg", "002.jpg", "02.jpg")
    assert names.with_zeros(name).image == image
    assert names.named("1") == Named()


def test_letters_of_two_encodings_are_the_same_name(tmp_path: Path) -> None:
    names = images(tmp_path, "Mu\u0308ller.jpg")
    assert names.named("M\u00fcller.jpg").image == "Mu\u0308ller.jpg"
