"""What a shard of a stranger may hold: each is refused by name, and the rest still arrives."""

import ast
import bz2
import gzip
import hashlib
import json
import lzma
import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from maskedclip.data.storage.shard_writer import manifest_sha256, write_manifest, write_shard
from maskedclip.data.storage.shards import DamagedSample, Shards
from maskedclip.data.storage.tar import IMAGE_LIMIT, TEXT_LIMIT
from maskedclip.data.transforms import crop_of, decode
from tests.tars import END, JPEG, header, member, padded, pax, sample

LONG = b"d" * 155 + b"/" + b"n" * 96 + b".jpg"
RANDOM = np.random.default_rng(0)
GOOD = {"good0", "good1"}


def between(content: bytes) -> bytes:
    return sample("good0") + content + sample("good1") + END


def outcome(path: Path) -> tuple[set[str], dict[str, str]]:
    """Return the keys that arrive, and the reason of each that does not."""
    delivered, listed = set(), {}
    shards = Shards(path)
    for index in range(len(shards)):
        try:
            jpeg, metadata = shards.read(index)
        except DamagedSample as damage:
            listed[damage.key] = damage.reason
        else:
            assert jpeg == JPEG
            assert metadata["report"] == "an eye"
            delivered.add(shards.key(index))
    assert len(delivered) + len(listed) == len(shards)
    return delivered, listed


