"""Who writes to a dataset's directory: one build, or several parts of one."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

LOCK = ".lock"


@contextmanager
def locked(out: Path, part: str = "") -> Iterator[None]:
    """Hold the directory alone, or, with `part`, beside the other parts of the same build.

    Raises RuntimeError where another build, or the same part, holds it. The system gives a lock
    back when its process ends, however it ends.
    """
    with _held(out / LOCK, alone=not part, remove=not part):
        if not part:
            yield
        else:
            with _held(out / f"{LOCK}-{part}", alone=True, remove=True):
                yield


@contextmanager
def _held(path: Path, *, alone: bool, remove: bool) -> Iterator[None]:
    file = _taken(path, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
    try:
        yield
    finally:
        if remove:
            path.unlink(missing_ok=True)
        file.close()


def _taken(path: Path, kind: int) -> TextIO:
    while True:
        file = path.open("a")
        try:
            fcntl.flock(file, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            raise RuntimeError(f"{path.parent}: another build is writing to it; wait") from None
        # whoever held it before may have removed the file that we have locked: try the new one
        if path.exists() and path.stat().st_ino == os.fstat(file.fileno()).st_ino:
            return file
        file.close()
