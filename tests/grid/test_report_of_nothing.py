"""A report comes in any case: where no cell has results, it says so."""

from pathlib import Path

from maskedclip.grid.manifest import Cell, finished
from maskedclip.grid.slurm_arrays import run_cell
from tests.grid.grids import finetuning, grid_of


def test_a_report_of_cells_that_have_no_results_names_them_and_does_not_fail(
    tmp_path: Path,
) -> None:
    cells = [finetuning("first"), finetuning("second")]
    runs = [str(tmp_path / "runs" / cell.name) for cell in cells]
    report = Cell("report", "report", {"runs": runs, "out": "report"}, ("first", "second"))
    grid = grid_of(tmp_path / "grid", [*cells, report])
    grid = grid._replace(launch={"report": {"gpus": 0}})
    run_cell(grid, report)
    page = (tmp_path / "grid" / "report" / "index.html").read_text()
    assert "first: is not finished" in page
    assert "second: is not finished" in page
    assert finished(grid, report)
