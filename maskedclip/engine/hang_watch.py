"""A watchdog: a rank that takes no step for too long ends the job and dumps the stacks of its node.

A rank that waits on the device for one that has ended by an error ends with that rank's words.

RUN/hang/rank-N.TOKEN.txt holds the Python stacks of rank N's threads, TOKEN being that of this
start: another may begin, or end, meanwhile. A rank that was stopped, or whose GIL is held by native
code, cannot write them: another rank of its node sends it SIGQUIT, on which `faulthandler` writes
them without the GIL, and SIGCONT. So `kill -QUIT PID` shows where a rank is, at any time and
without harm.
"""

import faulthandler
import json
import os
import secrets
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple, Self, TextIO

import torch.distributed as dist

from maskedclip.engine.distributed import gathered
from maskedclip.engine.ended_ranks import EndedRanks

HUNG = 75  # exit code; EX_TEMPFAIL of sysexits.h: try again later
_FIRST_STEPS = 3  # compiling and the first batch may take so many times as long as a step
_GRACE_S = 5.0  # at most, between the time-out and the end of a rank
_LEAVING_S = 8.0  # for which a rank may stay when another has ended by an error
_FAILED = 2  # exit code, as of every error


class _Rank(NamedTuple):
    rank: int
    pid_namespace: str  # ranks of the same one can signal one another
    pid: int
    started: str  # distinguishes it from a later process of the same id


