"""A small file that is there whole or not at all: written aside, fsynced, then renamed.

The name aside is of one writer alone, as two starts of a run may write the same file at once.
"""

import json
import os
import secrets
import shutil
import tempfile
from pathlib import Path
from typing import Any

# of this package; and what safetensors wrote itself, before November 2026
# a fine-tuning's own tables, too; those of evaluations beside it are another writer's
_LEFT = (".*.????????.tmp", ".tmp??????", "predictions/.*-finetune-*.tmp")


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a text or bytes; OSError names `path`.

    RuntimeError where a later start of the run has taken away what was being written.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("xb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        try:
            temporary.replace(path)
        except FileNotFoundError:
            raise RuntimeError(
                f"{path}: another start of this run has begun meanwhile; this one stops"
            ) from None
    except OSError as error:
        error.filename = str(path)  # a full disk does not say which file
        raise
    finally:
        temporary.unlink(missing_ok=True)


def refuse_unwritable(flag: str, directory: Path) -> None:
    """Raise ValueError where a directory, there or not, cannot be written; it is not made.

    For who would only write when the work is done; `flag` is what names it on the command line.
    """
    place = directory.absolute()
    while not os.path.lexists(place):
        place = place.parent
    try:
        with tempfile.TemporaryDirectory(prefix=".", suffix=".tmp", dir=place):
            pass
    except OSError as error:
        what = "is a file" if place.is_file() else f"cannot be written ({error.strerror})"
        raise ValueError(f"--{flag} {directory}: {place} {what}; choose another --{flag}") from None


def read_json(path: Path, remedy: str) -> Any:
    """Return what a JSON file holds; ValueError with its name and `remedy` where it is not whole.

    OSError where it cannot be read at all.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        why = " ".join(str(error).split())
        raise ValueError(f"{path}: is not whole JSON ({why}); {remedy}") from None


def remove_leftovers(run: Path) -> None:
    """Remove what killed starts of a run were writing or removing; for who holds its lease alone.

    Also stacks of theirs that were never written. What cannot be removed is in nobody's way.
    """
    found = [path for pattern in _LEFT for path in run.glob(pattern)]
    found += [path for path in run.glob("hang/rank-*.txt") if not path.stat().st_size]
    for path in [*found, *run.glob("checkpoints/step-*.tmp")]:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
