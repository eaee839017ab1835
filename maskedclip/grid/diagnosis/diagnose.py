"""Why a job ended: from the logs of all its ranks and SLURM's words to one cause.

One failure makes many: where a rank dies, the others lose their connections, srun ends them, and
whoever watches reports that. So what can only follow from something else comes last, and of what
may be the first, the earliest counts. SLURM's word of how a job ended is true of the job and seldom
the cause: a rank's own error comes before it, what other ranks lost comes after it.
"""

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

from maskedclip.grid.diagnosis import patterns as words
from maskedclip.grid.diagnosis.restarts import last_lives
from maskedclip.grid.diagnosis.tracebacks import (
    LOST,
    NEVER,
    REQUEUE,
    Failure,
    failures,
    kind_of,
    short,
    time_of,
)

_QUEUED_AGAIN = re.compile(r"^(?:PENDING|REQUEUE|RUNNING|CONFIGURING|PREEMPTED)")


class Evidence(NamedTuple):
    """What is there to judge from: (file name, text) of the logs, and SLURM's words or ""."""

    logs: tuple[tuple[str, str], ...]
    state: str
    exit_code: str
    reason: str


class Cause(NamedTuple):
    """Why a job ended; `kind` is one of causes_words, `line` and `remedy` are a line each."""

    kind: str
    line: str
    traceback: str
    remedy: str


class _Case(NamedTuple):
    """The evidence of one life, and the errors in it, what may be the first ones first."""

    lines: list[str]
    failures: list[Failure]
    evidence: Evidence


def cause_of(evidence: Evidence) -> Cause:
    """Return the cause of a job's end, of its last life unless that says nothing."""
    lives = last_lives(evidence.logs)
    cause = _judge(evidence._replace(logs=lives))
    if cause.kind == words.UNKNOWN and lives != evidence.logs:
        before = _judge(evidence)
        if before.kind != words.UNKNOWN:
            return before._replace(line=short(f"in a life before: {before.line}"))
    return cause


def _judge(evidence: Evidence) -> Cause:
    case = _case(evidence)
    for step in _STEPS:
        if cause := step(case):
            return cause
    return _unknown(case)


def _case(evidence: Evidence) -> _Case:
    lines = [line for _, text in evidence.logs for line in text.splitlines()]
    found = [failure for name, text in evidence.logs for failure in failures(name, text)]
    told = _announced(lines)
    end = told[0] if told and told[1] else NEVER
    # what comes after SLURM has said why it ends the job follows from that
    found = [f for f in found if f.time_s == NEVER or f.time_s <= end]
    found.sort(key=lambda failure: (failure.handled, failure.time_s))
    return _Case(lines, found, evidence)


def _announced(lines: Sequence[str]) -> tuple[float, str, str] | None:
    """Return when and why SLURM says that it ends the job, and in which line; why may be ""."""
    found = None
    for line in lines:
        if match := words.ENDED.search(line):
            why = (match["why"] or match["short"] or "").strip().upper()
            stamp = time_of(line)
            told = (NEVER if stamp is None else stamp, why, short(line))
            if found is None or (why and not found[1]):
                found = told
    return found


def _cause(kind: str, line: str, traceback: str = "") -> Cause:
    return Cause(kind, short(line), traceback, words.REMEDIES[kind])


def _of(failure: Failure, kind: str = "") -> Cause:
    where = "" if failure.rank is None else f"rank {failure.rank}: "
    return _cause(kind or failure.kind, where + failure.line, failure.traceback)


def _first_line(kind: str, pattern: re.Pattern[str]) -> Callable[[_Case], Cause | None]:
    """Return a step that finds the first line of a pattern."""

    def step(case: _Case) -> Cause | None:
        line = next((line for line in case.lines if pattern.search(line)), None)
        return None if line is None else _cause(kind, line)

    return step


def _told_out_of_memory(case: _Case) -> Cause | None:
    told = f"{case.evidence.state} {case.evidence.reason}"
    if "OUT_OF_ME" not in told and "OutOfMemory" not in told:
        return None
    if any(failure.kind == words.GPU_MEMORY for failure in case.failures):
        return None
    return _cause(words.HOST_MEMORY, f"SLURM says {told.strip()}")


def _primary(case: _Case) -> Cause | None:
    found = next((f for f in case.failures if f.primary and not f.handled), None)
    return _of(found) if found else None


def _node(case: _Case) -> Cause | None:
    line = next((line for line in case.lines if words.NODE_LINES.search(line)), None)
    if line is not None:
        return _cause(words.NODE_FAILURE, line)
    return _state(case, words.NODE_FAILURE)


def _timed_out(case: _Case) -> Cause | None:
    found = next((f for f in case.failures if f.kind == words.NETWORK and not f.handled), None)
    return _of(found) if found else None


