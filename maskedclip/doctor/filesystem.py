"""The folder that runs are written to, tested with files that are removed again."""

import fcntl
import shutil
import tempfile
import threading
from pathlib import Path

from maskedclip.doctor.outcome import Outcome, failed, gigabytes, ok, warning

NETWORK = (
    "nfs", "lustre", "gpfs", "beegfs", "ceph", "cifs", "smb", "weka", "panfs", "afs", "orangefs",
    "glusterfs", "fuse.", "9p", "virtiofs", "vastnfs", "daos",
)  # fmt: skip
_MEMORY = ("tmpfs", "ramfs", "devtmpfs")
_ELSEWHERE = "choose an --out on another file system"


def existing(path: Path) -> Path:
    """Return the nearest folder above a path that exists."""
    path = path.absolute()
    while not path.is_dir():
        path = path.parent
    return path


def mount_of(path: Path, mounts: str) -> tuple[str, str]:
    """Return (type, mount point) of the file system of a path; `mounts` is /proc/self/mounts."""
    folder, best = existing(path).resolve(), ("unknown", "")
    for line in mounts.splitlines():
        _, point, kind = line.split()[:3]
        point = point.replace("\\040", " ")
        if folder.is_relative_to(point) and len(point) >= len(best[1]):
            best = (kind, point)
    return best


def shared(path: Path, mounts: str, nodes: int, what: str) -> Outcome:
    """Judge whether other nodes see a path, by the type of its file system."""
    kind, point = mount_of(path, mounts)
    message = f"{existing(path)} is on {kind} ({point})"
    if kind.startswith(NETWORK):
        return ok(f"{message}, a network file system")
    if nodes > 1:
        return failed(
            f"{message}: other nodes do not see it",
            f"put {what} on the cluster's shared file system",
        )
    if kind in _MEMORY:
        return warning(f"{message}: lost when the machine stops", f"put {what} on a disk")
    return ok(f"{message}: local, enough for one node")


def rename(folder: Path, rounds: int = 40) -> Outcome:
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
        fix = f"make it writable, or {_ELSEWHERE}" if error.errno else _ELSEWHERE
        return failed(f"{folder}: {error.strerror or error}", fix)
    if wrong:
        return failed(f"{folder}: {wrong[0]} in {rounds} replacements", _ELSEWHERE)
    return ok(f"{rounds} replacements under a reader")


def locks(folder: Path) -> Outcome:
    """Judge whether flock lets one process at a time hold a file, from two descriptions of it."""
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
            "have it mounted with -o flock (Lustre), or start one report at a time",
        )
    return failed(
        f"{folder}: two holders of one flock",
        "have it mounted with -o flock, or name another --out",
    )


def room(folder: Path, needed: float | None, run: str) -> Outcome:
    """Judge the free bytes by the size of the run's checkpoints and exported weights."""
    free = shutil.disk_usage(folder).free
    fix = f"make room, {_ELSEWHERE}, or --engine.keep=1"
    if needed is None:
        if free < 1e9:
            return warning(f"{gigabytes(free)} free at {folder}", fix)
        return ok(f"{gigabytes(free)} free (name a recipe to compare)")
    message = f"{gigabytes(free)} free, {gigabytes(needed)} needed by {run}"
    if free < needed:
        return failed(message, fix)
    return ok(message) if free >= 2 * needed else warning(f"{message}: no second run fits", fix)
