"""The state of each cell of a grid: by its files first, and by what SLURM says second.

A cell is done only if its results verify: no answer of SLURM makes one done, and none undoes it.
Where neither SLURM nor the files say what became of a cell, it is lost, and nothing is guessed.
"""

import json
import math
import os
import re
import socket
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from maskedclip.config import Config, FinetuneConfig, flat
from maskedclip.grid.diagnosis import STOPPED, UNKNOWN, Evidence, cause_of
from maskedclip.grid.manifest import (
    EVALUATE,
    FINETUNE,
    LOCK,
    LOGS,
    PRETRAIN,
    REPORT,
    STAGES,
    WAITS,
    Cell,
    Grid,
    Submission,
    asked_since,
    finished,
    present,
    run_of,
    submissions,
    tail_of,
    turns,
    waiting,
)
from maskedclip.jobs.processes import holder, is_name
from maskedclip.jobs.slurm_queue import ACTIVE as ACTIVE_JOB
from maskedclip.jobs.slurm_queue import GONE, RUNNING, WAITING, JobState, ask

DONE, PENDING, GOING, EVICTED = "done", "pending", "running", "pre-empted"
FAILED, TIMED_OUT, CANCELLED = "failed", "timed out", "cancelled"
HELD, LOST, MISSING, ASKED_TO_STOP = "held", "lost", "missing", "stopped"
STATES = (
    DONE, GOING, PENDING, EVICTED, FAILED, TIMED_OUT, CANCELLED, ASKED_TO_STOP, HELD, LOST, MISSING
)  # fmt: skip
ACTIVE = (GOING, PENDING, EVICTED)
# which retry submits again
OPEN = (FAILED, TIMED_OUT, CANCELLED, ASKED_TO_STOP, HELD, LOST, MISSING)
_DEFAULTS = {PRETRAIN: flat(asdict(Config())), FINETUNE: flat(asdict(FinetuneConfig()))}
_NO_ROOM = "for room under the limit of submitted jobs; status --watch submits it"
_TO_COME, _OVER = "to come", "over"
_RECENT_S = 120.0  # what wrote so lately runs, where SLURM does not say otherwise
_NEW_S = 60.0  # a job so young may not be listed yet
_QUIET_S = 900.0  # a running job that has written nothing for so long is pointed out
_TAIL = 1 << 16  # bytes at the end of a file that are read
_TEXTS = (".out", ".err", ".log", ".txt")
_LOGS_A_JOB = 256  # logs read of one job, by name: a file a rank and stream


class CellStatus(NamedTuple):
    """A cell as status shows it; numbers are None where its files do not say."""

    cell: str
    stage: str
    state: str  # one of STATES
    note: str  # one line: the reason, what it waits for, or what is odd
    job: str
    attempt: int
    step: int | None
    steps: int | None
    loss: float | None
    images_per_s: float | None
    left_s: float | None
    checkpoint_age_s: float | None


class RunProgress(NamedTuple):
    """How far a run is; None where its files do not say."""

    step: int | None = None
    steps: int | None = None
    loss: float | None = None
    images_per_s: float | None = None
    left_s: float | None = None
    checkpoint_age_s: float | None = None  # of the newest
    checkpoint_step: int | None = None


class _Facts(NamedTuple):
    """All that the state of an unfinished cell follows from."""

    cell: Cell
    submission: Submission | None
    answer: JobState
    progress: RunProgress
    quiet_s: float  # since it last wrote; infinite: never
    unfinished: list[str]  # needs
    now: float
    turn: str  # of a cell in a job of several: _TO_COME, _OVER, or "" where it may be running
    left_here: bool  # a run of this machine that no process holds


def current_status(grid: Grid, submitted: Sequence[Submission] | None = None) -> list[CellStatus]:
    """Return the status of each cell as its files and SLURM have it at this moment."""
    submitted = submissions(grid) if submitted is None else submitted
    cells = {cell.name for cell in grid.cells}
    return status_of(grid, ask([one.job for one in submitted if one.cell in cells]), submitted)


