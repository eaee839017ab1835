"""The index beside a shard: where the members of each sample lie, and their checksums.

A line a sample: its key, and of each member offset, size and crc32, tab separated. An index with
the sha256 that the manifest names vouches for each sample by its crc32. Where it is damaged, the
shard is indexed again if the tar has the sha256 that the manifest names; else nothing vouches for
its samples, and all of them are lost.
"""

import hashlib
import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from maskedclip.data.storage.retrying_files import RetryingFiles, Storage, read_file
from maskedclip.data.storage.tar import IMAGE_LIMIT, TEXT_LIMIT, members

logger = logging.getLogger(__name__)
INDEX_HEADER = "#maskedclip-index 1"
INDEX_LIMIT = 1 << 29  # bytes
COLUMNS = 6  # offset, size, crc32 of the image and of the metadata
_OFFSET_LIMIT = 1 << 50  # bytes
_CHUNK = 1 << 23  # bytes hashed at once
_DIGITS = b"0123456789\t"
_LETTERS = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-\n"


class SampleTable(NamedTuple):
    """The samples of one tar, in its order: the key and the extents of the members of each."""

    keys: list[str]  # empty where the key of a lost sample is not known
    extents: np.ndarray  # int64, a row a sample: offset, size, crc32 of each member
    lost: dict[int, str]  # row to the reason why it cannot be read
    reason: str = ""  # why nothing of the tar can be read; there are keys, but no extents


def unreadable(samples: int, reason: str) -> SampleTable:
    """Return the table of a tar of which nothing can be read."""
    return SampleTable([""] * samples, np.empty((0, 0), dtype=np.int64), {}, reason)


def read_index(directory: Path, entry: Mapping[str, Any], storage: Storage) -> SampleTable:
    """Return the samples of a shard, as many as the manifest's entry says.

    Raises ValueError where the index is the manifest's but has another number of samples.
    """
    path, count = directory / entry["index"], int(entry["samples"])
    content = b""
    try:
        content = read_file(path, INDEX_LIMIT, storage)
        problem = "is not the index that the manifest names"
    except OSError as error:
        problem = _in_words(error)
    if hashlib.sha256(content).hexdigest() == entry["index_sha256"]:
        return _table(content, path, count)
    table = _indexed_again(directory / entry["file"], entry, problem, storage)
    outcome = f"its {count} samples are lost" if table.reason else "indexed again from the tar"
    logger.warning("%s: %s; %s; build the dataset again", path, problem, outcome)
    return table


def _in_words(error: OSError) -> str:
    missing = isinstance(error, FileNotFoundError)
    return "is missing" if missing else f"cannot be read ({error.strerror})"


def _table(content: bytes, path: Path, count: int) -> SampleTable:
    header, _, lines = content.partition(b"\n")
    if header.decode("ascii", "replace") != INDEX_HEADER:
        raise ValueError(f"{path}: begins with {header[:40]!r}, not {INDEX_HEADER!r}; build again")
    table = parse_lines(lines, COLUMNS)
    if len(table.keys) != count:
        difference = f"has {len(table.keys)} samples, the manifest says {count}"
        raise ValueError(f"{path}: {difference}; build the dataset again")
    _refuse_keys(table)
    return table


def _indexed_again(
    path: Path, entry: Mapping[str, Any], problem: str, storage: Storage
) -> SampleTable:
    files, count = RetryingFiles([path], storage), int(entry["samples"])
    try:
        if file_sha256(files) == entry["sha256"]:
            return _table(_index_text(files), path, count)
    except OSError as error:
        return unreadable(count, f"its index {problem}, the tar {_in_words(error)}")
    damage = "the sha256 of the tar is not the manifest's: nothing vouches for a sample"
    return unreadable(count, f"its index {problem}, and {damage}")


def file_sha256(files: RetryingFiles) -> str:
    """Return the hash of the first of `files`; OSError as it is read."""
    digest, offset = hashlib.sha256(), 0
    while chunk := files.read(0, _CHUNK, offset):
        digest.update(chunk)
        offset += len(chunk)
    return digest.hexdigest()


def _index_text(files: RetryingFiles) -> bytes:
    """Return the index of a shard of ours, as it was written: same tar, same bytes."""
    walk = members(lambda size, offset: files.read(0, size, offset), files.size(0))
    lines = [INDEX_HEADER]
    for image, metadata in zip(walk, walk, strict=False):
        key = image.name.removesuffix(".jpg")
        lines.append(format_line(key, [*image[1:4], *metadata[1:4]]))
    return ("\n".join(lines) + "\n").encode()


def _is_plain_key(key: str) -> bool:
    """Return whether a key can be one of ours."""
    return bool(key) and key.isprintable() and not {".", "/", "\\"} & set(key)


def format_line(key: str, extents: Iterable[int]) -> str:
    """Return the line of one sample, without its end."""
    return "\t".join([key, *map(str, extents)])


def parse_lines(content: bytes, columns: int) -> SampleTable:
    """Return the samples of the lines of an index; one that is no key and numbers is lost."""
    rows = content.decode("utf-8", "surrogateescape").split("\n")
    if rows[-1] == "":  # after the end of the last line
        rows.pop()
    parts = [row.partition("\t") for row in rows]
    keys = [key for key, _, _ in parts]
    extents = _numbers([rest for _, _, rest in parts], columns)
    lost = dict.fromkeys(_rows(extents < 0), "its line of the index is no key and numbers")
    highest = [_OFFSET_LIMIT, TEXT_LIMIT, (1 << 32) - 1] * (columns // 3)
    highest[1] = IMAGE_LIMIT
    beyond = "its line of the index has an offset or a size over the limit"
    lost |= dict.fromkeys(_rows(extents > np.array(highest)), beyond)
    return SampleTable(keys, extents, lost)


def _refuse_keys(table: SampleTable) -> None:
    """Give up the samples of a table whose key cannot be one of ours."""
    letters = "\n".join(table.keys).encode("utf-8", "surrogateescape")
    if letters.translate(None, _LETTERS) or not all(table.keys):
        for row, key in enumerate(table.keys):
            if not _is_plain_key(key):
                table.lost.setdefault(row, f"its key {key[:40]!a} is empty or is not plain")
                table.keys[row] = ""


def _numbers(rests: Sequence[str], columns: int) -> np.ndarray:
    """Return the extents, -1 all over the row of a text that is not `columns` numbers."""
    tabs = columns - 1
    together = "\t".join(rests).encode("utf-8", "surrogateescape")
    if not together.translate(None, _DIGITS) and all(rest.count("\t") == tabs for rest in rests):
        values = np.fromstring(together, dtype=np.int64, sep="\t")
        if values.size == columns * len(rests):
            return values.reshape(-1, columns)
    rows = [_row(rest, columns) for rest in rests]
    return np.array(rows, dtype=np.int64).reshape(-1, columns)


def _row(rest: str, columns: int) -> list[int]:
    fields = rest.split("\t")
    if len(fields) != columns or not all(f.isascii() and f.isdigit() for f in fields):
        return [-1] * columns
    return [min(int(field[:20]), 1 << 62) for field in fields]


def _rows(is_bad: np.ndarray) -> list[int]:
    return [int(row) for row in np.flatnonzero(is_bad.any(axis=1))]