# what lies between two whole samples, and why it is refused; nothing else is lost
MEMBERS = {
    "symbolic link": (header(b"a.jpg", 0, b"2", link=b"/etc/passwd"), "'a.jpg' is a symbolic link"),
    "hard link": (header(b"a.jpg", 0, b"1", link=b"good0.jpg"), "'a.jpg' is a hard link"),
    "link with content": (header(b"a.jpg", 512, b"2") + sample("b"), "is a symbolic link"),
    "character device": (header(b"a.jpg", 0, b"3"), "'a.jpg' is a device"),
    "block device": (header(b"a.jpg", 0, b"4"), "'a.jpg' is a device"),
    "named pipe": (header(b"a.jpg", 0, b"6"), "'a.jpg' is a named pipe"),
    "contiguous file": (member("a.jpg", JPEG, b"7"), "'a.jpg' is a contiguous file"),
    "unknown type": (member("a.jpg", JPEG, b"Z"), "'a.jpg' is of the unknown type 'Z'"),
    "absolute name": (member("/etc/a.jpg", JPEG), "'/etc/a.jpg' has an absolute name"),
    "drive": (member("C:a.jpg", JPEG), "has an absolute name"),
    "way out": (member("a/../../b.jpg", JPEG), "has a name that leads out of its folder"),
    "backslash": (member("..\\a.jpg", JPEG), "has a backslash in its name"),
    "line end": (member("a\nb.jpg", JPEG), "has control characters in its name"),
    "escape": (member("a\x1b[2J.jpg", JPEG), "has control characters in its name"),
    "right to left": (member("a\u202egpj.jpg", JPEG), "has control characters in its name"),
    "NUL": (header(b"a.jpg\0.exe", len(JPEG)) + padded(JPEG), "has a NUL within its name"),
    "not UTF-8": (member(b"a\xff.jpg", JPEG), "has a name that is not UTF-8"),
    "no name": (member("", JPEG), "has no name"),
    "long name": (member(LONG, JPEG), "has a name of 256 bytes, over the limit of 255"),
    "long usual GNU name": (
        member("L", b"n" * 252 + b".jpg", b"L") + member("a.jpg", JPEG),
        "has a name of 256 bytes, over the limit of 255",
    ),
    "long GNU name": (
        member("L", b"n" * 9000, b"L") + member("a.jpg", JPEG),
        "has a name of 9000 bytes, over the limit of 255",
    ),
    "GNU name with NUL": (
        member("L", b"a.jpg\0b.jpg", b"L") + member("a.jpg", JPEG),
        "has a NUL within its GNU name",
    ),
    "GNU name bomb": (
        member("L", bytes(1 << 20), b"L") + member("a.jpg", JPEG),
        "has a GNU header of 1048576 bytes, over the limit of 65536",
    ),
    "pax name": (pax({"path": "/etc/a.jpg"}) + member("a.jpg", JPEG), "has an absolute name"),
    "pax name with NUL": (
        pax({"path": "a.jpg\0b"}) + member("a.jpg", JPEG),
        "has a NUL within its pax name",
    ),
    "pax bomb": (
        pax({"comment": "x" * (1 << 20)}) + member("a.jpg", JPEG),
        "has a pax header of 1048593 bytes, over the limit of 65536",
    ),
    "pax not well formed": (
        member("x", b"99999 path=a.jpg\n", b"x") + member("a.jpg", JPEG),
        "has a pax header that is not well formed",
    ),
    "pax of no length": (
        member("x", b"0 path=a.jpg\n", b"x") + member("a.jpg", JPEG),
        "has a pax header that is not well formed",
    ),
    "pax sparse": (
        pax({"GNU.sparse.major": "1", "GNU.sparse.realsize": "1099511627776"})
        + member("a.jpg", JPEG),
        "is a sparse file, by its pax header",
    ),
    "empty image": (member("a.jpg", b""), "its image is empty"),
    "no image": (member("a.json", b"{}"), "has no image"),
    "only code": (member("a.pyd", b"\x80\x04.") + member("a.pth", b"\x80\x04."), "has no image"),
    "two images": (member("a.jpg", JPEG) + member("a.jpeg", JPEG), "two members of the kind jpeg"),
    "two texts": (sample("a") + member("a.txt", b"no"), "has two members of the kind txt"),
    "PNG": (member("a.png", b"\x89PNG"), "its image is png, and only JPEG is read"),
    "WEBP": (member("a.webp", b"RIFF"), "its image is webp, and only JPEG is read"),
    "endless JSON": (
        member("a.jpg", JPEG) + member("a.json", b" " * (TEXT_LIMIT + 1)),
        "its json has 1048577 bytes, over the limit of 1048576",
    ),
    "key again": (sample("a") + sample("b") + sample("a"), "the key 'a' is there before"),
}
# places where members may be missing: the samples beside are not trusted either
BROKEN = {
    "old sparse file": (member("a.jpg", JPEG, b"S"), "holds the sparse file 'a.jpg'"),
    "size beyond": (header(b"a.jpg", 1 << 30), "'a.jpg', whose 1073741824 bytes run beyond"),
    "size in base 256": (
        header(b"a.jpg", b"\x80" + (1 << 60).to_bytes(11, "big")),
        "has a size in base 256",
    ),
    "negative size": (header(b"a.jpg", b"\xff" * 12), "has a size in base 256 or none at all"),
    "size with a minus": (header(b"a.jpg", b"-0000000777\0"), "has a size in base 256 or none"),
    "size not octal": (header(b"a.jpg", b"00000000999\0"), "has a size in base 256 or none"),
    "pax size": (
        pax({"size": "1099511627776"}) + member("a.jpg", JPEG),
        "but its pax header says '1099511627776'",
    ),
    "negative pax size": (pax({"size": "-512"}) + member("a.jpg", JPEG), "pax header says '-512'"),
    "pax global name": (
        member("g", b"16 path=../../a\n", b"g"),
        "is a pax global header that sets path",
    ),
    "pax global bomb": (member("g", bytes(1 << 17), b"g"), "is a pax global header of 131072"),
    "pax global mess": (member("g", b"x" * 40, b"g"), "pax global header that is not well formed"),
    "checksum": (b"x" + member("a.jpg", JPEG)[1:], "is no header: its checksum is wrong"),
    "zeros": (bytes(1024) + sample("a"), "is zero, the end of a tar, and yet members follow"),
}


