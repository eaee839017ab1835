"""The samples of a shard of ours, with its index or, where that is damaged, without it.

An index with the sha256 that the manifest names vouches for each sample by its crc32. Without it
the tar is indexed anew, and believed once the text of that index has the sha256, or else the whole
tar. Where both files are damaged in few lines, the right text is looked for among what either says,
again by sha256. Nothing else is believed: tar and index of another build agree with each other too.
"""

import hashlib
import itertools
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from maskedclip.data.storage.index_file import (
    INDEX_HEADER,
    INDEX_LIMIT,
    Table,
    format_line,
    nothing_of,
    parse_lines,
    refuse_keys,
)
from maskedclip.data.storage.retrying_files import Files, Storage, read_file
from maskedclip.data.storage.tar_members import members

logger = logging.getLogger(__name__)
COLUMNS = 6  # offset, size, crc32 of the image and of the metadata
_DOUBTFUL = 10  # lines in which tar and index may differ: 2^10 texts are tried
_PIECE = 1 << 23  # bytes hashed at once


def read_own(directory: Path, entry: Mapping[str, Any], storage: Storage) -> Table:
    """Return the samples of a shard, as many as the manifest's entry says.

    Raises ValueError where the index is the manifest's but has another number of samples.
    """
    path, count = directory / entry["index"], int(entry["samples"])
    content = b""
    try:
        content = read_file(path, INDEX_LIMIT, storage)
        found = "is not the index that the manifest names"
    except FileNotFoundError:
        found = "is missing"
    except OSError as error:
        found = f"cannot be read ({error.strerror})"
    if hashlib.sha256(content).hexdigest() == entry["index_sha256"]:
        return _table(content, path, count)
    logger.warning("%s: %s; the samples are looked for in the tar; build it again", path, found)
    return _without_index(directory, entry, (content, found), storage)


def _table(content: bytes, path: Path, count: int) -> Table:
    header, _, lines = content.partition(b"\n")
    if header.decode("ascii", "replace") != INDEX_HEADER:
        raise ValueError(f"{path}: begins with {header[:40]!r}, not {INDEX_HEADER!r}; build again")
    table = parse_lines(lines, COLUMNS)
    if len(table.keys) != count:
        found = f"has {len(table.keys)} samples, the manifest says {count}"
        raise ValueError(f"{path}: {found}; build the dataset again")
    refuse_keys(table)
    return table


def _without_index(
    directory: Path, entry: Mapping[str, Any], index: tuple[bytes, str], storage: Storage
) -> Table:
    path, count = directory / entry["file"], int(entry["samples"])
    (content, found), files = index, Files([path], storage)
    try:
        anew = _lines_of(files)
        for text in _texts(content, anew, count):
            if hashlib.sha256(text).hexdigest() == entry["index_sha256"]:
                return _table(text, path, count)
        if len(anew) == count and _sha256(files) == entry["sha256"]:
            return _table(_text(anew), path, count)
    except OSError as error:
        return nothing_of(count, f"its index {found}, the tar {_words(error)}")
    reason = f"its index {found}, and the tar is damaged or another: nothing vouches for a sample"
    return nothing_of(count, reason)


def _words(error: OSError) -> str:
    missing = isinstance(error, FileNotFoundError)
    return "is missing" if missing else f"cannot be read ({error.strerror})"


def _lines_of(files: Files) -> list[str]:
    """Return the lines of the index of a tar, as far as its members are pairs."""
    lines: list[str] = []
    previous = None
    for member in members(lambda size, offset: files.read(0, size, offset), files.size(0)):
        key = member.name.removesuffix(".json")
        if previous is not None and (member.name, previous.name) == (f"{key}.json", f"{key}.jpg"):
            lines.append(format_line(key, [*previous[1:4], *member[1:4]]))
        previous = member
    return lines


def _texts(content: bytes, anew: Sequence[str], count: int) -> "itertools.chain[bytes]":
    """Return the texts that the index may have been: the tar's, then mixtures with the file's."""
    kept = content.decode("utf-8", "surrogateescape").split("\n")[1:-1]
    base, other = (kept, anew) if len(kept) == count else (anew, kept)
    if len(base) != count:
        return itertools.chain()
    by_key = {line.partition("\t")[0]: line for line in other}
    aligned = other if len(other) == count else [""] * count
    choices = []
    for line, beside in zip(base, aligned, strict=True):
        second = by_key.get(line.partition("\t")[0], beside) or line
        choices.append((line,) if line == second else (line, second))
    if sum(len(choice) > 1 for choice in choices) > _DOUBTFUL:
        choices = [(line,) for line in base]
    return itertools.chain([_text(anew)], map(_text, itertools.product(*choices)))


def _text(lines: Sequence[str]) -> bytes:
    return "\n".join([INDEX_HEADER, *lines, ""]).encode("utf-8", "surrogateescape")


def _sha256(files: Files) -> str:
    digest, place = hashlib.sha256(), 0
    while piece := files.read(0, _PIECE, place):
        digest.update(piece)
        place += len(piece)
    return digest.hexdigest()
