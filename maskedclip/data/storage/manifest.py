"""The manifest of a dataset directory, read and verified.

It has the sha256 of everything else, and one of itself: a flipped bit in it ends as an error. One
written before that line existed is checked for consistency alone.
"""

import json
import os
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from maskedclip.data.storage.retrying_files import Storage, read_file
from maskedclip.data.storage.shard_writer import (
    FORMAT_VERSION,
    MANIFEST,
    SELF_SHA256,
    manifest_sha256,
)

_LIMIT = 1 << 28  # bytes
_SAMPLE_LIMIT = 10_000_000  # of a dataset
_SHA256 = re.compile("[0-9a-f]{64}")
_FIX = "build the dataset again"
_DEPTH = 4  # folders within a folder, that are looked into for shards


def read_manifest(directory: Path, storage: Storage | None = None) -> dict[str, Any]:
    """Return the manifest of a finished dataset unverified, for a check that lists its problems.

    Raises ValueError, in one line, where there is none that can be read.
    """
    path = directory / MANIFEST
    if not path.is_file():
        raise ValueError(f"{directory}: {no_dataset(directory)}")
    try:
        manifest = json.loads(read_file(path, _LIMIT, storage or Storage()).decode())
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror}); try again") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: is not JSON ({_line(error)}); {_FIX}") from None
    if not isinstance(manifest, dict) or not {"format", "name", "shards"} <= manifest.keys():
        raise ValueError(f"{path}: is not a manifest of shards; {_FIX}")
    if manifest["format"] != FORMAT_VERSION:
        problem = f"has format {str(manifest['format'])[:20]}, this code reads {FORMAT_VERSION}"
        raise ValueError(f"{path}: {problem}; {_FIX}")
    if not manifest["shards"]:
        raise ValueError(f"{path}: names no shard; {_FIX}")
    return manifest


def no_dataset(path: Path) -> str:
    """Return what a path is that is no dataset of shards, and what to do."""
    build = "build it with tools/make_shards.py"
    if path.is_file():
        return "is a file, and no tar; name a directory of shards, or one .tar"
    if not path.is_dir():
        return f"no such directory; {build}"
    names = sorted(os.listdir(path))  # noqa: PTH208 - one call, and only names are asked for
    if not names:
        return f"is empty; {build}"
    below = datasets_below(path)
    if ".building" in names:
        return f"has no {MANIFEST}: its build is not finished; give its make_shards command again"
    if any(name.endswith(".idx") for name in names):
        return f"has no {MANIFEST}: not finished, or not copied as a whole; copy or {build} again"
    if below:
        more = f" and {len(below) - 3} more" if below[3:] else ""
        listed = ", ".join(map(str, below[:3]))
        return f"holds shards in its folders, and none itself; name these: {listed}{more}"
    return f"holds no shards (no {MANIFEST}, no .tar); {build}"


def datasets_below(path: Path) -> list[Path]:
    """Return the folders below a path that hold a dataset or tars, the topmost of each branch."""
    return [found for inner in _folders(path) for found in _datasets_at(inner, _DEPTH)]


def is_dataset(path: Path) -> bool:
    """Return whether a folder holds shards of ours or tars; False where it cannot be read."""
    try:
        names = os.listdir(path)  # noqa: PTH208 - one call, and only names are asked for
    except OSError:  # no folder, or as lost+found for the administrator alone
        return False
    return MANIFEST in names or any(name.lower().endswith(".tar") for name in names)


def _datasets_at(path: Path, depth: int) -> list[Path]:
    if is_dataset(path):
        return [path]
    try:
        inner = _folders(path) if depth else []
    except OSError:
        return []
    return [found for folder in inner for found in _datasets_at(folder, depth - 1)]


def _folders(path: Path) -> list[Path]:
    with os.scandir(path) as entries:  # its is_dir asks no disk: a class may hold 100,000 images
        return sorted(Path(entry) for entry in entries if entry.name[0] != "." and entry.is_dir())


def verified_manifest(directory: Path, storage: Storage | None = None) -> dict[str, Any]:
    """Return the manifest of a finished dataset; ValueError, in one line, where it is damaged."""
    manifest = read_manifest(directory, storage)
    reason = manifest_problem(manifest)
    if reason:
        raise ValueError(f"{directory / MANIFEST}: {reason}; {_FIX}")
    return manifest


def manifest_problem(manifest: Mapping[str, Any]) -> str:
    """Return the first problem of a manifest, empty where there is none."""
    if SELF_SHA256 in manifest and manifest[SELF_SHA256] != manifest_sha256(manifest):
        return f"is damaged or was changed by hand: {SELF_SHA256} is not that of its content"
    name, entries = manifest["name"], manifest["shards"]
    if not isinstance(name, str) or not _is_file_name(name):
        return f"has the name {ascii(name)[:60]}"
    if not isinstance(entries, list):
        return "has no list of shards"
    for number, entry in enumerate(entries):
        reason = _entry_problem(entry, name)
        if reason:
            return f"shard {number} {reason}"
    files = Counter(entry[kind] for entry in entries for kind in ("file", "index"))
    repeated = [file for file, count in files.items() if count > 1]
    if repeated:
        return f"names {repeated[0]} twice"
    total = sum(entry["samples"] for entry in entries)
    if total != manifest.get("samples", total):
        return f"says {ascii(manifest['samples'])[:20]} samples, its shards {total}"
    if total > _SAMPLE_LIMIT:
        return f"has {total:,} samples, over the limit of {_SAMPLE_LIMIT:,}"
    return ""


def _entry_problem(entry: Any, name: str) -> str:
    if not isinstance(entry, dict):
        return "is no object"
    for kind, end in (("file", ".tar"), ("index", ".idx")):
        file = entry.get(kind)
        if not isinstance(file, str) or not _is_file_name(file):
            return f"has the {kind} {ascii(file)[:60]}, which is no name of a file beside it"
        if not re.fullmatch(re.escape(name) + "-[0-9]{6,9}" + re.escape(end), file):
            return f"has the {kind} {ascii(file)[:60]}, not {name}-NUMBER{end}"
    if Path(entry["file"]).stem != Path(entry["index"]).stem:
        return f"has the file {entry['file']} and the index {entry['index']}"
    for kind in ("sha256", "index_sha256"):
        if not isinstance(entry.get(kind), str) or not _SHA256.fullmatch(entry[kind]):
            return f"has the {kind} {ascii(entry.get(kind))[:20]}, not 64 hex digits"
    for kind in ("samples", "bytes"):
        if type(entry.get(kind)) is not int or entry[kind] < 0:
            return f"has {ascii(entry.get(kind))[:20]} {kind}"
    return ""


def _is_file_name(name: str) -> bool:
    """Return whether a name is that of a file in the same folder, on every system."""
    return bool(name) and name.isprintable() and name[0] != "." and not {"/", "\\"} & set(name)


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:120]