def counting(
    submitted: Sequence[Submission], answers: Mapping[str, JobState]
) -> dict[str, Submission]:
    """Return the submission of each cell that counts: one that waits or runs, else the latest.

    A later one may be over already: refused, as the earlier one has the run's directory.
    """
    found: dict[str, Submission] = {}
    for one in submitted:
        before = found.get(one.cell)
        if before is None or _goes_on(one, answers) or not _goes_on(before, answers):
            found[one.cell] = one
    return found


def _goes_on(one: Submission, answers: Mapping[str, JobState]) -> bool:
    return one.job in answers and answers[one.job].state in ACTIVE_JOB


def status_of(
    grid: Grid,
    answers: Mapping[str, JobState],
    submitted: Sequence[Submission],
    now: float | None = None,
) -> list[CellStatus]:
    """Return the status of each cell, by stage and in the order of the manifest.

    Args:
        answers: what `slurm_queue.ask` says of the jobs of the cells.
        submitted: of `manifest.submissions`.
        now: seconds since 1970; None: the clock's.
    """
    now = time.time() if now is None else now
    latest = counting(submitted, answers)
    done = {cell.name for cell in grid.cells if finished(grid, cell)}
    to_come = _to_come(grid)
    logs, no_room = Logs(grid), waiting(grid)
    rows = []
    for cell in sorted(grid.cells, key=lambda cell: STAGES.index(cell.stage)):
        last, run = latest.get(cell.name), run_of(grid, cell)
        answer = JobState("", "was not asked for")
        if last is not None:
            answer = answers.get(last.job, answer)
        progress = RunProgress()  # an evaluation's directory is that of its pre-training
        if cell.stage != EVALUATE:
            progress = progress_of(run, fields_of(cell), now)
        state, note = DONE, present(grid, cell) if cell.name in done else ""
        if cell.name not in done:
            mine = logs.of(last) if last is not None else []
            written = _written_s(None if cell.stage == EVALUATE else run, mine)
            # a clock that is ahead elsewhere makes no one quiet
            quiet_s = math.inf if written is None else max(0.0, now - written)
            # a report shows what there is
            needs = [] if cell.stage == REPORT else [n for n in cell.needs if n not in done]
            room = cell.name in no_room
            facts = _Facts(
                cell, last, answer, progress, quiet_s, needs, now,
                _turn(latest, cell.name, logs), last is None and _left_here(cell, run),
            )  # fmt: skip
            state, note = _state(facts)
            if room and answer.state not in ACTIVE_JOB:
                state, note = PENDING, _NO_ROOM
            if cell.name in to_come and state in OPEN and state != LOST:
                state, note = PENDING, f"waits for {needs[0]}" if needs else "for its turn"
            if state == FAILED and last is not None:
                state, note = _failed(grid, facts, mine, note)
        job, attempt = ("", 0) if last is None else (last.job, last.attempt)
        if cell.name in to_come and state == PENDING:
            job = ""  # that of before is over
        row = cell.name, cell.stage, state, one_line(note), job, attempt, *progress[:-1]
        rows.append(CellStatus(*row))
    return rows


def _to_come(grid: Grid) -> frozenset[str]:
    """Return the cells that a process of this machine, which holds the grid, is still to start."""
    if grid.cluster != "local" or holder(grid.directory / LOCK) is None:
        return frozenset()
    return turns(grid)


def _failed(grid: Grid, facts: _Facts, logs: Sequence[Path], note: str) -> tuple[str, str]:
    """Return the state and the note of a cell whose job has ended without all of its results."""
    assert facts.submission is not None
    if since := asked_since(grid, facts.cell, facts.submission.time_s):
        return MISSING, since
    cause = cause_of(evidence(facts.submission, logs, facts.answer, _TAIL))
    if cause.kind == STOPPED:
        return ASKED_TO_STOP, f"a retry {_next_start(facts)}"
    return FAILED, note if cause.kind == UNKNOWN else cause.line


