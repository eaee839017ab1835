"""Check one shard: its files, its tar members and its samples.

Nothing is extracted and nothing is trusted: headers are read one by one by `tarfile`'s parser, so
links, devices, long names and sizes beyond the file end as lines of the report.
"""

import hashlib
import json
import os
import re
import tarfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import simplejpeg
from isal.isal_zlib import crc32

from maskedclip.data.cell_values import patient_of
from maskedclip.data.label_kinds import is_number, labels_in
from maskedclip.data.storage.shard_writer import EMPTY_METADATA, INDEX_HEADER, MANIFEST

JPEG_LIMIT, JSON_LIMIT = 1 << 26, 1 << 20  # bytes of a member; what is larger is not read
SIDE_LIMIT = 8192  # pixels; what is larger is not decoded
_SEGMENTS = {0xE1: "EXIF or XMP", 0xE2: "a colour profile", 0xED: "IPTC", 0xFE: "a comment"}


class Metadata(NamedTuple):
    """The fields of a sample's JSON that the check uses."""

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
    return isinstance(value, dict) and all(
        _text(k) and isinstance(v, str) for k, v in value.items()
    )


# field of the contract: (test of its value, whether it may be null, description)
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


def metadata_problems(content: bytes, manifest: Mapping[str, Any]) -> Iterator[str]:
    """Yield the problems of a sample's JSON, of the dataset of this manifest."""
    dataset = str(manifest["name"])
    try:
        metadata = json.loads(content)
    except (ValueError, RecursionError) as error:
        yield f"metadata is not JSON ({' '.join(str(error).split())[:80]})"
        return
    if not isinstance(metadata, dict):
        yield "metadata is not a JSON object"
        return
    for name, (fits, may_be_null, words) in _FIELDS.items():
        if name not in metadata:
            yield f"metadata has no {name}"
        elif not (fits(metadata[name]) or (may_be_null and metadata[name] is None)):
            yield f"metadata: {name} is not {words}"
    for name in sorted(metadata.keys() - _FIELDS.keys()):
        yield f"metadata has a field {name[:40]!r} that the format does not know"
    if _labels(metadata.get("labels")):
        for task, text in metadata["labels"].items():
            yield from _label_problems(task, text, manifest)
    if _text(metadata.get("dataset")) and metadata["dataset"] != dataset:
        yield f"metadata is of dataset {metadata['dataset'][:40]!r}, not of {dataset!r}"


def _label_problems(task: str, text: str, manifest: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is wrong with the label of a sample (data/label_kinds.py)."""
    kinds, classes = manifest.get("kinds", {}), manifest.get("classes", {})
    kind = kinds.get(task, "class") if isinstance(kinds, dict) else "class"
    if kind == "number":
        if not is_number(text):
            yield f"metadata: the label {task} is {text[:40]!r}, no finite number"
    elif kind == "labels":
        order = classes.get(task, ()) if isinstance(classes, dict) else ()
        if [name for name in order if name in labels_in(text)] != labels_in(text):
            yield f"metadata: the labels {task} are {text[:40]!r}, not of {MANIFEST} in its order"
    elif not text:
        yield f"metadata: the label {task} is empty"


def read_metadata(content: bytes) -> Metadata:
    """Return the used fields of a JSON without problems."""
    fields = json.loads(content)
    captioned = bool(fields["categories"] or fields["report"])
    used = {name: fields[name] for name in Metadata._fields if name in fields}
    used["patient"] = patient_of(used["patient"])
    return Metadata(**used, captioned=captioned)


def jpeg_problems(content: bytes, largest: int) -> Iterator[str]:
    """Yield the problems of a stored photograph of at most `largest` pixels a side."""
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
    """Yield the metadata segments of a JPEG: they may identify the patient."""
    offset = 2
    while offset + 4 <= len(content) and content[offset] == 0xFF:
        marker = content[offset + 1]
        if marker == 0xDA:  # the image data begin
            return
        if marker == 0xFF:  # a fill byte
            offset += 1
            continue
        if 0xE1 <= marker <= 0xEF or marker == 0xFE:
            yield _SEGMENTS.get(marker, f"a segment of application {marker - 0xE0}")
        offset += 2 + int.from_bytes(content[offset + 2 : offset + 4], "big")


_BLOCK = tarfile.BLOCKSIZE
_INDEX_LIMIT = 1 << 28  # bytes


class Problem(NamedTuple):
    """One problem of a file or a sample."""

    file: str
    key: str  # empty where it is not about one sample
    reason: str


class MemberSpan(NamedTuple):
    """Where a member lies according to the index."""

    offset: int
    size: int
    crc32: int


class StoredSample(NamedTuple):
    """An intact sample: where its photograph lies, and its metadata."""

    key: str
    shard: str
    jpeg: MemberSpan
    side: int  # pixels
    metadata: Metadata
    is_square: bool = True  # the square of its field, as builds of ours store it


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
    expected: tuple[Mapping[str, Any], int],
    done: Callable[[int], object],
) -> tuple[list[Problem], list[StoredSample], list[str]]:
    """Return the problems, the intact samples and all the keys of one shard."""
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
    actual = path.stat().st_size
    if size is not None and actual != size:
        yield Problem(name, "", f"has {actual} bytes, {MANIFEST} says {size}")
    with path.open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != sha256:
            yield Problem(name, "", f"has another sha256 than {MANIFEST} says")


def _read_index(path: Path) -> tuple[list[tuple[str, MemberSpan, MemberSpan]], list[str]]:
    """Return the valid rows of an index, and the problems of the others."""
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
        (f"{key}.{end}", span.offset, span.size)
        for key, *spans in rows
        for end, span in zip(("jpg", "json"), spans, strict=True)
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
    """Yield (member, "") for every header of a tar, and (None, reason) where it is cut short."""
    size, offset = os.fstat(file.fileno()).st_size, 0
    while offset < size:
        block = os.pread(file.fileno(), _BLOCK, offset)
        if block == bytes(_BLOCK):
            return
        try:
            member = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except tarfile.TarError as error:
            yield None, f"no header of a member at byte {offset} ({error})"
            return
        member.offset_data = offset + _BLOCK
        if not 0 <= member.size <= size - member.offset_data:
            yield None, f"the member at byte {offset} is longer than the file"
            return
        yield member, ""
        offset = member.offset_data + -(-member.size // _BLOCK) * _BLOCK
    yield None, "has no end: it was cut short"


def _check_sample(
    file: BinaryIO, row: tuple[str, MemberSpan, MemberSpan], expected: tuple[Mapping[str, Any], int]
) -> tuple[list[str], StoredSample | None]:
    key, *spans = row
    contents, reasons = [], []
    for span, limit, member in zip(
        spans, (JPEG_LIMIT, JSON_LIMIT), ("image", "metadata"), strict=True
    ):
        content = b""
        if span.size > limit:
            reasons.append(f"{member} of {span.size} bytes is over the limit of {limit}")
        else:
            content = os.pread(file.fileno(), span.size, span.offset)
            if len(content) < span.size:
                reasons.append(f"{member} has {len(content)} of {span.size} bytes")
            elif crc32(content) != span.crc32:
                reasons.append(f"{member} has another checksum than the index says")
        contents.append(content)
    if reasons:  # the content is damaged: its fields need no check
        return reasons, None
    manifest, largest = expected
    reasons = [*jpeg_problems(contents[0], largest), *metadata_problems(contents[1], manifest)]
    if reasons:
        return reasons, None
    side = simplejpeg.decode_jpeg_header(contents[0])[0]
    return [], StoredSample(key, "", spans[0], side, read_metadata(contents[1]))
