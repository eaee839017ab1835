import io
import json
import pickle
import tarfile
from pathlib import Path

import pytest
import webdataset

from maskedclip.data.storage.exclusions import Exclusion, write_exclusions
from maskedclip.data.storage.shard_writer import (
    SELF_SHA256,
    encode_metadata,
    write_manifest,
    write_shard,
)
from maskedclip.data.storage.shards import DamagedSample, Shards, ShardWriter
from maskedclip.shards.checks.dataset import check_dataset

JPEGS = [bytes([i]) * (700 + i) for i in range(5)]


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    with ShardWriter(tmp_path / "toy", "toy", samples_per_shard=2, licence="none") as writer:
        for number, jpeg in enumerate(JPEGS):
            writer.add(f"key{number}", jpeg, {"dataset": "toy", "report": f"report {number}"})
    return tmp_path / "toy"


def test_what_is_written_is_what_is_read(directory: Path) -> None:
    shards = Shards(directory)
    assert (shards.name, len(shards), shards.manifest["licence"]) == ("toy", 5, "none")
    for number, jpeg in enumerate(JPEGS):
        content, metadata = shards.read(number)
        assert content == jpeg
        assert metadata == shards.metadata(number)
        assert (metadata["report"], metadata["labels"]) == (f"report {number}", {})
        assert shards.key(number) == f"key{number}"
        assert shards.shard(number) == f"toy-{number // 2:06d}.tar"


def test_the_tar_is_a_plain_tar_of_adjacent_members(directory: Path) -> None:
    with tarfile.open(directory / "toy-000001.tar") as tar:
        assert tar.getnames() == ["key2.jpg", "key2.json", "key3.jpg", "key3.json"]
        assert {(m.mtime, m.uid, m.gid, m.mode) for m in tar} == {(0, 0, 0, 0o644)}