def _state(case: _Case, *kinds: str) -> Cause | None:
    """Return what SLURM's own word says of the end."""
    for word in (case.evidence.state, case.evidence.reason):
        for kind, pattern in words.STATES:
            if kind in kinds and pattern.search(word):
                return _cause(kind, f"SLURM says {word}")
    return None


def _ended(case: _Case) -> Cause | None:
    """Return how the job was ended from outside: by its limit, a better job, or a person."""
    told = _announced(case.lines)
    why = told[1] if told else ""
    for kind, word in ((words.TIME_LIMIT, "TIME LIMIT"), (words.PREEMPTED, "PREEMPTION")):
        if told and why.startswith(word):
            return _cause(kind, told[2])
    state = _state(case, words.TIME_LIMIT, words.PREEMPTED, words.CANCELLED)
    asked = next((f for f in case.failures if f.kind == REQUEUE), None)
    warned = _warned(case)
    if state and state.kind != words.CANCELLED:
        return warned if warned and warned.kind == state.kind else state
    if asked and not _QUEUED_AGAIN.search(case.evidence.state):
        return _of(asked, words.SUBMISSION)
    if state:
        return _cause(words.CANCELLED, told[2]) if told else state
    if warned:
        return warned
    if told and why.startswith("JOB REQUEUE"):
        return _cause(words.PREEMPTED, told[2])
    by_srun = any(words.BAD_EXIT.search(line) for line in case.lines)
    if told and not why and ("*** JOB" in told[2] or not by_srun):
        return _cause(words.CANCELLED, told[2])
    return None


def _warned(case: _Case) -> Cause | None:
    """Return what submitit, or the run itself, said as it was warned of its end."""
    for kind, pattern in (
        (words.TIME_LIMIT, words.TIMED_OUT_LINES),
        (words.PREEMPTED, words.PREEMPTED_LINES),
        (words.PREEMPTED, words.LEFT_LINE),
    ):
        line = next((line for line in case.lines if pattern.search(line)), None)
        if line is not None:
            return _cause(kind, line)
    return None


def _refused(case: _Case) -> Cause | None:
    told = f"{case.evidence.state} {case.evidence.reason}".strip()
    return _cause(words.SUBMISSION, f"SLURM says {told}") if words.REASONS.search(told) else None


def _lost(case: _Case) -> Cause | None:
    found = next((f for f in case.failures if f.kind == LOST), None)
    return _of(found, words.NETWORK) if found else None


def _stopped(case: _Case) -> Cause | None:
    """Return the one line with which a command of this package stops, by exit code 2."""
    for line in reversed(case.lines):
        if words.USELESS.match(line):
            continue
        kind = kind_of(line)
        if kind in words.REMEDIES and kind != words.CODE:
            return _cause(kind, line)
        return _cause(words.CODE, line) if case.evidence.exit_code == "2:0" else None
    return None


def _code(case: _Case) -> Cause | None:
    """Return what the exit code says: that of the first task that failed, where srun tells it."""
    code = case.evidence.exit_code
    for line in case.lines:
        if match := re.search(r"srun: error: .*: Exited with exit code (\d+)", line):
            code = f"{match[1]}:0"
            break
    known = words.CODES.get(code)
    return _cause(*known) if known else None


def _handled(case: _Case) -> Cause | None:
    """Return an error that its rank seemed to get over, where nothing else is to blame."""
    found = next((f for f in case.failures if f.primary or f.kind == words.NETWORK), None)
    return _of(found) if found else None


def _unknown(case: _Case) -> Cause:
    told = " ".join(filter(None, (case.evidence.state, case.evidence.exit_code)))
    useful = [line for line in case.lines if not words.USELESS.match(line)]
    said = f"the last words: {useful[-1]}" if useful else "the logs say nothing"
    return _cause(words.UNKNOWN, f"not known: SLURM says {told or 'nothing'}; {said}")


_STEPS: tuple[Callable[[_Case], Cause | None], ...] = (
    _first_line(words.WAITS, words.WAITS_LINE),
    _first_line(words.HOST_MEMORY, words.OOM_LINES),
    _told_out_of_memory,
    _primary,
    _first_line(words.SUBMISSION, words.SUBMISSION_LINES),
    _first_line(words.CRASH, words.CRASH_LINES),
    _node,
    _first_line(words.HANG, words.HANG_LINE),
    _timed_out,
    _ended,
    _first_line(words.ENVIRONMENT, words.ENVIRONMENT_LINES),
    _first_line(words.ENVIRONMENT, words.COMMAND_LINES),
    _refused,
    _first_line(words.KILLED, words.KILLED_LINES),
    _lost,
    _first_line(words.CRASH, words.ABORTED_LINES),
    _first_line(words.HOST_MEMORY, words.WEAK_OOM),
    _first_line(words.STORAGE, words.CHECKPOINT_LINE),
    _handled,
    _stopped,
    _code,
)
