"""The command line of report, checked before anything is read."""

import sys
from dataclasses import dataclass
from pathlib import Path

from maskedclip.command import check_flags, one_line_errors, read_flags, stop
from maskedclip.config import override


@dataclass(frozen=True, kw_only=True)
class ReportConfig:
    """What is reported, and where."""

    out: str = ""  # directory to write into
    protocol: str = (
        ""  # finetune, linear, knn, 16-shot, ...; empty: finetune, or what there is most
    )
    intervals: bool = False  # 95 % intervals in Markdown and LaTeX, too
    compare: bool = True  # p-values against the best of each column, by 2,000 resamples
    pictures: int = 12  # photographs of the worst errors on a run's page; 0: none leaves the shards

    def __post_init__(self) -> None:
        if self.pictures < 0:
            raise ValueError(f"pictures {self.pictures} is negative; use 0 or more")


def read_report(
    usage: str | None, arguments: list[str] | None = None
) -> tuple[list[Path], ReportConfig]:
    """Return (runs, options) that the command line gives; the runs are there."""
    words, flags = read_flags(_with_values(sys.argv[1:] if arguments is None else arguments))
    check_flags(usage, ReportConfig(), flags)
    if not words:
        stop("no run given; name run directories, or folders that hold some, such as runs")
    if not flags.get("out"):
        stop("no place given; add --out=DIR, a directory for the tables and pages")
    with one_line_errors():
        config = override(ReportConfig(), flags)
        for word in words:
            if not Path(word).is_dir():
                raise ValueError(f"{word}: no such directory; name a run, or a folder of runs")
    return [Path(word) for word in words], config


def _with_values(arguments: list[str]) -> list[str]:
    """Return the arguments, a bare switch written out: Fire would give it the next run."""
    switches = {f"--{name}": f"--{name}=true" for name in ("intervals", "compare")}
    return [switches.get(argument, argument) for argument in arguments]
