"""An exclusive lock between processes, where the file system has locks."""

import errno
import fcntl
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

logger = logging.getLogger(__name__)
_held: set[IO[str]] = set()
_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)


def _let_go() -> None:
    """Close in a forked child what its parent holds: a lock lasts until all copies are closed."""
    for file in _held:
        file.close()
    _held.clear()


os.register_at_fork(after_in_child=_let_go)


@contextmanager
def locked(path: Path, *, wait: bool, without: str) -> Iterator[None]:
    """Hold the lock of a file, which is created if missing; released when the process ends.

    What the process has forked does not hold it: workers may outlive it by seconds.

    Args:
        wait: until it is free; else BlockingIOError where another process holds it.
        without: the warning where the file system has no locks; the block runs nevertheless.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            logger.warning("%s: no locks here; %s", path.parent, without)
        _held.add(file)
        try:
            yield
        finally:
            _held.discard(file)
