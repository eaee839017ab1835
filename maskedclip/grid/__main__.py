"""Run one cell of a grid in this process, as the pool of local processes does.

python -m maskedclip.grid GRID CELL

GRID is the directory of a grid.json, CELL the name of one of its cells.
"""

import ctypes
import signal
import sys
from pathlib import Path

from maskedclip.command import CommandLine, Word, log_lines, one_line_errors

_PR_SET_PDEATHSIG = 1
CELL = CommandLine(words=[Word("GRID"), Word("CELL")])


def main() -> None:
    """Run the cell that the command line names."""
    directory, name = CELL.read(__doc__).words
    if sys.platform == "linux":  # the kernel ends it gently when the pool that started it is killed
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    log_lines()
    with one_line_errors():
        from maskedclip.grid.local_pool import run_cell_here
        from maskedclip.grid.manifest import cell_of, read

        grid = read(Path(directory))
        run_cell_here(grid, cell_of(grid, name))


if __name__ == "__main__":
    main()
