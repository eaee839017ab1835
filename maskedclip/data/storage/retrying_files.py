"""Bytes from files that fail for a moment, are replaced, or are no files at all.

The calls of the system stand in one tuple that a reader is given, so that another store, a hedged
read or a fault can take their place. Nothing is mapped into memory: a file that is cut short while
it is read must end as an error and not as a signal.
"""

import errno
import os
import stat
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

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

    A named pipe would wait for ever and a device may act on being opened: neither is.
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
    """How files are opened and read, and how long to wait before each further try."""

    open: Callable[[Path], int] = open_plain
    pread: Callable[[int, int, int], bytes] = os.pread
    pauses: tuple[float, ...] = (0.05, 0.2, 0.8)  # seconds


class _Opened:
    """A descriptor that is closed once nobody reads from it any more."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self.identity = _identity(os.fstat(descriptor))

    def __del__(self) -> None:
        os.close(self.descriptor)


def _identity(found: os.stat_result) -> tuple[int, ...]:
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


class Files:
    """Files by number, opened when they are first read; safe in threads and after a fork."""

    def __init__(self, paths: Sequence[Path], storage: Storage) -> None:
        self._paths, self._storage = list(paths), storage
        self._opened: dict[int, _Opened] = {}
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[type["Files"], tuple[list[Path], Storage]]:
        return Files, (self._paths, self._storage)  # open files stay in the process that has them

    def read(self, number: int, size: int, offset: int) -> bytes:
        """Return `size` bytes, fewer only where the file ends; OSError after the last try.

        A try that fails is followed by others on a file opened anew, if it may help.
        """
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
        parts = [content]
        while parts[-1] and (missing := size - sum(map(len, parts))):
            there = offset + size - missing
            parts.append(self._storage.pread(opened.descriptor, missing, there))
        return b"".join(parts)

    def _open(self, number: int) -> _Opened:
        opened = _Opened(self._storage.open(self._paths[number]))
        with self._lock:
            while len(self._opened) >= _OPEN_LIMIT:
                del self._opened[next(iter(self._opened))]
            self._opened[number] = opened
        return opened

    def size(self, number: int) -> int:
        """Return the bytes of a file when it was opened; OSError as in `read`."""
        return self._facts(number)[2]

    def changed_ns(self, number: int) -> int:
        """Return the time when a file was changed last before it was opened."""
        return self._facts(number)[3]

    def _facts(self, number: int) -> tuple[int, ...]:
        self.read(number, 0, 0)  # opens it, with as many tries as that takes
        return (self._opened.get(number) or self._open(number)).identity

    def was_replaced(self, number: int) -> bool:
        """Return whether the path holds another file than the one that is open, and open that."""
        opened = self._opened.get(number)
        try:
            if opened is None or _identity(self._paths[number].stat()) == opened.identity:
                return False
        except OSError:  # gone, or not there at this moment: what is open is all there is
            return False
        self._forget(number)
        return True

    def _forget(self, number: int) -> None:
        with self._lock:
            self._opened.pop(number, None)


def read_file(path: Path, limit: int, storage: Storage) -> bytes:
    """Return the content of a small file; OSError, also where it is over `limit` bytes."""
    files = Files([path], storage)
    size = files.size(0)
    if size > limit:
        raise OSError(errno.EFBIG, f"is over the limit of {limit:,} bytes")
    return files.read(0, size, 0)
