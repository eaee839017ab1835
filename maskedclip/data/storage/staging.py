"""Copies of a run's tars on a node's own disk: made once a node, in the background, and verified.

    STAGE/maskedclip-NAME-3f9a1c0b7d52/   of one run, readable by its user alone
        SHA256.tar                        a whole copy, by what the manifest says of its content
        lock                              held by the process that copies: one of the node
        verified                          what that process has verified since it began; end

Every process of the run on the node has a `Staging`. The one that gets the lock copies, and holds
it until it ends; the others take what its list names, and copy themselves only if it dies. Samples
are read from the shared file system until a copy stands, and again once a copy fails.
"""

import fcntl
import hashlib
import logging
import os
import platform
import shutil
import stat
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, NamedTuple

from maskedclip.data.storage.retrying_files import RetryingFiles
from maskedclip.data.storage.shards import Shards

logger = logging.getLogger(__name__)
_LOCK, _VERIFIED, _END = "lock", "verified", "end"
_CHUNK = 8 << 20  # bytes copied at once
_ROOM = 64 << 20  # bytes that stay free
_PATIENCE = 10.0  # seconds that the end waits for a read that hangs


class TarUse(NamedTuple):
    """A tar, and where its samples are read."""

    dataset: Shards
    number: int


class _PlaceError(Exception):
    """The place for copies takes no more; the message says why."""


