"""See how a grid or a run stands, read a log, submit again what failed, or end it.

    python -m maskedclip.slurm status GRID_OR_RUN [--watch=30] [--json]
    python -m maskedclip.slurm status GRID_OR_RUN --why=CELL
    python -m maskedclip.slurm log    GRID_OR_RUN [CELL] [--follow] [--lines=40]
    python -m maskedclip.slurm retry  GRID_OR_RUN [CELL ...] [--hours=48] [--memory_gb=64] ...
    python -m maskedclip.slurm cancel GRID_OR_RUN [CELL ...]

status shows a line a cell; --why says why one failed, and what to do; --watch shows it again and
again, and submits what a limit on submitted jobs has left no room for, as others end. log shows
what a cell wrote last. retry submits what failed, was cancelled or is missing, and nothing that is
done, waits or runs. cancel ends the jobs of that grid or run, and no others.
"""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from shlex import quote
from typing import Any

from maskedclip.command import (
    ANY,
    CommandLine,
    Options,
    Word,
    one_line_errors,
    takes_colours,
)
from maskedclip.config import LaunchConfig, override
from maskedclip.grid.diagnosis import cause_of
from maskedclip.grid.lookup import LAUNCH, GridOrRun, known_paths, opened
from maskedclip.grid.manifest import LOCK, PRETRAIN, REPORT, Grid, cell_of, run_of, waiting
from maskedclip.grid.status import (
    ACTIVE,
    DONE,
    FAILED,
    LOST,
    MISSING,
    OPEN,
    PENDING,
    STATES,
    CellStatus,
    Logs,
    counting,
    current_status,
    evidence,
    summary,
)
from maskedclip.grid.status_table import table
from maskedclip.jobs import processes
from maskedclip.jobs import slurm_queue as queue
from maskedclip.next_step import finetune_command, next_lines, report_command

_ALL = 1 << 20  # bytes of each log that are searched for a cause
_CHUNK = 200  # jobs that scancel is given at a time
_FOLLOW_S = 5.0  # between checks whether a cell that is followed still runs
_PATIENCE_S = 60.0  # for a local process to save and leave
_ME = "python -m maskedclip.slurm"


@dataclass(frozen=True, kw_only=True)
class StatusConfig:
    """What status shows."""

    why: str = ""  # a cell: why it failed, and what to do
    watch: float = 0.0  # seconds between checks, until nothing waits or runs; 0: one check
    json: bool = False  # one JSON object instead of text

    def __post_init__(self) -> None:
        if self.watch < 0 or 0 < self.watch < 1:
            raise ValueError(f"watch {self.watch:g}: at least 1 second, or 0 for one check")


@dataclass(frozen=True, kw_only=True)
class LogConfig:
    """What log shows."""

    follow: bool = False  # go on with what is added, until the cell waits and runs no more
    lines: int = 40  # the last of each file; 0: all

    def __post_init__(self) -> None:
        if self.lines < 0:
            raise ValueError(f"lines {self.lines} is negative; use 0 for all")


@dataclass(frozen=True, kw_only=True)
class RetryConfig:
    """In what the jobs that retry submits differ; what is not given is as it was submitted."""

    hours: float | None = None  # time limit
    memory_gb: int | None = None  # a node
    partition: str | None = None
    qos: str | None = None
    account: str | None = None
    constraint: str | None = None  # of the nodes, such as a100


