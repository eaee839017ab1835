"""A directory of tars of other makers, or one such tar, as a dataset."""

import hashlib
import json
import logging
import os
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from maskedclip.data.storage.index_file import (
    INDEX_LIMIT,
    Table,
    format_line,
    nothing_of,
    parse_lines,
)
from maskedclip.data.storage.retrying_files import RETRIED, Files, Storage, read_file
from maskedclip.data.storage.shard_writer import MANIFEST
from maskedclip.data.storage.tar_headers import BLOCK
from maskedclip.data.storage.tar_members import members
from maskedclip.data.storage.third_party_index import COLUMNS, Found, Grouping, remark

logger = logging.getLogger(__name__)
_FORMAT = 1
_AT_ONCE = 10_000  # samples, whose numbers are Python's for a moment
_PACKED = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"\x28\xb5\x2f\xfd": "zstandard",
    b"PK\x03\x04": "zip",
}


class Indexed(NamedTuple):
    """One tar: its samples, what was left out, and the hash of what was found."""

    found: Found
    sha256: str


def foreign_tars(path: Path) -> list[Path]:
    """Return the tars of a dataset of another maker, none where the path is not one.

    A directory with an index or the notes of a build of ours is a dataset that is not finished.
    Raises ValueError where tars are compressed.
    """
    if path.suffix == ".tar" and not path.is_dir():
        return [path] if path.exists() else []
    if not path.is_dir() or (path / MANIFEST).exists():
        return []
    names = sorted(os.listdir(path))  # noqa: PTH208 - only names are asked for
    if ".building" in names or any(f"{Path(name).stem}.idx" in names for name in names):
        return []
    packed = [name for name in names if name.endswith((".tar.gz", ".tgz", ".tar.xz", ".tar.zst"))]
    if packed:
        raise ValueError(f"{path / packed[0]}: is compressed; unpack it to a plain tar")
    return [path / name for name in names if name.endswith(".tar") and name[0] != "."]


def read_foreign(path: Path, storage: Storage) -> Indexed:
    """Return the samples of a tar, from the index kept of it or by reading all of it.

    Raises ValueError, in one line, where it cannot be read to its end or changes meanwhile: other
    processes of the run would see other samples.
    """
    files = Files([path], storage)
    try:
        identity = _identity(files)
        kept = _kept(path, identity, storage)
        if kept is not None:
            return kept
        indexed, lines = _index(files)
        if _identity(Files([path], storage)) != identity:
            raise ValueError(f"{path}: changed while it was read; wait until it is whole")
    except OSError as error:
        reason = f"cannot be read ({error.strerror})"
        if error.errno not in RETRIED:  # no plain file, or not ours to read: for every process
            return Indexed(Found(nothing_of(1, reason), {}), hashlib.sha256(b"").hexdigest())
        raise ValueError(f"{path}: {reason}; try again, or name other shards") from None
    if lines:
        _keep(path, identity, indexed, lines)
    return indexed


def _index(files: Files) -> tuple[Indexed, bytes]:
    """Return the samples of a tar and the lines of its index, no lines where it is packed."""
    first = files.read(0, 6, 0)
    for start, kind in _PACKED.items():
        if first.startswith(start):
            reason = f"is compressed with {kind}; unpack it to a plain tar"
            found = Found(nothing_of(1, reason), {})
            return Indexed(found, hashlib.sha256(first).hexdigest()), b""
    walk = members(lambda size, offset: files.read(0, size, offset), files.size(0))
    found = Grouping().found(walk)
    lines = _lines(found.table)
    return Indexed(found, hashlib.sha256(lines).hexdigest()), lines


def _lines(table: Table) -> bytes:
    pieces = []
    for first in range(0, len(table.keys), _AT_ONCE):
        last = first + _AT_ONCE
        rows = zip(table.keys[first:last], table.places[first:last].tolist(), strict=True)
        pieces.append("".join(f"{format_line(*row)}\n" for row in rows).encode())
    return b"".join(pieces)


def _identity(files: Files) -> dict[str, Any]:
    """Return what changes when a tar does: size, time of change, and its first header."""
    first = hashlib.sha256(files.read(0, BLOCK, 0)).hexdigest()
    return {"size": files.size(0), "mtime_ns": files.changed_ns(0), "first_sha256": first}


def _places(path: Path, identity: dict[str, Any]) -> list[Path]:
    """Return where an index may be kept: beside the tar, else in the user's cache."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    of_path = [str(path.resolve()), identity["size"], identity["mtime_ns"]]
    name = hashlib.sha256(json.dumps(of_path).encode()).hexdigest()[:32]
    return [path.with_name(path.name + ".index"), Path(home) / "maskedclip" / f"{name}.index"]


def _keep(path: Path, identity: dict[str, Any], indexed: Indexed, lines: bytes) -> None:
    table, ignored = indexed.found
    facts = {"maskedclip_foreign_index": _FORMAT, **identity, "lines_sha256": indexed.sha256}
    facts |= {"ignored": ignored, "lost": table.lost}
    content = json.dumps(facts).encode() + b"\n" + lines
    failed = []
    for place in _places(path, identity):
        try:
            place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            _replace(place, content)
        except OSError as error:
            failed.append(f"{place.parent} ({error.strerror})")
            continue
        logger.info("%s: indexed %d samples; kept in %s", path, len(table.keys), place)
        return
    logger.warning("%s: its index cannot be kept in %s", path, " or ".join(failed))


def _replace(place: Path, content: bytes) -> None:
    """Write a file in one go, under a name of its own: other ranks may be doing the same."""
    descriptor, name = tempfile.mkstemp(dir=place.parent, prefix=".", suffix=".tmp")
    try:
        with open(descriptor, "wb") as file:  # noqa: PTH123 - a descriptor
            file.write(content)
        os.replace(name, place)  # noqa: PTH105
    except OSError:
        os.unlink(name)  # noqa: PTH108
        raise


def _kept(path: Path, identity: dict[str, Any], storage: Storage) -> Indexed | None:
    """Return the index that was kept of just this tar, None where there is none that is whole."""
    for place in _places(path, identity):
        try:
            content = read_file(place, INDEX_LIMIT, storage)
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
                return Indexed(Found(table, dict(facts["ignored"])), digest)
        except (ValueError, RecursionError, TypeError, KeyError, AttributeError) as error:
            logger.warning("%s: is no index (%s); the tar is read again", place, type(error))
    return None


def foreign_manifest(path: Path, tars: Sequence[Path], read: Sequence[Indexed]) -> dict[str, Any]:
    """Return what stands for a manifest of these tars; its hash says what the dataset is."""
    ignored: Counter[str] = Counter()
    for indexed in read:
        ignored.update(indexed.found.ignored)
    if ignored:
        logger.warning("%s: left out of its tars: %s", path, remark(ignored))
    shards = [
        {"file": tar.name, "samples": len(indexed.found.table.keys), "sha256": indexed.sha256}
        for tar, indexed in zip(tars, read, strict=True)
    ]
    name = path.stem if path.suffix == ".tar" else path.resolve().name
    samples = sum(len(indexed.found.table.keys) for indexed in read)
    return {
        "foreign": _FORMAT,
        "name": name,
        "samples": samples,
        "classes": {},
        "ignored": dict(ignored),
        "shards": shards,
    }