@pytest.mark.parametrize("kind", MEMBERS)
def test_a_member_that_is_refused_costs_its_own_sample(tmp_path: Path, kind: str) -> None:
    content, reason = MEMBERS[kind]
    (tmp_path / "x.tar").write_bytes(between(content))
    delivered, listed = outcome(tmp_path)
    assert delivered >= GOOD
    assert len(listed) == 1
    assert reason in next(iter(listed.values()))


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_place_is_listed_and_the_samples_beside_it_too(tmp_path: Path, kind: str) -> None:
    content, reason = BROKEN[kind]
    far = [sample("far0"), sample("good0"), content, sample("good1"), sample("far1"), END]
    (tmp_path / "x.tar").write_bytes(b"".join(far))
    delivered, listed = outcome(tmp_path)
    assert {"far0", "far1"} <= delivered
    assert reason in listed["x.tar#2"]
    assert all(reason in why for why in listed.values())
    assert "may lack a member" in listed["good0"]


@pytest.mark.parametrize("read", [decode, lambda jpeg: crop_of(jpeg, 8, (0.2, 1), RANDOM, "fast")])
def test_a_pixel_bomb_is_refused_before_it_is_decoded(tmp_path: Path, read: Callable) -> None:
    place = JPEG.index(b"\xff\xc0") + 5
    bomb = JPEG[:place] + b"\xfd\xe8\xfd\xe8" + JPEG[place + 4 :]  # says 65000 x 65000
    (tmp_path / "x.tar").write_bytes(member("a.jpg", bomb) + END)
    before = peak_memory()
    with pytest.raises(ValueError, match="65000 x 65000 pixels, more than 80,000,000"):
        read(Shards(tmp_path).read(0)[0])
    assert peak_memory() - before < 50 << 20


PACKED = {"gzip": gzip.compress, "bzip2": bz2.compress, "xz": lzma.compress}


@pytest.mark.parametrize("kind", PACKED)
def test_a_packed_tar_is_not_unpacked(tmp_path: Path, kind: str) -> None:
    (tmp_path / "x.tar").write_bytes(PACKED[kind](between(b"")))
    with pytest.raises(ValueError, match=f"is compressed with {kind}; unpack it"):
        Shards(tmp_path)
    (tmp_path / "y.tar").write_bytes(between(b""))
    delivered, listed = outcome(tmp_path)
    assert delivered == GOOD
    assert f"is compressed with {kind}" in listed["x.tar#0"]


@pytest.mark.parametrize("content", [b"", b"not a tar", b"x" * 5000, bytes(100)])
def test_a_file_that_is_no_tar_is_refused_in_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.tar").write_bytes(content)
    with pytest.raises(
        ValueError, match=r"no sample of its tars can be had: (byte 0 )?is"
    ) as error:
        Shards(tmp_path / "x.tar")
    assert "\n" not in str(error.value)


def test_a_tar_that_was_cut_short_loses_what_may_be_incomplete(tmp_path: Path) -> None:
    whole = sample("a") + sample("b") + sample("c")
    (tmp_path / "x.tar").write_bytes(whole[:-700])
    delivered, listed = outcome(tmp_path)
    assert delivered == {"a", "b"}
    assert "the tar was cut short" in listed["c"]
    assert listed.keys() == {"c", "x.tar#3"}


def test_a_member_over_the_limit_is_not_read(tmp_path: Path) -> None:
    size = IMAGE_LIMIT + 512
    with (tmp_path / "x.tar").open("wb") as file:
        file.write(sample("good0") + header(b"a.jpg", size))
        file.seek(size, os.SEEK_CUR)  # a hole
        file.write(sample("good1") + END)
    delivered, listed = outcome(tmp_path)
    assert delivered == GOOD
    assert listed == {"a": f"member 'a.jpg' has {size} bytes, over the limit of {IMAGE_LIMIT}"}


def test_a_hole_of_a_terabyte_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "x.tar").open("wb") as file:
        file.write(sample("good0") + sample("good1") + END)
        file.truncate(1 << 40)
    start = time.perf_counter()
    delivered, listed = outcome(tmp_path)
    assert time.perf_counter() - start < 60  # to read it would take hours
    assert delivered == GOOD
    assert "what follows was not read" in next(iter(listed.values()))


