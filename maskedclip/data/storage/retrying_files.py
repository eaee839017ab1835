"""Reads of files on storage that fails transiently, or whose files are replaced or no plain files.

The system calls stand in one tuple that a reader is given, so that a test can inject faults.
Nothing is mapped into memory: a file that is truncated while it is read must end as an error and
not as a signal.
"""

import errno
import logging
import os
import stat
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

logger = logging.getLogger(__name__)
RETRIED = frozenset({errno.EIO, errno.ESTALE, errno.EINTR, errno.ETIMEDOUT})
_KINDS = {
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
_OPEN_LIMIT = 256  # files of a dataset; a process may have 1024 in all, and several datasets


def open_plain(path: Path) -> int:
    """Return a descriptor of a plain file, or of one that a link leads to; else OSError.

    A named pipe would block for ever and a device may act on being opened: neither is opened.
    """
    _refuse_special(os.stat(path).st_mode)  # noqa: PTH116 - as the seam, paths may be strings
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    try:
        _refuse_special(os.fstat(descriptor).st_mode)  # it may have been replaced in between
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _refuse_special(mode: int) -> None:
    if not stat.S_ISREG(mode):
        kind = _KINDS.get(stat.S_IFMT(mode), "special")
        raise OSError(errno.EINVAL, f"is {kind}, no plain file")


class Storage(NamedTuple):
    """How files are opened and read, and the pause before each retry."""

    open: Callable[[Path], int] = open_plain
    pread: Callable[[int, int, int], bytes] = os.pread
    pauses: tuple[float, ...] = (0.05, 0.2, 0.8)  # seconds


class _OpenFile:
    """A descriptor that is closed when its last reader lets go of it."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self.identity = _identity(os.fstat(descriptor))

    def __del__(self) -> None:
        os.close(self.descriptor)


def _identity(status: os.stat_result) -> tuple[int, ...]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


class RetryingFiles:
    """Files by number, opened when they are first read; safe in threads and after a fork.

    A file can be read from a copy of it, until that fails once.
    """

    def __init__(self, paths: Sequence[Path], storage: Storage) -> None:
        self._paths, self._storage = list(paths), storage
        self._opened: dict[int, _OpenFile] = {}
        self._copies: dict[int, Path] = {}
        self._left: set[int] = set()  # whose copy failed
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[type["RetryingFiles"], tuple[list[Path], Storage]]:
        return RetryingFiles, (
            self._paths,
            self._storage,
        )  # open files stay in the process that has them

    def read(self, number: int, size: int, offset: int) -> bytes:
        """Return `size` bytes, fewer only where the file ends; OSError after the last retry.

        Errors that may be transient are retried, each time on a newly opened file; those of a copy
        are not.
        """
        if number in self._copies:
            try:
                return self._read(number, size, offset)
            except OSError as error:
                self.leave_copy(number, f"cannot be read ({error.strerror})")
        for pause in self._storage.pauses:
            try:
                return self._read(number, size, offset)
            except OSError as error:
                if error.errno not in RETRIED:
                    raise
                self._forget(number)
            time.sleep(pause)
        return self._read(number, size, offset)

    def _read(self, number: int, size: int, offset: int) -> bytes:
        opened = self._opened.get(number) or self._open(number)
        content = self._storage.pread(opened.descriptor, size, offset)
        if len(content) == size:
            return content
        chunks = [content]
        while chunks[-1] and (missing := size - sum(map(len, chunks))):
            chunks.append(self._storage.pread(opened.descriptor, missing, offset + size - missing))
        return b"".join(chunks)

    def _open(self, number: int) -> _OpenFile:
        path = self._copies.get(number, self._paths[number])
        opened = _OpenFile(self._storage.open(path))
        with self._lock:
            if path != self._copies.get(number, self._paths[number]):
                return opened  # for this read alone
            while len(self._opened) >= _OPEN_LIMIT:
                del self._opened[next(iter(self._opened))]
            self._opened[number] = opened
        return opened

    def use_copy(self, number: int, path: Path) -> None:
        """Read a file from `path` from now on."""
        with self._lock:
            self._copies[number] = path
            self._opened.pop(number, None)

    def leave_copy(self, number: int, reason: str) -> bool:
        """Read a file from itself from now on; return whether it was ever read from a copy.

        If so, what another thread has just read may be the copy's, too.
        """
        with self._lock:
            copy = self._copies.pop(number, None)
            if copy is not None:
                self._left.add(number)
                self._opened.pop(number, None)
        if copy is not None:
            logger.warning("%s: %s; read from %s again", copy, reason, self._paths[number])
        return number in self._left

    def size(self, number: int) -> int:
        """Return the bytes of a file when it was opened; OSError as in `read`."""
        return self._status(number)[2]

    def changed_ns(self, number: int) -> int:
        """Return the modification time of a file when it was opened."""
        return self._status(number)[3]

    def _status(self, number: int) -> tuple[int, ...]:
        self.read(number, 0, 0)  # opens it, with retries
        return (self._opened.get(number) or self._open(number)).identity

    def was_replaced(self, number: int) -> bool:
        """Return whether the path now holds another file than the open one, and close that."""
        opened = self._opened.get(number)
        try:
            if opened is None or _identity(self._paths[number].stat()) == opened.identity:
                return False
        except OSError:  # gone for now: the open file is all there is
            return False
        self._forget(number)
        return True

    def _forget(self, number: int) -> None:
        with self._lock:
            self._opened.pop(number, None)


def read_file(path: Path, limit: int, storage: Storage) -> bytes:
    """Return the content of a small file; OSError, also where it is over `limit` bytes."""
    files = RetryingFiles([path], storage)
    size = files.size(0)
    if size > limit:
        raise OSError(errno.EFBIG, f"is over the limit of {limit:,} bytes")
    return files.read(0, size, 0)
