"""The state of each cell of a grid, by its files first and by what SLURM says second.

A cell is done only if its results verify: no answer of SLURM makes one done, and none undoes it.
What is neither told nor seen to move is lost, not guessed at.
"""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

from maskedclip.config import Config, FinetuneConfig, flat
from maskedclip.grid.diagnosis.diagnose import cause_of
from maskedclip.grid.diagnosis.patterns import UNKNOWN
from maskedclip.grid.logs import Logs, evidence
from maskedclip.grid.manifest import (
    FINETUNE,
    LOCK,
    PRETRAIN,
    REPORT,
    STAGES,
    WAITS,
    Cell,
    Grid,
    Submission,
    finished,
    run_of,
    submissions,
)
from maskedclip.grid.progress import Progress, progress_of, written_s
from maskedclip.grid.status_table import (
    CANCELLED,
    DONE,
    EVICTED,
    FAILED,
    GOING,
    HELD,
    LOST,
    MISSING,
    PENDING,
    TIMED_OUT,
    Row,
    one_line,
    span,
)
from maskedclip.jobs.processes import holder, is_name
from maskedclip.jobs.slurm_queue import GONE, RUNNING, WAITING, JobState, ask

_DEFAULTS = {PRETRAIN: flat(asdict(Config())), FINETUNE: flat(asdict(FinetuneConfig()))}
_LIVELY_S = 120.0  # what wrote so lately runs, where SLURM does not say otherwise
_NEW_S = 60.0  # a job so young may not be listed yet
_QUIET_S = 900.0  # a running job that has written nothing for so long is pointed out
_TAIL = 1 << 16  # bytes of each log that the line about a failure is made of


class _Known(NamedTuple):
    """All that a state is told by."""

    cell: Cell
    submission: Submission | None
    answer: JobState
    progress: Progress
    quiet_s: float  # since it last wrote; infinite: never
    unfinished: list[str]  # needs
    now: float
    is_handed_out: bool  # by a process of this machine, cell by cell


def board(
    grid: Grid,
    asked: Mapping[str, JobState],
    submitted: Sequence[Submission],
    now: float | None = None,
) -> list[Row]:
    """Return a row a cell, by stage and in the order of the manifest.

    Args:
        asked: what `queue.ask` says of the latest job of each cell.
        submitted: of `grid.submissions`.
        now: seconds since 1970; None: the clock's.
    """
    now = time.time() if now is None else now
    latest = {each.cell: each for each in submitted}
    done = {cell.name for cell in grid.cells if finished(grid, cell)}
    logs, is_handed_out = Logs(grid), _is_handed_out(grid)
    rows = []
    for cell in sorted(grid.cells, key=lambda cell: STAGES.index(cell.stage)):
        last, run = latest.get(cell.name), run_of(grid, cell)
        answer = JobState("", "was not asked for")
        if last is not None:
            answer = asked.get(last.job, answer)
        progress = progress_of(run, fields_of(cell), now)
        if cell.name in done:
            state, note = DONE, ""
        else:
            mine = logs.of(last) if last is not None else []
            written = written_s(run, mine)
            # a clock that is ahead elsewhere makes no one quiet
            quiet_s = math.inf if written is None else max(0.0, now - written)
            # a report shows what there is
            needs = [] if cell.stage == REPORT else [n for n in cell.needs if n not in done]
            known = _Known(cell, last, answer, progress, quiet_s, needs, now, is_handed_out)
            state, note = _state(known)
            if state == FAILED:
                cause = cause_of(evidence(mine, answer, _TAIL))
                note = note if cause.kind == UNKNOWN else cause.line
        job, attempt = ("", 0) if last is None else (last.job, last.attempt)
        rows.append(
            Row(
                cell.name,
                cell.stage,
                state,
                one_line(note),
                job,
                attempt,
                progress.step,
                progress.steps,
                progress.loss,
                progress.images_per_s,
                progress.left_s,
                progress.checkpoint_age_s,
            )
        )
    return rows


def rows_now(grid: Grid) -> list[Row]:
    """Return the board as files and SLURM have it at this moment."""
    return rows_of(grid, submissions(grid))


def rows_of(grid: Grid, submitted: Sequence[Submission]) -> list[Row]:
    """Return the board of what was submitted, SLURM asked about the latest job of each cell."""
    latest = {each.cell: each.job for each in submitted}
    jobs = [latest[cell.name] for cell in grid.cells if cell.name in latest]
    return board(grid, ask(jobs), submitted)


def _is_handed_out(grid: Grid) -> bool:
    """Return whether a process of this machine works through a grid's cells."""

    return grid.cluster == "local" and holder(grid.directory / LOCK) is not None


def fields_of(cell: Cell) -> dict[str, Any]:
    """Return a cell's configuration by dotted field, defaults included."""
    return _DEFAULTS.get(cell.stage, {}) | cell.config


