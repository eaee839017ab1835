import os
from pathlib import Path

import pytest

from maskedclip.data.photographs.decoding import UnreadableImage
from maskedclip.data.photographs.image_file import FILE_LIMIT, read_image_file


def test_a_plain_file_and_a_link_to_one_are_read(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"whole")
    (tmp_path / "b").symlink_to("a")
    assert read_image_file(tmp_path / "a") == read_image_file(tmp_path / "b") == b"whole"


def test_what_is_no_plain_file_or_too_large_is_named_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zero").symlink_to("/dev/zero")
    (tmp_path / "gone").symlink_to("nowhere")
    (tmp_path / "folder").mkdir()
    with (tmp_path / "huge").open("wb") as file:
        file.truncate(FILE_LIMIT + 1)
    for name, answer in {
        "pipe": "no regular file", "zero": "no regular file", "folder": "Is a directory",
        "gone": "a symbolic link to nothing", "huge": "over the limit of 512 MB a file",
        "not there": "No such file",
    }.items():  # fmt: skip
        with pytest.raises(UnreadableImage, match=answer):
            read_image_file(tmp_path / name)
