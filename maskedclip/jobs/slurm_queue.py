"""What squeue and sacct say of jobs.

squeue knows what waits and runs, and for minutes what has ended; sacct, where there is accounting,
what has ended, some seconds late. Either may be absent, fail, hang, or answer with half a line. So
an answer is a hint: whether work is done is decided by its files.
"""

import os
import re
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from maskedclip.jobs import processes

GONE = "GONE"  # SLURM answered, and has no such job, or none that is not long over
WAITING = frozenset({"PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED"})
RUNNING = frozenset(
    {"RUNNING", "COMPLETING", "STAGE_OUT", "SIGNALING", "STOPPED", "SUSPENDED", "RESIZING"}
)
OUT_OF_MEMORY = "OUT_OF_MEMORY"
ACTIVE = WAITING | RUNNING
_FIELDS = "JobArrayID", "State", "Reason", "exit_code", "RestartCnt", "NodeList"
_ASKED = {
    "squeue": [
        *("squeue", "--noheader", "--all", "--states=all"),
        "--Format=" + ",".join(f"{field}:|" for field in _FIELDS),
    ],
    "sacct": ["sacct", "--noheader", "--parsable2", "--format=JobID,State,ExitCode,NodeList"],
}
_OVER = "the process has ended"
_CHUNK = 400  # jobs a call: a command line has an end
_MOST = 1_000_000  # elements an array may have, by SLURM's own limit
_LIMIT_S = 20.0


class JobState(NamedTuple):
    """A job as SLURM has it. state is its word, GONE, or "" where nothing is known."""

    state: str
    reason: str  # SLURM's own where it waits; where nothing is known, why
    exit_code: str = ""  # CODE:SIGNAL; "" where not stated
    node: str = ""
    restarts: int | None = None  # None where not stated


class _Answer(NamedTuple):
    """What one command said: of the jobs it listed, and of the others a fault, or "" for none."""

    jobs: dict[str, JobState]
    faults: dict[str, str]  # by the number of the array


def ask(jobs: Sequence[str], limit_s: float = _LIMIT_S) -> dict[str, JobState]:
    """Return what is known of each job: 12, 12_3 (element 3 of array 12), HOST:PID:START, "".

    Args:
        limit_s: seconds that a command may take before it counts as silent.
    """
    asked = list(dict.fromkeys(jobs))
    known = {job: _of_process(job) for job in asked if processes.is_name(job)}
    ours = [job for job in asked if re.fullmatch(r"\d+(_\d+)?", job, re.ASCII)]
    for job in set(asked) - known.keys() - set(ours):
        known[job] = JobState("", "is no job of SLURM")
    if "" in known:  # a process that was over before it could be named
        known[""] = JobState(GONE, _OVER)
    if not ours:
        return known
    queue = _answers("squeue", ours, limit_s)
    # those that squeue sees waiting or running need no more asking: accounting trails it
    rest = [job for job in ours if job not in queue.jobs or queue.jobs[job].state not in ACTIVE]
    accounts = _answers("sacct", rest, limit_s) if rest else _Answer({}, {})
    return known | {job: _merged(job, queue, accounts) for job in ours}


def _merged(job: str, queue: _Answer, accounts: _Answer) -> JobState:
    live, kept = queue.jobs.get(job), accounts.jobs.get(job)
    unheard = queue.faults.get(_array(job), "")
    if live is not None:
        memory = kept is not None and kept.state == OUT_OF_MEMORY and live.state == "FAILED"
        return live._replace(state=OUT_OF_MEMORY) if memory else live
    if kept is not None and kept.state not in ACTIVE:
        return kept
    if kept is not None and unheard:
        return kept._replace(reason=f"by accounting alone: {unheard}")
    if unheard:
        silent = accounts.faults.get(_array(job), "") or "sacct: has no such job"
        return JobState("", f"{unheard}; {silent}")
    # accounting that still lets it run is late
    return JobState(GONE, "squeue has no such job (any more)")


def _of_process(name: str) -> JobState:
    if not processes.here(name):
        return JobState("", f"runs on {name.partition(':')[0]}; ask there")
    if processes.alive(name):
        return JobState("RUNNING", "")
    return JobState(GONE, _OVER)


def _answers(command: str, jobs: Sequence[str], limit_s: float) -> _Answer:
    """Ask one command about all jobs, array by array; a silent one is not asked again."""
    arrays = list(dict.fromkeys(map(_array, jobs)))
    wanted, states, faults = set(jobs), dict[str, JobState](), dict[str, str]()
    for start in range(0, len(arrays), _CHUNK):
        chunk = arrays[start : start + _CHUNK]
        try:
            answer = _run([*_ASKED[command], f"--jobs={','.join(chunk)}"], limit_s)
        except _SilentError as fault:
            faults |= dict.fromkeys(arrays[start:], str(fault))
            break
        # a line without its end is half a line
        *lines, rest = answer.split("\n")
        read = [_READ[command](line) for line in lines if line.strip()]
        if None in read or rest:
            faults |= dict.fromkeys(chunk, f"{command}: a line of its answer cannot be read")
        for names, state in filter(None, read):
            for name in names:
                if name in wanted:
                    states[name] = _with_steps(states.get(name), state)
    return _Answer(states, faults)


