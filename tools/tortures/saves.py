"""Each file call of a save fails, once or from then on: as a full, broken or read-only disk has it.

The calls are those of a process into which fail_calls.c is preloaded: open, write, fsync, rename,
mkdir, unlink, truncate, chmod, close. What stays must be whole, what is lost must be named, and the
next save must succeed.
"""

import ctypes
import errno
import json
import logging
import os
import random
import shutil
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from tortures.commands import ROOT, built
from tortures.saved_things import SAVES, Save
from tortures.trials import OURS, Hung, Trial, Verdict

from maskedclip.engine.distributed import process_group

NUMBER = 3_000
SECONDS = 60.0
CODES = (errno.ENOSPC, errno.EIO, errno.EACCES, errno.EROFS, errno.EDQUOT)
WHAT = tuple(SAVES)


@contextmanager
def trials(folder: Path) -> Iterator[Trial]:
    """Ask one worker for each failing call; another is started where one ends."""
    worker = Worker(built(folder, "fail_calls"), folder)
    calls_of = {what: worker.calls(what) for what in WHAT}

    def trial(_: random.Random, number: int) -> Mapping[str, Verdict]:
        turn, what = number // len(WHAT), WHAT[number % len(WHAT)]
        turn, code = turn // len(CODES), CODES[turn % len(CODES)]
        calls = calls_of[what]
        at, forever = 1 + turn // 2 % calls, turn % 2
        found = worker.ask(what, at, code, forever)
        where = f"{what}, call {at} of {calls}, {errno.errorcode[code]}"
        return {OURS: Verdict(found[0], f"{where}{' for ever' * forever}: {found[1]}")}

    try:
        yield trial
    finally:
        worker.end()


class Worker:
    """The process whose calls fail."""

    def __init__(self, library: Path, folder: Path) -> None:
        self._library, self._folder = library, folder
        self._process: subprocess.Popen[str] | None = None
        self._calls: dict[str, int] = {}

    def calls(self, what: str) -> int:
        """Return how many calls a save makes that does not fail."""
        if what not in self._calls:
            outcome, said = self.ask(what, 0, 0, 0)
            if outcome != "harmless":
                raise RuntimeError(f"{what}: it fails where no call does: {said}")
            self._calls[what] = int(said)
        return self._calls[what]

    def ask(self, what: str, at: int, code: int, forever: int) -> Any:
        if self._process is None or self._process.poll() is not None:
            self._start()
        assert self._process is not None
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        try:
            stdin.write(json.dumps([what, at, code, forever]) + "\n")
            stdin.flush()
            answer = stdout.readline()
        except (Hung, BrokenPipeError):
            self.end()
            raise Hung(f"{what}, call {at}: no answer") from None
        return json.loads(answer) if answer else ("LOST", "the process ended")

    def _start(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tortures.saves", str(self._library), str(self._folder)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env=os.environ | {
                "LD_PRELOAD": str(self._library), "OMP_NUM_THREADS": "1",
                "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tools")]),
            },
        )  # fmt: skip

    def end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()


class Calls:
    """The preloaded library."""

    def __init__(self, library: str, folder: Path) -> None:
        self._library, self._folder = ctypes.CDLL(library), folder
        self._library.counted.restype = ctypes.c_long

    @contextmanager
    def failing(self, at: int, code: int, forever: int) -> Iterator[None]:
        below = os.fsencode(self._folder)
        self._library.arm(below, ctypes.c_long(at), ctypes.c_int(code), ctypes.c_int(forever))
        try:
            yield
        finally:
            self._library.disarm()

    def count(self) -> int:
        return int(self._library.counted())


class Lines(logging.Handler):
    """What the program says."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.said.append(record.getMessage())


def work(library: str, folder: Path) -> None:
    """Answer each line of standard input."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    place = folder / "place"
    calls, lines = Calls(library, place), Lines()
    logging.getLogger().addHandler(lines)
    with process_group():
        for line in sys.stdin:
            what, at, code, forever = json.loads(line)
            shutil.rmtree(place, ignore_errors=True)
            place.mkdir()
            lines.said.clear()
            answer(answers, tried(SAVES[what], place, calls, lines, (at, code, forever)), calls, at)


def answer(answers: IO[str], found: Verdict, calls: Calls, at: int) -> None:
    answers.write(json.dumps(found if at else ["harmless", f"{calls.count()}"]) + "\n")
    answers.flush()


def tried(
    save: Callable[[Path], Save], place: Path, calls: Calls, lines: Lines, failing: tuple[Any, ...]
) -> Verdict:
    """Have one save fail, then look at what is left (saved_things.py)."""
    steps = save(place)
    next(steps)
    try:
        with calls.failing(*failing):
            message = next(steps)
        said = [*lines.said, *filter(None, [message])]
        if wide := [text for text in said if "\n" in text]:
            return Verdict("LOST", f"more than a line: {wide[0]!r}")
        try:
            changed = steps.send(said)
        except StopIteration as end:
            changed = end.value
    except Exception:  # whatever it is, a user would see a traceback
        return Verdict("LOST", " ".join(traceback.format_exc().split())[-250:])
    if changed and not any(said):
        return Verdict("SILENT", f"{changed}, and no word")
    return Verdict("refused" if any(said) else "harmless", (said or [""])[-1])


if __name__ == "__main__":
    work(sys.argv[1], Path(sys.argv[2]))