class HangWatch:
    """Ends this process with exit code 75 where `beat` is not called for `minutes`.

    Every rank enters it together. The first beat may take three times as long. 0 minutes turn that
    off: this process then ends only where another rank has ended by an error.
    """

    def __init__(self, folder: Path, minutes: float, token: str = "") -> None:
        """token: of this start, in the names of its files; "" makes one."""
        self._folder, self._limit_s = folder, 60 * minutes
        self._rank = dist.get_rank()
        self._step: int | None = None
        self._since, self._clock = time.monotonic(), time.time()
        self._pauses = 0
        self._ended, self._thread = threading.Event(), threading.Thread()
        self._others = EndedRanks()
        self._alone_since: float | None = None  # when another rank was first seen to have ended
        self._ranks: list[_Rank] = []
        self._file: TextIO | None = None
        self._token = token or secrets.token_hex(8)

    def __enter__(self) -> Self:
        if not self._limit_s:
            if dist.get_world_size() > 1:
                self._start(self._watch_others)
            return self
        me = _Rank(self._rank, _pid_namespace(), os.getpid(), _started(os.getpid()))
        lines = [json.loads(line) for line in gathered([json.dumps([self._token, *me])])]
        self._token = lines[0][0]
        self._ranks = [_Rank(*fields) for _, *fields in lines]
        self._file = self._opened()
        faulthandler.register(signal.SIGQUIT, self._file)
        self._restart_clock()
        self._start(self._watch)
        return self

    def _opened(self) -> TextIO:
        while True:
            self._folder.mkdir(parents=True, exist_ok=True)
            with suppress(FileNotFoundError):  # another start has just removed the empty folder
                return self._path(self._rank).open("a")

    def _start(self, watch: Callable[[], None]) -> None:
        self._thread = threading.Thread(target=watch, name="hang watch", daemon=True)
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._others.stop()
        if self._thread.is_alive():
            self._thread.join()
        if self._file is not None:
            faulthandler.cancel_dump_traceback_later()
            faulthandler.unregister(signal.SIGQUIT)
            with suppress(OSError):  # nothing that happens to these files ends a run
                self._file.close()
                path = self._path(self._rank)
                if not path.stat().st_size:
                    path.unlink()
                    self._folder.rmdir()  # unless another rank's file is there, or another start's

    def beat(self, step: int) -> None:
        """Report that this rank has finished `step` steps."""
        late = time.monotonic() - self._since > self._timeout_s()
        if self._file is not None and late and not self._pauses and self._written(self._rank):
            self._thread.join()  # it was taken for hanging, and woken: it ends with the others
        self._step = step
        self._restart_clock()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Suspend the watchdog during what is no step and may take long, on all ranks together."""
        self._pauses += 1
        try:
            yield
        finally:
            self._restart_clock()
            self._pauses -= 1

    def _restart_clock(self) -> None:
        self._clock, self._since = time.time(), time.monotonic()

    def _timeout_s(self) -> float:
        return self._limit_s * (_FIRST_STEPS if self._step is None else 1)

    def _path(self, rank: int) -> Path:
        return self._folder / f"rank-{rank}.{self._token}.txt"

    def _watch(self) -> None:
        assert self._file is not None
        interval_s, checked = min(1.0, self._limit_s / 10), time.monotonic()
        while True:
            timeout_s = self._timeout_s()
            # where native code holds the GIL this thread stands still too; faulthandler's timer,
            # restarted each time, does not
            faulthandler.dump_traceback_later(timeout_s + 2 * _GRACE_S, file=self._file, exit=True)
            if self._ended.wait(interval_s):
                return
            now, before = time.monotonic(), checked
            waited, checked = now - self._since, now
            self._follow_ended()
            if waited <= timeout_s or self._pauses:
                continue
            if now - before > interval_s + self._limit_s / 4 and not self._written(self._rank):
                self._restart_clock()  # the whole job was suspended, and now goes on
            else:
                self._end(waited)

    def _watch_others(self) -> None:
        while not self._ended.wait(1.0):
            self._follow_ended()

    def _follow_ended(self) -> None:
        """End, in its words, where another rank has ended by an error and this one stays."""
        if not (words := self._others.words):
            return
        now = time.monotonic()
        self._alone_since = now if self._alone_since is None else self._alone_since
        if now > self._alone_since + _LEAVING_S:
            os.write(2, f"{words}\n".encode())
            os._exit(_FAILED)

    def _end(self, waited: float) -> None:
        """Write this rank's stacks, have the others of its node write theirs, and exit."""
        assert self._file is not None
        here = f"rank {self._rank} of {len(self._ranks)}"
        since = "before its first step" if self._step is None else f"after step {self._step}"
        if not self._written(self._rank):
            self._file.write(f"{here}: nothing for {waited:.1f} s {since}\n")
            self._file.flush()
            faulthandler.dump_traceback(self._file)
        woken = self._dump_others()
        silent = "".join(f"; rank {other.rank} did not answer" for other in woken)
        line = (
            f"hang: {here} has done nothing for {waited:.1f} s {since}{silent}; its stacks are in "
            f"{self._path(self._rank)}; the same command goes on from the last checkpoint\n"
        )
        os.write(2, line.encode())  # the thread that hangs may hold the lock of sys.stderr
        _wait_or_kill(woken)
        sys.stdout.flush()
        os._exit(HUNG)

    def _dump_others(self) -> list[_Rank]:
        """Wait until all ranks of this node have written; return those that had to be signalled."""
        mine = self._ranks[self._rank]
        node = [o for o in self._ranks if o.pid_namespace and o.pid_namespace == mine.pid_namespace]
        start, woken = time.monotonic(), list[_Rank]()
        own_turn_s = 1.5 + 0.3 * node.index(mine) if node else 0.0  # one wakes, not all at once
        while (silent := [o for o in node if not self._written(o.rank)]) and (
            time.monotonic() < start + _GRACE_S
        ):
            time.sleep(0.1)
            if time.monotonic() > start + own_turn_s:
                for other in silent:
                    if other not in woken and _started(other.pid) == other.started:
                        with suppress(ProcessLookupError):
                            os.kill(other.pid, signal.SIGQUIT)  # before it runs on
                            os.kill(other.pid, signal.SIGCONT)
                        woken.append(other)
        time.sleep(0.2)  # they may be in the middle of a line
        return woken

    def _written(self, rank: int) -> bool:
        """Return whether a rank has written since the last beat; clocks may differ a little."""
        try:
            state = self._path(rank).stat()
        except OSError:  # somebody has removed it
            return False
        return state.st_size > 0 and state.st_mtime > self._clock + self._limit_s / 2


def _wait_or_kill(ranks: list[_Rank]) -> None:
    """Wait until processes have ended, and kill what is left."""
    end = time.monotonic() + 2.0
    while left := [rank for rank in ranks if _started(rank.pid) == rank.started]:
        if time.monotonic() > end:
            for rank in left:
                with suppress(ProcessLookupError):
                    os.kill(rank.pid, signal.SIGKILL)
            return
        time.sleep(0.1)


def _pid_namespace() -> str:
    """Return a name of the machine's boot and PID namespace; empty where the system has none."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    if not boot.exists():
        return ""
    return f"{boot.read_text().strip()} {Path('/proc/self/ns/pid').readlink()}"


def _started(pid: int) -> str:
    """Return when a process was started, in clock ticks; empty where none runs."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return ""
    return "" if fields[0] == "Z" else fields[19]
