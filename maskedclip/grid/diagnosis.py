"""Why a job ended: from the logs of all its ranks and SLURM's words to one cause, or to none.

One failure makes many: where a rank fails, the others lose their connections and srun ends them. So
a rank's own exception comes first, then how SLURM says that it ended the job, and what can only
follow from another failure comes last. Of the exceptions of one rank the last one ended it. A wrong
cause is worse than none: unknown is an answer, and what has no kind is told in its own words.

The patterns are words of torch, NCCL, gloo, SLURM, submitit and the kernel as they stand in real
logs, and those of this package's own messages.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import PurePath
from typing import NamedTuple

GPU_MEMORY, HOST_MEMORY, DISK_FULL = "gpu memory", "host memory", "disk full"
TIME_LIMIT, PREEMPTED, NODE_FAILURE, STOPPED = (
    "time limit", "pre-empted", "node failure", "stopped",
)  # fmt: skip
REFUSED, WAITS, REPLACED, KILLED = "refused", "waits", "another start", "killed"
NETWORK, HANG, MISSING, EXCEPTION, UNKNOWN = (
    "network", "hang", "missing", "exception", "unknown",
)  # fmt: skip
_LOST, _WATCHER = "lost others", "watcher"  # of exceptions that follow from another failure

REMEDIES = {
    GPU_MEMORY: "take a smaller batch a GPU: more GPUs, optim.accumulate, or "
    "engine.activation_checkpointing; tools/plan.py says how many of them are enough",
    HOST_MEMORY: "ask for more memory a node, or set data.readers and data.prefetch lower",
    DISK_FULL: "make room, or ask for more quota, then submit it again: it goes on",
    TIME_LIMIT: "submit it again: it goes on from the last checkpoint; or give it more hours",
    PREEMPTED: "nothing if SLURM queues it again; else submit it again: it goes on",
    NODE_FAILURE: "submit it again: it goes on; if it comes back, leave that node out (--exclude)",
    STOPPED: "submit it again when it is wanted: it goes on from the last checkpoint",
    REFUSED: "change what SLURM refuses, then submit it again",
    WAITS: "see why that cell is not finished, fix it, then retry",
    REPLACED: "nothing while the other one goes on; else end it, then retry",
    KILLED: "often it is the node's memory: check that first; then submit it again",
    NETWORK: "submit it again; if it comes back, run with NCCL_DEBUG=INFO and test the links",
    HANG: "read the stacks it names; submit it again: it goes on from the last checkpoint",
    MISSING: "fix the job's Python or its setup lines; run tools/doctor.py on a node",
    EXCEPTION: "fix what it names, then retry",
}

_KINDS = {  # of an exception's type and message: the first that matches
    _WATCHER: r"^(?:\w+\.)*(?:FailedJobError|UncompletedJobError|ChildFailedError|SystemExit"
    r"|ProcessRaisedException|ProcessExitedException|SignalException|KeyboardInterrupt|Preempted)\b"
    r"|Job \(task=\d+\) failed|scontrol.{1,6}requeue|got signal: 15|killed by signal: Terminated"
    r"|timed-out (?:too many times|and not checkpointable)|returned non-zero|FAILED$",
    GPU_MEMORY: r"(?:CUDA|HIP) out of memory|CUDA error: out of memory|Cuda failure.*out of memory"
    r"|CUDA_ERROR_OUT_OF_MEMORY|cudaErrorMemoryAllocation|CU(?:BLAS|DNN)_STATUS_ALLOC_FAILED"
    r"|Failed to CUDA (?:calloc|malloc)",
    HOST_MEMORY: r"^(?:\w+\.)*_?(?:ArrayMemoryError|MemoryError)\b|DefaultCPUAllocator"
    r"|Cannot allocate memory|std::bad_alloc|Errno 12\b|worker .*killed by signal: Killed",
    REPLACED: r"a later attempt of this run holds its lease|another process is fine-tuning there"
    r"|another start of this run has begun",
    DISK_FULL: r"No space left on device|Disk quota exceeded|Errno (?:28|122)\b|ENOSPC|EDQUOT"
    r"|quota (?:is )?exceeded|unexpected pos \d+ vs \d+",
    MISSING: r"^(?:ImportError|ModuleNotFoundError)\b|cannot open shared object file",
    NETWORK: r"Watchdog caught collective operation timeout|Timed out waiting \d+ ?ms"
    r"|wait timeout after|Timed out after \d+ seconds waiting for clients|Socket Timeout"
    r"|client socket has timed out|monitoredBarrier|EADDRINUSE|address already in use"
    r"|heartbeat monitor timed out|Name or service not known|No route to host",
    _LOST: r"Connection (?:was )?(?:closed|reset|refused|aborted)|Broken ?pipe|ECONNRESET"
    r"|^EOFError$|NCCL error|nccl(?:Remote|System|Internal|UnhandledCuda)Error|Dist\w+Error"
    r"|remote process exit|communicator was aborted|recvValue failed|Socket closed"
    r"|recv(?:Bytes)? failed|Application timeout caused pair closure",
}
_PATTERNS = {kind: re.compile(pattern, re.IGNORECASE) for kind, pattern in _KINDS.items()}
_SECONDARY = (_LOST, _WATCHER, NETWORK)

# lines outside of tracebacks
_WAITS = re.compile(r"^\s*waits for .+, which is not finished")
_REFUSAL = re.compile(r"^error: (?=\S)")  # of jobs/job.py, behind submitit's own line
_SUBMITIT_FAILED = "Submitted job triggered an exception"
_HANG = re.compile(r"\bhang: rank \d+ of \d+ has done nothing for")
_NOT_QUEUED = re.compile(r"^job \S+ is saved, but SLURM does not queue it again")
_SAVED = re.compile(r"asked to stop; step \d+ is saved")
_OOM = re.compile(
    r"oom[-_ ]kill|: tasks? [\d,-]+: Out Of Memory|Memory cgroup out of memory|Out of memory: Kill"
    r"|Exceeded (?:job|step) memory limit(?! at some)",
    re.IGNORECASE,
)
_NODE = re.compile(r"DUE TO NODE FAILURE|Node failure on", re.IGNORECASE)
_SHELL = re.compile(
    r"No module named \S+$|error while loading shared libraries|Unable to locate a module"
    r"|execve\S*: .*No such file|: (?:python\S*|srun): No such file|(?<!module): command not found$"
    r"|can't open file|EnvironmentNameNotFound|Lmod has detected"
)
_ENDED = re.compile(
    r"\*\*\* (?P<what>JOB|STEP) \S+(?: ON \S+)? CANCELLED AT \S+(?: DUE TO (?P<why>[A-Z ]+))?"
)
_TASK = re.compile(r"^srun: error: \S+ tasks? [\d,-]+: |Signal \d+ \(SIG\w+\)|line \d+: +\d+ [A-Z]")
_BY_SIGNAL = re.compile(
    r"Killed|Segmentation|Bus error|Aborted|Illegal|SIG(?:KILL|SEGV|BUS|ABRT|ILL)"
)
_WARNED = re.compile(r"User defined signal 2")  # before the job could take the warning
_NOTED = re.compile(  # by grid/local_pool.py
    r"^(?P<asked>asked to stop with its launcher: )?"
    r"ended (?:by Signal (?P<signal>\d+) \(SIG\w+\)|with exit code (?P<code>\d+))$"
)
_ASKED_TO = ("2", "15")  # SIGINT, SIGTERM
_MISTAKE = "2:0"  # of a command that stops with one line
_SIGNALS = {"0:9": "signal 9 (SIGKILL)", "0:11": "signal 11 (SIGSEGV)", "0:7": "signal 7 (SIGBUS)"}
_SHELL_ENDED = re.compile(r"\*\*\* STEP \S+ ON \S+ FAILED \(non-zero exit code")
_WARNED_CODES = ("0:12", "140:0")  # SIGUSR2, of the batch shell and of a task
_STATES = {  # SLURM's word of an end, or what its log line says that the end is due to
    NODE_FAILURE: re.compile(r"^NODE.FAIL|^BOOT_FAIL"),
    TIME_LIMIT: re.compile(r"^TIMEOUT|^DEADLINE|^TIME LIMIT"),
    PREEMPTED: re.compile(r"^PREEMPT|^JOB REQUEUE"),
    STOPPED: re.compile(r"^CANCELLED|^REVOKED"),
}
_REASONS = re.compile(  # of a job that SLURM does not let start
    r"JobLaunchFailure|launch failed|JobHeld|DependencyNeverSatisfied|PartitionNodeLimit"
    r"|PartitionTimeLimit|PartitionConfig|BadConstraints|Invalid(?:Account|QOS)|AccountNotAllowed"
    r"|QOSNotAllowed|Max(?:Mem|Time)PerLimit|PartitionDown|PartitionInactive|AssocMax|QOSMax"
)

_BEGIN = "Traceback (most recent call last):"
_CHAINED = re.compile(r"^(?:The above exception was the direct|During handling of the above)")
_LABEL = re.compile(r"^\[(?:rank|default)(\d+)\]:\s?")
_RANK_IN_NAME = re.compile(r"_(\d+)_log\.(?:err|out)$")
_STARTED = re.compile(r"submitit INFO \((\S+ [\d:]+)\S*\) - Starting with JobEnvironment")
_STAMPED = re.compile(r"(?:^submitit [A-Z]+ \(|CANCELLED AT )(\d{4}-\d\d-\d\d)[ T](\d\d:\d\d:\d\d)")
_PROGRESS = re.compile(r"^step \d+\b|^epoch \d+.*\bloss\b")
_ERROR_LINE = re.compile(r"^\[E\S*(?: \S+)? \w+\.cpp:\d+\]|NCCL WARN|\bwhat\(\): |c10::\w*Error")
_USELESS = re.compile(
    r"^\s*$|^submitit |^srun: |^slurmstepd|^frame #\d+|^Bypassing signal|^Caught signal|^\s+[\^~]+"
    r"|^Exception raised from|^Submitted job triggered an exception"
    r"|^asked to stop with its launcher|^ended with exit code \d+$"
)
_EMPTY = re.compile(r"^\s*$|^submitit ")
_MESSAGE_LINES = 12


class Evidence(NamedTuple):
    """What there is to judge from: (file name, text) of the logs, and SLURM's words or "".

    Of a process of this machine, where no SLURM is, `reason` says what is known of it.
    """

    logs: tuple[tuple[str, str], ...]
    state: str
    exit_code: str
    reason: str
    is_process: bool = False
    is_noted: bool = False  # it is over, and who started it writes into its log how it ended


class Cause(NamedTuple):
    """Why a job ended; `kind` is unknown or one of REMEDIES, line and remedy are a line each."""

    kind: str
    line: str
    traceback: str
    remedy: str


class _Log(NamedTuple):
    """What one rank wrote to one file in its last attempt."""

    name: str
    rank: int | None
    lines: list[str]


class _Failure(NamedTuple):
    """An exception of one rank: of a chain the last one, with the traceback of all."""

    kind: str
    line: str
    traceback: str
    time: str  # YYYY-MM-DD HH:MM:SS; ~ where the log does not say, which sorts behind


def cause_of(evidence: Evidence) -> Cause:
    """Return why a job ended, by its last attempt."""
    logs = _last_attempts(evidence.logs)
    lines = [line for log in logs for line in log.lines]
    failures = sorted((f for log in logs for f in _failures(log)), key=lambda failure: failure.time)
    ends = [match for line in lines if (match := _ENDED.search(line))]
    noted = _noted(lines)
    if evidence.is_process and noted is not None and noted["code"] == "2":
        evidence = evidence._replace(exit_code=_MISTAKE)
    if (due := [match for match in ends if match["why"]]) and (stamp := _stamp(due[0].string)):
        failures = [f for f in failures if f.time == "~" or f.time <= stamp]
    return (
        _certain(evidence, lines, failures)
        or _ended(evidence, lines, ends, failures)
        or _by_others(evidence, lines, failures)
        or (_with_launcher(logs) if evidence.is_noted and noted is None else None)
        or _unknown(evidence, logs)
    )


def _noted(lines: Sequence[str]) -> re.Match[str] | None:
    """Return the line with which the launcher here has noted how a cell ended, None: it has not."""
    return next((match for line in reversed(lines) if (match := _NOTED.match(line))), None)


def _certain(
    evidence: Evidence, lines: Sequence[str], failures: Sequence[_Failure]
) -> Cause | None:
    """Return a cause that what else is in the logs follows from."""
    out_of_memory = f"{evidence.state} {evidence.reason}".strip()
    if line := _first(_WAITS, lines):
        return _cause(WAITS, line)
    if line := _first(_NOT_QUEUED, lines):
        return _cause(STOPPED, line)
    if line := _first(_PATTERNS[REPLACED], lines):
        return _cause(REPLACED, line)
    if line := _first(_OOM, lines):
        return _cause(HOST_MEMORY, line)
    primary = [failure for failure in failures if failure.kind not in _SECONDARY]
    if re.search("OUT_OF_ME|OutOfMemory", out_of_memory) and not any(
        failure.kind == GPU_MEMORY for failure in primary
    ):
        return _cause(HOST_MEMORY, f"SLURM says {out_of_memory}")
    return _of(primary[0]) if primary else None


def _ended(
    evidence: Evidence,
    lines: Sequence[str],
    ends: Sequence[re.Match[str]],
    failures: Sequence[_Failure],
) -> Cause | None:
    """Return how the job was ended from outside: by its node, a hang, its limit, or a person."""
    state = next((kind for kind, word in _STATES.items() if word.search(evidence.state)), "")
    line = _first(_NODE, lines)
    if line or state == NODE_FAILURE:
        return _cause(NODE_FAILURE, line or f"SLURM says {evidence.state}")
    if line := _first(_HANG, lines):
        return _cause(HANG, line)
    if waited := [failure for failure in failures if failure.kind == NETWORK]:
        return _of(waited[0])
    if state:
        named = [e.string for e in ends if _STATES[state].search(e["why"] or "CANCELLED")]
        return _cause(state, named[-1] if named else f"SLURM says {evidence.state}")
    for end in reversed(ends):
        for kind, word in _STATES.items():
            if end["why"] and word.search(end["why"]):
                return _cause(kind, end.string)
        # a job whose shell was killed is cleaned up in the same words, and its step called failed
        shell = evidence.state == "FAILED" or bool(_first(_SHELL_ENDED, lines))
        if end["what"] == "JOB" and not end["why"] and not shell:
            return _cause(STOPPED, end.string)
    if by := _by_signal(evidence, lines):
        return by
    noted = _noted(lines) if evidence.is_process else None
    asked = noted and (noted["asked"] or noted["signal"] in _ASKED_TO)
    line = _first(_SAVED, lines) or (noted.string if noted and asked else "")
    return _cause(STOPPED, line) if line else None


def _by_signal(evidence: Evidence, lines: Sequence[str]) -> Cause | None:
    """Return which signal ended the batch shell, or tasks before they could take a warning."""
    said = f"SLURM says {evidence.state} {evidence.exit_code}"
    line = _first(_WARNED, lines)
    if line or evidence.exit_code in _WARNED_CODES:
        shown = line or f"{said}: the warning before its end came before it could take it"
        return _cause(PREEMPTED, shown)
    if (line := _first(_SHELL_ENDED, lines)) and evidence.exit_code not in _SIGNALS:
        return _cause(KILLED, f"the shell of the job has ended before its step: {line}")
    if name := _SIGNALS.get(evidence.exit_code):
        return _cause(KILLED, f"{said}: the shell of the job was ended by {name}")
    return None


def _by_others(
    evidence: Evidence, lines: Sequence[str], failures: Sequence[_Failure]
) -> Cause | None:
    """Return what counts where no rank failed first: the shell, SLURM, a signal, a lost rank."""
    began = any(_STARTED.search(line) or _PROGRESS.match(line) for line in lines)
    if not began and (line := _first(_SHELL, lines)):  # else the job did without it
        return _cause(MISSING, line)
    said = f"{evidence.state} {evidence.reason}".strip()
    if _REASONS.search(evidence.reason):
        return _cause(REFUSED, f"SLURM says {said}")
    # of several tasks the first: srun ends the others, which says nothing of them
    line = _first(_TASK, lines)
    if line and _BY_SIGNAL.search(line):
        return _cause(KILLED, line)
    if lost := [failure for failure in failures if failure.kind == _LOST]:
        return _of(lost[0], NETWORK)
    if evidence.exit_code == "75:0":
        return _cause(HANG, "ended by the hang watch (exit code 75), whose line is not in the logs")
    # the one line with which a command of this package stops; not always is an exit code known
    last = next((line for line in reversed(lines) if not _USELESS.match(line)), "")
    if evidence.exit_code not in (_MISTAKE, "") or not last or _PROGRESS.match(last):
        return None
    kind = _kind(last)
    if kind in REMEDIES and kind != EXCEPTION:
        return _cause(kind, last)
    return _cause(EXCEPTION, last) if evidence.exit_code == _MISTAKE else None


def _with_launcher(logs: Sequence[_Log]) -> Cause:
    """Return what is known of a cell here that ended, and whose launcher has not noted how."""
    line = (
        "the launcher that ran it here ended without a word of it: killed, or the machine restarted"
    )
    if last := _last_words(logs):
        line += f"; its last words: {last[0]}"
    return Cause(KILLED, _short(line), "", "give the same command again, or retry: it goes on")


def _unknown(evidence: Evidence, logs: Sequence[_Log]) -> Cause:
    said = " ".join(filter(None, (evidence.state, evidence.exit_code))) or "nothing"
    said = evidence.reason if evidence.is_process else f"SLURM says {said}"
    if last := _last_words(logs):
        line = _short(f"not known: {said}; the last words: {last[0]}")
        return Cause(UNKNOWN, line, "", f"read {last[1]}")
    if not evidence.logs:
        line = f"not known: {said}; there are no logs, it may never have begun"
        where = "the machine that it ran on" if evidence.is_process else "its node"
        return Cause(UNKNOWN, line, "", f"see that {where} is well, then retry")
    line = f"not known: {said}; the logs say nothing"
    return Cause(UNKNOWN, line, "", f"read {evidence.logs[0][0]}")


def _last_words(logs: Sequence[_Log]) -> tuple[str, str] | None:
    """Return (line, file name) of the last words in the logs, None where there are none."""
    for useless in (_USELESS, _EMPTY):
        for log in logs:
            if last := next((line for line in reversed(log.lines) if not useless.match(line)), ""):
                return last, log.name
    return None


def _first(pattern: re.Pattern[str], lines: Sequence[str]) -> str:
    return next((line for line in lines if pattern.search(line)), "")


def _cause(kind: str, line: str, traceback: str = "") -> Cause:
    return Cause(kind, _short(line), traceback, REMEDIES[kind])


def _of(failure: _Failure, kind: str = "") -> Cause:
    return _cause(kind or failure.kind, failure.line, failure.traceback)


def _kind(text: str) -> str:
    """Return the kind of an exception's type and message; exception where no pattern matches."""
    matches = (kind for kind, pattern in _PATTERNS.items() if pattern.search(text))
    return next(matches, EXCEPTION)


