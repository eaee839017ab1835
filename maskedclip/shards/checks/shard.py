"""What is wrong with one shard: its files, its members and its samples.

Nothing is extracted and nothing is believed: headers are read one by one by `tarfile`'s parser, so
links, devices, long names and sizes beyond the file end as lines of the report.
"""

import hashlib
import os
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import simplejpeg
from isal.isal_zlib import crc32

from maskedclip.data.storage.shard_writer import INDEX_HEADER, MANIFEST
from maskedclip.shards.checks.sample import (
    JPEG_LIMIT,
    JSON_LIMIT,
    Metadata,
    jpeg_problems,
    metadata_problems,
    read_metadata,
)

_BLOCK = tarfile.BLOCKSIZE
_INDEX_LIMIT = 1 << 28  # bytes


class Problem(NamedTuple):
    """One thing that is wrong."""

    file: str
    key: str  # empty where it is not of one sample
    reason: str


class Place(NamedTuple):
    """Where a member lies, as an index says."""

    offset: int
    size: int
    crc32: int


class Stored(NamedTuple):
    """A whole sample: where its photograph lies, and what is said of it."""

    key: str
    shard: str
    jpeg: Place
    side: int  # pixels
    metadata: Metadata


def read_jpeg(directory: Path, sample: Stored) -> bytes:
    """Return the bytes of a stored photograph; RuntimeError where they changed meanwhile."""
    with (directory / sample.shard).open("rb") as file:
        content = os.pread(file.fileno(), sample.jpeg.size, sample.jpeg.offset)
    if crc32(content) != sample.jpeg.crc32:
        raise RuntimeError(f"{directory / sample.shard}: changed while it was read; check again")
    return content


def check_shard(
    directory: Path,
    entry: dict[str, Any],
    expected: tuple[str, int],
    done: Callable[[int], object],
) -> tuple[list[Problem], list[Stored], list[str]]:
    """Return the problems, the whole samples and all the keys of one shard."""
    file, index = entry["file"], entry["index"]
    problems = [*_file_problems(directory, file, entry["sha256"], entry["bytes"])]
    problems += _file_problems(directory, index, entry["index_sha256"], None)
    if not (directory / index).is_file():
        return problems, [], []
    rows, malformed = _read_index(directory / index)
    problems += [Problem(index, "", reason) for reason in malformed]
    if len(rows) != entry["samples"]:
        reason = f"has {len(rows)} samples, {MANIFEST} says {entry['samples']}"
        problems.append(Problem(index, "", reason))
    keys, samples = [key for key, *_ in rows], []
    if not (directory / file).is_file():
        return problems, [], keys
    with (directory / file).open("rb") as opened:
        problems += [Problem(file, "", reason) for reason in _tar_problems(opened, rows)]
        for key, jpeg, facts in rows:
            reasons, sample = _check_sample(opened, (key, jpeg, facts), expected)
            problems += [Problem(file, key, reason) for reason in reasons]
            if sample is not None:
                samples.append(sample._replace(shard=file))
            done(1)
    return problems, samples, keys


def _file_problems(directory: Path, name: str, sha256: str, size: int | None) -> Iterator[Problem]:
    path = directory / name
    if not path.is_file():
        yield Problem(name, "", "is missing" if not path.exists() else "is no plain file")
        return
    found = path.stat().st_size
    if size is not None and found != size:
        yield Problem(name, "", f"has {found} bytes, {MANIFEST} says {size}")
    with path.open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != sha256:
            yield Problem(name, "", f"has another sha256 than {MANIFEST} says")


def _read_index(path: Path) -> tuple[list[tuple[str, Place, Place]], list[str]]:
    """Return the rows of an index, and what is wrong with those that are left out."""
    if path.stat().st_size > _INDEX_LIMIT:
        return [], [f"is larger than {_INDEX_LIMIT} bytes"]
    header, *lines = path.read_bytes().decode("utf-8", "replace").splitlines() or [""]
    rows, problems = [], []
    if header != INDEX_HEADER:
        problems.append(f"begins with {header[:40]!r}, not {INDEX_HEADER!r}")
    for number, line in enumerate(lines, 2):
        key, *numbers = line.split("\t")
        if len(numbers) != 6 or not all(n.isascii() and n.isdigit() for n in numbers):
            problems.append(f"line {number} is no key and six numbers")
        elif not key or "." in key or "/" in key or "\\" in key or not key.isprintable():
            problems.append(f"line {number}: key {key[:40]!r} is empty, or has a dot or a slash")
        else:
            values = [min(int(n[:20]), 1 << 62) for n in numbers]
            rows.append((key, Place(*values[:3]), Place(*values[3:])))
    return rows, problems


def _tar_problems(file: BinaryIO, rows: list[tuple[str, Place, Place]]) -> Iterator[str]:
    """Yield where the members of a tar are not those of its index, in that order."""
    expected = [
        (f"{key}.{end}", place.offset, place.size)
        for key, *places in rows
        for end, place in zip(("jpg", "json"), places, strict=True)
    ]
    count = 0
    for member, reason in _members(file):
        if member is None:
            yield reason
            continue
        name = ascii(member.name)[1:81]
        if not member.isreg():
            yield f"member {count} ({name}) is no plain file"
        elif count >= len(expected):
            yield f"member {count} ({name}) is not in the index"
        elif (member.name, member.offset_data, member.size) != expected[count]:
            yield f"member {count} is {name}, {member.size} bytes at {member.offset_data}; " + (
                "the index has {0}, {2} bytes at {1}".format(*expected[count])
            )
        count += 1
    if count < len(expected):
        yield f"has {count} members, the index {len(expected)}"


def _members(file: BinaryIO) -> Iterator[tuple[tarfile.TarInfo | None, str]]:
    """Yield (member, "") for each header of a tar, and (None, reason) where it is broken off."""
    size, place = os.fstat(file.fileno()).st_size, 0
    while place < size:
        block = os.pread(file.fileno(), _BLOCK, place)
        if block == bytes(_BLOCK):
            return
        try:
            member = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except tarfile.TarError as error:
            yield None, f"no header of a member at byte {place} ({error})"
            return
        member.offset_data = place + _BLOCK
        if not 0 <= member.size <= size - member.offset_data:
            yield None, f"the member at byte {place} is longer than the file"
            return
        yield member, ""
        place = member.offset_data + -(-member.size // _BLOCK) * _BLOCK
    yield None, "has no end: it was cut short"


def _check_sample(
    file: BinaryIO, row: tuple[str, Place, Place], expected: tuple[str, int]
) -> tuple[list[str], Stored | None]:
    key, *places = row
    contents, reasons = [], []
    for place, limit, member in zip(
        places, (JPEG_LIMIT, JSON_LIMIT), ("image", "metadata"), strict=True
    ):
        content = b""
        if place.size > limit:
            reasons.append(f"{member} of {place.size} bytes is over the limit of {limit}")
        else:
            content = os.pread(file.fileno(), place.size, place.offset)
            if len(content) < place.size:
                reasons.append(f"{member} has {len(content)} of {place.size} bytes")
            elif crc32(content) != place.crc32:
                reasons.append(f"{member} has another checksum than the index says")
        contents.append(content)
    if reasons:  # what is inside is not what was written: no use in saying so field by field
        return reasons, None
    name, largest = expected
    reasons = [*jpeg_problems(contents[0], largest), *metadata_problems(contents[1], name)]
    if reasons:
        return reasons, None
    side = simplejpeg.decode_jpeg_header(contents[0])[0]
    return [], Stored(key, "", places[0], side, read_metadata(contents[1]))
