"""Everything that is wrong with a dataset is listed, and a hostile one does nothing but that."""

import io
import json
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from maskedclip.data.storage.shards import Shards, ShardWriter
from maskedclip.shards.building.prepare_sample import encode
from maskedclip.shards.checks.dataset import CheckedDataset, check_dataset
from maskedclip.shards.checks.shard import read_jpeg
from maskedclip.shards.make import ShardRequest, build

FACTS = {"width": 64, "height": 48, "sha256": "0" * 64, "phash": "0" * 16, "source": "a.jpg"}


def photograph(number: int) -> bytes:
    generator = np.random.default_rng(number)
    return encode(generator.integers(0, 255, (32, 32, 3), dtype=np.uint8), 90)


def write(directory: Path, *, jpegs: dict[int, bytes] | None = None, **facts: object) -> Path:
    with ShardWriter(directory, "toy", samples_per_shard=4, settings={"size": 40}) as writer:
        for i in range(10):
            jpeg = (jpegs or {}).get(i) or photograph(i)
            changed = facts if i == 3 else {}
            writer.add(f"k{i}", jpeg, {"dataset": "toy"} | FACTS | changed)
    return directory


def found(directory: Path) -> CheckedDataset:
    return check_dataset(directory, workers=2, done=lambda _: None)


def said(directory: Path) -> list[str]:
    return [" ".join(problem) for problem in found(directory).problems]


def resign(directory: Path) -> None:
    """Make the manifest name the bytes that are there: damage that hashes do not show."""
    import hashlib

    path = directory / "manifest.json"
    manifest = json.loads(path.read_text())
    for entry in manifest["shards"]:
        content = (directory / entry["file"]).read_bytes()
        entry["sha256"], entry["bytes"] = hashlib.sha256(content).hexdigest(), len(content)
        index = (directory / entry["index"]).read_bytes()
        entry["index_sha256"] = hashlib.sha256(index).hexdigest()
    path.write_text(json.dumps(manifest))


def test_a_whole_dataset_has_no_problem_and_all_its_samples(tmp_path: Path) -> None:
    checked = found(write(tmp_path / "d"))
    assert checked.problems == []
    assert [sample.key for sample in checked.samples] == [f"k{i}" for i in range(10)]
    assert {sample.side for sample in checked.samples} == {32}
    jpeg, _ = Shards(tmp_path / "d").read(6)
    assert read_jpeg(tmp_path / "d", checked.samples[6]) == jpeg


def test_a_flipped_bit_costs_its_sample_and_the_hash_of_its_shard(tmp_path: Path) -> None:
    directory = write(tmp_path / "d")
    jpeg, _ = Shards(directory).read(5)
    path = directory / "toy-000001.tar"
    content = bytearray(path.read_bytes())
    content[content.index(jpeg) + len(jpeg) // 2] ^= 1
    path.write_bytes(content)
    assert said(directory) == [
        "toy-000001.tar  has another sha256 than manifest.json says",
        "toy-000001.tar k5 image has another checksum than the index says",
    ]
    assert len(found(directory).samples) == 9


def test_missing_extra_and_cut_files_are_all_named(tmp_path: Path) -> None:
    directory = write(tmp_path / "d")
    (directory / "toy-000000.idx").unlink()
    (directory / "toy-000001.tar").write_bytes((directory / "toy-000001.tar").read_bytes()[:3000])
    (directory / "notes.txt").write_text("mine")
    words = "\n".join(said(directory))
    for expected in (
        "toy-000000.idx  is missing",
        "toy-000001.tar  has 3000 bytes",
        "toy-000001.tar k7",
        "notes.txt  is not named by manifest.json",
        "says 10 samples, the indexes name 6",
    ):
        assert expected in words
    assert [s.key for s in found(directory).samples][-2:] == ["k8", "k9"]


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        ({"eye": "left"}, "eye is not L, R or null"),
        ({"labels": {"grade": 2}}, "labels is not texts by text"),
        ({"categories": "glaucoma"}, "categories is not a list of texts"),
        ({"width": True}, "width is not a number of pixels"),
        ({"sha256": "abc"}, "sha256 is not 64 hex digits"),
        ({"source": ""}, "source is not text"),
        ({"dataset": "other"}, "metadata is of dataset 'other', not of 'toy'"),
        ({"report": []}, "report is not text or null"),
    ],
)
def test_metadata_out_of_the_contract_are_named(tmp_path: Path, facts: dict, reason: str) -> None:
    (line,) = said(write(tmp_path / "d", **facts))
    assert line.startswith("toy-000000.tar k3")
    assert reason in line


def saved(image: Image.Image, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", **options)
    return file.getvalue()


def with_exif() -> bytes:
    exif = Image.Exif()
    exif[0x010E] = "Jane Doe"
    return saved(Image.new("RGB", (32, 32), "red"), exif=exif)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (with_exif, "carries EXIF"),
        (lambda: saved(Image.new("RGB", (32, 32)), comment=b"Jane Doe"), "carries a comment"),
        (lambda: photograph(0)[:-100], "does not decode"),
        (lambda: b"no picture", "is no JPEG"),
        (lambda: saved(Image.new("RGB", (32, 30))), "32x30, not square"),
        (lambda: saved(Image.new("RGB", (48, 48))), "larger than 40"),
    ],
)
def test_a_photograph_that_is_not_as_it_should_be_is_named(
    tmp_path: Path, make: Callable[[], bytes], reason: str
) -> None:
    lines = said(write(tmp_path / "d", jpegs={2: make()}))
    assert any(line.startswith("toy-000000.tar k2") and reason in line for line in lines)
    assert all("k2" in line for line in lines)


