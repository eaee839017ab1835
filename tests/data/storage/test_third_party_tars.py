"""Tars of other makers: their samples, in our fields, and the index that is kept of them."""

import json
import logging
import os
import pickle
import tarfile
from pathlib import Path

import pytest
import webdataset

from maskedclip.data.storage.open_dataset import dataset_sha256, describe
from maskedclip.data.storage.shard_writer import EMPTY_METADATA, ShardWriter
from maskedclip.data.storage.shards import Shards
from maskedclip.data.storage.third_party_tars import key_of
from tests.tars import END, JPEG, member, plain_tar, sample


def read(path: Path) -> dict[str, tuple[bytes, dict]]:
    shards = Shards(path)
    return {shards.key(i): shards.read(i) for i in range(len(shards))}


def test_a_tar_of_webdataset_is_read_as_it_reads_it(tmp_path: Path) -> None:
    with webdataset.ShardWriter(str(tmp_path / "x-%02d.tar"), maxcount=4, verbose=0) as writer:
        for number in range(10):
            facts = {"caption": f"eye {number}", "labels": {"grade": str(number % 3)}}
            writer.write(
                {"__key__": f"a/b/{number:03d}", "jpg": JPEG + bytes([number]), "json": facts}
            )
    paths = [str(path) for path in sorted(tmp_path.glob("*.tar"))]
    theirs = list(webdataset.WebDataset(paths, shardshuffle=False))
    ours = read(tmp_path)
    assert list(ours) == [sample["__key__"] for sample in theirs]
    for sample_ in theirs:
        jpeg, metadata = ours[sample_["__key__"]]
        facts = json.loads(sample_["json"])
        assert jpeg == sample_["jpg"]
        assert (metadata["report"], metadata["labels"]) == (facts["caption"], facts["labels"])


@pytest.mark.parametrize(
    "options",
    [
        {"format": tarfile.USTAR_FORMAT},
        {"format": tarfile.GNU_FORMAT},
        {"format": tarfile.PAX_FORMAT},
    ],
)
def test_every_format_of_tar_is_read(tmp_path: Path, options: dict) -> None:
    long = "/".join(["d" * 60] * 3) + "/long"
    members = {f"{long}.jpg": JPEG, f"{long}.txt": b"an eye", "\u00e9.jpg": JPEG, "z.JPEG": JPEG}
    (tmp_path / "x.tar").write_bytes(plain_tar(members, **options))
    found = read(tmp_path)
    assert list(found) == [long, "\u00e9", "z"]
    assert {jpeg for jpeg, _ in found.values()} == {JPEG}
    assert found[long][1]["report"] == "an eye"


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("a.jpg", ("a", "jpg")),
        ("a/b.c/d.left.JPG", ("a/b.c/d", "left.jpg")),
        ("./a.jpg", ("a", "jpg")),
        (".hidden", ("", "")),
        ("a/.hidden.jpg", ("", "")),
        ("README", ("", "")),
    ],
)
def test_a_key_ends_at_the_first_dot_of_the_last_part(name: str, key: tuple[str, str]) -> None:
    assert key_of(name) == key


@pytest.mark.parametrize(
    ("members", "expected"),
    [
        ({}, {}),
        ({"txt": b" two eyes\n"}, {"report": "two eyes"}),
        ({"json": b'{"caption": "c", "text": "t", "report": "r"}'}, {"report": "c"}),
        ({"json": b'{"text": "t", "report": "r"}'}, {"report": "t"}),
        ({"json": b'{"caption": " ", "report": "r"}'}, {"report": "r"}),
        ({"json": b'{"caption": 7}', "txt": b"t"}, {"report": "t"}),
        ({"json": b"{}", "txt": b"t"}, {"report": "t"}),
        ({"cls": b"3\n"}, {"labels": {"cls": "3"}}),
        ({"cls": b"3", "json": b'{"labels": {"g": "1"}}'}, {"labels": {"cls": "3", "g": "1"}}),
        (
            {"json": b'{"labels": {"g": [1]}, "categories": "x", "width": "9"}'},
            {"kinds": {"g": "unread"}},
        ),
        (
            {"json": b'{"labels": {"g": ["b", "a", "nan"], "h": [], "i": ["N/A"], "j": ["a|b"]}}'},
            {
                "labels": {"g": "a|b", "h": ""},
                "kinds": {"g": "labels", "h": "labels", "i": "labels", "j": "unread"},
            },
        ),
        (
            {"json": b'{"labels": {"g": 1.0, "h": "nan"}, "patient": 7}'},
            {"labels": {"g": "1"}, "patient": "7"},
        ),
        ({"json": b'{"labels": {"g": null}, "patient": "unknown"}', "cls": b"N/A"}, {}),
        (
            {"json": b'{"categories": ["glaucoma"], "split": "test", "patient": "p", "eye": "L"}'},
            {"categories": ["glaucoma"], "split": "test", "patient": "p", "eye": "L"},
        ),
        ({"json": b'{"dataset": "x", "source": "/home/me/a.jpg", "age": 61}'}, {}),
    ],
)
def test_what_a_sample_says_comes_in_our_fields(
    tmp_path: Path, members: dict[str, bytes], expected: dict
) -> None:
    files = {"a.jpg": JPEG} | {f"a.{kind}": content for kind, content in members.items()}
    (tmp_path / "x.tar").write_bytes(plain_tar(files))
    metadata = read(tmp_path / "x.tar")["a"][1]
    assert metadata == EMPTY_METADATA | {"dataset": "x", "source": "a"} | expected


