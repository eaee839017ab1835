"""Third-party WebDataset tars, a directory of them or one, as a dataset; indexed at first use.

Members are grouped by webdataset's rule: DIR/BASE.EXT belongs to the sample DIR/BASE, and the
members of a sample are adjacent. Such a tar has no manifest, so all that is known is what it is
now: a sample beside a broken position may be incomplete and is not used, nor is a second one of a
key. webdataset's own `group_by_keys` would deliver both (docs/lab_notes.md, 2026-11-28).
"""

import hashlib
import json
import logging
import os
import re
import tempfile
from array import array
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from tarfile import BLOCKSIZE
from typing import Any, NamedTuple

import numpy as np

from maskedclip.data.photographs.decoding import ENDINGS_OF
from maskedclip.data.storage.first_bytes import not_the_file
from maskedclip.data.storage.retrying_files import RETRIED, RetryingFiles, Storage, read_file
from maskedclip.data.storage.shard_index import (
    INDEX_LIMIT,
    SampleTable,
    format_line,
    parse_lines,
    unreadable,
)
from maskedclip.data.storage.shard_writer import MANIFEST
from maskedclip.data.storage.tar import (
    REFUSED_LIMIT,
    TEXT_LIMIT,
    TarMember,
    members,
    name_problem,
    quoted,
)

logger = logging.getLogger(__name__)
COLUMNS = 12  # offset, size, crc32 of image, json, txt and cls
_SLOTS = {"jpg": 0, "jpeg": 0, "json": 1, "txt": 2, "cls": 3}  # of an extension, in a row
_OTHER_IMAGES = {e[1:] for endings in ENDINGS_OF.values() for e in endings} - _SLOTS.keys()
_FORMAT = 1
_LINES_AT_ONCE = 10_000
_PACKED = re.compile(
    r"[^.].*\.(tar\.(gz|bz2|xz|zstd?|lz4?|lzma|lzo|br|z|sz|7z|zip)|tgz|tbz2?|txz|tlz|tzst|taz)",
    re.IGNORECASE | re.DOTALL,
)
_COMPRESSED = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"\x28\xb5\x2f\xfd": "zstandard",
    b"PK\x03\x04": "zip",
}


class TarIndex(NamedTuple):
    """The samples of one tar, how many members of other kinds it has, and the index's hash."""

    table: SampleTable
    ignored: dict[str, int]
    sha256: str


def third_party_tars(path: Path) -> list[Path]:
    """Return the tars of a third-party dataset, none where the path is not one.

    A directory with an index or the notes of a build of ours is an unfinished dataset of ours.
    Raises ValueError where tars are compressed.
    """
    if path.suffix.lower() == ".tar" and not path.is_dir():
        return [path] if path.exists() else []
    if is_packed(path.name) and path.is_file():
        raise ValueError(f"{path}: is compressed; unpack it to a plain tar")
    if not path.is_dir() or (path / MANIFEST).exists():
        return []
    names = sorted(os.listdir(path))  # noqa: PTH208 - only names are asked for
    if ".building" in names or any(f"{Path(name).stem}.idx" in names for name in names):
        return []
    packed = [name for name in names if is_packed(name)]
    if packed:
        more = f" (and {len(packed) - 1} more)" if packed[1:] else ""
        raise ValueError(f"{path / packed[0]}{more}: is compressed; unpack it to a plain tar")
    return [path / name for name in names if name.lower().endswith(".tar") and name[0] != "."]


def is_packed(name: str) -> bool:
    """Return whether a file is a compressed tar, by its name."""
    return bool(_PACKED.fullmatch(name))


def stand_in_manifest(path: Path, tars: Sequence[Path], read: Sequence[TarIndex]) -> dict[str, Any]:
    """Return what stands for the manifest of these tars; its hash identifies the dataset."""
    ignored: Counter[str] = Counter()
    for index in read:
        ignored.update(index.ignored)
    if ignored:
        counts = ", ".join(f"{count} {kind}" for kind, count in ignored.items())
        logger.warning("%s: left out of its tars: %s", path, counts)
    shards = [
        {"file": tar.name, "samples": len(index.table.keys), "sha256": index.sha256}
        for tar, index in zip(tars, read, strict=True)
    ]
    return {
        "foreign": _FORMAT,
        "name": path.stem if path.suffix == ".tar" else path.resolve().name,
        "samples": sum(len(index.table.keys) for index in read),
        "classes": {},
        "ignored": dict(ignored),
        "shards": shards,
    }