def fields_of(cell: Cell) -> dict[str, Any]:
    """Return a cell's configuration by dotted field, defaults included."""
    return _DEFAULTS.get(cell.stage, {}) | cell.config


def _state(facts: _Facts) -> tuple[str, str]:
    """Return the state and the note of a cell that is not done."""
    answer, writes = facts.answer, facts.quiet_s < _RECENT_S
    if facts.submission is None:
        return _unsubmitted(facts)
    if answer.state in WAITING:
        return _waiting(facts)
    if answer.state in RUNNING:
        return _running(facts)
    if answer.state in _ENDS:
        return _ended(facts)
    local = is_process(facts.submission)
    if writes and not (local and answer.state == GONE):
        return GOING, f"it writes, though {_unknown(answer)}"
    if answer.state == GONE:
        if not local and facts.now - facts.submission.time_s < _NEW_S:
            return PENDING, "squeue does not list it yet"
        if facts.quiet_s == math.inf and not facts.unfinished:
            return FAILED, "its job is gone, and has written nothing"
        return _ended(facts)
    return LOST, f"{_unknown(answer)}; {_quiet(facts.quiet_s)}"


def _unsubmitted(facts: _Facts) -> tuple[str, str]:
    if facts.quiet_s < _RECENT_S and not facts.left_here:
        return GOING, "by no job of this grid"
    if facts.quiet_s < math.inf:
        return ASKED_TO_STOP, f"no process of it is left; its command {_next_start(facts)}"
    return MISSING, "was never submitted"


def _left_here(cell: Cell, run: Path) -> bool:
    """Return whether a fine-tuning was last run on this machine, and no process holds it now."""
    if cell.stage != FINETUNE:
        return False
    try:
        attempts = json.loads((run / "provenance.json").read_text("utf-8"))
        host = attempts[-1]["host"]
    except (OSError, ValueError, LookupError, TypeError):
        return False
    return bool(host == socket.gethostname()) and holder(run / LOCK) is None


def _turn(latest: Mapping[str, Submission], cell: str, logs: "Logs") -> str:
    """Return whether a cell's turn in a job of several is to come or over; "": neither is sure."""
    job = latest[cell].job if cell in latest else ""
    together = [name for name, one in latest.items() if job and one.job == job]
    if len(together) < 2:
        return ""
    began = [name for name in together if logs.of(latest[name])]
    if cell not in began:
        return _TO_COME
    return "" if began[-1] == cell else _OVER


def _waiting(facts: _Facts) -> tuple[str, str]:
    answer = facts.answer
    if facts.unfinished and answer.reason == "Dependency":
        return PENDING, f"waits for {facts.unfinished[0]}"
    reason = _REASONS.get(answer.reason, answer.reason)
    if answer.restarts or answer.state.startswith("REQUEUE"):
        return EVICTED, f"waits; {_next_start(facts)}" + (f" ({reason})" if reason else "")
    return PENDING, reason


def _next_start(facts: _Facts) -> str:
    step = facts.progress.checkpoint_step
    return "begins again" if step is None else f"goes on from step {step}"


def _running(facts: _Facts) -> tuple[str, str]:
    if facts.turn == _TO_COME:
        return PENDING, "for its turn in its job"
    if facts.turn == _OVER:
        return FAILED, "it has ended without its results; its job goes on with others"
    return GOING, _running_note(facts)


def _running_note(facts: _Facts) -> str:
    notes = []
    if facts.answer.state != "RUNNING":
        notes.append(f"SLURM says {facts.answer.state}")
    if facts.answer.restarts:
        notes.append(f"restart {facts.answer.restarts}")
    if facts.answer.reason:
        notes.append(facts.answer.reason)
    if facts.progress.step is None and facts.quiet_s < _QUIET_S:
        notes.append("starts")
    if _QUIET_S <= facts.quiet_s < math.inf:
        notes.append(_quiet(facts.quiet_s))
    return ", ".join(notes)


_NOT_DONE = "its results are not there, or not as they were written"


