"""The command line of report, checked before anything is read."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from maskedclip.command import ANY, CommandLine, Options, Word, one_line_errors
from maskedclip.finetune.command import check_threshold


@dataclass(frozen=True, kw_only=True)
class ReportConfig:
    """What is reported, and where."""

    out: str = ""  # directory to write into; empty: report/ in the run or folder, if it is one
    protocol: str = ""  # finetune, linear, knn, 16-shot, ...; empty: finetune, or the most frequent
    intervals: bool = False  # 95 % intervals in Markdown and LaTeX, too
    compare: bool = True  # p-values against the best of each column, by 2,000 resamples
    group: str = ""  # classes joined into negatives|positives, such as "0,1|2,3,4"
    at_sensitivity: float = 0.0  # that the threshold reaches on validation; 0: Youden's J
    reference: str = ""  # a run or its metrics.jsonl, drawn dashed; empty: its recipe's
    # photographs of the worst errors on a run's page, and summary.png beside its curves; 0: none
    pictures: int = 12

    def __post_init__(self) -> None:
        check_threshold(self.group, self.at_sensitivity)
        if self.pictures < 0:
            raise ValueError(f"pictures {self.pictures} is negative; use 0 or more")


REPORT = CommandLine(
    Options(ReportConfig()),
    words=[
        Word(
            "RUN",
            most=ANY,
            missing="no run given; name run directories, or folders that hold some, such as runs",
        )
    ],
)


def read_report(
    usage: str | None, arguments: Sequence[str] | None = None
) -> tuple[list[Path], ReportConfig]:
    """Return (runs, options) that the command line gives; the runs exist."""
    given = REPORT.read(usage, arguments)
    with one_line_errors():
        runs = [Path(word) for word in given.words]
        return runs, with_place(runs, given.config())


def with_place(runs: Sequence[Path], config: ReportConfig) -> ReportConfig:
    """Return the options with the directory to write into; ValueError where a run is not there."""
    if not runs:
        raise ValueError("report: no run given; name run directories, or folders that hold some")
    for run in runs:
        if not run.is_dir():
            raise ValueError(f"{run}: no such directory; name a run, or a folder of runs")
    return config if config.out else replace(config, out=str(_usual_out(runs)))


def _usual_out(runs: Sequence[Path]) -> Path:
    if len(runs) > 1:
        return Path("report")
    (run,) = runs
    # a grid's own report is verified by its sha256: another stands beside it
    return run / ("report-now" if (run / "grid.json").is_file() else "report")