def index_tar(path: Path, storage: Storage) -> TarIndex:
    """Return the samples of a tar, from its cached index or by reading all of it.

    Raises ValueError, in one line, where it cannot be read to its end or changes meanwhile: other
    processes of the run would see other samples.
    """
    files = RetryingFiles([path], storage)
    try:
        identity = _identity(files)
        cached = _cached(path, identity, storage)
        if cached is not None:
            return cached
        index, lines = _index(files)
        if _identity(RetryingFiles([path], storage)) != identity:
            raise ValueError(f"{path}: changed while it was read; wait until it is whole")
    except OSError as error:
        reason = f"cannot be read ({error.strerror})"
        if error.errno not in RETRIED:  # no plain file, or not ours to read: for every process
            return TarIndex(unreadable(1, reason), {}, hashlib.sha256(b"").hexdigest())
        raise ValueError(f"{path}: {reason}; try again, or name other shards") from None
    if lines:
        _cache(path, identity, index, lines)
    return index


def index_sha256(files: RetryingFiles) -> str:
    """Return what `index_tar` knows the first of `files` by, read anew; OSError as it is read."""
    return _index(files)[0].sha256


def _index(files: RetryingFiles) -> tuple[TarIndex, bytes]:
    """Return the samples of a tar and the lines of its index, no lines where it is compressed."""
    first = files.read(0, 64, 0)
    reason = _no_tar(first)
    if reason:
        return TarIndex(unreadable(1, reason), {}, hashlib.sha256(first).hexdigest()), b""
    grouping = Grouping()
    table = grouping.samples(
        members(lambda size, offset: files.read(0, size, offset), files.size(0))
    )
    lines = _lines(table)
    ignored = dict(sorted(grouping.ignored.items()))
    return TarIndex(table, ignored, hashlib.sha256(lines).hexdigest()), lines


def _no_tar(first: bytes) -> str:
    """Return what a file is that is no plain tar, by its first bytes; empty where it may be one."""
    for start, kind in _COMPRESSED.items():
        if first.startswith(start):
            return f"is compressed with {kind}; unpack it to a plain tar"
    return not_the_file(first)


def _lines(table: SampleTable) -> bytes:
    chunks = []
    for first in range(0, len(table.keys), _LINES_AT_ONCE):
        last = first + _LINES_AT_ONCE
        rows = zip(table.keys[first:last], table.extents[first:last].tolist(), strict=True)
        chunks.append("".join(f"{format_line(*row)}\n" for row in rows).encode())
    return b"".join(chunks)


def _identity(files: RetryingFiles) -> dict[str, Any]:
    """Return what changes when a tar does: size, time of change, and its first header."""
    first = hashlib.sha256(files.read(0, BLOCKSIZE, 0)).hexdigest()
    return {"size": files.size(0), "mtime_ns": files.changed_ns(0), "first_sha256": first}


def _cache_paths(path: Path, identity: dict[str, Any]) -> list[Path]:
    """Return where an index may be cached: beside the tar, else in the user's cache."""
    beside = path.with_name(path.name + ".index")
    try:
        home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    except RuntimeError:  # a user without a home, as in containers
        return [beside]
    of_path = [str(path.resolve()), identity["size"], identity["mtime_ns"]]
    name = hashlib.sha256(json.dumps(of_path).encode()).hexdigest()[:32]
    return [beside, Path(home) / "maskedclip" / f"{name}.index"]


def _cache(path: Path, identity: dict[str, Any], index: TarIndex, lines: bytes) -> None:
    facts = {"maskedclip_foreign_index": _FORMAT, **identity, "lines_sha256": index.sha256}
    facts |= {"ignored": index.ignored, "lost": index.table.lost}
    content = json.dumps(facts).encode() + b"\n" + lines
    failed = []
    for cache in _cache_paths(path, identity):
        try:
            cache.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            _replace(cache, content)
        except OSError as error:
            failed.append(f"{cache.parent} ({error.strerror})")
            continue
        logger.info("%s: indexed %d samples; kept in %s", path, len(index.table.keys), cache)
        return
    logger.warning("%s: its index cannot be kept in %s", path, " or ".join(failed))


