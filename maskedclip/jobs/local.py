"""Jobs on this machine: started by submitit's watcher, shown as they go, stopped with care."""

import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

_STOPPED = "stopped; the same command goes on from the last checkpoint"


@contextmanager
def deaf_to_ctrl_c() -> Iterator[None]:
    """Let what is started meanwhile ignore Ctrl-C: submitit's local watcher kills at once on it."""
    ours = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, ours)


@contextmanager
def stderr_to(path: Path) -> Iterator[None]:
    """Point stderr at a file: submitit's local watcher inherits it, and is loud when stopped."""
    ours = os.dup(2)
    with path.open("ab") as log:
        os.dup2(log.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(ours, 2)
        os.close(ours)


def follow(job: Any) -> None:
    """Show a local job's lines as they come; RuntimeError with its own last words if it fails.

    Ctrl-C and SIGTERM are passed on to its ranks, which save and leave.
    """
    shown = [0, 0]
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        try:
            _show_until_done(job, shown)
        except KeyboardInterrupt:
            sys.stderr.write("saving; a second Ctrl-C does not wait for it\n")
            job._process.terminate()  # submitit's watcher, which passes it on
            _show_until_done(job, shown)
    except KeyboardInterrupt:
        raise RuntimeError(_STOPPED) from None
    finally:
        signal.signal(signal.SIGTERM, before)
    if not job.paths.result_pickle.exists():  # told to stop, hung, or killed
        raise RuntimeError(f"{_STOPPED} (whole log: {job.paths.stderr})")
    raise_if_failed(job)


def _show_until_done(job: Any, shown: list[int]) -> None:
    paths = (job.paths.stderr, job.paths.stdout)
    while not job.done():
        _relay(paths, shown)
        time.sleep(0.2)
    _relay(paths, shown)


def raise_if_failed(job: Any) -> None:
    """Raise RuntimeError with the last words of a job that has ended badly."""
    error = job.exception()
    if error is not None:
        lines = [line for line in str(error).splitlines() if line.strip("- ")]
        causes = [line for line in lines if line[:1].isalpha() and "Error: " in line]
        raise RuntimeError(
            f"{(causes or lines)[-1].split('Error: ', 1)[-1]} (whole log: {job.paths.stderr})"
        )


def _relay(paths: tuple[Path, Path], shown: list[int]) -> None:
    streams: tuple[TextIO, TextIO] = (sys.stderr, sys.stdout)
    for which, (path, stream) in enumerate(zip(paths, streams, strict=True)):
        if not path.exists():
            continue
        with path.open() as file:
            file.seek(shown[which])
            text = file.read()
            shown[which] = file.tell()
        # submitit's own lines (name, level, time) are not the user's concern
        lines = [x for x in text.splitlines(keepends=True) if not x.startswith("submitit ")]
        stream.write("".join(lines))
        stream.flush()
