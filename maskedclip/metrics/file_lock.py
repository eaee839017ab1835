"""An exclusive lock between processes, where the file system has locks."""

import errno
import fcntl
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

logger = logging.getLogger(__name__)
_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)


@contextmanager
def locked(path: Path, *, wait: bool, without: str) -> Iterator[None]:
    """Hold the lock of a file, which is created if missing; released when the process ends.

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
        yield
