"""The command lines of this checkout, run as processes that can be killed.

A fork of a process that has imported torch runs the same file as `python FILE` does, in a twentieth
of the time; `fresh` starts an interpreter.
"""

import multiprocessing
import os
import resource
import runpy
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import NamedTuple

from tortures.trials import Hung, Unavailable, Verdict

import tests.conftest  # noqa: F401 (it states what forked processes have imported)

ROOT = Path(__file__).resolve().parents[2]
FORKS = multiprocessing.get_context("forkserver")
# the server is an interpreter of its own, which finds the package by this alone
os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(ROOT / "tools")])
NOTES = (  # of what a command takes, which may stand before what it refuses
    "of torch before 1.6, without checksums", "an untrained encoder", "no AUROC",
    "test images of labelled datasets are in pre-training",
)  # fmt: skip
MEMORY = 4 << 30  # bytes of address space beyond what the imports took


class Ended(NamedTuple):
    """How a command ended, and what it printed."""

    code: int | None
    out: str
    err: str


class Running:
    """A command on one or several ranks; each rank is a process group of its own."""

    def __init__(
        self,
        words: Sequence[str],
        folder: Path,
        *,
        ranks: int = 1,
        fresh: bool = False,
        variables: Mapping[str, str] | None = None,
    ) -> None:
        """words: FILE or -m MODULE, and the rest; folder: where it runs."""
        self._logs = folder / f"log-{time.monotonic_ns()}"
        self._logs.mkdir()
        environment = dict(variables or {})
        if ranks > 1:
            environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
        self._forked: list[ForkServerProcess] = []
        self._fresh: list[subprocess.Popen] = []
        for rank in range(ranks):
            own = environment
            if ranks > 1:
                own = own | {"RANK": f"{rank}", "LOCAL_RANK": f"{rank}", "WORLD_SIZE": f"{ranks}"}
            if fresh:
                self._fresh.append(self._interpreter(words, folder, own, rank))
                continue
            arguments = (list(words), str(folder), own, str(self._logs / str(rank)))
            process = FORKS.Process(target=enter, args=arguments)
            process.start()
            self._forked.append(process)
        pids = [*(process.pid for process in self._forked), *(one.pid for one in self._fresh)]
        self.pids = [pid for pid in pids if pid is not None]  # of one that is not started

    def _interpreter(
        self, words: Sequence[str], folder: Path, own: Mapping[str, str], rank: int
    ) -> subprocess.Popen:
        program = [*words[:2]] if words[0] == "-m" else [str(ROOT / words[0])]
        out, err = (self._logs / f"{rank}.{name}" for name in ("out", "err"))
        with out.open("w") as stdout, err.open("w") as stderr:
            return subprocess.Popen(
                [sys.executable, *program, *words[len(program) :]],
                cwd=folder, env=os.environ | {"PYTHONPATH": str(ROOT), **own},
                stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr, start_new_session=True,
            )  # fmt: skip

    def signal(self, number: int, *ranks: int) -> None:
        """Send a signal to the process groups of these ranks; none named: of all."""
        for rank, pid in enumerate(self.pids):
            if not ranks or rank in ranks:
                try:
                    os.killpg(pid, number)
                except ProcessLookupError:  # it has ended, or has no group yet
                    if self.codes()[rank] is None:
                        os.kill(pid, number)

    def codes(self) -> list[int | None]:
        """Return the exit code of each rank, None of one that runs."""
        return [p.exitcode for p in self._forked] + [p.poll() for p in self._fresh]

    def wait(self, seconds: float) -> list[Ended]:
        """Return how each rank ended; Hung where one has not, and then all are killed."""
        end = time.monotonic() + seconds
        while None in self.codes():
            if time.monotonic() > end:
                self.signal(signal.SIGKILL)
                raise Hung(f"no end after {seconds:g} s")
            time.sleep(0.02)
        return self.ended()

    def ended(self) -> list[Ended]:
        return [
            Ended(code, *(self._printed(rank, name) for name in ("out", "err")))
            for rank, code in enumerate(self.codes())
        ]

    def _printed(self, rank: int, name: str) -> str:
        path = self._logs / f"{rank}.{name}"
        return path.read_text(errors="replace") if path.exists() else ""


def run(words: Sequence[str], folder: Path, seconds: float = 300.0) -> Ended:
    """Run a command to its end."""
    return Running(words, folder).wait(seconds)[0]


def built(folder: Path, name: str) -> Path:
    """Return the library of NAME.c here, to be preloaded; raises Unavailable without a compiler."""
    if shutil.which("gcc") is None:
        raise Unavailable("no gcc")
    library, source = folder / f"{name}.so", Path(__file__).with_name(f"{name}.c")
    subprocess.run(["gcc", "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"], check=True)
    return library


def enter(words: list[str], folder: str, variables: Mapping[str, str], log: str) -> None:
    """Become the program of a command line; of the forked process."""
    os.setsid()
    for number, name in ((1, "out"), (2, "err")):
        descriptor = os.open(f"{log}.{name}", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(descriptor, number)
        os.close(descriptor)
    sys.stdout, sys.stderr = (open(number, "w", buffering=1, closefd=False) for number in (1, 2))  # noqa: SIM115
    os.chdir(folder)
    os.environ |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **variables}
    size = 4096 * int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY, size + MEMORY))
    import torch

    torch.set_num_threads(1)
    if words[0] == "-m":
        sys.argv = words[1:]
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = [str(ROOT / words[0]), *words[1:]]
        runpy.run_path(sys.argv[0], run_name="__main__")


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def one_line(ended: Ended) -> Verdict:
    """Return whether a command refused: with exit code 2, and one line that a person can read."""
    lines = [line for line in ended.err.splitlines() if not any(note in line for note in NOTES)]
    if "Traceback" in ended.err or ended.code is None or ended.code < 0:
        return Verdict("LOST", f"exit code {ended.code}: {' | '.join(lines[-3:])}"[:300])
    if ended.code == 0:
        return Verdict("SILENT", f"taken without a word: {ended.out[-100:]!r} {ended.err[-100:]!r}")
    if ended.code != 2 or len(lines) != 1 or not lines[0].isprintable():
        return Verdict("LOST", f"exit code {ended.code}, {len(lines)} lines: {ended.err!r}"[:300])
    return Verdict("refused", lines[0])