def _state(known: _Known) -> tuple[str, str]:
    """Return the state and the note of a cell that is not done."""
    answer, lively = known.answer, known.quiet_s < _LIVELY_S
    if known.submission is None:
        return _unsubmitted(known)
    if answer.state in WAITING:
        return _waiting(known)
    if answer.state in RUNNING:
        return GOING, _running_note(known)
    if answer.state in _ENDS:
        return _ended(known)
    local = is_name(known.submission.job)
    if lively and not (local and answer.state == GONE):
        return GOING, f"it writes, though {_unknown(answer)}"
    if answer.state == GONE:
        if not local and known.now - known.submission.time_s < _NEW_S:
            return PENDING, "squeue does not list it yet"
        if known.quiet_s == math.inf and not known.unfinished:
            return FAILED, "its job is gone, and has written nothing"
        return _ended(known)
    return LOST, f"{_unknown(answer)}; {_quiet(known.quiet_s)}"


def _unsubmitted(known: _Known) -> tuple[str, str]:
    if known.quiet_s < _LIVELY_S:
        return GOING, "by no job of this grid"
    if known.is_handed_out:
        return PENDING, f"waits for {known.unfinished[0]}" if known.unfinished else "for its turn"
    return MISSING, "was never submitted"


def _waiting(known: _Known) -> tuple[str, str]:
    answer, step = known.answer, known.progress.checkpoint_step
    if known.unfinished and answer.reason == "Dependency":
        return PENDING, f"waits for {known.unfinished[0]}"
    reason = _WORDS.get(answer.reason, answer.reason)
    if answer.restarts or answer.state.startswith("REQUEUE"):
        start = "begins again" if step is None else f"goes on from step {step}"
        return EVICTED, f"waits; {start}" + (f" ({reason})" if reason else "")
    return PENDING, reason


def _running_note(known: _Known) -> str:
    notes = []
    if known.answer.state != "RUNNING":
        notes.append(f"SLURM says {known.answer.state}")
    if known.answer.restarts:
        notes.append(f"life {known.answer.restarts + 1}")
    if known.answer.reason:
        notes.append(known.answer.reason)
    if known.progress.step is None and known.quiet_s < _QUIET_S:
        notes.append("starts")
    if _QUIET_S <= known.quiet_s < math.inf:
        notes.append(_quiet(known.quiet_s))
    return ", ".join(notes)


def _ended(known: _Known) -> tuple[str, str]:
    """Return what became of a job that is over, in SLURM's words where there are any."""
    answer, step = known.answer, known.progress.checkpoint_step
    goes_on = "begins again" if step is None else f"goes on from step {step}"
    if known.unfinished:
        return HELD, f"waits for {known.unfinished[0]}, which is not finished"
    if answer.exit_code == f"{WAITS}:0":
        return HELD, "what it waited for is finished now"
    if answer.state in ("TIMEOUT", "DEADLINE"):
        return TIMED_OUT, f"at its time limit; a retry {goes_on}"
    if answer.state == "CANCELLED":
        return CANCELLED, f"a retry {goes_on}"
    if answer.state == "COMPLETED":
        return FAILED, "SLURM says COMPLETED, but its results are not there"
    if answer.state in (GONE, ""):
        return FAILED, "its job is over, and its results are not there"
    return FAILED, f"SLURM says {answer.state}"


_ENDS = frozenset(
    {
        "COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "DEADLINE", "NODE_FAIL", "BOOT_FAIL",
        "OUT_OF_MEMORY", "PREEMPTED", "REVOKED", "SPECIAL_EXIT", "LAUNCH_FAILED", "RECONFIG_FAIL",
    }
)  # fmt: skip
_WORDS = {  # SLURM's reasons for waiting that want more than their own words
    "": "",
    "Resources": "for free nodes (Resources)",
    "Priority": "behind others (Priority)",
    "Dependency": "for other jobs (Dependency)",
    "JobArrayTaskLimit": "for its turn in the array (--parallelism)",
    "BeginTime": "until its time to begin",
    "DependencyNeverSatisfied": "for ever: its dependency cannot be met; cancel and retry",
    "PartitionNodeLimit": "for ever: more nodes than its partition allows; cancel, ask for fewer",
    "PartitionTimeLimit": "for ever: longer than its partition allows; cancel, ask for less",
    "JobHeldUser": "held; scontrol release lets it go",
    "JobHeldAdmin": "held by an administrator; ask them",
    "launch failed requeued held": "its node could not start it; scontrol release lets it go",
}


def _unknown(answer: JobState) -> str:
    if answer.state and answer.state != GONE:
        return f"SLURM says {answer.state}"
    return answer.reason or "nothing is known of its job"


def _quiet(seconds: float) -> str:
    return "nothing written yet" if seconds == math.inf else f"nothing written for {span(seconds)}"
