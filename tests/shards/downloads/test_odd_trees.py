"""Trees with folders that are links to others, or that hold the pictures of other classes again."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from maskedclip.shards import make
from maskedclip.shards.downloads.cards import read_card
from maskedclip.shards.downloads.stare import read_stare
from maskedclip.shards.image_folders import as_shards, tree_of
from maskedclip.shards.make import ShardRequest, build, builder_version
from maskedclip.shards.make_command import remark_lines
from maskedclip.shards.phantoms.phantom import draw


def put(folder: Path, count: int, start: int = 0, ending: str = "jpg") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(start, start + count):
        Image.fromarray(draw(number, 64).image_HWC).save(folder / f"{number}.{ending}")
    return folder


def request(root: Path, out: Path, **flags: object) -> ShardRequest:
    return ShardRequest(
        dataset="folder", name="own", root=root, out=out, classes="state", workers=1, size=64,
        **flags,  # type: ignore[arg-type]
    )  # fmt: skip


def test_a_split_that_is_a_link_to_another_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for number, name in enumerate(("a", "b")):
        put(tmp_path / "tree" / "train" / name, 5, 20 * number)
        put(tmp_path / "tree" / "test" / name, 3, 20 * number + 10)
    (tmp_path / "tree" / "val").symlink_to("test")
    as_shards(tmp_path / "tree")
    assert "folders that are one: val is test" in caplog.text


def test_a_folder_of_all_pictures_beside_the_classes_is_named_and_can_be_left_out(
    tmp_path: Path,
) -> None:
    tree = tmp_path / "tree"
    for number, name in enumerate(("mild", "severe")):
        shutil.copytree(put(tree / name, 4, 10 * number), tree / "everything", dirs_exist_ok=True)
    manifest = build(request(tree, tmp_path / "out"), progress=False).manifest
    assert manifest["remarks"]["equal_files_of_two_classes"] == [
        "everything and mild: 4, such as everything/0.jpg and mild/0.jpg",
        "everything and severe: 4, such as everything/10.jpg and severe/10.jpg",
    ]
    (line,) = (x for x in remark_lines(manifest["remarks"]) if x.startswith("equal files"))
    assert line.endswith("in a tree --exclude=FOLDER leaves a folder out, as does moving it)")
    flags = {"exclude": ("EVERY*",)}
    manifest = build(request(tree, tmp_path / "less", **flags), progress=False).manifest
    assert manifest["classes"] == {"state": ["mild", "severe"]}
    assert manifest["remarks"]["left_out_folders"] == ["everything: 8 images"]
    assert "equal_files_of_two_classes" not in manifest["remarks"]


def test_equal_files_of_two_published_splits_are_warned_of(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    for number, name in enumerate(("a", "b")):
        put(tree / "train" / name, 4, 10 * number)
        put(tree / "test" / name, 3, 10 * number + 3)  # the last of train is the first of test
    manifest = build(request(tree, tmp_path / "out"), progress=False).manifest
    assert manifest["remarks"]["equal_files_of_two_splits"] == [
        "test and train: 2 files, such as test/a/3.jpg and train/a/3.jpg"
    ]
    (line,) = (x for x in remark_lines(manifest["remarks"]) if "two splits" in x)
    assert line.startswith("WARNING: equal files of two splits: test and train: 2 files")


def test_builds_of_more_than_eight_bits_are_made_anew_and_others_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert builder_version(["a.jpg", "b.JPEG", "c.webp"]) == 2
    assert builder_version(["a.jpg", "b.tif"]) == builder_version(["IM01"]) == 3
    deep = put(tmp_path / "deep" / "a", 2, ending="png").parent
    flat = put(tmp_path / "flat" / "a", 2).parent
    trees = [tmp_path / name for name in ("tree_png", "tree_jpg")]
    for tree in trees:
        for split in ("train", "test"):
            for number, name in enumerate("ab"):
                put(tree / split / name, 2, 10 * number + 5 * (split == "test"), tree.name[-3:])
    with monkeypatch.context() as before:
        before.setattr(make, "BUILDER_VERSION", 2)
        for root in (deep, flat):
            build(request(root, root.with_name(f"{root.name}_out")), progress=False)
        prints = [tree_of(tree).fingerprint for tree in trees]  # type: ignore[union-attr]
    assert not build(request(flat, tmp_path / "flat_out"), progress=False).built
    with pytest.raises(ValueError, match="built by version 2 of make_shards, and version 3 reads"):
        build(request(deep, tmp_path / "deep_out"), progress=False)
    now = [tree_of(tree).fingerprint for tree in trees]  # type: ignore[union-attr]
    assert [one == other for one, other in zip(prints, now, strict=True)] == [False, True]


def test_an_image_of_stare_with_two_diagnoses_is_left_out_by_name(tmp_path: Path) -> None:
    (tmp_path / "all-images").mkdir()
    for name in ("im0001", "im0002", "im0003"):
        picture = Image.fromarray(np.zeros((8, 8, 3), np.uint8))
        picture.save(tmp_path / "all-images" / f"{name}.ppm")
    lines = ["im0001 1 Drusen", "im0002 2 Normal", "im0001 9 Normal", "im0002 2 normal", "im0003"]
    (tmp_path / "all-mg-codes.txt").write_text("\n".join([*lines, "im0003 7 Drusen"]))
    sources = read_stare(read_card("stare"), tmp_path)
    assert {record.source: record.report for record in sources.records} == {
        "all-images/im0002.ppm": "Normal", "all-images/im0003.ppm": "Drusen"
    }  # fmt: skip
    assert sources.remarks["images_with_two_rows"] == ["all-images/im0001.ppm"]
    assert sources.remarks["unclear_images_left_out"] == ["all-images/im0001.ppm"]