def test_members_of_other_kinds_are_counted_in_one_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = member("d/", b"", b"5")
    other = member("a.mask.png", b"1") + member("a.npy", b"2") + member("README", b"3")
    content = folder + sample("a") + other + member("b.jpg", JPEG) + member("b.npy", b"") + END
    (tmp_path / "x.tar").write_bytes(content)
    assert list(read(tmp_path)) == ["a", "b"]
    lines = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert lines == [
        f"{tmp_path}: left out of its tars: 1 .mask.png, 2 .npy, 1 folders, 1 without a key"
    ]


def test_the_index_is_kept_beside_the_tar(tmp_path: Path) -> None:
    (tmp_path / "x.tar").write_bytes(sample("a") + END)
    first = read(tmp_path)
    kept = (tmp_path / "x.tar.index").read_bytes()
    assert read(tmp_path) == first
    assert (tmp_path / "x.tar.index").read_bytes() == kept
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.tar", "x.tar.index"]


def test_where_that_cannot_be_the_index_is_kept_in_the_cache_of_the_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = tmp_path / "data" / "x.tar"
    path.parent.mkdir()
    path.write_bytes(sample("a") + END)
    (path.parent / "x.tar.index").mkdir()  # even root cannot write a file there
    first = read(path)
    kept = list((tmp_path / "cache" / "maskedclip").iterdir())
    assert len(kept) == 1
    assert f"indexed 1 samples; kept in {kept[0]}" in caplog.text
    caplog.clear()
    assert read(path) == first
    assert "indexed" not in caplog.text


def stale_size(path: Path) -> None:
    path.write_bytes(path.read_bytes() + bytes(512))


def stale_time(path: Path) -> None:
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))


def stale_header(path: Path) -> None:
    found = path.stat()
    path.write_bytes(sample("b") + END)
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))
    assert path.stat().st_size == found.st_size


def damaged(path: Path) -> None:
    kept = path.with_name("x.tar.index")
    kept.write_bytes(kept.read_bytes().replace(b"\t512\t", b"\t513\t"))


def no_index(path: Path) -> None:
    path.with_name("x.tar.index").write_bytes(b"[]\n")


def no_json(path: Path) -> None:
    path.with_name("x.tar.index").write_bytes(b"\x80\x04.\n")


def cut(path: Path) -> None:
    path.with_name("x.tar.index").write_bytes(b"")


@pytest.mark.parametrize(
    "change", [stale_size, stale_time, stale_header, damaged, no_index, no_json, cut]
)
def test_a_kept_index_that_is_not_of_the_tar_is_made_anew(tmp_path: Path, change) -> None:
    path = tmp_path / "x.tar"
    path.write_bytes(sample("a") + END)
    read(path)
    kept = (tmp_path / "x.tar.index").read_bytes()
    change(path)
    assert list(read(path)) == (["b"] if change is stale_header else ["a"])
    anew = (tmp_path / "x.tar.index").read_bytes()
    assert (anew == kept) == (change in (damaged, no_index, no_json, cut))


def test_a_tar_that_changes_behind_the_index_costs_its_samples(tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    path.write_bytes(sample("a") + sample("b") + END)
    shards = Shards(path)
    path.write_bytes(path.read_bytes().replace(JPEG, JPEG[:-1] + b"x", 1))
    with pytest.raises(RuntimeError, match="sample a: image has another checksum"):
        shards.read(0)
    assert shards.read(1)[0] == JPEG


def test_foreign_tars_travel_to_a_worker(tmp_path: Path) -> None:
    (tmp_path / "x.tar").write_bytes(sample("a") + END)
    shards = Shards(tmp_path)
    shards.read(0)
    assert pickle.loads(pickle.dumps(shards)).read(0) == shards.read(0)


def test_what_tells_foreign_tars_apart_is_what_they_hold(tmp_path: Path) -> None:
    for name, caption in (("one", "an eye"), ("same", "an eye"), ("other", "an ear")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.tar").write_bytes(sample("a", caption) + END)
    one, same, other = (dataset_sha256(tmp_path / name) for name in ("one", "same", "other"))
    assert one == same != other
    assert describe(tmp_path / "one") == {"classes": {}, "shards": [{"file": "x.tar"}]}


def test_a_directory_of_packed_tars_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.tar.gz").write_bytes(b"\x1f\x8b")
    with pytest.raises(ValueError, match=r"x\.tar\.gz: is compressed; unpack it to a plain tar"):
        Shards(tmp_path)


def test_an_unfinished_dataset_of_ours_is_not_taken_for_foreign_tars(tmp_path: Path) -> None:
    with ShardWriter(tmp_path, "toy") as writer:
        writer.add("a", JPEG, {})
    (tmp_path / "manifest.json").unlink()
    with pytest.raises(ValueError, match="not finished"):
        Shards(tmp_path)


def test_a_dataset_of_png_alone_says_how_to_go_on(tmp_path: Path) -> None:
    (tmp_path / "x.tar").write_bytes(member("a.png", b"png") + END)
    with pytest.raises(
        ValueError, match="only JPEG is read: unpack the tar and build it with make"
    ):
        Shards(tmp_path)
