"""Real processes that hang: how they end, and what they leave."""

import ctypes
import multiprocessing
import os
import signal
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from maskedclip.engine.distributed import process_group
from maskedclip.engine.hang_watch import HUNG, HangWatch

LIMIT_S = 1.0
# of a server that has imported torch and has no thread: a fork of the test session's own process,
# which has threads of earlier tests, may wait for ever for a lock that one of them held
FORK = multiprocessing.get_context("forkserver")
Step = Callable[[int, HangWatch], None]


def run_rank(rank: int, world: int, port: int, folder: Path, step: Step) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    with (folder / f"stderr-{rank}").open("w") as stderr:
        os.dup2(stderr.fileno(), 2)
    torch.set_num_threads(1)
    with process_group(), HangWatch(folder / "hang", LIMIT_S / 60) as watch:
        for number in range(3):
            dist.all_reduce(torch.ones(1))
            watch.beat(number + 1)
        step(rank, watch)
        dist.all_reduce(torch.ones(1))
        watch.beat(100)
    os._exit(0)  # nothing of the test session's own exit


def start(world: int, folder: Path, step: Step) -> list[multiprocessing.process.BaseProcess]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = [
        FORK.Process(target=run_rank, args=(rank, world, port, folder, step))
        for rank in range(world)
    ]
    for process in processes:
        process.start()
    return processes


def ends(processes: list[multiprocessing.process.BaseProcess], seconds: float) -> list[int | None]:
    deadline = time.monotonic() + seconds
    for process in processes:
        process.join(max(0.0, deadline - time.monotonic()))
    codes = [process.exitcode for process in processes]
    for process in processes:
        with suppress(ProcessLookupError):
            process.kill()
        process.join()
    return codes


def stacks(folder: Path, rank: int) -> Path:
    (path,) = (folder / "hang").glob(f"rank-{rank}.*.txt")
    return path


def stops(rank: int, _watch: HangWatch) -> None:
    if rank == 1:
        os.kill(os.getpid(), signal.SIGSTOP)
        time.sleep(0.2)  # woken, it is still here while another thread takes the signal


def first_stops(rank: int, watch: HangWatch) -> None:
    stops(1 - rank, watch)  # the store is in the process of rank 0, and stands still with it


def falls_asleep(rank: int, _watch: HangWatch) -> None:
    if rank == 1:
        time.sleep(60)


def holds_the_interpreter(rank: int, _watch: HangWatch) -> None:
    if rank == 1:  # a PyDLL does not let go of it, and nobody writes to this pipe
        ctypes.PyDLL(None).read(os.pipe()[0], ctypes.create_string_buffer(1), 1)


@pytest.mark.parametrize("hangs", [stops, first_stops, falls_asleep, holds_the_interpreter])
def test_a_rank_that_hangs_ends_all_ranks_and_every_stack_is_on_disk(hangs, tmp_path):
    victim = 0 if hangs is first_stops else 1
    other = 1 - victim
    processes = start(2, tmp_path, hangs)
    codes = ends(processes, 40)
    assert codes[other] == HUNG
    assert codes[victim] == (-signal.SIGKILL if hangs is holds_the_interpreter else HUNG)
    waits, hung = (stacks(tmp_path, rank).read_text() for rank in (other, victim))
    assert "in all_reduce" in waits
    assert f"in {hangs.__name__}" in hung
    message = (tmp_path / f"stderr-{other}").read_text()
    assert message.count("\n") == 1
    for fact in (f"rank {other} of 2", "after step 3", str(stacks(tmp_path, other))):
        assert fact in message
    assert (f"rank {victim} did not answer" in message) == (hangs is not falls_asleep)


def alone(_rank: int, watch: HangWatch) -> None:
    holds_the_interpreter(1, watch)


@pytest.mark.slow
def test_a_lone_rank_whose_interpreter_is_held_ends_too(tmp_path):
    assert ends(start(1, tmp_path, alone), 40) == [1]
    assert "in holds_the_interpreter" in stacks(tmp_path, 0).read_text()


def pauses(_rank: int, watch: HangWatch) -> None:
    with watch.paused():
        time.sleep(2 * LIMIT_S)


def beats(_rank: int, watch: HangWatch) -> None:
    for step in range(20):
        time.sleep(LIMIT_S / 10)
        watch.beat(4 + step)


@pytest.mark.parametrize("steps", [pauses, beats])
def test_what_is_paused_or_goes_on_is_no_hang_and_leaves_nothing(steps, tmp_path):
    assert ends(start(2, tmp_path, steps), 60) == [0, 0]
    assert not (tmp_path / "hang").exists()
    assert not (tmp_path / "stderr-0").read_text()


def test_a_job_that_was_suspended_as_a_whole_goes_on(tmp_path):
    processes = start(2, tmp_path, beats)
    time.sleep(LIMIT_S)
    for number in (signal.SIGSTOP, signal.SIGCONT):
        for process in processes:
            os.kill(process.pid, number)
        time.sleep(2 * LIMIT_S)
    assert ends(processes, 60) == [0, 0]


def test_the_first_step_may_take_three_times_as_long(tmp_path):
    with process_group(), HangWatch(tmp_path / "hang", LIMIT_S / 60) as watch:
        time.sleep(2 * LIMIT_S)
        watch.beat(1)


def test_no_minutes_watch_nothing(tmp_path):
    before = signal.getsignal(signal.SIGQUIT)  # ignored by what a shell runs in the background
    with process_group(), HangWatch(tmp_path / "hang", 0.0) as watch:
        assert signal.getsignal(signal.SIGQUIT) is before
        watch.beat(1)
    assert not (tmp_path / "hang").exists()


def test_sigquit_shows_where_a_rank_is_and_does_it_no_harm(tmp_path):
    with process_group(), HangWatch(tmp_path / "hang", 1.0) as watch:
        watch.beat(1)
        signal.raise_signal(signal.SIGQUIT)
    message = stacks(tmp_path, 0).read_text()
    assert "in test_sigquit_shows_where_a_rank_is_and_does_it_no_harm" in message


@pytest.mark.parametrize("first_to_end", ["earlier", "later"])
def test_each_of_two_starts_of_a_run_has_stacks_of_its_own(tmp_path, first_to_end):
    with process_group():
        watches = {name: HangWatch(tmp_path / "hang", 10.0) for name in ("earlier", "later")}
        for watch in watches.values():
            watch.__enter__()
        assert len(list((tmp_path / "hang").iterdir())) == 2
        watches.pop(first_to_end).__exit__(None, None, None)
        assert len(list((tmp_path / "hang").iterdir())) == 1
        watches.popitem()[1].__exit__(None, None, None)
    assert not (tmp_path / "hang").exists()


def test_files_of_a_watch_that_were_removed_do_not_end_a_run(tmp_path):
    with process_group(), HangWatch(tmp_path / "hang", 10.0, "token") as watch:
        (tmp_path / "hang" / "rank-0.token.txt").unlink()
        (tmp_path / "hang").rmdir()
        watch.beat(1)
