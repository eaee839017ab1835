"""Tables, figures and curves of runs, from Python in one call."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from maskedclip.report.command import ReportConfig, with_place

if TYPE_CHECKING:
    from maskedclip.report.build import Report

__all__ = ["ReportConfig", "report"]


def report(runs: Sequence[str | Path], config: ReportConfig | None = None) -> Report:
    """Write the report on run directories, or on folders that hold some; return what was written.

    Its `page` is the file to open, `text` Table 1, `problems` a line a fault. Raises ValueError for
    a directory that is not there, or where there is nothing to report.
    """
    paths = [Path(run) for run in runs]
    config = with_place(paths, config or ReportConfig())
    from maskedclip.report.build import report as write

    return write(paths, config)