def _with_steps(job: JobState | None, line: JobState) -> JobState:
    """Return a job's state after one more line: a step has no exit code, and counts if killed."""
    if line.exit_code or job is None:
        return line
    killed = line.state == OUT_OF_MEMORY and job.state == "FAILED"
    return job._replace(state=OUT_OF_MEMORY) if killed else job


class _SilentError(Exception):
    """A command that gives no answer, and why."""


def _run(words: Sequence[str], limit_s: float) -> str:
    """Return what a command prints; raises _SilentError where it does not answer."""
    # SQUEUE_USERS and the like would hide jobs; 0: the numbers of an array are written out
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("SQUEUE_", "SACCT_"))}
    clean |= {"SLURM_BITSTR_LEN": "0", "LC_ALL": "C"}
    try:
        process = subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, env=clean, start_new_session=True,
        )  # fmt: skip
    except OSError as error:
        absent = isinstance(error, FileNotFoundError)
        why = "is not on this machine" if absent else error.strerror
        raise _SilentError(f"{words[0]}: {why}") from None
    with process:
        try:
            out, err = process.communicate(timeout=limit_s)
        except subprocess.TimeoutExpired:
            # with what it has started, which would hold the pipe open
            os.killpg(process.pid, signal.SIGKILL)
            raise _SilentError(f"{words[0]}: no answer within {limit_s:g} s") from None
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    complaint = " ".join(err.decode("utf-8", "replace").split())
    if process.returncode == 0:
        return out.decode("utf-8", "replace")
    if "Invalid job id" in complaint:  # a single one that is long over
        return ""
    raise _SilentError(f"{words[0]}: {complaint[:200] or f'exit code {process.returncode}'}")


_Line = tuple[list[str], JobState] | None  # the jobs of a line and their state, None: garbage


def _squeue_line(line: str) -> _Line:
    words = line.split("|")
    if len(words) != len(_FIELDS) + 1 or words[-1].strip():
        return None
    name, state, reason, code, restarts, node = (word.strip() for word in words[:-1])
    names = _unfolded(name)
    if names is None or not _is_word(state) or not restarts.isdecimal():
        return None
    code = "" if state in ACTIVE else _exit_code(code)
    return names, JobState(state, _stated(reason), code, _stated(node), int(restarts))


def _sacct_line(line: str) -> _Line:
    words = line.split("|")
    if len(words) != 4:
        return None
    name, state, code, node = words
    name, step, _ = name.partition(".")
    names = _unfolded(name)
    state, _, by = state.partition(" ")  # CANCELLED by 1000
    if names is None or not _is_word(state) or not re.fullmatch(r"\d+:\d+", code, re.ASCII):
        return None
    return names, JobState(state, by, "" if step else code, _stated(node))


_READ = {"squeue": _squeue_line, "sacct": _sacct_line}


def _is_word(state: str) -> bool:
    return re.fullmatch(r"[A-Z]+(_[A-Z]+)*", state, re.ASCII) is not None


def _stated(word: str) -> str:
    nothing = word in ("None", "(null)", "None assigned", "N/A", "Unknown")
    return "" if nothing else word


def _exit_code(raw: str) -> str:
    """Return CODE:SIGNAL of a wait status, which is what squeue prints."""
    if not raw.isdecimal():
        return raw if re.fullmatch(r"\d+:\d+", raw, re.ASCII) else ""
    return f"{int(raw) >> 8}:{int(raw) & 0x7F}"


def _array(job: str) -> str:
    return job.partition("_")[0]


def _unfolded(name: str) -> list[str] | None:
    """Return the jobs of 12, 12_3 or 12_[1,3-7:2%4]; None where it is none of these."""
    match = re.fullmatch(r"(\d+)(?:_(?:(\d+)|\[([\d,:-]+)(?:%\d+)?\]))?", name, re.ASCII)
    if match is None:
        return None
    array, one, several = match.groups()
    if several is None:
        return [array if one is None else f"{array}_{one}"]
    numbers: list[int] = []
    for part in several.split(","):
        span = re.fullmatch(r"(\d+)(?:-(\d+)(?::(\d+))?)?", part, re.ASCII)
        if span is None:
            return None
        first, last, step = int(span[1]), int(span[2] or span[1]), int(span[3] or 1)
        if step < 1 or not first <= last <= _MOST:
            return None
        numbers += range(first, last + 1, step)
    return [f"{array}_{number}" for number in numbers]


def writing_to(folder: Path, limit_s: float = _LIMIT_S) -> list[str]:
    """Return this user's waiting and running jobs (12, or 12 of 12_3) whose logs go to `folder`.

    Raises RuntimeError where squeue does not answer.
    """
    command = ["squeue", "--me", "--noheader", "--Format=JobArrayID:|,STDOUT:|"]
    try:
        answer = _run(command, limit_s)
    except _SilentError as fault:
        raise RuntimeError(f"{fault}; try again later") from None
    rows = [line.split("|") for line in answer.splitlines() if line.count("|") >= 2]
    return list(dict.fromkeys(r[0].partition("_")[0] for r in rows if Path(r[1]).parent == folder))