def test_a_key_of_another_shard_is_refused(tmp_path: Path) -> None:
    for name in ("x", "y"):
        (tmp_path / f"{name}.tar").write_bytes(sample("a") + sample(name) + END)
    delivered, listed = outcome(tmp_path)
    assert delivered == {"a", "x", "y"}
    assert listed == {"y.tar#0": "the key 'a' is there before, in x.tar"}


def test_members_that_are_code_or_packed_are_never_opened(tmp_path: Path) -> None:
    boom = b"cos\nsystem\n(S'touch /tmp/never'\ntR."
    kinds = ("pyd", "pth", "pickle", "pkl", "json.gz", "npy")
    code = b"".join(member(f"good0.{kind}", boom) for kind in kinds)
    (tmp_path / "x.tar").write_bytes(sample("good0") + code + sample("good1") + END)
    assert outcome(tmp_path) == (GOOD, {})
    assert Shards(tmp_path).manifest["ignored"] == {f".{kind}": 1 for kind in sorted(kinds)}


@pytest.mark.parametrize("count", [20_000, pytest.param(1_000_000, marks=pytest.mark.slow)])
def test_very_many_tiny_members_take_little_time_and_memory(tmp_path: Path, count: int) -> None:
    first, content = header(b"0000000.jpg", 1), padded(b"x")
    with (tmp_path / "x.tar").open("wb") as file:
        file.write(sample("good0"))
        for number in range(count):
            name = b"%07d.jpg" % number
            checksum = int(first[148:154], 8) + sum(name) - sum(first[:11])
            file.write(name + first[11:148] + b"%06o\0 " % checksum + first[156:] + content)
        file.write(sample("good1") + END)
    start, before = time.process_time(), peak_memory()
    shards = Shards(tmp_path)
    assert len(shards) == count + 2
    assert time.process_time() - start < 5 + count / 20_000  # seconds
    assert peak_memory() - before < 400 << 20


def test_very_many_members_that_are_refused_end_at_a_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("maskedclip.data.storage.tar.REFUSED_LIMIT", 20)
    monkeypatch.setattr("maskedclip.data.storage.third_party_tars.REFUSED_LIMIT", 20)
    empty = b"".join(member(f"{number}.jpg", b"") for number in range(50))
    links = b"".join(header(b"%d.jpg" % number, 0, b"2") for number in range(50))
    (tmp_path / "x.tar").write_bytes(sample("good0") + empty + END)
    (tmp_path / "y.tar").write_bytes(sample("good1") + links + END)
    delivered, listed = outcome(tmp_path)
    assert delivered == GOOD
    assert "comes behind 20 samples that cannot be had" in listed["x.tar#22"]
    assert "has over 20 members that are refused" in listed["y.tar#21"]


