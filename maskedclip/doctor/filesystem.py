"""The folder that runs are written to, tried out with files that are removed again."""

import fcntl
import os
import shutil
import tempfile
import threading
import time
from pathlib import Path

from maskedclip.doctor.finding import Finding, absent, failed, gigabytes, ok, warning

NETWORK = (
    "nfs", "lustre", "gpfs", "beegfs", "ceph", "cifs", "smb", "weka", "panfs", "afs", "orangefs",
    "glusterfs", "fuse.", "9p", "virtiofs", "vastnfs", "daos",
)  # fmt: skip
_MEMORY = ("tmpfs", "ramfs", "devtmpfs")
_ELSEWHERE = "choose an --out on another file system"
_SLOW_S, _VERY_SLOW_S = 0.5, 10.0  # of an fsync: a checkpoint makes some tens of them
_SKEW_S = (2.0, 60.0)
_INODES = 10_000


def existing(path: Path) -> Path:
    """Return the folder that is there of a path that may not be."""
    path = path.absolute()
    while not path.is_dir():
        path = path.parent
    return path


def mount_of(path: Path, mounts: str) -> tuple[str, str]:
    """Return (type, mount point) of the file system of a path; `mounts` is /proc/self/mounts."""
    here, best = existing(path).resolve(), ("unknown", "")
    for line in mounts.splitlines():
        _, point, kind = line.split()[:3]
        point = point.replace("\\040", " ")
        if here.is_relative_to(point) and len(point) >= len(best[1]):
            best = (kind, point)
    return best


def shared(path: Path, mounts: str, nodes: int, what: str) -> Finding:
    """Judge whether other nodes see a path, by the type of its file system."""
    kind, point = mount_of(path, mounts)
    said = f"{existing(path)} is on {kind} ({point})"
    if kind.startswith(NETWORK):
        return ok(f"{said}, a network file system")
    if nodes > 1:
        return failed(
            f"{said}: other nodes do not see it", f"put {what} on the cluster's shared file system"
        )
    if kind in _MEMORY:
        return warning(f"{said}: gone when the machine stops", f"put {what} on a disk")
    return ok(f"{said}: this machine's own, enough for one node")


def rename(folder: Path, rounds: int = 40) -> Finding:
    """Judge whether a file can be replaced while another thread reads it, never half or gone."""
    wrong: list[str] = []
    texts = [str(digit) * 4096 for digit in range(10)]
    try:
        with tempfile.TemporaryDirectory(prefix=".doctor-", dir=folder) as name:
            path, ended = Path(name) / "file", threading.Event()
            path.write_text(texts[0])

            def read() -> None:
                while not ended.is_set():
                    try:
                        if path.read_text() not in texts:
                            wrong.append("a reader saw half a file")
                    except FileNotFoundError:
                        wrong.append("a reader saw no file")

            reader = threading.Thread(target=read)
            reader.start()
            try:
                for turn in range(rounds):
                    other = path.with_suffix(".tmp")
                    other.write_text(texts[turn % 10])
                    other.replace(path)
            finally:
                ended.set()
                reader.join()
    except OSError as error:
        return failed(_refused(folder, error), _writable(error))
    if wrong:
        return failed(f"{folder}: {wrong[0]} in {rounds} replacements", _ELSEWHERE)
    return ok(f"{rounds} replacements under a reader")


def fsync(folder: Path, slow_s: float = _SLOW_S, very_slow_s: float = _VERY_SLOW_S) -> Finding:
    """Judge whether a file and its folder can be brought to the disk, and how long it takes."""
    try:
        with tempfile.TemporaryDirectory(prefix=".doctor-", dir=folder) as name:
            start = time.perf_counter()
            with (Path(name) / "file").open("wb") as file:
                file.write(bytes(1 << 20))
                file.flush()
                os.fsync(file.fileno())
            inside = os.open(name, os.O_RDONLY)
            try:
                os.fsync(inside)
            finally:
                os.close(inside)
            took = time.perf_counter() - start
    except OSError as error:
        return failed(_refused(folder, error), _writable(error))
    said = f"{took * 1000:.0f} ms for a MB and its folder"
    if took > very_slow_s:
        return failed(f"{said}: a save takes longer than a pre-emption allows", _ELSEWHERE)
    if took > slow_s:
        return warning(f"{said}: saves are slow", f"{_ELSEWHERE}, or a larger --engine.save_every")
    return ok(said)


def locks(folder: Path) -> Finding:
    """Judge whether one process at a time can hold a file: flock, tried from two descriptions."""
    try:
        with tempfile.NamedTemporaryFile(prefix=".doctor-", dir=folder) as first:
            fcntl.flock(first, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with Path(first.name).open("rb") as second:
                try:
                    fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    return ok("flock works")
    except OSError as error:
        return warning(
            f"{folder}: no flock ({error.strerror}); two reports at once may mix",
            "mount with -o flock (Lustre), or start one report at a time",
        )
    return failed(f"{folder}: two holders of one flock", "mount with -o flock, or another --out")


def skew(folder: Path) -> Finding:
    """Judge the file system's clock: a file is touched, and its time compared."""
    try:
        with tempfile.NamedTemporaryFile(prefix=".doctor-", dir=folder) as file:
            before = time.time()
            file.write(b"x")
            file.flush()
            touched = Path(file.name).stat().st_mtime
            after = time.time()
    except OSError as error:
        return failed(_refused(folder, error), _writable(error))
    return skew_of(max(0.0, before - touched, touched - after))


def skew_of(seconds: float) -> Finding:
    """Judge how far the clocks of this machine and of the file system are apart."""
    said = f"{seconds:.1f} s apart"
    mend = "start chrony or ntpd on this machine and the file server (admin)"
    if seconds > _SKEW_S[1]:
        return failed(f"{said}: ages of checkpoints and heartbeats are wrong", mend)
    return warning(said, mend) if seconds > _SKEW_S[0] else ok(said)


def room(folder: Path, needed: float | None, run: str) -> Finding:
    """Judge the free bytes by what the run's checkpoints and exported weights take."""
    free = shutil.disk_usage(folder).free
    mend = f"make room, {_ELSEWHERE}, or --engine.keep=1"
    if needed is None:
        if free < 1e9:
            return warning(f"{gigabytes(free)} free at {folder}", mend)
        return ok(f"{gigabytes(free)} free (name a recipe to compare)")
    said = f"{gigabytes(free)} free, {gigabytes(needed)} needed by {run}"
    if free < needed:
        return failed(said, mend)
    return ok(said) if free >= 2 * needed else warning(f"{said}: no second run fits", mend)


def inodes(folder: Path) -> Finding:
    """Judge how many more files the file system takes."""
    found = os.statvfs(folder)
    if not found.f_files:
        return absent("this file system does not count files")
    said = f"{found.f_favail:,} of {found.f_files:,} files left"
    mend = f"remove small files (quota: df -i {folder}), or {_ELSEWHERE}"
    if found.f_favail < _INODES // 100:
        return failed(said, mend)
    return ok(said) if found.f_favail >= _INODES else warning(said, mend)


def _refused(folder: Path, error: OSError) -> str:
    return f"{folder}: {error.strerror or error}"


def _writable(error: OSError) -> str:
    return f"make it writable, or {_ELSEWHERE}" if error.errno else _ELSEWHERE
