"""See how a grid or a run stands, submit again what failed, or end it.

    python -m maskedclip.slurm status GRID_OR_RUN [--watch=30] [--json]
    python -m maskedclip.slurm status GRID_OR_RUN --why=CELL
    python -m maskedclip.slurm retry  GRID_OR_RUN
    python -m maskedclip.slurm cancel GRID_OR_RUN

status shows a line a cell; --why says why one failed, and what to do. retry submits what failed,
was cancelled or is missing, and nothing that is done, waits or runs. cancel ends the jobs of that
grid or run, and no others.
"""

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from shlex import quote
from typing import Any

from maskedclip.command import CommandLine, Options, Word, one_line_errors
from maskedclip.config import override
from maskedclip.grid.diagnosis import cause_of
from maskedclip.grid.lookup import LAUNCH, GridOrRun, known_paths, opened
from maskedclip.grid.manifest import LOCK, PRETRAIN, REPORT, Grid, cell_of, run_of
from maskedclip.grid.status import (
    ACTIVE,
    DONE,
    FAILED,
    LOST,
    OPEN,
    STATES,
    CellStatus,
    Logs,
    counting,
    current_status,
    evidence,
    summary,
    table,
)
from maskedclip.jobs import processes
from maskedclip.jobs import slurm_queue as queue
from maskedclip.jobs.next_step import finetune_command

_ALL = 1 << 20  # bytes of each log that are searched for a cause
_CHUNK = 200  # jobs that scancel is given at a time
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