def _ended(facts: _Facts) -> tuple[str, str]:
    """Return what became of a job that is over, in SLURM's words where there are any."""
    answer = facts.answer
    if facts.unfinished:
        return HELD, f"waits for {facts.unfinished[0]}, which is not finished"
    if answer.exit_code == f"{WAITS}:0":
        return HELD, "what it waited for is finished now"
    if answer.state in ("TIMEOUT", "DEADLINE"):
        return TIMED_OUT, f"at its time limit; a retry {_next_start(facts)}"
    if answer.state == "CANCELLED":
        return CANCELLED, f"a retry {_next_start(facts)}"
    if answer.state == "COMPLETED":
        return FAILED, f"SLURM says COMPLETED, but {_NOT_DONE}"
    if answer.state in (GONE, ""):
        return FAILED, f"its job is over, and {_NOT_DONE}"
    return FAILED, f"SLURM says {answer.state}"


_ENDS = frozenset(
    {
        "COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "DEADLINE", "NODE_FAIL", "BOOT_FAIL",
        "OUT_OF_MEMORY", "PREEMPTED", "REVOKED", "SPECIAL_EXIT", "LAUNCH_FAILED", "RECONFIG_FAIL",
    }
)  # fmt: skip
_REASONS = {  # SLURM's reasons for waiting that want more than their own words
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


def one_line(text: str) -> str:
    """Return text in one line of printable characters."""
    return "".join(c if c.isprintable() else " " for c in " ".join(text.split()))


def summary(rows: Sequence[CellStatus]) -> str:
    """Return how many cells are in which state, in a line."""
    counts = Counter(row.state for row in rows)
    words = ", ".join(f"{counts[state]} {state}" for state in STATES if counts[state])
    return f"{len(rows)} cell{'' if len(rows) == 1 else 's'}: {words or 'none'}"


def span(seconds: float) -> str:
    """Return a time span in its largest unit, such as 4 min."""
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


def clock(seconds: float) -> str:
    """Return a time span as H:MM:SS."""
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{seconds:02}"


def progress_of(run: Path, config: Mapping[str, Any], now: float) -> RunProgress:
    """Return what the last row of metrics.jsonl and the newest checkpoint say; never an error.

    Args:
        config: by dotted field, with optim.* and data.* of a pre-training or epochs of a
            fine-tuning.
        now: seconds since 1970.
    """
    row = _last_row(run / "metrics.jsonl")
    step, epoch, rate = map(_number, (row.get("step"), row.get("epoch"), row.get("images_per_s")))
    steps, epochs = (
        _number(config.get(name) or None)
        for name in ("optim.steps", "optim.epochs" if "optim.epochs" in config else "epochs")
    )
    if steps is None and step and epoch and epochs:
        steps = math.ceil(round(step / epoch * epochs, 3))
    newest = _newest_checkpoint(run / "checkpoints")
    return RunProgress(
        None if step is None else int(step),
        None if steps is None else int(steps),
        _number(row.get("loss")),
        rate,
        _left_s(run, config, step, steps, rate),
        None if newest is None else max(0.0, now - newest[1]),
        None if newest is None else newest[0],
    )


def _left_s(
    run: Path,
    config: Mapping[str, Any],
    step: float | None,
    steps: float | None,
    rate: float | None,
) -> float | None:
    """Return the seconds left: by the last row's rate, or a run's mean where it started once."""
    if not step or steps is None:
        return None
    images = _images(config)
    if rate and images:
        return max(0.0, steps - step) * images / rate
    # config.json is written as an attempt begins
    began, last = _changed(run / "config.json"), _changed(run / "metrics.jsonl")
    if began is None or last is None or last <= began or _attempts(run) != 1:
        return None
    return max(0.0, steps - step) * (last - began) / step


def _attempts(run: Path) -> int:
    """Return how often a run was started."""
    try:
        attempts = json.loads((run / "provenance.json").read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return 0
    return len(attempts) if isinstance(attempts, list) else 0


def _written_s(run: Path | None, logs: Iterable[Path]) -> float | None:
    """Return when a run last wrote anything, in seconds since 1970; None: never."""
    # not results.jsonl and the like: whoever evaluates a run later may add to them
    names = ("metrics.jsonl", "checkpoints", "config.json") if run else ()
    watched = [*(Path(run or ".") / name for name in names), *logs]
    times = [time for time in map(_changed, watched) if time is not None]
    return max(times, default=None)


def _newest_checkpoint(folder: Path) -> tuple[int, float] | None:
    """Return (step, time) of the newest published checkpoint."""
    try:
        names = [entry.name for entry in os.scandir(folder)]
    except OSError:
        return None
    numbers = [name.removeprefix("step-") for name in names if name.startswith("step-")]
    for number in sorted((n for n in numbers if len(n) == 8 and n.isdecimal()), reverse=True):
        changed = _changed(folder / f"step-{number}" / "manifest.json")
        if changed is not None:
            return int(number), changed
    return None


def _changed(path: Path) -> float | None:
    try:
        return path.stat().st_mtime
    except OSError:
        return None


def _last_row(path: Path) -> dict[str, Any]:
    """Return the last whole row, {} where there is none."""
    try:
        lines = tail_of(path, _TAIL).split(b"\n")[:-1]
    except OSError:
        return {}
    for line in reversed(lines):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(row, dict) and _number(row.get("step")) is not None:
            return row
    return {}


def _images(config: Mapping[str, Any]) -> float | None:
    """Return the images of a step of a pre-training."""
    paired = _number(config.get("data.paired_batch"))
    unpaired = _number(config.get("data.unpaired_batch")) if config.get("data.unpaired") else 0.0
    return None if paired is None or unpaired is None else paired + unpaired


def _number(value: Any) -> float | None:
    fine = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if fine and 0 <= abs(value) < 1e300 else None


class Logs:
    """The folders of logs of a grid, each listed once; of their files the texts, no pickles."""

    def __init__(self, grid: Grid) -> None:
        self._root = grid.directory
        self._listed: dict[Path, list[str]] = {}

    def of(self, submission: Submission) -> list[Path]:
        """Return the text files of a job, in the order of its ranks; none outside of the grid."""
        start = Path(submission.logs)
        if not submission.logs or start.is_absolute() or ".." in start.parts:
            return []
        folder, prefix = self._root / start.parent, start.name
        names = [n for n in self._names(folder) if n.startswith(prefix) and n.endswith(_TEXTS)]
        # job 12 is not job 123
        whole = prefix[-1:].isalnum()
        mine = [n for n in names if not (whole and n[len(prefix) :][:1].isalnum())]
        return [folder / name for name in sorted(mine, key=_in_order)[:_LOGS_A_JOB]]

    def _names(self, folder: Path) -> list[str]:
        if folder not in self._listed:
            try:
                self._listed[folder] = [entry.name for entry in os.scandir(folder)]
            except OSError:
                self._listed[folder] = []
        return self._listed[folder]


def _in_order(name: str) -> list[tuple[int, str]]:
    return [
        (int(word), "") if word.isdecimal() else (-1, word) for word in re.split(r"(\d+)", name)
    ]


def is_process(one: Submission) -> bool:
    """Return whether what was submitted is a process of a machine, and no job of SLURM."""
    return not one.job or is_name(one.job)


def evidence(one: Submission, logs: Iterable[Path], answer: JobState, most: int) -> Evidence:
    """Return what there is to judge an end by; of each log its last `most` bytes."""
    texts = tuple((path.name, _text(path, most)) for path in logs)
    state = "" if answer.state == GONE else answer.state  # which is no word of SLURM's
    local = is_process(one)
    # `local_pool` alone notes how its cells end, not submitit over a single run
    noted = local and answer.state == GONE and one.logs.startswith(f"{LOGS}/")
    return Evidence(texts, state, answer.exit_code, answer.reason, local, noted)


def _text(path: Path, most: int) -> str:
    try:
        return tail_of(path, most).decode("utf-8", "replace")
    except OSError as error:
        return f"({error.strerror})"