def _short(line: str) -> str:
    """Return one line of at most 300 characters."""
    line = " ".join(line.split())
    return line if len(line) <= 300 else line[:297] + "..."


def _stamp(line: str) -> str:
    stamp = _STAMPED.search(line)
    return f"{stamp[1]} {stamp[2]}" if stamp else ""


def _last_attempts(logs: Sequence[tuple[str, str]]) -> list[_Log]:
    """Return each rank's lines of its last attempt: a job that is queued again appends to its logs.

    A start is written to .out alone, so that of its .err all is left out up to the last line with
    an earlier time, and the traceback behind that.
    """
    starts = {
        PurePath(name).stem: stamps[-1] for name, text in logs if (stamps := _STARTED.findall(text))
    }
    latest = max(starts.values(), default="")
    attempts = []
    for name, text in logs:
        for rank, lines in _by_rank(name, text):
            own = starts.get(PurePath(name).stem)
            start = latest if own is None else own
            old = [n for n, line in enumerate(lines) if "" < _stamp(line) < start]
            at = old[-1] + 1 if old else 0
            while old and at < len(lines) and own and _USELESS.match(lines[at]):
                at += 1
            if old and at < len(lines) and own and lines[at].endswith(_BEGIN):
                at = _traceback(lines, at)[1]
            attempts.append(_Log(name, rank, lines[at:]))
    return attempts


