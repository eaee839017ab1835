"""Run one cell of a grid on this machine: `python -m maskedclip.grid GRID CELL`, by local_pool."""

import ctypes
import logging
import signal
import sys
from pathlib import Path

from maskedclip.command import one_line_errors

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Run the cell that the command line names."""
    if (
        sys.platform == "linux"
    ):  # ended gently by the kernel when the pool that started it is killed
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    with one_line_errors():
        from maskedclip.grid.local_pool import run_cell_here
        from maskedclip.grid.manifest import cell_of, read

        grid = read(Path(sys.argv[1]))
        run_cell_here(grid, cell_of(grid, sys.argv[2]))


if __name__ == "__main__":
    main()