VERBS = ("status", "retry", "cancel")
SLURM = CommandLine(
    Options(StatusConfig(), "Options of status, as --NAME=VALUE:"),
    words=[
        Word("COMMAND", choices=VERBS, missing="no command given; use status, retry or cancel"),
        Word("GRID_OR_RUN", least=0),
    ],
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Carry out the command line; return the exit code."""
    given = SLURM.read(__doc__, arguments)
    verb, *names = given.words
    with one_line_errors():
        config: StatusConfig = given.config()
        if not names:
            known = known_paths()
            hint = f"there is {', '.join(known[:8])}" if known else "as runs/grids/NAME"
            raise ValueError(f"{verb}: name a grid or a run; {hint}")
        if given.changes[0] and verb != "status":
            raise ValueError(
                f"{verb} has no flag --{next(iter(given.changes[0]))}; only status has"
            )
        carry_out = {"status": _status, "retry": _retry, "cancel": _cancel}[verb]
        return carry_out(names[0], config)


def _status(name: str, config: StatusConfig) -> int:
    if config.why:
        return _why(name, config)
    if not config.watch:
        sys.stdout.write(_shown(opened(name), name, as_json=config.json)[0])
        return 0
    try:
        while True:
            text, active = _shown(opened(name), name, as_json=config.json)
            clear = "\033[2J\033[H" if sys.stdout.isatty() and not config.json else ""
            sys.stdout.write(clear + text)
            sys.stdout.flush()
            if not active:
                return 0
            time.sleep(config.watch)
    except KeyboardInterrupt:
        return 0


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
    return f"{head}\n\n{table(rows)}\n{_next(target, name, rows)}", active


def _next(target: GridOrRun, name: str, rows: Sequence[CellStatus]) -> str:
    """Return the commands that are of use now."""
    troubled = [row for row in rows if row.state in OPEN]
    active = any(row.state in ACTIVE for row in rows)
    ended = sorted((row for row in troubled if row.job), key=lambda row: row.state != FAILED)
    lines = [f"{_ME} status {quote(name)} --why={quote(ended[0].cell)}"] if ended else []
    if troubled and not (active and all(row.state == LOST for row in troubled)):
        lines.append(f"{_ME} retry {quote(name)}")
    if active:
        lines.append(f"{_ME} status {quote(name)} --watch=30")
    if all(row.state == DONE for row in rows):
        reports = [cell for cell in target.grid.cells if cell.stage == REPORT]
        runs = [str(run_of(target.grid, cell)) for cell in target.grid.cells]
        if reports:
            return f"report: {run_of(target.grid, reports[0]) / 'index.html'}\n"
        elif target.grid.cells[0].stage == PRETRAIN and target.run:
            fields = target.grid.cells[0].config
            shards = [*fields.get("data.paired", ()), *fields.get("data.unpaired", ())]
            lines.append(finetune_command(target.run, fields.get("after.datasets", ()), shards))
        else:
            lines.append(f"python -m maskedclip.report {quote(str(runs[0]))} --out report")
    return "".join(f"{'next: ' if i == 0 else '      '}{line}\n" for i, line in enumerate(lines))


def _why(name: str, config: StatusConfig) -> int:
    target = opened(name)
    cell = cell_of(target.grid, config.why)
    mine = [one for one in target.submitted if one.cell == cell.name]
    row = next(
        row for row in current_status(target.grid, target.submitted) if row.cell == cell.name
    )
    answers = queue.ask([one.job for one in mine])
    counts = counting(mine, answers).get(cell.name)
    logs = Logs(target.grid).of(counts) if counts else []
    answer = answers[counts.job] if counts else queue.JobState("", "was never submitted")
    facts: dict[str, Any] = {"cell": row.cell, "stage": row.stage, "state": row.state}
    facts |= {"note": row.note, "job": row.job, "attempt": row.attempt, "slurm": answer._asdict()}
    cause = None
    if row.state in OPEN and counts:
        cause = cause_of(evidence(logs, answer, _ALL))
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
    sys.stdout.write("\n".join([*lines, "", f"next: {_ME} {after}"]) + "\n")
    return 0


def _retry(name: str, _: StatusConfig) -> int:
    target = opened(name)
    rows = current_status(target.grid, target.submitted)
    again = [row for row in rows if row.state in OPEN and row.state != LOST]
    lost = [row for row in rows if row.state == LOST]
    for row in lost:
        sys.stderr.write(f"{row.cell}: left alone, as it may still run: {row.note}\n")
    if not again:
        sys.stdout.write(f"nothing to submit again: {summary(rows)}\n")
        sys.stdout.write(f"next: {_ME} status {quote(name)}\n")
        return 1 if lost else 0
    if target.run is not None:
        return _retry_run(target)
    for row in again:
        sys.stdout.write(f"again: {row.cell} ({row.state})\n")
    sys.stdout.flush()
    if target.grid.cluster == "local":
        from maskedclip.grid.local_pool import run

        code = run(target.grid)
    else:
        from maskedclip.grid.slurm_arrays import submit

        code = 0
        for one in submit(target.grid):
            sys.stdout.write(f"{one.cell}: job {one.job}, attempt {one.attempt}\n")
    sys.stdout.write(f"next: {_ME} status {quote(name)}\n")
    return code


def _retry_run(target: GridOrRun) -> int:
    """Submit a single run as it was submitted before."""
    assert target.run is not None
    (cell,) = target.grid.cells
    launch = target.grid.launch[cell.stage]
    if cell.stage != PRETRAIN or not launch:
        raise ValueError(
            f"{target.run}: has no jobs/{LAUNCH} that says how it was submitted; give the command "
            f"that began it again: it goes on from the last checkpoint"
        )
    from maskedclip.config import Config, LaunchConfig
    from maskedclip.jobs.submit import submit

    fields = cell.config | {"out": str(target.run.parent)}
    submit(override(Config(), fields), override(LaunchConfig(), launch))
    return 0


def _cancel(name: str, _: StatusConfig) -> int:
    target = opened(name)
    jobs = list(dict.fromkeys(one.job for one in target.submitted if one.job))
    answers = queue.ask(jobs)
    going = [job for job in jobs if answers[job].state in queue.ACTIVE]
    unknown = [job for job in jobs if not answers[job].state]
    local = [job for job in going if processes.is_name(job)]
    slurm = [job for job in going if job not in local]
    for start in range(0, len(slurm), _CHUNK):
        _scancel(slurm[start : start + _CHUNK])
    _end_here(target.grid, local)
    _wait_for(local)
    sys.stdout.write(f"cancelled {len(going)} of {len(jobs)} jobs\n")
    for job in unknown:
        sys.stderr.write(
            f"{job}: not cancelled, as nothing is known of it: {answers[job].reason}\n"
        )
    sys.stdout.write(f"next: {_ME} status {quote(name)}\n")
    return 1 if unknown else 0


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
