"""The outcome of one check of the doctor."""

from typing import Literal, NamedTuple

State = Literal["ok", "warning", "failed", "not applicable"]


class Outcome(NamedTuple):
    """What a check says; `fix` says what to do, and is never empty for a fault."""

    state: State
    message: str
    fix: str = ""


def ok(message: str) -> Outcome:
    """Return that all is well."""
    return Outcome("ok", message)


def warning(message: str, fix: str) -> Outcome:
    """Return something that costs time or safety, but stops no run."""
    return Outcome("warning", message, fix)


def failed(message: str, fix: str) -> Outcome:
    """Return something with which a run does not start, or loses work."""
    return Outcome("failed", message, fix)


def not_applicable(why: str) -> Outcome:
    """Return that there is nothing to check here."""
    return Outcome("not applicable", why)


def gigabytes(size: float) -> str:
    """Return bytes as people read them."""
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"
