"""The manifest of a dataset directory, read and verified.

It has the sha256 of everything else, and one of itself: a flipped bit in it ends as an error. One
written before that line existed is checked for consistency alone.
"""

import json
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


def read_manifest(directory: Path, storage: Storage | None = None) -> dict[str, Any]:
    """Return the manifest of a finished dataset unverified, for a check that lists its problems.

    Raises ValueError, in one line, where there is none that can be read.
    """
    path = directory / MANIFEST
    if not directory.is_dir():
        raise ValueError(f"{directory}: no such directory; build it with tools/make_shards.py")
    if not path.is_file():
        problem = "is empty" if not any(directory.iterdir()) else f"has no {MANIFEST}: not finished"
        raise ValueError(f"{directory}: {problem}; build it with tools/make_shards.py")
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
