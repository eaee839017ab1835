"""Whether weights are whole, read once: again only where their file was changed since.

`.verified.json` beside them says of which file that was found, by size, times and inode, so that
status does not read gigabytes each time. Bits that a disk turns by itself change none of these:
whoever loads weights compares their sha256 anyway.
"""

import json
import os
from contextlib import suppress
from pathlib import Path

from maskedclip.models.checkpoints.sealed import is_whole

_FOUND = ".verified.json"
_LARGE = 1 << 24  # bytes; smaller files are read each time
_known: dict[tuple[str, tuple[int, ...]], bool | None] = {}


def is_intact(path: Path) -> bool | None:
    """Return what `is_whole` says of a file of weights; OSError where there is none."""
    facts = path.stat()
    stamp = facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns, facts.st_ino
    key = str(path.resolve()), stamp
    if key not in _known:
        if _found(path.parent).get(path.name) == list(stamp):
            return True
        _known[key] = is_whole(path)
        if _known[key] and facts.st_size >= _LARGE:
            _keep(path, stamp)
    return _known[key]


def _found(folder: Path) -> dict[str, list[int]]:
    try:
        found = json.loads((folder / _FOUND).read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _keep(path: Path, stamp: tuple[int, ...]) -> None:
    content = _found(path.parent) | {path.name: list(stamp)}
    temporary = path.parent / f"{_FOUND}.{os.getpid()}.tmp"
    with suppress(OSError):  # the run of somebody else, or a full disk: it is read again
        temporary.write_text(json.dumps(content) + "\n")
        temporary.replace(path.parent / _FOUND)
