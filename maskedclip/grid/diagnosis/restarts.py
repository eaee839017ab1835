"""The last life of a job in its logs: a job that SLURM queues again writes on in the same files."""

import re
from collections.abc import Sequence

from maskedclip.grid.diagnosis.tracebacks import time_of

_START = re.compile(
    r"submitit INFO \(([^)]*)\) - Starting with JobEnvironment\(.*global_rank=(\d+)"
)
_STAMPED = re.compile(r"^submitit [A-Z]+ \(|CANCELLED AT ")
_LIFE_ENDS = re.compile(r"CANCELLED AT \S+ DUE TO (?:PREEMPTION|JOB REQUEUE|NODE FAILURE)", re.I)
_AFTERMATH = re.compile(
    r"^(?:srun|slurmstepd\S*): |^\s*$|^Bypassing signal|^submitit .*Bypassing"
    r"|^Submitted job triggered an exception$|^(?:The above exception|During handling of the above)"
)
_LABEL_OF_ERROR = re.compile(r"^\[rank\d+\]:")
_STEM = re.compile(r"(?:_log)?\.(?:err|out|log|txt)$")


def last_lives(logs: Sequence[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    """Return the logs with only what was written in the last life of each rank."""
    starts: dict[str, float] = {}
    for name, text in logs:
        for line in text.splitlines():
            start = _START.search(line)
            when = time_of(line) if start else None
            if when is not None:
                stem = _STEM.sub("", name)
                starts[stem] = max(when, starts.get(stem, when))
    latest = max(starts.values(), default=None)
    return tuple(
        (name, _last_life(text, starts.get(_STEM.sub("", name), latest))) for name, text in logs
    )


def _last_life(text: str, start_s: float | None) -> str:
    """Return what comes after the last start, after older lines, and after an earlier end."""
    lines = text.splitlines()
    first = 0
    begun: dict[str, int] = {}
    for number, line in enumerate(lines):
        if match := _START.search(line):
            if match[2] in begun:  # the same rank once more
                first, begun = number, {}
            begun[match[2]] = number
        elif start_s is None and _LIFE_ENDS.search(line):
            after = _after(lines, number)
            first = max(first, after) if after < len(lines) else first
        elif start_s is not None and _STAMPED.search(line):
            when = time_of(line)
            if when is not None and when < start_s - 1:
                first = max(first, _after(lines, number + 1))
    return "\n".join(lines[first:])


def _after(lines: Sequence[str], number: int) -> int:
    """Return where something else than the aftermath of an end, with its tracebacks, begins."""
    while number < len(lines):
        if _LABEL_OF_ERROR.match(lines[number]):
            number += 1
        elif lines[number].startswith("Traceback (most recent call last):"):
            number += 1
            while number < len(lines) and lines[number].startswith("  "):
                number += 1
            number += 1  # its message
        elif _AFTERMATH.search(lines[number]):
            number += 1
        else:
            break
    return min(number, len(lines))
