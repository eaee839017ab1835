"""A grid on this machine: so many cells at a time, each a process with a log of its own.

A cell that fails holds no other; what was stopped or killed goes on where it was saved.
"""

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import NamedTuple

from maskedclip.config import Config, LaunchConfig, override
from maskedclip.engine.closed_terminal import stops_as_by_ctrl_c
from maskedclip.engine.cores import SHARE, cores
from maskedclip.grid.manifest import (
    EVALUATE,
    FINETUNE,
    LOGS,
    PRETRAIN,
    REPORT,
    TURNS,
    Cell,
    Grid,
    Submission,
    append,
    finished,
    run_of,
    submissions,
    write_turns,
)  # fmt: skip
from maskedclip.grid.slurm_arrays import code_of, held, missing, run_cell, waits_for
from maskedclip.grid.status import clock, fields_of, progress_of
from maskedclip.jobs import processes

logger = logging.getLogger(__name__)
_POLL_S = 0.2  # between checks of the processes
_ASKED = "asked to stop with its launcher: "
_SHOW_S = 60.0  # between lines of progress where they go to a file


class _Running(NamedTuple):
    """A cell that runs."""

    cell: Cell
    process: subprocess.Popen[bytes]
    log: Path
    start: float
    devices: tuple[str, ...]


