"""What is said of a path that is no dataset names the cause that it has, and the way out."""

from pathlib import Path

import pytest

from maskedclip.data.storage.shards import Shards
from maskedclip.shards.image_folders import as_shards
from maskedclip.shards.make import ShardRequest, plan_of
from tests.tars import END, plain_tar, sample

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
PAGE = b"<!DOCTYPE html><html><body>404</body></html>"


def put(root: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


def said(path: Path) -> str:
    """Return what fine-tuning says of a path that it is given as a dataset."""
    with pytest.raises(ValueError, match=str(path)) as error:
        Shards(as_shards(path))
    assert "\n" not in str(error.value)
    return str(error.value).replace(f"{path}", "PATH")


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"00000/a.tar": END, "00001/a.tar": END}, "in its folders, and none itself; name these: "
         "PATH/00000, PATH/00001"),
        ({"a/b/c/x.tar": END}, "name these: PATH/a/b/c"),
        ({"built/manifest.json": b"{}"}, "name these: PATH/built"),
        ({"x.tar.bz2": b"BZh9"}, "PATH/x.tar.bz2: is compressed; unpack it to a plain tar"),
        ({"x.TAR.GZ": b"x", "y.tgz": b"y"}, "x.TAR.GZ (and 1 more): is compressed"),
        ({"x.tbz2": b"BZh9"}, "is compressed"),
        ({"sub/x.tar.gz": b"x"}, "but sub/x.tar.gz; unpack it first"),
        ({"images.zip": b"PK"}, "but images.zip; unpack it first"),
        ({"x.tar": b"BZh9"}, "is compressed with bzip2"),
        ({"x.tar": LFS}, "is a pointer of Git LFS, not the file; `git lfs pull` gets it"),
        ({"x.tar": PAGE}, "is a web page, not the file; download it again"),
        ({"x.tar": b""}, "is empty; download or copy it again"),
        ({"x.tar": END}, "they hold no member"),
        ({"train/a/1.heic": b"h", "train/b/2.heic": b"h"}, "PATH: train/ holds no image that is "
         "read: 2 .heic: not read, such as train/a/1.heic; convert them"),
        ({"a/1.heic": b"h"}, "1 .heic: not read, such as a/1.heic; convert them to JPEG"),
        ({"a/1.jpg": b"j"}, "1 images, such as a/1.jpg, but no folder train/; build shards with "
         "tools/make_shards.py folder --root PATH --classes TASK"),
        ({".building/request.json": b"{}"}, "its build is not finished; give its make_shards"),
        ({"x-000000.idx": b""}, "no manifest.json: not finished, or not copied as a whole"),
    ],
)  # fmt: skip
def test_a_folder_that_is_no_dataset_is_called_what_it_is(
    tmp_path: Path, files: dict[str, bytes], expected: str
) -> None:
    assert expected in said(put(tmp_path, files))


def test_a_file_that_is_no_tar_and_a_packed_one_are_told_apart(tmp_path: Path) -> None:
    put(
        tmp_path,
        {"a.jpg": b"j", "a.tar.gz": b"g", "A.TAR": plain_tar({}), "b.TAR": sample("k") + END},
    )
    assert said(tmp_path / "a.jpg") == "PATH: is a file, and no tar; name a directory of shards, " \
        "or one .tar"  # fmt: skip
    assert said(tmp_path / "a.tar.gz") == "PATH: is compressed; unpack it to a plain tar"
    assert "they hold no member" in said(tmp_path / "A.TAR")
    assert len(Shards(tmp_path / "b.TAR")) == 1


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        (b"image,grade\n", "a heading and no row below it"),
        (b"image,grade\n\n,\n", "a heading and no row below it"),
        (b"", "is empty; download or copy it again"),
        (LFS, "is a pointer of Git LFS"),
        (PAGE, "is a web page, not the file"),
        (b"1.jpg,0\n2.jpg,1\n", "is its heading missing? 1.jpg is an image"),
    ],
)
def test_a_table_that_is_none_is_called_what_it_is(
    tmp_path: Path, table: bytes, expected: str
) -> None:
    put(tmp_path, {"images/1.jpg": b"j", "t.csv": table})
    request = ShardRequest(
        dataset="csv", name="c", root=tmp_path / "images", csv=tmp_path / "t.csv",
        image_column="image", label_column="grade", task="dr",
    )  # fmt: skip
    with pytest.raises(ValueError, match=expected.replace("?", r"\?")):
        plan_of(request)
