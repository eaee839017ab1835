"""A lock on a file, and processes that are killed while they hold it."""

import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest

from maskedclip.metrics.file_lock import locked

FORK = multiprocessing.get_context("fork")


def hold_and_fork(path: Path) -> None:
    with locked(path, wait=False, without=""):
        if os.fork() == 0:  # a worker, which does not see at once that its parent is gone
            time.sleep(20)
            os._exit(0)
        path.with_suffix(".ready").touch()
        time.sleep(20)


def test_a_worker_that_outlives_a_killed_process_does_not_hold_its_lock(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    process = FORK.Process(target=hold_and_fork, args=(path,))
    process.start()
    while not path.with_suffix(".ready").exists():
        time.sleep(0.01)
    with pytest.raises(BlockingIOError), locked(path, wait=False, without=""):
        pass
    (worker,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    try:
        with locked(path, wait=False, without=""):
            os.kill(int(worker), 0)  # it still runs
    finally:
        os.kill(int(worker), signal.SIGKILL)