def _by_rank(name: str, text: str) -> list[tuple[int | None, list[str]]]:
    """Return the lines of a file apart by the rank that they are labelled with, such as [rank1]."""
    named = _RANK_IN_NAME.search(name)
    own = int(named[1]) if named else None
    of_rank: dict[int | None, list[str]] = {}
    for line in text.splitlines():
        label = _LABEL.match(line)
        rank = int(label[1]) if label else own
        of_rank.setdefault(rank, []).append(line[label.end() :] if label else line)
    return list(of_rank.items())


def _failures(log: _Log) -> list[_Failure]:
    """Return what ended a rank: its last failure of its own, else all that follow from others'."""
    found = list(_told(log))
    own = [failure for failure in found if failure.kind not in _SECONDARY]
    return own[-1:] or found


def _told(log: _Log) -> Iterator[_Failure]:
    """Yield what went wrong after the last line of progress: before it, the rank got over it."""
    begin = max((n + 1 for n, line in enumerate(log.lines) if _PROGRESS.match(line)), default=0)
    where = "" if log.rank is None else f"rank {log.rank}: "
    lines, at, time, ended = log.lines, begin, "~", False
    while at < len(lines):
        line = lines[at].rstrip()
        time = _stamp(line) or time
        ended = ended or _SUBMITIT_FAILED in line
        if line.endswith(_BEGIN):
            ignored = at > 0 and "Exception ignored" in lines[at - 1]
            (kind, message, text), at = _chain(lines, at)
            if not ignored:
                yield _Failure(kind, where + _short(message), text, time)
            continue
        if ended and (refusal := _REFUSAL.match(line)):
            message = line[refusal.end() :]
            yield _Failure(_kind(message), where + _short(message), "", time)
        elif _ERROR_LINE.search(line) and (kind := _kind(line)) != EXCEPTION:
            yield _Failure(kind, where + _short(line), "", time)
        at += 1