def hostile(directory: Path, change: Callable[[tarfile.TarFile], None]) -> list[str]:
    """Put what `change` adds in front of a shard's members; the hashes are made to agree."""
    write(directory)
    path = directory / "toy-000000.tar"
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.GNU_FORMAT) as tar:
        change(tar)
    start = file.getvalue()[: file.tell()].rstrip(b"\0")
    blocks = start + b"\0" * (-len(start) % 512)
    path.write_bytes(blocks + path.read_bytes())
    resign(directory)
    return said(directory)


def add(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", size: int = 0):
    def change(tar: tarfile.TarFile) -> None:
        member = tarfile.TarInfo(name)
        member.type, member.linkname, member.size = kind, link, size
        tar.addfile(member, io.BytesIO(b"x" * size))

    return change


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (add("../../escaped.jpg", size=5), "member 0 is ../../escaped.jpg"),
        (add("/etc/passwd", tarfile.SYMTYPE, "/etc/passwd"), "is no plain file"),
        (add("k0.jpg", tarfile.LNKTYPE, "../secret"), "is no plain file"),
        (add("device", tarfile.CHRTYPE), "is no plain file"),
        (add("pipe", tarfile.FIFOTYPE), "is no plain file"),
        (add("n" * 5000, size=3), "is no plain file"),  # a long name: a member of its own
        (add("\x1b[2J\n.jpg", size=1), r"\x1b[2J\n.jpg"),
    ],
)
def test_hostile_members_are_named_and_never_written(
    tmp_path: Path, change: Callable[[tarfile.TarFile], None], reason: str
) -> None:
    before = sorted(tmp_path.rglob("*"))
    lines = hostile(tmp_path / "d", change)
    assert any(reason in line for line in lines)
    assert all(line.isprintable() for line in lines)
    after = {path.name for path in tmp_path.rglob("*")} - {path.name for path in before}
    assert after == {
        "d",
        "manifest.json",
        *(f"toy-00000{i}.{e}" for i in range(3) for e in ("tar", "idx")),
    }


def test_sizes_beyond_the_file_and_garbage_end_as_lines(tmp_path: Path) -> None:
    directory = write(tmp_path / "d")
    member = tarfile.TarInfo("k0.jpg")
    member.size = 1 << 40
    path = directory / "toy-000000.tar"
    path.write_bytes(member.tobuf(tarfile.GNU_FORMAT) + path.read_bytes()[512:])
    (directory / "toy-000001.tar").write_bytes(os.urandom(5000))
    rows = [
        b"#maskedclip-index 1",
        b"k8\t0\t99999999999999999999\t1\t-1\t1\t1",
        b"../k\t1\t1\t1\t1\t1\t1",
        b"k9\t512\t4000000000\t1\t0\t2\t3",
    ]
    (directory / "toy-000002.idx").write_bytes(b"\n".join(rows) + b"\n")
    resign(directory)
    words = "\n".join(said(directory))
    for expected in (
        "the member at byte 0 is longer than the file",
        "toy-000001.tar  no header of a member at byte 0",
        "toy-000002.idx  line 2 is no key and six numbers",
        "toy-000002.idx  line 3: key '../k'",
        "k9 image of 4000000000 bytes is over the limit",
    ):
        assert expected in words


def test_a_manifest_that_points_elsewhere_is_not_followed(tmp_path: Path) -> None:
    directory = write(tmp_path / "d")
    secret = tmp_path / "secret.tar"
    secret.write_bytes(b"x")
    path = directory / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["shards"][0]["file"] = "../secret.tar"
    manifest["shards"][1] = {"file": 7}
    path.write_text(json.dumps(manifest))
    words = "\n".join(said(directory))
    assert "entry 0 names a file elsewhere" in words
    assert "entry 1 of its shards is not whole" in words


def test_keys_that_come_twice_are_named(tmp_path: Path) -> None:
    directory = write(tmp_path / "d")
    path = directory / "toy-000002.idx"
    path.write_text(path.read_text().replace("k9\t", "k1\t"))
    resign(directory)
    assert any("k1 two samples have this key" in line for line in said(directory))


def test_an_exclusion_list_is_no_extra_file_but_must_be_of_this_dataset(tmp_path: Path) -> None:
    directory = write(tmp_path / "d")
    (directory / "exclude.csv").write_text("key,reason,copy_of\nk4,near,t/x\n")
    assert (said(directory), found(directory).excluded) == ([], {"k4"})
    (directory / "exclude.csv").write_text("key,reason,copy_of\nelsewhere,near,t/x\n")
    (line,) = said(directory)
    assert "no sample 'elsewhere'" in line


def test_contact_sheet_and_splits_belong_and_a_split_must_be_whole(
    tmp_path: Path,
) -> None:
    out = tmp_path / "p"
    build(ShardRequest(dataset="phantom", count=60, size=48, workers=1, out=out), progress=False)
    assert not check_dataset(out, 1, lambda _: None).problems
    path = next((out / "splits").glob("*.csv"))
    path.write_text(path.read_text().replace(",train,", ",holdout,", 1))
    problem = check_dataset(out, 1, lambda _: None).problems[0]
    assert problem.file == f"splits/{path.name}"
    assert "is of no sample of this dataset" in problem.reason