VERBS = ("status", "log", "retry", "cancel")
_OF_VERB = ("status", "log", "retry")  # whose Options they are, in their order
SLURM = CommandLine(
    Options(StatusConfig(), "Options of status, as --NAME=VALUE:"),
    Options(LogConfig(), "Options of log:"),
    Options(RetryConfig(), "Options of retry, where they shall differ from how it was submitted:"),
    words=[
        Word("COMMAND", choices=VERBS, missing="no command given; use status, retry or cancel"),
        Word("GRID_OR_RUN", least=0),
        Word("CELL", least=0, most=ANY),
    ],
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Carry out the command line; return the exit code."""
    given = SLURM.read(__doc__, arguments)
    verb, *names = given.words
    with one_line_errors():
        if not names:
            known = known_paths()
            hint = f"there is {', '.join(known[:8])}" if known else "as runs/grids/NAME"
            raise ValueError(f"{verb}: name a grid or a run; {hint}")
        for owner, changes in zip(_OF_VERB, given.changes, strict=True):
            if changes and verb != owner:
                raise ValueError(f"{verb} has no flag --{next(iter(changes))}; only {owner} has")
        name, *cells = names
        if verb == "status":
            if cells:
                raise ValueError(f"status takes no cell; use --why={cells[0]}, or log {name} CELL")
            return _status(name, given.config(0))
        if verb == "log":
            return _log(name, cells, given.config(1))
        if verb == "retry":
            changes = {k: v for k, v in asdict(given.config(2)).items() if v is not None}
            return _retry(name, cells, changes)
        return _cancel(name, cells)


def _status(name: str, config: StatusConfig) -> int:
    if config.why:
        return _why(name, config)
    if not config.watch:
        sys.stdout.write(_shown(opened(name), name, as_json=config.json)[0])
        return 0
    try:
        while True:
            _feed(opened(name))
            text, active = _shown(opened(name), name, as_json=config.json)
            clear = "\033[2J\033[H" if sys.stdout.isatty() and not config.json else ""
            sys.stdout.write(clear + text)
            sys.stdout.flush()
            if not active:
                return 0
            time.sleep(config.watch)
    except KeyboardInterrupt:
        return 0


def _feed(target: GridOrRun) -> None:
    """Submit what waits for room under a limit, as far as there is some; a fault is for later."""
    if target.run is not None or not waiting(target.grid):
        return
    from maskedclip.grid.slurm_arrays import feed

    try:
        for one in feed(target.grid).done:
            sys.stderr.write(f"{one.cell}: job {one.job}\n")
    except RuntimeError as error:  # of SLURM, or another process feeds
        sys.stderr.write(f"{error}\n")


def _log(name: str, cells: Sequence[str], config: LogConfig) -> int:
    """Show the end of what a cell's newest job wrote, and with --follow what it adds."""
    target = opened(name)
    if len(cells) > 1:
        raise ValueError(f"log: {len(cells)} cells named; name one")
    if not cells and len(target.grid.cells) > 1:
        raise ValueError(f"log: name a cell, as {target.grid.cells[0].name}; see its status")
    cell = cell_of(target.grid, cells[0]) if cells else target.grid.cells[0]
    shown: dict[Path, int] = {}
    try:
        while True:
            (row,) = (
                r for r in current_status(target.grid, target.submitted) if r.cell == cell.name
            )
            _show_added(target, cell.name, shown, config.lines)
            if not config.follow or row.state not in ACTIVE:
                break
            end = time.monotonic() + _FOLLOW_S
            while time.monotonic() < end:
                time.sleep(0.5)
                _show_added(target, cell.name, shown, config.lines)
            target = opened(name)
    except KeyboardInterrupt:
        return 0
    if not shown:
        sys.stderr.write(f"{cell.name}: has no log: {row.state}{row.note and ': ' + row.note}\n")
        return 1
    return 0


def _show_added(target: GridOrRun, cell: str, shown: dict[Path, int], lines: int) -> None:
    """Write what was added to the logs of a cell's first rank; of a new one its last lines."""
    mine = [one for one in target.submitted if one.cell == cell][-1:]
    for path in [path for one in mine for path in Logs(target.grid).of(one)][:2]:
        with path.open("rb") as file:
            file.seek(shown.get(path, 0))
            text = file.read()
            end = file.tell()
        if path not in shown:
            if lines:
                text = b"".join(text.splitlines(keepends=True)[-lines:])
            sys.stderr.write(f"{path}\n")
        shown[path] = end
        sys.stdout.write(text.decode("utf-8", "replace"))
        sys.stdout.flush()


def _shown(target: GridOrRun, name: str, *, as_json: bool) -> tuple[str, bool]:
    """Return the status as text, and whether anything waits or runs."""
    rows = current_status(target.grid, target.submitted)
    active = any(row.state in ACTIVE for row in rows)
    path = str(target.run or target.grid.directory)
    if as_json:
        counts = {state: sum(row.state == state for row in rows) for state in STATES}
        content = {"place": path, "counts": counts, "cells": [row._asdict() for row in rows]}
        return json.dumps(content, allow_nan=False) + "\n", active
    head = f"{path}: {summary(rows)} ({time.strftime('%H:%M:%S')})"
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    shown = table(rows, width, coloured=takes_colours(sys.stdout))
    return f"{head}\n\n{shown}\n{_next(target, name, rows)}", active


def _next(target: GridOrRun, name: str, rows: Sequence[CellStatus]) -> str:
    """Return the commands that are of use now."""
    troubled = [row for row in rows if row.state in OPEN]
    active = any(row.state in ACTIVE for row in rows)
    ended = sorted((row for row in troubled if row.job), key=lambda row: row.state != FAILED)
    lines = [f"{_ME} status {quote(name)} --why={quote(ended[0].cell)}"] if ended else []
    known = target.run is None or target.grid.launch[target.grid.cells[0].stage]
    if known and troubled and not (active and all(row.state == LOST for row in troubled)):
        lines.append(f"{_ME} retry {quote(name)}")
    if active:
        lines.append(f"{_ME} status {quote(name)} --watch=30")
    if all(row.state == DONE for row in rows):
        reports = [cell for cell in target.grid.cells if cell.stage == REPORT]
        runs = [str(run_of(target.grid, cell)) for cell in target.grid.cells]
        if reports:
            pages = [run_of(target.grid, cell) / "index.html" for cell in reports]
            return "".join(f"report: {page}\n" for page in pages)
        if target.grid.cells[0].stage == PRETRAIN and target.run:
            fields = target.grid.cells[0].config
            shards = [*fields.get("data.paired", ()), *fields.get("data.unpaired", ())]
            lines.append(finetune_command(target.run, fields.get("after.datasets", ()), shards))
        else:
            lines.append(report_command(runs[:1]))
    return next_lines(*lines)


def _why(name: str, config: StatusConfig) -> int:
    target = opened(name)
    cell = cell_of(target.grid, config.why)
    mine = [one for one in target.submitted if one.cell == cell.name]
    row = next(
        row for row in current_status(target.grid, target.submitted) if row.cell == cell.name
    )
    answers = queue.ask([one.job for one in mine])
    counts = counting(mine, answers).get(cell.name)
    if row.state == PENDING and not row.job:  # what ended before is not what it waits for
        counts = None
    logs = Logs(target.grid).of(counts) if counts else []
    answer = answers[counts.job] if counts else queue.JobState("", "was never submitted")
    facts: dict[str, Any] = {"cell": row.cell, "stage": row.stage, "state": row.state}
    facts |= {"note": row.note, "job": row.job, "attempt": row.attempt, "slurm": answer._asdict()}
    cause = None
    if row.state in OPEN and row.state != MISSING and counts:
        cause = cause_of(evidence(counts, logs, answer, _ALL))
        facts |= cause._asdict()
    facts["logs"] = [str(path) for path in logs]
    if config.json:
        sys.stdout.write(json.dumps(facts, allow_nan=False) + "\n")
        return 0
    lines = [f"{row.cell}: {row.state}" + (f": {row.note}" if row.note else "")]
    if counts:
        words = (answer.state or "not known", answer.exit_code, answer.reason)
        at = f" on {answer.node}" if answer.node else ""
        said = ", ".join(word for word in words if word)
        lines.append(f"job     {row.job or 'on this machine'}, attempt {row.attempt}: {said}{at}")
    if cause is not None:
        lines += [f"cause   {cause.kind}: {cause.line}", f"fix     {cause.remedy}"]
    shown = [str(path) for path in logs]
    if counts and not logs:
        shown = [f"none at {target.grid.directory / counts.logs}*"]
    lines += [f"{'log' if i == 0 else '':8}{line}" for i, line in enumerate(shown)]
    if cause is not None and cause.traceback:
        lines += ["", cause.traceback.rstrip()]
    after = f"retry {quote(name)}" if row.state in OPEN else f"status {quote(name)}"
    sys.stdout.write("\n".join([*lines, "", next_lines(f"{_ME} {after}")]))
    return 0


def _retry(name: str, cells: Sequence[str], changes: dict[str, Any]) -> int:
    target = opened(name)
    if target.run is None:
        from maskedclip.grid.slurm_arrays import held

        with held(target.grid):  # refused before anything is said of its cells
            pass
    override(LaunchConfig(), changes)  # a wrong value is reported before anything is submitted
    rows = {row.cell: row for row in current_status(target.grid, target.submitted)}
    if changes and target.grid.cluster == "local":
        raise ValueError(f"--{next(iter(changes))}: {name} runs on this machine, which has none")
    chosen = [rows[cell_of(target.grid, cell).name] for cell in cells] or list(rows.values())
    room = waiting(target.grid) if target.run is None else {}
    again = [r for r in chosen if (r.state in OPEN and r.state != LOST) or r.cell in room]
    lost = [row for row in chosen if row.state == LOST]
    for row in lost:
        sys.stderr.write(f"{row.cell}: left alone, as it may still run: {row.note}\n")
    others = [row for row in chosen if cells and row not in again and row not in lost]
    for row in others:
        hint = "; cancel it first" if row.state in ACTIVE else ""
        sys.stderr.write(f"{row.cell}: is {row.state}{hint}\n")
    if not again:
        sys.stdout.write(f"nothing to submit again: {summary(list(rows.values()))}\n")
        sys.stdout.write(next_lines(f"{_ME} status {quote(name)}"))
        return 1 if lost or others else 0
    if target.run is not None:
        return _retry_run(target, changes)
    for row in again:
        sys.stdout.write(f"again: {row.cell} ({row.state})\n")
    sys.stdout.flush()
    code = _submit_again(target.grid, name, {row.cell for row in again} if cells else None, changes)
    sys.stdout.write(next_lines(f"{_ME} status {quote(name)}"))
    return code or (1 if others else 0)


def _submit_again(grid: Grid, path: str, names: set[str] | None, changes: dict[str, Any]) -> int:
    if grid.cluster == "local":
        from maskedclip.grid.local_pool import run

        return run(grid, names)
    from maskedclip.grid.slurm_arrays import no_room, submit

    submitted = submit(grid, names, changes)
    for one in submitted.done:
        sys.stdout.write(f"{one.cell}: job {one.job}, attempt {one.attempt}\n")
    for cell in submitted.held_up:
        needs = ", ".join(cell_of(grid, cell).needs)
        sys.stderr.write(f"{cell}: needs {needs}, not finished; name that, too\n")
    sys.stdout.write(no_room(submitted, path))
    return 1 if submitted.held_up else 0


def _retry_run(target: GridOrRun, changes: dict[str, Any]) -> int:
    """Submit a single run as it was submitted before, but for `changes`."""
    assert target.run is not None
    (cell,) = target.grid.cells
    launch = target.grid.launch[cell.stage]
    if cell.stage != PRETRAIN or not launch:
        raise ValueError(
            f"{target.run}: has no jobs/{LAUNCH} that says how it was submitted; give the command "
            f"that began it again: it goes on from the last checkpoint"
        )
    from maskedclip.config import Config
    from maskedclip.jobs.submit import submit

    fields = cell.config | {"out": str(target.run.parent)}
    submit(override(Config(), fields), override(LaunchConfig(), launch | changes))
    return 0


def _cancel(name: str, cells: Sequence[str]) -> int:
    target = opened(name)
    names = {cell_of(target.grid, cell).name for cell in cells}
    names = names or {cell.name for cell in target.grid.cells}
    left = []
    if target.grid.cluster == "slurm" and target.run is None:
        from maskedclip.grid.slurm_arrays import forget_waiting

        left = forget_waiting(target.grid, names)
    jobs = _jobs_of(target, names) if cells else [one.job for one in target.submitted if one.job]
    jobs = list(dict.fromkeys(jobs))
    answers = queue.ask(jobs)
    going = [job for job in jobs if answers[job].state in queue.ACTIVE]
    unknown = [job for job in jobs if not answers[job].state]
    local = [job for job in going if processes.is_name(job)]
    slurm = [job for job in going if job not in local]
    for start in range(0, len(slurm), _CHUNK):
        _scancel(slurm[start : start + _CHUNK])
    if cells:
        for job in local:
            processes.end(job)
    else:
        _end_here(target.grid, local)
    _wait_for(local)
    sys.stdout.write(f"cancelled {len(going)} of {len(jobs)} jobs\n")
    if left:
        sys.stdout.write(f"{len(left)} cells wait for room no longer\n")
    for job in unknown:
        sys.stderr.write(
            f"{job}: not cancelled, as nothing is known of it: {answers[job].reason}\n"
        )
    sys.stdout.write(next_lines(f"{_ME} status {quote(name)}"))
    return 1 if unknown else 0


def _jobs_of(target: GridOrRun, names: set[str]) -> list[str]:
    """Return the newest jobs of these cells; ValueError where one holds others, not done."""
    newest = {one.cell: one.job for one in target.submitted if one.job}
    rows = {row.cell: row for row in current_status(target.grid, target.submitted)}
    for cell in sorted(names):
        shared = [
            other
            for other, job in newest.items()
            if job == newest.get(cell) and other not in names and rows[other].state != DONE
        ]
        if shared:
            raise ValueError(
                f"{cell}: its job {newest[cell]} also runs {', '.join(shared)}; cancel them with "
                f"it, or wait"
            )
    return [newest[cell] for cell in names if cell in newest]


def _end_here(grid: Grid, names: Sequence[str]) -> None:
    """End processes of this machine: by who hands the cells out, or the next would be started."""
    runner = processes.holder(grid.directory / LOCK) if names else None
    for name in names if runner is None else [runner]:
        processes.end(name)


def _scancel(jobs: Sequence[str]) -> None:
    try:
        done = subprocess.run(["scancel", *jobs], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise RuntimeError(f"scancel: {error}; jobs {jobs[0]} ... may still run") from None
    # what has ended meanwhile is no fault
    faults = [x for x in done.stderr.splitlines() if x.strip() and "Invalid job id" not in x]
    if done.returncode and faults:
        raise RuntimeError(f"scancel: {faults[-1].strip()}; give the same command again")


def _wait_for(names: Sequence[str]) -> None:
    """Wait until processes have saved and left; say which have not."""
    end = time.monotonic() + _PATIENCE_S
    left = [name for name in names if processes.alive(name)]
    if left:
        sys.stderr.write(f"waiting for {len(left)} processes to save and leave\n")
    while left and time.monotonic() < end:
        time.sleep(0.1)
        left = [name for name in left if processes.alive(name)]
    for name in left:
        sys.stderr.write(f"{name}: still runs after {_PATIENCE_S:g} s; kill it by its number\n")


if __name__ == "__main__":
    raise SystemExit(main())