def _replace(path: Path, content: bytes) -> None:
    """Write a file atomically, through a temporary of its own: other ranks may do the same."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".tmp")
    try:
        with open(descriptor, "wb") as file:  # noqa: PTH123 - a descriptor
            file.write(content)
        os.replace(name, path)  # noqa: PTH105
    except OSError:
        os.unlink(name)  # noqa: PTH108
        raise


def _cached(path: Path, identity: dict[str, Any], storage: Storage) -> TarIndex | None:
    """Return the cached index of exactly this tar, None where there is no whole one."""
    for cache in _cache_paths(path, identity):
        try:
            content = read_file(cache, INDEX_LIMIT, storage)
        except OSError:
            continue
        header, _, lines = content.partition(b"\n")
        digest = hashlib.sha256(lines).hexdigest()
        try:
            facts = json.loads(header)
            expected = {"maskedclip_foreign_index": _FORMAT, **identity, "lines_sha256": digest}
            if expected.items() <= facts.items():
                table = parse_lines(lines, COLUMNS)
                lost = {int(row): str(reason) for row, reason in facts["lost"].items()}
                if not lost.keys() <= set(range(len(table.keys))):
                    raise ValueError("it has lost rows that are not there")
                table.lost.update(lost)
                return TarIndex(table, dict(facts["ignored"]), digest)
        except (ValueError, RecursionError, TypeError, KeyError, AttributeError) as error:
            logger.warning("%s: is no index (%s); the tar is read again", cache, type(error))
    return None


def key_of(name: str) -> tuple[str, str]:
    """Return (key, extension in lower case) of a member; no key where it is of no sample."""
    from webdataset.tariterators import base_plus_ext  # brings torch: a second of import

    key, extension = base_plus_ext(name.removeprefix("./"))
    if not extension or key.endswith("/"):  # a hidden file in a folder, which it takes for a sample
        return "", ""
    return key, extension.lower()


class _Group:
    """The members of one sample so far."""

    def __init__(self, key: str, problem: str) -> None:
        self.key, self.problem = key, problem
        self.extents = [0] * COLUMNS
        self.other_image = ""

    def add(self, member: TarMember, extension: str) -> None:
        slot = _SLOTS[extension]
        problem = member.problem
        if self.extents[3 * slot]:
            problem = f"has two members of the kind {extension}"
        elif slot and member.size > TEXT_LIMIT:
            problem = f"its {extension} has {member.size} bytes, over the limit of {TEXT_LIMIT}"
        elif not slot and not problem and not member.size:
            problem = "its image is empty"
        self.problem = self.problem or problem
        self.extents[3 * slot : 3 * slot + 3] = member[1:4]

    def reason(self) -> str:
        """Return why the sample cannot be read, empty where it can."""
        if self.problem or self.extents[0]:
            return self.problem
        if self.other_image:
            advice = "unpack the tar and build it with make_shards folder"
            return f"its image is {self.other_image}, and only JPEG is read: {advice}"
        return "has no image"


class Grouping:
    """Groups members into samples, in the order of the tar; counts the members it ignored."""

    def __init__(self) -> None:
        self.ignored: Counter[str] = Counter()
        self._keys: list[str] = []
        self._known: set[str] = set()
        self._numbers = array("q")
        self._lost: dict[int, str] = {}
        self._group: _Group | None = None
        self._doubt = ""  # of the next sample

    def samples(self, members: Iterable[TarMember]) -> SampleTable:
        """Return the samples of a tar's members."""
        for member in members:
            if member.broken:
                self._doubt = f"may lack a member: {member.problem}"
                self._end(self._doubt)
                self._append("", [0] * COLUMNS, member.problem)
            else:
                self._add(member)
            if len(self._lost) > REFUSED_LIMIT:
                reason = f"comes behind {REFUSED_LIMIT:,} samples that cannot be had, the limit"
                self._append("", [0] * COLUMNS, reason)
                break
        self._end()
        extents = np.frombuffer(self._numbers, dtype=np.int64).reshape(-1, COLUMNS)
        return SampleTable(self._keys, extents, self._lost)

    def _add(self, member: TarMember) -> None:
        if member.name.endswith("/") and not member.problem:
            self.ignored["folders"] += 1
            return
        key, extension = key_of(member.name)
        if member.problem and (not key or name_problem(member.name)):
            self._append("", [0] * COLUMNS, member.problem)
            return
        if not key:
            self.ignored["without a key"] += 1
            return
        if self._group is None or self._group.key != key:
            self._end()
            self._group = _Group(key, self._doubt)
            self._doubt = ""
        if extension in _SLOTS:
            self._group.add(member, extension)
        elif member.problem:
            self._group.problem = self._group.problem or member.problem
        else:
            self.ignored[f".{extension}"[:40]] += 1
            if extension in _OTHER_IMAGES:
                self._group.other_image = extension

    def _end(self, doubt: str = "") -> None:
        group, self._group = self._group, None
        if group is None:
            return
        if group.key in self._known:
            self._append("", group.extents, f"the key {quoted(group.key)} is there before")
            return
        self._known.add(group.key)
        self._append(group.key, group.extents, group.reason() or doubt)

    def _append(self, key: str, extents: list[int], reason: str) -> None:
        if reason:
            self._lost[len(self._keys)] = reason
        self._keys.append(key)
        self._numbers.extend([0] * COLUMNS if reason else extents)