class _Pool:
    """What is left of a grid, what runs, and what became of the others."""

    def __init__(self, grid: Grid, waiting: list[Cell], devices: list[str], code: Path) -> None:
        self.grid, self.waiting, self.code = grid, waiting, code
        self.free, self.total = devices, len(waiting)
        self.devices_of = _devices_of(grid, len(devices))
        self.running: list[_Running] = []
        self.failed: dict[str, str] = {}
        self.attempts = {one.cell: one.attempt for one in submissions(grid)}
        self.seconds: dict[str, list[float]] = {}  # that cells took, by stage

    def start(self) -> None:
        """Start what may start, up to the parallelism and the GPUs there are."""
        for cell in list(self.waiting):
            if len(self.running) >= (self.grid.parallelism or 1):
                return
            open_cells = {c.name for c in self.waiting} | {one.cell.name for one in self.running}
            if open_cells & set(cell.needs):
                continue
            if waits := waits_for(self.grid, cell):
                self.waiting.remove(cell)
                self.fail(cell, waits)
            elif self.devices_of[cell.stage] <= len(self.free):
                self.waiting.remove(cell)
                self.launch(cell)
            else:
                continue
            write_turns(self.grid, self.waiting)

    def launch(self, cell: Cell) -> None:
        """Start a cell's process, and write down that it was."""
        count = self.devices_of[cell.stage]
        devices, self.free = tuple(self.free[:count]), self.free[count:]
        attempt = self.attempts.get(cell.name, 0) + 1
        relative = f"{LOGS}/{cell.name}-{attempt}.log"
        log = self.grid.directory / relative
        log.parent.mkdir(exist_ok=True)
        words = [sys.executable, "-m", "maskedclip.grid", str(self.grid.directory), cell.name]
        with log.open("ab") as file:
            process = subprocess.Popen(
                words, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT,
                # out of the terminal's reach: it is this process that answers Ctrl-C
                env=self.environment(devices), start_new_session=True,
            )  # fmt: skip
        self.running.append(_Running(cell, process, log, time.monotonic(), devices))
        try:
            name = processes.named(process.pid)
        except RuntimeError:  # over before it could be named
            name = ""
        append(self.grid, [Submission(cell.name, name, attempt, time.time(), relative)])

    def environment(self, devices: tuple[str, ...]) -> Mapping[str, str]:
        """Return a cell's environment: its GPUs, its share of the cores, the code."""
        share = max(1, cores() // (self.grid.parallelism or 1))
        paths = [str(self.code), os.environ.get("PYTHONPATH", "")]
        return {
            "OMP_NUM_THREADS": str(share),
            "OMP_WAIT_POLICY": "passive",  # spinning threads would take the others' time
            **os.environ,
            SHARE: str(share),
            "CUDA_VISIBLE_DEVICES": ",".join(devices),
            "PYTHONPATH": os.pathsep.join(filter(None, paths)),
            "PYTHONSAFEPATH": "1",
        }

    def poll(self) -> None:
        """Say what became of the cells that have ended."""
        for one in list(self.running):
            code = one.process.poll()
            if code is None:
                continue
            self.running.remove(one)
            self.free = [*self.free, *one.devices]
            seconds = time.monotonic() - one.start
            why = _last_words(one.log) if code > 0 else _ending(code)
            _note(one.log, _ending(code))
            if code == 0 and finished(self.grid, one.cell):
                self.seconds.setdefault(one.cell.stage, []).append(seconds)
                _say(f"{one.cell.name}: done, {seconds:.0f} s\n")
            else:
                why = why if code else "ended without its results"
                self.fail(one.cell, f"{why} (log: {one.log})")

    def fail(self, cell: Cell, why: str) -> None:
        self.failed[cell.name] = why
        _say(f"{cell.name}: failed: {why}\n")

    def stop(self) -> None:
        """Let what runs save and leave; a second Ctrl-C does not wait for it."""
        _say("stopping: cells save what they have; a second Ctrl-C does not wait for it\n")
        left = list(self.running)
        for one in left:
            one.process.terminate()
        try:
            while left:
                for one in [one for one in left if one.process.poll() is not None]:
                    left.remove(one)
                    _note(one.log, f"{_ASKED}{_ending(one.process.returncode)}")
                time.sleep(_POLL_S)
        finally:
            for one in left:
                one.process.kill()
                _note(one.log, f"{_ASKED}{_ending(one.process.wait())}")

    def progress(self) -> str:
        """Return a line on how far it is, with the time left."""
        done = self.total - len(self.waiting) - len(self.running)
        states = f"{done} of {self.total} cells, {len(self.running)} running"
        states += f", {len(self.failed)} failed" if self.failed else ""
        left, known = self.left()
        if not left and not known:
            return f"{states}, time left not known yet"
        return f"{states}, {'' if known else 'over '}{clock(left)} left"

    def left(self) -> tuple[float, bool]:
        """Return seconds, and whether every stage that is to come was seen already."""
        usual = {stage: sum(all_) / len(all_) for stage, all_ in self.seconds.items()}
        parts = {one.cell.name: _fraction(self.grid, one.cell) for one in self.running}
        for one in self.running:
            if one.cell.stage not in usual and parts[one.cell.name] > 0:
                passed = time.monotonic() - one.start
                usual[one.cell.stage] = passed / parts[one.cell.name]
        work = [(cell.stage, 1.0) for cell in self.waiting]
        work += [(one.cell.stage, 1 - parts[one.cell.name]) for one in self.running]
        seconds = sum(usual.get(stage, 0.0) * part for stage, part in work)
        return seconds / (self.grid.parallelism or 1), all(stage in usual for stage, _ in work)


def run(grid: Grid, names: Collection[str] | None = None) -> int:
    """Run what is not finished; return the exit code, 1 where a cell failed.

    Args:
        names: of the cells that may be run; None: all.

    Raises ValueError where this machine has too few GPUs, RuntimeError where the grid is run or
    submitted by another process, or was asked to stop.
    """
    with held(grid):
        turns = grid.directory / TURNS
        turns.unlink(missing_ok=True)  # of one that was killed
        try:
            return _run(grid, names)
        finally:
            turns.unlink(missing_ok=True)


def _run(grid: Grid, names: Collection[str] | None) -> int:
    devices = _devices(grid)
    cells, active, unknown = missing(grid)
    cells = [cell for cell in cells if names is None or cell.name in names]
    for line in unknown:
        logger.warning("%s; it is left alone", line)
    if active:
        logger.warning("%d cells wait or run already, and are left alone", len(active))
    _say(f"cells: {len(grid.cells)}, to run: {len(cells)}\n")
    pool = _Pool(grid, cells, devices, code_of(grid))
    write_turns(grid, cells)
    try:
        with stops_as_by_ctrl_c():
            try:
                _until_done(pool)
            except KeyboardInterrupt:
                pool.stop()
                raise
    except KeyboardInterrupt:
        raise RuntimeError("stopped; the same command goes on with what is left") from None
    for name, why in pool.failed.items():
        _say(f"failed: {name}: {why}\n")
    return 1 if pool.failed else 0


def _until_done(pool: _Pool) -> None:
    shown = time.monotonic()
    while pool.waiting or pool.running:
        pool.start()
        time.sleep(_POLL_S)
        pool.poll()
        now, terminal = time.monotonic(), sys.stderr.isatty()
        if terminal:
            sys.stderr.write(f"\r\x1b[K{pool.progress()}")
            sys.stderr.flush()
        elif now - shown > _SHOW_S:
            shown = now
            sys.stderr.write(pool.progress() + "\n")
    _say("")


def _say(line: str) -> None:
    sys.stderr.write(f"\r\x1b[K{line}" if sys.stderr.isatty() else line)
    sys.stderr.flush()


def _ending(code: int) -> str:
    """Return how a process ended, as grid/diagnosis.py reads it."""
    if code >= 0:
        return f"ended with exit code {code}"
    return f"ended by Signal {-code} ({signal.Signals(-code).name})"


def _note(log: Path, line: str) -> None:
    """Add how a cell ended to its log: one that is killed leaves no word of its own.

    A log without such a line is one whose launcher was killed, which `--why` says.
    """
    with log.open("a", encoding="utf-8") as file:
        file.write(f"{line}\n")


def _last_words(log: Path) -> str:
    lines = [line.strip() for line in log.read_text("utf-8", "replace").splitlines()]
    return next((line for line in reversed(lines) if line), "no word in its log")


def _fraction(grid: Grid, cell: Cell) -> float:
    """Return how much of a cell is done, 0 where nothing is known."""
    if cell.stage == EVALUATE:  # whose directory is that of its pre-training
        return 0.0
    progress = progress_of(run_of(grid, cell), fields_of(cell), time.time())
    return min(1.0, progress.step / progress.steps) if progress.step and progress.steps else 0.0


def _devices(grid: Grid) -> list[str]:
    """Return the GPUs of this machine as CUDA_VISIBLE_DEVICES names them; none where none is used.

    Raises ValueError where a cell wants more, or more than one machine; RuntimeError where there
    should be some and torch sees none.
    """
    wanted = [grid.launch[cell.stage] for cell in grid.cells]
    if any(launch["nodes"] > 1 for launch in wanted):
        raise ValueError("--nodes: several nodes need SLURM; use --nodes 1")
    if all(launch["gpus"] == 0 for launch in wanted):
        return []
    from maskedclip.engine.visible_gpus import compute_device, gpu_names

    names = gpu_names()
    if not names:
        compute_device()  # which says why, where there should be some: its cells see a mask alone
    most = max(launch["gpus"] or 0 for launch in wanted)
    if most > len(names):
        raise ValueError(
            f"--gpus {most}: this machine has {len(names)}; use --gpus {len(names)}, or submit "
            f"where SLURM is"
        )
    return names


def _devices_of(grid: Grid, count: int) -> dict[str, int]:
    """Return how many GPUs a cell of each stage takes."""
    alone = min(1, count)
    usual = {PRETRAIN: count, EVALUATE: alone, FINETUNE: alone, REPORT: 0}
    wanted = {stage: launch["gpus"] for stage, launch in grid.launch.items()}
    return {stage: usual[stage] if gpus is None else gpus for stage, gpus in wanted.items()}


def run_cell_here(grid: Grid, cell: Cell) -> None:
    """Run a cell here, over as many processes as its launch says."""
    launch = override(LaunchConfig(), {**grid.launch[cell.stage], "cluster": "local"})
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    gpus = len(visible.split(",")) if visible else 0
    if cell.stage != PRETRAIN or (gpus or launch.cpu_ranks) == 1 or finished(grid, cell):
        run_cell(grid, cell)
        return
    from maskedclip.jobs.submit import submit

    submit(override(Config(), cell.config), override(launch, {"gpus": gpus}))
