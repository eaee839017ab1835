"""What is wrong with one shard: its files, its members and its samples.

Nothing is extracted and nothing is believed: headers are read one by one by `tarfile`'s parser, so
links, devices, long names and sizes beyond the file end as lines of the report.
"""

import hashlib
import json
import os
import re
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import simplejpeg
from isal.isal_zlib import crc32

from maskedclip.data.storage.shard_writer import EMPTY_METADATA, INDEX_HEADER, MANIFEST

JPEG_LIMIT, JSON_LIMIT = 1 << 26, 1 << 20  # bytes of a member; what is larger is not read
SIDE_LIMIT = 8192  # pixels; what is larger is not decoded
_SEGMENTS = {0xE1: "EXIF or XMP", 0xE2: "a colour profile", 0xED: "IPTC", 0xFE: "a comment"}


class Metadata(NamedTuple):
    """What the check keeps of a sample's JSON."""

    source: str
    patient: str | None
    split: str | None
    labels: dict[str, str]
    captioned: bool
    width: int
    height: int
    sha256: str


def _text(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


def _count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _hex(digits: int) -> Callable[[Any], bool]:
    return lambda value: (
        isinstance(value, str) and bool(re.fullmatch(rf"[0-9a-f]{{{digits}}}", value))
    )


def _labels(value: Any) -> bool:
    return isinstance(value, dict) and all(_text(k) and _text(v) for k, v in value.items())


# field of the contract: (what it must be, whether it may be null, the words for it)
_FIELDS: dict[str, tuple[Callable[[Any], bool], bool, str]] = {
    "dataset": (_text, False, "text"),
    "source": (_text, False, "text"),
    "patient": (_text, True, "text or null"),
    "eye": (lambda value: value in ("L", "R"), True, "L, R or null"),
    "split": (_text, True, "text or null"),
    "labels": (_labels, False, "texts by text"),
    "categories": (
        lambda value: isinstance(value, list) and all(map(_text, value)),
        False,
        "a list of texts",
    ),
    "report": (_text, True, "text or null"),
    "width": (_count, False, "a number of pixels"),
    "height": (_count, False, "a number of pixels"),
    "sha256": (_hex(64), False, "64 hex digits"),
    "phash": (_hex(16), False, "16 hex digits"),
}
assert _FIELDS.keys() == EMPTY_METADATA.keys()


def metadata_problems(content: bytes, dataset: str) -> Iterator[str]:
    """Yield what is wrong with a sample's JSON."""
    try:
        found = json.loads(content)
    except (ValueError, RecursionError) as error:
        yield f"metadata is not JSON ({' '.join(str(error).split())[:80]})"
        return
    if not isinstance(found, dict):
        yield "metadata is not a JSON object"
        return
    for name, (fits, may_be_null, words) in _FIELDS.items():
        if name not in found:
            yield f"metadata has no {name}"
        elif not (fits(found[name]) or (may_be_null and found[name] is None)):
            yield f"metadata: {name} is not {words}"
    for name in sorted(found.keys() - _FIELDS.keys()):
        yield f"metadata has a field {name[:40]!r} that the format does not know"
    if _text(found.get("dataset")) and found["dataset"] != dataset:
        yield f"metadata is of dataset {found['dataset'][:40]!r}, not of {dataset!r}"


def read_metadata(content: bytes) -> Metadata:
    """Return what is kept of a JSON without problems."""
    found = json.loads(content)
    names = Metadata._fields
    captioned = bool(found["categories"] or found["report"])
    return Metadata(**{name: found[name] for name in names if name in found}, captioned=captioned)


def jpeg_problems(content: bytes, largest: int) -> Iterator[str]:
    """Yield what is wrong with a stored photograph of at most `largest` pixels a side."""
    try:
        height, width, _, _ = simplejpeg.decode_jpeg_header(content)
    except ValueError as error:
        yield f"image is no JPEG ({error})"
        return
    if height != width:
        yield f"image is {width}x{height}, not square"
    if max(height, width) > largest:
        yield f"image is {width}x{height}, larger than {largest}"
    if max(height, width) > SIDE_LIMIT:
        return
    try:
        simplejpeg.decode_jpeg(content, "RGB", strict=True)
    except ValueError as error:
        yield f"image does not decode ({error})"
    yield from (f"image carries {name}" for name in _carried(content))


def _carried(content: bytes) -> Iterator[str]:
    """Yield what a JPEG carries besides the picture: it may tell who the patient is."""
    place = 2
    while place + 4 <= len(content) and content[place] == 0xFF:
        marker = content[place + 1]
        if marker == 0xDA:  # the picture itself begins
            return
        if marker == 0xFF:  # a fill byte
            place += 1
            continue
        if 0xE1 <= marker <= 0xEF or marker == 0xFE:
            yield _SEGMENTS.get(marker, f"a segment of application {marker - 0xE0}")
        place += 2 + int.from_bytes(content[place + 2 : place + 4], "big")


_BLOCK = tarfile.BLOCKSIZE
_INDEX_LIMIT = 1 << 28  # bytes


class Problem(NamedTuple):
    """One thing that is wrong."""

    file: str
    key: str  # empty where it is not of one sample
    reason: str


class MemberSpan(NamedTuple):
    """Where a member lies, as an index says."""

    offset: int
    size: int
    crc32: int


class StoredSample(NamedTuple):
    """A whole sample: where its photograph lies, and what is said of it."""

    key: str
    shard: str
    jpeg: MemberSpan
    side: int  # pixels
    metadata: Metadata


def read_jpeg(directory: Path, sample: StoredSample) -> bytes:
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
) -> tuple[list[Problem], list[StoredSample], list[str]]:
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


def _read_index(path: Path) -> tuple[list[tuple[str, MemberSpan, MemberSpan]], list[str]]:
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
            rows.append((key, MemberSpan(*values[:3]), MemberSpan(*values[3:])))
    return rows, problems


def _tar_problems(file: BinaryIO, rows: list[tuple[str, MemberSpan, MemberSpan]]) -> Iterator[str]:
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
    file: BinaryIO, row: tuple[str, MemberSpan, MemberSpan], expected: tuple[str, int]
) -> tuple[list[str], StoredSample | None]:
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
    return [], StoredSample(key, "", places[0], side, read_metadata(contents[1]))