def _chain(lines: Sequence[str], at: int) -> tuple[tuple[str, str, str], int]:
    """Return (kind, message, text) of the chain of exceptions that begins at `at`, and its end.

    The message is that of the last exception, or of the last that follows from no other rank's.
    """
    texts: list[str] = []
    links: list[tuple[str, str]] = []
    following: int | None = at
    while following is not None:
        if texts:
            texts.append(next(line for line in reversed(lines[at:following]) if line.strip()))
        (message, text), at = _traceback(lines, following)
        texts.append(text)
        links.append((_kind(message), message or "a traceback that is cut short"))
        following = _next_link(lines, at)
    own = [link for link in links if link[0] not in _SECONDARY]
    return (*(own or links)[-1], "\n\n".join(text.strip("\n") for text in texts)), at


def _next_link(lines: Sequence[str], at: int) -> int | None:
    """Return where the next traceback of the same chain begins, None where there is none.

    Before it stands the line that joins the two, and before that what a long message has left.
    """
    begins = (n for n in range(at, len(lines)) if lines[n].rstrip().endswith(_BEGIN))
    begin = next(begins, None)
    if begin is None:
        return None
    before = next((line for line in reversed(lines[at:begin]) if line.strip()), "")
    return begin if _CHAINED.match(before.strip()) else None


def _traceback(lines: Sequence[str], at: int) -> tuple[tuple[str, str], int]:
    """Return (message, text) of the traceback that begins at `at`, and where it ends."""
    indent = len(lines[at]) - len(lines[at].lstrip())
    start, at = at, at + 1
    while at < len(lines) and (lines[at][indent : indent + 2] == "  " or not lines[at].strip()):
        at += 1
    end = at
    while end < len(lines) and end - at < _MESSAGE_LINES:
        line = lines[end].rstrip()
        stops = not line.strip() or line.endswith(_BEGIN) or _PROGRESS.match(line)
        if stops or (end > at and _USELESS.match(line)):
            break
        end += 1
    text = "\n".join(line[indent:].rstrip() for line in lines[start:end] if line.strip())
    return (" ".join(line.strip() for line in lines[at:end]), text), end
