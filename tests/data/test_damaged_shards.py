"""Damage of every kind: what was written arrives as it was, or is listed; nothing else happens."""

import json
import logging
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from maskedclip.data.storage.shard_writer import SELF_SHA256
from maskedclip.data.storage.shards import DamagedSample, Shards, ShardWriter

SHARDS, PER_SHARD = 3, 4
SECONDS = 60  # a trial that takes longer hangs
Content = dict[str, bytes]


class Written(NamedTuple):
    """A dataset as it was written, and the same samples in another build."""

    directory: Path
    files: Content
    other: Content  # of a build of the same keys with other photographs
    samples: list[tuple[str, bytes, bytes]]  # key, JPEG, JSON, in order


def write(directory: Path, seed: int) -> Content:
    draw = random.Random(seed)
    with ShardWriter(directory, "toy", samples_per_shard=PER_SHARD, licence="none") as writer:
        for number in range(SHARDS * PER_SHARD):
            jpeg = draw.randbytes(draw.choice((300, 700, 1500, 5000)))
            report = "word " * draw.randrange(3, 200)
            writer.add(f"key{number:02d}", jpeg, {"dataset": "toy", "report": report})
    return {path.name: path.read_bytes() for path in directory.iterdir()}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Written:
    directory = tmp_path_factory.mktemp("whole") / "toy"
    other = write(tmp_path_factory.mktemp("other") / "toy", 2)
    files = write(directory, 1)
    shards = Shards(directory)
    samples = [(shards.key(i), *shards.read_members(i)) for i in range(len(shards))]
    assert len(samples) == SHARDS * PER_SHARD
    return Written(directory, files, other, samples)


def flip_bit(content: bytes, draw: random.Random) -> bytes:
    place = draw.randrange(len(content))
    changed = content[place] ^ (1 << draw.randrange(8))
    return content[:place] + bytes([changed]) + content[place + 1 :]


def change_byte(content: bytes, draw: random.Random) -> bytes:
    place = draw.randrange(len(content))
    return content[:place] + draw.randbytes(1) + content[place + 1 :]


def change_header(content: bytes, draw: random.Random) -> bytes:
    headers = [i for i in range(0, len(content), 512) if content[i + 257 : i + 262] == b"ustar"]
    place = draw.choice(headers) + draw.choice((*range(20), *range(120, 160), 257, 345))
    return content[:place] + draw.randbytes(1) + content[place + 1 :]


def truncate(content: bytes, draw: random.Random) -> bytes:
    return content[: draw.randrange(len(content))]


def of_blocks(change: Callable[[list[bytes], random.Random], list[bytes]]):
    def damaged(content: bytes, draw: random.Random) -> bytes:
        size = draw.choice((512, 512, 4096))
        blocks = [content[i : i + size] for i in range(0, len(content), size)]
        return b"".join(change(blocks, draw))

    return damaged


def zero_block(blocks: list[bytes], draw: random.Random) -> list[bytes]:
    place = draw.randrange(len(blocks))
    return [*blocks[:place], bytes(len(blocks[place])), *blocks[place + 1 :]]


def drop_block(blocks: list[bytes], draw: random.Random) -> list[bytes]:
    place = draw.randrange(len(blocks))
    return blocks[:place] + blocks[place + 1 :]


def double_block(blocks: list[bytes], draw: random.Random) -> list[bytes]:
    place = draw.randrange(len(blocks))
    return blocks[:place] + blocks[place : place + 1] + blocks[place:]


def swap_blocks(blocks: list[bytes], draw: random.Random) -> list[bytes]:
    one, two = draw.randrange(len(blocks)), draw.randrange(len(blocks))
    blocks[one], blocks[two] = blocks[two], blocks[one]
    return blocks


def of_lines(change: Callable[[list[bytes], random.Random], list[bytes]]):
    def damaged(content: bytes, draw: random.Random) -> bytes:
        return b"".join(change(content.splitlines(keepends=True), draw))

    return damaged


TAR = {
    "bit": flip_bit,
    "byte": change_byte,
    "header": change_header,
    "cut": truncate,
    "zeroed": of_blocks(zero_block),
    "dropped": of_blocks(drop_block),
    "doubled": of_blocks(double_block),
    "swapped": of_blocks(swap_blocks),
}
INDEX = {
    "bit": flip_bit,
    "byte": change_byte,
    "cut": truncate,
    "line dropped": of_lines(drop_block),
    "line doubled": of_lines(double_block),
    "lines swapped": of_lines(swap_blocks),
}
MANIFEST = {"bit": flip_bit, "byte": change_byte, "cut": truncate}


def without_hash(manifest: bytes) -> bytes:
    """Return a manifest as it was written before it had a hash of itself."""
    found = json.loads(manifest)
    del found[SELF_SHA256]
    return (json.dumps(found, indent=1) + "\n").encode()


class Outcome(NamedTuple):
    """What a reader got: the key of each sample that arrived, the reason of each that did not."""

    delivered: set[str]
    listed: dict[str, str]


def read_all(written: Written) -> Outcome:
    """Read every sample; what arrives must be what was written, all else must be listed."""
    delivered, listed = set(), {}
    shards = Shards(written.directory)
    assert len(shards) == len(written.samples)
    for index, (key, jpeg, metadata) in enumerate(written.samples):
        try:
            found = shards.read(index)
        except DamagedSample as damage:
            listed[key] = damage
            continue
        assert shards.key(index) == key
        assert found == (jpeg, json.loads(metadata))
        assert shards.read_members(index) == [jpeg, metadata]
        delivered.add(key)
    for index, (key, _, _) in enumerate(written.samples):
        if key in listed:
            shard, place = f"toy-{index // PER_SHARD:06d}.tar", index % PER_SHARD
            assert listed[key].shard == shard
            assert listed[key].key in (key, f"{shard}#{place}")
            assert listed[key].reason.isprintable()
    assert delivered | listed.keys() == {key for key, _, _ in written.samples}
    return Outcome(delivered, {key: damage.reason for key, damage in listed.items()})