class Staging:
    """The copies of one run on this node; a process has one, and `close` ends it.

    Args:
        stage: a directory of this node; variables in it are expanded here.
        run: the run's directory: it alone uses these copies.
        tars: what the run reads; the same content is copied once.
        says: whether this process says what is wrong with the place: one of the node.
        poll_s: seconds between two looks at what another process has copied.
    """

    def __init__(
        self, stage: str, run: Path, tars: Iterable[TarUse], *, says: bool, poll_s: float = 1.0
    ) -> None:
        self._stage, self._says, self._poll_s = stage, says, poll_s
        self._uses: dict[str, list[TarUse]] = {}
        for use in tars:
            self._uses.setdefault(f"{use.dataset.tar_sha256(use.number)}.tar", []).append(use)
        which = hashlib.sha256(str(run.resolve()).encode()).hexdigest()[:12]
        self._folder = Path(os.path.expandvars(stage)) / f"maskedclip-{run.name[:60]}-{which}"
        self._held: list[BinaryIO] = []  # lock and list of the process that copies
        self._closed = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="staging", daemon=True)

    def start(self) -> None:
        """Begin in the background, or say in one line why nothing can be staged here."""
        if problem := self._problem():
            if self._says:
                logger.warning(
                    "data.stage=%s: %s on %s; the shards are read where they are",
                    self._stage, problem, platform.node(),
                )  # fmt: skip
            return
        self._thread.start()

    def wait(self) -> None:
        """Return when no more is to be copied; training does not wait for it."""
        if self._thread.ident is not None:
            self._thread.join()

    def close(self, *, remove: bool) -> None:
        """End the copying; with `remove` also the copies, once no process of the run reads them."""
        self._closed.set()
        if self._thread.ident is not None:
            self._thread.join(_PATIENCE)  # one that hangs in a read ends with the process
        if remove and self._held and not self._thread.is_alive():
            shutil.rmtree(self._folder, ignore_errors=True)
        for file in self._held:
            file.close()
        if self._error is not None:
            raise self._error

    def _problem(self) -> str:
        """Make the folder; return why copies cannot be there, "" where they can."""
        place = self._folder.parent
        if "$" in str(place):
            return f"{place} has a variable that is not set"
        if not place.is_absolute() or not place.is_dir():
            return f"{place} is no directory"
        try:
            self._folder.mkdir(mode=0o700, exist_ok=True)
            status = self._folder.lstat()  # in /tmp anyone could have put a link there
        except OSError as error:
            return f"{place} takes no copies ({error.strerror})"
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
            return f"{self._folder} is not a directory of this user"
        return ""

    def _work(self) -> None:
        left, began = set(self._uses), time.monotonic()
        try:
            self._stage_all(left)
        except OSError as error:  # of the locks and the list
            logger.warning("data.stage=%s: %s; no more is staged", self._stage, error)
        except BaseException as error:  # an error of ours is not to be lost in a thread
            self._error = error
        if not self._closed.is_set():
            logger.info(
                "data.stage: %d of %d tars are read from %s, after %.0f s",
                len(self._uses) - len(left), len(self._uses), self._folder,
                time.monotonic() - began,
            )  # fmt: skip

    def _stage_all(self, left: set[str]) -> None:
        """Copy, or use what another process copies, until no more of it is to come."""
        while left and not self._closed.is_set():
            if lock := _locked(self._folder / _LOCK, "ab"):
                self._held.append(lock)
                self._copy_all(left)
                return
            if self._follow(left):
                return
            self._closed.wait(self._poll_s)

    def _follow(self, left: set[str]) -> bool:
        """Use what the process that copies has verified; return whether it will be no more."""
        try:
            with (self._folder / _VERIFIED).open("rb") as file:
                if not _is_locked(file):  # of a process that is gone: nobody vouches for it
                    return False
                lines = file.read().decode().split("\n")[:-1]
        except FileNotFoundError:
            return False
        for name in left & set(lines):
            self._use(name)
            left.discard(name)
        return _END in lines

    def _use(self, name: str) -> None:
        for dataset, number in self._uses[name]:
            dataset.read_copy(number, self._folder / name)

    def _copy_all(self, left: set[str]) -> None:
        """Verify what an earlier start left here, copy the rest, and list each for the others."""
        whole = len(self._uses)
        with self._list() as listed:
            for temporary in self._folder.glob(f".*.{platform.node()}.tmp"):
                temporary.unlink(missing_ok=True)
            there = {path.name for path in self._folder.iterdir()}
            try:
                for name in sorted(left, key=lambda name: (name not in there, name)):
                    if self._closed.is_set():
                        return
                    if self._stands(name):
                        self._use(name)
                        left.discard(name)
                        listed.write(f"{name}\n".encode())
                        listed.flush()
            except _PlaceError as error:
                logger.warning(
                    "data.stage=%s: %s on %s; %d of %d tars are read from there, the others where "
                    "they are", self._stage, error, platform.node(), whole - len(left), whole,
                )  # fmt: skip
            listed.write(f"{_END}\n".encode())
            listed.flush()

    @contextmanager
    def _list(self) -> Iterator[BinaryIO]:
        """Give a new, empty list of verified copies; it is locked until this process ends."""
        temporary = self._folder / f".{_VERIFIED}.{platform.node()}.tmp"
        temporary.unlink(missing_ok=True)
        listed = _locked(temporary, "xb")
        assert listed is not None, "nobody else has it yet"
        self._held.append(listed)
        temporary.replace(self._folder / _VERIFIED)
        yield listed

    def _stands(self, name: str) -> bool:
        """Make a verified copy unless there is one; False where the tar cannot be copied."""
        (dataset, number), target = self._uses[name][0], self._folder / name
        if target.exists():
            if dataset.is_tar(number, target):
                return True
            logger.warning("%s: is no copy of its tar any more; copied again", target)
            target.unlink()
        temporary = self._folder / f".{name}.{platform.node()}.tmp"
        original, files = dataset.original(number)
        try:
            problem = self._copy(files, temporary)
            if self._closed.is_set():
                return False
            if not problem and dataset.is_tar(number, temporary):
                temporary.replace(target)
                return True
            problem = problem or "its content is not what the manifest names"
            logger.warning("%s: is not staged, as %s; read where it is", original, problem)
            return False
        except OSError as error:
            raise _PlaceError(f"{self._folder.parent} takes no more ({error.strerror})") from None
        finally:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)

    def _copy(self, source: RetryingFiles, target: Path) -> str:
        """Copy a tar; return why it cannot be read, "" also where the run ends meanwhile.

        OSError is that of the target.
        """
        try:
            size = source.size(0)
        except OSError as error:
            return f"it cannot be read ({error.strerror})"
        free = shutil.disk_usage(target.parent).free
        if free < size + _ROOM:
            raise _PlaceError(
                f"{self._folder.parent} has too little room ({_size(free)} free; a tar takes "
                f"{_size(size)}, and {_size(_ROOM)} are kept free)"
            )
        with target.open("xb") as file:
            for offset in range(0, size, _CHUNK):
                if self._closed.is_set():
                    return ""
                try:
                    content = source.read(0, min(_CHUNK, size - offset), offset)
                except OSError as error:
                    return f"it cannot be read ({error.strerror})"
                file.write(content)
            file.flush()
            os.fsync(file.fileno())
        return ""


def _size(size: float) -> str:
    unit, name = (1e9, "GB") if size >= 1e9 else (1e6, "MB") if size >= 1e6 else (1e3, "kB")
    return f"{size / unit:.1f} {name}"


def _locked(path: Path, mode: str) -> BinaryIO | None:
    """Return a file opened and locked for this process, None where another one holds it."""
    file: BinaryIO = path.open(mode)  # type: ignore[assignment] # a binary mode
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    except OSError:
        file.close()
        raise
    return file


def _is_locked(file: BinaryIO) -> bool:
    """Return whether a process holds the lock of a file."""
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    return False