@pytest.mark.parametrize("key", ["key0", "\u00e9", "k" * 95])
def test_a_shard_has_the_bytes_of_a_plain_ustar_tar(tmp_path: Path, key: str) -> None:
    samples = [(key, JPEGS[0], {"report": "a"}), ("last", b"", {})]
    write_shard(tmp_path, "toy-000000", samples)
    expected = io.BytesIO()
    with tarfile.open(fileobj=expected, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, jpeg, metadata in samples:
            for end, content in (("jpg", jpeg), ("json", encode_metadata(metadata))):
                member = tarfile.TarInfo(f"{name}.{end}")
                member.size, member.mode = len(content), 0o644
                tar.addfile(member, io.BytesIO(content))
    assert (tmp_path / "toy-000000.tar").read_bytes() == expected.getvalue()


def test_webdataset_reads_the_shards(directory: Path) -> None:
    paths = [str(path) for path in sorted(directory.glob("*.tar"))]
    samples = list(webdataset.WebDataset(paths, shardshuffle=False))
    assert [sample["jpg"] for sample in samples] == JPEGS
    assert [json.loads(sample["json"])["report"] for sample in samples][:2] == [
        "report 0",
        "report 1",
    ]


def test_a_flipped_byte_costs_that_sample_and_names_it(directory: Path) -> None:
    path = directory / "toy-000001.tar"
    content = bytearray(path.read_bytes())
    content[512 + 10] ^= 1
    path.write_bytes(content)
    shards = Shards(directory)
    with pytest.raises(DamagedSample, match=r"toy-000001\.tar: sample key2: image has another"):
        shards.read(2)
    assert [len(shards.read(number)[0]) for number in (0, 1, 3, 4)] == [700, 701, 703, 704]
    assert shards.metadata(2)["report"] == "report 2"


def test_damaged_metadata_is_a_damaged_sample(directory: Path) -> None:
    path = directory / "toy-000002.tar"
    path.write_bytes(path.read_bytes().replace(b"report 4", b"report 5"))
    with pytest.raises(DamagedSample, match="metadata has another checksum"):
        Shards(directory).read(4)


def test_metadata_that_is_not_json_is_a_damaged_sample(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("maskedclip.data.storage.shard_writer.encode_metadata", lambda _: b"{")
    entry = write_shard(directory, "toy-000002", [("key4", b"jpeg", {})])
    manifest = json.loads((directory / "manifest.json").read_text())
    write_manifest(directory, "toy", [*manifest["shards"][:2], entry])
    with pytest.raises(DamagedSample, match="metadata is not JSON"):
        Shards(directory).metadata(4)


def test_the_samples_before_the_cut_of_a_truncated_tar_still_read(directory: Path) -> None:
    path = directory / "toy-000000.tar"
    path.write_bytes(path.read_bytes()[:3000])
    shards = Shards(directory)
    assert shards.read(0)[0] == JPEGS[0]
    with pytest.raises(DamagedSample, match=r"sample key1: image has \d+ of 701 bytes"):
        shards.read(1)


def test_a_shard_that_goes_away_costs_its_samples(directory: Path) -> None:
    shards = Shards(directory)
    (directory / "toy-000000.tar").unlink()
    with pytest.raises(DamagedSample, match="image cannot be read: the shard is missing"):
        shards.read(0)
    assert shards.read(4)[0] == JPEGS[4]


def test_a_damaged_sample_keeps_its_names_on_the_way_from_a_worker() -> None:
    error = pickle.loads(pickle.dumps(DamagedSample("toy-000000.tar", "key1", "cut")))
    assert (error.shard, error.key, error.reason) == ("toy-000000.tar", "key1", "cut")


def test_opened_shards_can_be_pickled(directory: Path) -> None:
    shards = Shards(directory)
    shards.read(0)
    assert pickle.loads(pickle.dumps(shards)).read(3)[0] == JPEGS[3]


@pytest.mark.parametrize("index", [-1, 5])
def test_there_is_no_sample_outside_the_dataset(directory: Path, index: int) -> None:
    with pytest.raises(IndexError, match="of toy, which has 5"):
        Shards(directory).read(index)


def test_a_directory_without_a_manifest_is_refused_in_one_line(directory: Path) -> None:
    (directory / "manifest.json").unlink()
    with pytest.raises(ValueError, match="not finished") as error:
        Shards(directory)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [None, b"", b"#maskedclip-index 1\n", b"\xff\n"])
def test_a_damaged_index_is_built_again_from_the_tar_with_one_warning(
    directory: Path, content: bytes | None, caplog: pytest.LogCaptureFixture
) -> None:
    path = directory / "toy-000001.idx"
    expected = [Shards(directory).read(number) for number in range(5)]
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    shards = Shards(directory)
    assert [shards.read(number) for number in range(5)] == expected
    problem = "is missing" if content is None else "is not the index that the manifest names"
    assert [record.getMessage() for record in caplog.records] == [
        f"{path}: {problem}; indexed again from the tar; build the dataset again"
    ]


def test_without_anything_that_vouches_the_samples_of_a_shard_are_listed_by_place(
    directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tar, index_path = directory / "toy-000001.tar", directory / "toy-000001.idx"
    tar.write_bytes(tar.read_bytes().replace(JPEGS[2], JPEGS[2][:-1] + b"x"))
    index_path.unlink()
    shards = Shards(directory)
    assert caplog.messages == [
        f"{index_path}: is missing; its 2 samples are lost; build the dataset again"
    ]
    for index, place in ((2, 0), (3, 1)):
        assert shards.key(index) == f"toy-000001.tar#{place}"
        with pytest.raises(
            DamagedSample, match="sha256 of the tar is not the manifest's: nothing v"
        ):
            shards.metadata(index)
    assert [len(shards.read(index)[0]) for index in (0, 1, 4)] == [700, 701, 704]
    assert list(shards.warm(0, 5))


def test_exclusions_of_a_damaged_dataset_may_name_samples_that_are_lost(directory: Path) -> None:
    write_exclusions(directory, [Exclusion("key2", "copy", ""), Exclusion("key4", "copy", "")])
    assert Shards(directory).excluded == {2, 4}
    for end in ("tar", "idx"):
        (directory / f"toy-000001.{end}").unlink()
    assert Shards(directory).excluded == {4}


def test_a_block_that_was_dropped_costs_the_samples_behind_it_and_each_is_named(
    directory: Path,
) -> None:
    tar = directory / "toy-000000.tar"
    content = tar.read_bytes()
    tar.write_bytes(content[:512] + content[1024:])
    shards = Shards(directory)
    for index in (0, 1):
        with pytest.raises(DamagedSample, match=f"key{index}: image has another checksum"):
            shards.read(index)
    assert [len(shards.read(index)[0]) for index in (2, 3, 4)] == [702, 703, 704]


def test_missing_shards_are_warned_of_and_cost_their_samples(
    directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (directory / "toy-000000.tar").unlink()
    shards = Shards(directory)
    assert "1 of 3 shards are missing: toy-000000.tar" in caplog.text
    with pytest.raises(DamagedSample, match="key1: image cannot be read: the shard is missing"):
        shards.read(1)
    assert shards.read(2)[0] == JPEGS[2]


def test_a_manifest_of_before_it_had_a_hash_is_read(directory: Path) -> None:
    path = directory / "manifest.json"
    manifest = json.loads(path.read_text())
    del manifest[SELF_SHA256]
    path.write_text(json.dumps(manifest))
    assert len(Shards(directory)) == 5


def test_a_manifest_changed_by_hand_is_refused_and_named_by_a_check(directory: Path) -> None:
    path = directory / "manifest.json"
    path.write_text(path.read_text().replace('"none"', '"CC0"'))
    with pytest.raises(ValueError, match="is damaged or was changed by hand"):
        Shards(directory)
    problems = check_dataset(directory, 1, lambda _: None).problems
    assert ("manifest.json", "", f"{SELF_SHA256} is not that of its content") in problems


def test_missing_and_empty_directories_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such directory"):
        Shards(tmp_path / "none")
    with pytest.raises(ValueError, match="is empty"):
        Shards(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not JSON"),
        ("[]", "is not a manifest"),
        ('{"format": 9, "name": "toy", "shards": [1]}', "has format 9, this code reads 1"),
        ('{"format": 1, "name": "toy", "shards": []}', "names no shard"),
    ],
)
def test_a_strange_manifest_is_refused(directory: Path, content: str, message: str) -> None:
    (directory / "manifest.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        Shards(directory)


@pytest.mark.parametrize("key", ["a.b", "a/b", "", "key0"])
def test_a_key_must_be_new_and_plain(tmp_path: Path, key: str) -> None:
    with ShardWriter(tmp_path, "toy") as writer:
        writer.add("key0", b"jpeg", {})
        with pytest.raises(ValueError, match="is taken, empty or has a dot or slash"):
            writer.add(key, b"jpeg", {})


def test_a_field_that_the_format_has_not_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="unknown fields age"):
        write_shard(tmp_path, "toy-000000", [("key0", b"jpeg", {"age": 61})])
    assert list(tmp_path.iterdir()) == []


def test_a_writer_that_fails_leaves_no_dataset(tmp_path: Path) -> None:
    def write() -> None:
        with ShardWriter(tmp_path, "toy", samples_per_shard=1) as writer:
            writer.add("key0", b"jpeg", {})
            raise KeyError

    with pytest.raises(KeyError):
        write()
    with pytest.raises(ValueError, match="not finished"):
        Shards(tmp_path)