def undamaged(written: Written, number: int, tar: bytes) -> set[str]:
    """Return the keys of a shard both of whose members are as written in a damaged tar."""
    whole = written.files[f"toy-{number:06d}.tar"]
    keys = set()
    for key, *members in written.samples[number * PER_SHARD : (number + 1) * PER_SHARD]:
        offsets = [whole.index(content) for content in members]
        if all(tar[i : i + len(c)] == c for i, c in zip(offsets, members, strict=True)):
            keys.add(key)
    return keys


def damage(written: Written, kind: str, draw: random.Random) -> dict[str, bytes | None]:
    """Return the files that a trial changes."""
    number = draw.randrange(SHARDS)
    tar, index = f"toy-{number:06d}.tar", f"toy-{number:06d}.idx"
    files = written.files
    what, _, how = kind.partition(": ")
    neighbour = f"toy-{(number + 1) % SHARDS:06d}"
    if what == "tar":
        return {tar: TAR[how](files[tar], draw)}
    if what == "index":
        return {index: INDEX[how](files[index], draw)}
    if what == "both":
        first = draw.choice(list(TAR.values()))(files[tar], draw)
        return {tar: first, index: draw.choice(list(INDEX.values()))(files[index], draw)}
    if what == "manifest":
        return {"manifest.json": MANIFEST[how](files["manifest.json"], draw)}
    if what == "manifest without its hash":
        return {"manifest.json": MANIFEST[how](without_hash(files["manifest.json"]), draw)}
    return {
        "tar missing": {tar: None},
        "index missing": {index: None},
        "both missing": {tar: None, index: None},
        "tar of another shard": {tar: files[f"{neighbour}.tar"]},
        "index of another shard": {index: files[f"{neighbour}.idx"]},
        "both of another shard": {
            tar: files[f"{neighbour}.tar"],
            index: files[f"{neighbour}.idx"],
        },
        "tar of another build": {tar: written.other[tar]},
        "index of another build": {index: written.other[index]},
        "both of another build": {tar: written.other[tar], index: written.other[index]},
        "tar empty": {tar: b""},
        "index empty": {index: b""},
    }[kind]


KINDS = [
    *(f"tar: {how}" for how in TAR),
    *(f"index: {how}" for how in INDEX),
    *(f"manifest: {how}" for how in MANIFEST),
    *(f"manifest without its hash: {how}" for how in MANIFEST),
    "both: at random",
    "tar missing",
    "index missing",
    "both missing",
    "tar of another shard",
    "index of another shard",
    "both of another shard",
    "tar of another build",
    "index of another build",
    "both of another build",
    "tar empty",
    "index empty",
]


def trial(written: Written, kind: str, seed: int) -> Outcome:
    draw = random.Random(f"{kind} {seed}")
    changed = damage(written, kind, draw)
    for name, content in changed.items():
        path = written.directory / name
        path.unlink() if content is None else path.write_bytes(content)
    start = time.perf_counter()
    try:
        outcome = check(written, kind, changed)
    finally:
        for name in changed:
            (written.directory / name).write_bytes(written.files[name])
    assert time.perf_counter() - start < SECONDS
    return outcome


def check(written: Written, kind: str, changed: dict[str, bytes | None]) -> Outcome:
    if kind.startswith("manifest"):
        return check_manifest(written, "without" not in kind)
    everything = {key for key, _, _ in written.samples}
    outcome = read_all(written)
    number = int(next(iter(changed))[4:10])
    name = f"toy-{number:06d}.tar"
    whole = undamaged(written, number, changed.get(name, written.files[name]) or b"")
    here = {key for key, _, _ in written.samples[number * PER_SHARD :][:PER_SHARD]}
    assert outcome.delivered >= everything - here
    if len(changed) == 1:  # with its index, or its tar, all that is left of a shard arrives
        assert outcome.delivered & here == whole
    else:
        assert outcome.delivered & here <= whole
    return outcome


def check_manifest(written: Written, has_hash: bool) -> Outcome:
    """A damaged manifest is refused in one line, or says what it said before.

    Without a hash that holds for what decides on the samples, and not for words like the licence.
    """
    message, before = "", json.loads(written.files["manifest.json"])
    try:
        outcome = read_all(written)
    except ValueError as error:
        message = str(error)
    if message:
        assert message.startswith(str(written.directory))
        assert "manifest" in message
        assert "\n" not in message
        return Outcome(set(), {})
    assert not outcome.listed
    after = Shards(written.directory).manifest
    assert after["name"] == "toy"
    assert not has_hash or {name: after[name] for name in before if name != SELF_SHA256} == {
        name: value for name, value in before.items() if name != SELF_SHA256
    }
    return outcome


@pytest.mark.parametrize("kind", KINDS)
def test_after_any_damage_what_was_written_arrives_or_is_listed(
    written: Written, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR)
    for seed in range(40):
        trial(written, kind, seed)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_ten_thousand_damaged_shards(
    written: Written, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR)
    for seed in range(1000, 1000 + 12000 // len(KINDS)):
        trial(written, kind, seed)
