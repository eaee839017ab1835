"""What one check of the doctor has found."""

from typing import Literal, NamedTuple

State = Literal["ok", "warning", "failed", "not applicable"]


class Finding(NamedTuple):
    """The outcome of a check; `mend` says what to do, and is never empty for a fault."""

    state: State
    found: str
    mend: str = ""


def ok(found: str) -> Finding:
    """Return that all is well."""
    return Finding("ok", found)


def warning(found: str, mend: str) -> Finding:
    """Return something that costs time or safety, but stops no run."""
    return Finding("warning", found, mend)


def failed(found: str, mend: str) -> Finding:
    """Return something with which a run does not start, or loses work."""
    return Finding("failed", found, mend)


def absent(why: str) -> Finding:
    """Return that there is nothing to look at here."""
    return Finding("not applicable", why)


def gigabytes(size: float) -> str:
    """Return bytes as people read them."""
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"