def peak_memory() -> int:
    """Return bytes, since the process began."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("VmHWM")).split()[1])


def outcome_of_one(directory: Path) -> str:
    """Return why the only sample of a dataset cannot be read."""
    with pytest.raises(DamagedSample) as damage:
        Shards(directory).read(0)
    return damage.value.reason


FACTS = {"dataset": "toy", "source": "", "patient": None, "eye": None, "split": None, "labels": {}}
FACTS |= {"categories": [], "report": "an eye", "width": 8, "height": 8, "sha256": "", "phash": ""}


def said(**changes: object) -> bytes:
    return json.dumps(FACTS | changes).encode()


METADATA = {
    "NaN": (said().replace(b"8", b"NaN"), "metadata is refused (NaN is no number)"),
    "infinity": (
        said().replace(b"8", b"-Infinity"),
        "metadata is refused (-Infinity is no number)",
    ),
    "huge number": (said().replace(b"8", b"9" * 5000), "metadata is refused (Exceeds the limit"),
    "nested": (b'{"labels": ' + b"[" * 100_000, "metadata is not JSON (nested too deeply)"),
    "nested object": (b'{"a":' * 100_000, "metadata is not JSON (nested too deeply)"),
    "name twice": (said()[:-1] + b', "report": "no"}', "a name stands twice in one object"),
    "name twice within": (said(labels=1).replace(b"1", b'{"a": "b", "a": "c"}'), "stands twice"),
    "not UTF-8": (said().replace(b"an eye", b"\xff"), "metadata is not UTF-8"),
    "UTF-16": (said().decode().encode("utf-16"), "metadata is not UTF-8"),
    "half a character": (said(report="\ud800"), "metadata: report is not text or null"),
    "list": (b"[]", "metadata is not a JSON object"),
    "cut": (said()[:-1], "metadata is not JSON (Expecting"),
    "more behind": (said() * 2, "metadata is not JSON (Extra data"),
    "nothing": (b"", "metadata is not JSON"),
    "field missing": (b"{}", "metadata has no dataset"),
    "labels of numbers": (said(labels={"a": 1}), "metadata: labels is not texts by text"),
    "labels in a list": (said(labels=["a"]), "metadata: labels is not texts by text"),
    "categories in a text": (said(categories="glaucoma"), "categories is not a list of texts"),
    "categories of lists": (said(categories=[[]]), "metadata: categories is not a list of texts"),
    "report of numbers": (said(report=[1]), "metadata: report is not text or null"),
    "eye of neither side": (said(eye="X"), "metadata: eye is not L, R or null"),
    "width of a truth": (said(width=True), "metadata: width is not a number of pixels"),
    "width below nothing": (said(width=-8), "metadata: width is not a number of pixels"),
}


@pytest.mark.parametrize("kind", METADATA)
def test_metadata_of_ours_that_is_not_as_it_must_is_refused(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    content, reason = METADATA[kind]
    monkeypatch.setattr("maskedclip.data.storage.shard_writer.encode_metadata", lambda _: content)
    write_manifest(tmp_path, "toy", [write_shard(tmp_path, "toy-000000", [("a", JPEG, {})])])
    assert reason in outcome_of_one(tmp_path)


@pytest.mark.parametrize("kind", ["NaN", "nested", "name twice", "not UTF-8", "list", "cut"])
def test_metadata_of_others_is_refused_alike(tmp_path: Path, kind: str) -> None:
    content, reason = METADATA[kind]
    (tmp_path / "x.tar").write_bytes(member("a.jpg", JPEG) + member("a.json", content) + END)
    assert reason in outcome_of_one(tmp_path)


def test_text_of_others_that_is_not_utf_8_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.tar").write_bytes(member("a.jpg", JPEG) + member("a.txt", b"\xff\xfe") + END)
    assert outcome_of_one(tmp_path) == "txt is not UTF-8"


def write_toy(directory: Path) -> dict:
    """Write a dataset of one sample; return its manifest."""
    write_manifest(directory, "toy", [write_shard(directory, "toy-000000", [("a", JPEG, {})])])
    return json.loads((directory / "manifest.json").read_text())


# an entry of the manifest, changed by one who also makes all hashes anew
ENTRIES = {
    "file above": ({"file": "../../etc/passwd"}, "which is no name of a file beside it"),
    "absolute file": ({"file": "/etc/passwd"}, "which is no name of a file beside it"),
    "file in a folder": ({"file": "a/toy-000000.tar"}, "which is no name of a file beside it"),
    "file with a NUL": ({"file": "toy-000000.tar\0"}, "which is no name of a file beside it"),
    "file with a line end": ({"file": "toy-\n.tar"}, "which is no name of a file beside it"),
    "backslash": ({"file": "..\\toy-000000.tar"}, "which is no name of a file beside it"),
    "command": ({"file": "pipe:cat toy-000000.tar"}, "not toy-NUMBER.tar"),
    "address": ({"file": "http:toy-000000.tar"}, "not toy-NUMBER.tar"),
    "other dataset": ({"file": "ytoy-000000.tar"}, "not toy-NUMBER.tar"),
    "no tar": ({"file": "toy-000000.pickle"}, "not toy-NUMBER.tar"),
    "index above": ({"index": "../toy-000000.idx"}, "which is no name of a file beside it"),
    "index is a tar": ({"index": "toy-000000.tar"}, "not toy-NUMBER.idx"),
    "index of another": ({"index": "toy-000001.idx"}, "toy-000000.tar and the index toy-000001"),
    "file of a number": ({"file": 7}, "which is no name of a file beside it"),
    "short hash": ({"sha256": "ab"}, "not 64 hex digits"),
    "no hash": ({"index_sha256": None}, "not 64 hex digits"),
    "fewer than none": ({"samples": -1}, "has -1 samples"),
    "half a sample": ({"samples": 1.0}, "has 1.0 samples"),
    "a true sample": ({"samples": True}, "has True samples"),
    "very many": ({"samples": 10**12}, "over the limit of 10,000,000"),
    "another count": ({"samples": 2}, "has 1 samples, the manifest says 2"),
    "fewer bytes than none": ({"bytes": -5}, "has -5 bytes"),
}


@pytest.mark.parametrize("kind", ENTRIES)
def test_an_entry_of_a_manifest_that_cannot_be_is_refused(tmp_path: Path, kind: str) -> None:
    changes, reason = ENTRIES[kind]
    entry = write_toy(tmp_path)["shards"][0] | changes
    write_manifest(tmp_path, "toy", [{"samples": 0} | entry])
    with pytest.raises(ValueError, match="build the dataset again") as error:
        Shards(tmp_path)
    assert reason in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "shards", "reason"),
    [
        ("../toy", None, "has the name '../toy'"),
        ("", None, "has the name ''"),
        (7, None, "has the name 7"),
        ("toy", [[]], "shard 0 is no object"),
        ("toy", "twice", "names toy-000000.tar twice"),
    ],
)
def test_a_manifest_that_cannot_be_is_refused(
    tmp_path: Path, name: object, shards: object, reason: str
) -> None:
    manifest = write_toy(tmp_path)
    entries = {"twice": 2 * manifest["shards"], "None": manifest["shards"]}.get(str(shards), shards)
    manifest |= {"name": name, "shards": entries, "samples": 2 if shards == "twice" else 1}
    manifest["manifest_sha256"] = manifest_sha256(manifest)
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match="build the dataset again") as error:
        Shards(tmp_path)
    assert reason in str(error.value)


def test_a_manifest_changed_by_hand_is_refused(tmp_path: Path) -> None:
    manifest = write_toy(tmp_path) | {"licence": "CC0"}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match="is damaged or was changed by hand"):
        Shards(tmp_path)


# lines of an index, by one who also makes all hashes anew
LINES = {
    "negative place": ("a\t-512\t9\t1\t9\t9\t1", "is no key and numbers"),
    "negative size": ("a\t512\t-9\t1\t9\t9\t1", "is no key and numbers"),
    "place of an exabyte": (f"a\t{1 << 60}\t9\t1\t9\t9\t1", "over the limit"),
    "place of 100 digits": (f"a\t{10**100}\t9\t1\t9\t9\t1", "over the limit"),
    "image of a terabyte": (f"a\t512\t{1 << 40}\t1\t9\t9\t1", "over the limit"),
    "metadata of a gigabyte": (f"a\t512\t9\t1\t512\t{1 << 30}\t1", "over the limit"),
    "checksum of 33 bits": (f"a\t512\t9\t{1 << 32}\t512\t9\t1", "over the limit"),
    "words": ("a\tb\tc\td\te\tf\tg", "is no key and numbers"),
    "fractions": ("a\t1.5\t9\t1\t9\t9\t1", "is no key and numbers"),
    "few numbers": ("a\t1\t2\t3", "is no key and numbers"),
    "many numbers": ("a\t1\t2\t3\t4\t5\t6\t7", "is no key and numbers"),
    "nothing": ("", "is no key and numbers"),
    "key with a slash": ("../a\t512\t9\t1\t9\t9\t1", "is empty or is not plain"),
    "key with a dot": ("a.b\t512\t9\t1\t9\t9\t1", "is empty or is not plain"),
    "key with a NUL": ("a\0\t512\t9\t1\t9\t9\t1", "is empty or is not plain"),
    "no key": ("\t512\t9\t1\t9\t9\t1", "is empty or is not plain"),
    "key again": ("good\t512\t9\t1\t9\t9\t1", "the key 'good' is there before"),
    "place beyond": (f"a\t{1 << 40}\t9\t1\t9\t9\t1", "the shard is cut short"),
}


@pytest.mark.parametrize("kind", LINES)
def test_a_line_of_an_index_that_cannot_be_costs_its_sample(tmp_path: Path, kind: str) -> None:
    line, reason = LINES[kind]
    entry = write_shard(tmp_path, "toy-000000", [("good", JPEG, {"report": "an eye"})])
    index = (tmp_path / "toy-000000.idx").read_bytes() + line.encode() + b"\n"
    (tmp_path / "toy-000000.idx").write_bytes(index)
    entry |= {"samples": 2, "index_sha256": hashlib.sha256(index).hexdigest()}
    write_manifest(tmp_path, "toy", [entry])
    delivered, listed = outcome(tmp_path)
    assert delivered == {"good"}
    assert reason in listed.popitem()[1]


def special(path: Path, kind: str) -> None:
    path.unlink()
    if kind == "named pipe":
        os.mkfifo(path)
    elif kind == "directory":
        path.mkdir()
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        path.symlink_to(path.with_name("nowhere"))


SPECIAL = {
    "named pipe": "is a named pipe, no plain file",
    "directory": "is a directory, no plain file",
    "device": "is a device, no plain file",
    "link to nowhere": "missing",
}


@pytest.mark.parametrize("kind", SPECIAL)
def test_what_is_no_plain_file_is_not_opened(tmp_path: Path, kind: str) -> None:
    write_toy(tmp_path)
    special(tmp_path / "toy-000000.idx", kind)
    assert Shards(tmp_path).read(0)[0] == JPEG
    special(tmp_path / "toy-000000.tar", kind)
    assert SPECIAL[kind] in outcome_of_one(tmp_path)
    special(tmp_path / "manifest.json", kind)
    with pytest.raises(ValueError, match=r"manifest\.json"):
        Shards(tmp_path)


@pytest.mark.parametrize("kind", ["named pipe", "directory", "device"])
def test_a_foreign_tar_that_is_no_plain_file_is_listed(tmp_path: Path, kind: str) -> None:
    for name in ("x", "y"):
        (tmp_path / f"{name}.tar").write_bytes(between(b"") if name == "y" else b"")
    special(tmp_path / "x.tar", kind)
    delivered, listed = outcome(tmp_path)
    assert delivered == GOOD
    assert SPECIAL[kind] in listed["x.tar#0"]


def test_a_shard_may_be_a_link_to_a_plain_file_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "toy").mkdir()
    write_toy(tmp_path / "toy")
    for end in ("tar", "idx"):
        path = tmp_path / "toy" / f"toy-000000.{end}"
        path.rename(tmp_path / path.name)
        path.symlink_to(tmp_path / path.name)
    assert Shards(tmp_path / "toy").read(0)[0] == JPEG


FORBIDDEN = {"pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve", "subprocess", "pty"}
FORBIDDEN |= {"eval", "exec", "compile", "__import__", "system", "popen", "execv", "extractall"}
FILES = sorted((Path(__file__).parents[2] / "maskedclip" / "data").rglob("*.py"))


def dangerous(code: str) -> set[str]:
    """Return the names that a module imports or calls, and that could run what it reads."""
    found = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {(node.module or "").split(".")[0], *(alias.name for alias in node.names)}
        elif isinstance(node, ast.Call) and not ast.unparse(node.func).startswith("re."):
            found.add(ast.unparse(node.func).split(".")[-1])
    return found & FORBIDDEN


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_no_module_of_the_data_folder_can_run_what_it_reads(path: Path) -> None:
    assert not dangerous(path.read_text())


@pytest.mark.parametrize(
    "code",
    ["import pickle", "from os import system", "os.popen('x')", "tar.extractall()", "eval(x)"],
)
def test_what_can_run_code_is_seen(code: str) -> None:
    assert dangerous(code)
