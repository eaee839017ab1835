"""A grid on SLURM: one array a stage, the later ones behind the earlier, each cell a job again.

A dependency only orders (afterany): whether a cell may run is seen in the files of those it needs,
so a failed pre-training holds nobody's fine-tunings but its own, and those end at once.
"""

import logging
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from maskedclip.config import Config, FinetuneConfig, LaunchConfig, override
from maskedclip.grid.manifest import (
    CODE,
    EVALUATE,
    FINETUNE,
    JOBS,
    LOCK,
    LOGS,
    PRETRAIN,
    REPORT,
    STAGES,
    WAITS,
    Cell,
    Grid,
    Submission,
    append,
    cell_of,
    finished,
    read,
    results_of,
    run_of,
    submissions,
    write_evaluated,
    write_shown,
)
from maskedclip.grid.status import DONE, LOST, OPEN, PENDING, current_status
from maskedclip.jobs.code_snapshot import on_code, snapshot
from maskedclip.jobs.job import Job, Repeatable, as_a_job, check_gpus, interpreter
from maskedclip.jobs.slurm_queue import writing_to
from maskedclip.metrics.file_lock import locked

logger = logging.getLogger(__name__)
_MAX_ARRAY = 1001  # elements of an array, where SLURM is not asked: its own default


@dataclass(frozen=True)
class CellJob(Repeatable):
    """A cell as a job: picklable, repeatable; one that is finished does nothing."""

    directory: str  # of the grid
    name: str

    def __call__(self) -> None:
        logging.basicConfig(level=logging.INFO, format="%(message)s", force=True)
        grid = read(Path(self.directory))
        run_cell(grid, cell_of(grid, self.name))


class CellArray(NamedTuple):
    """Cells that are submitted together: an array, or where it is one cell a plain job."""

    stage: str
    cells: tuple[Cell, ...]
    behind: tuple[str, ...]  # jobs whose end it waits for, or for a plan the cells
    parallelism: int | None  # cells of it that run at a time; None: as many as there is room for


def run_cell(grid: Grid, cell: Cell) -> None:
    """Carry a cell out in this process, or on this rank; one that is finished does nothing.

    Raises SystemExit with code 3 where it needs a cell that is not finished.
    """
    if finished(grid, cell):
        logger.info("%s is finished", cell.name)
        return
    if waits := waits_for(grid, cell):
        sys.stderr.write(f"{waits}\n")
        raise SystemExit(WAITS)
    run, gpus = run_of(grid, cell), grid.launch[cell.stage]["gpus"]
    if cell.stage == PRETRAIN:
        Job(override(Config(), cell.config), gpus)()
    elif cell.stage == FINETUNE:
        config = override(FinetuneConfig(), cell.config)

        def tune() -> None:
            from maskedclip.finetune.loop import finetune

            check_gpus(gpus)
            finetune(config)

        as_a_job(tune)
    elif cell.stage == EVALUATE:
        as_a_job(lambda: _evaluate(cell, run, gpus))
    else:
        as_a_job(lambda: _report(grid, cell, run))


def _evaluate(cell: Cell, run: Path, gpus: int | None) -> None:
    """Measure a pre-training by every protocol; what is stored already is not measured again."""
    from maskedclip.evaluate.protocols import run as evaluate
    from maskedclip.finetune.command import EvaluateConfig

    check_gpus(gpus)
    config = override(EvaluateConfig(), cell.config)
    rows = evaluate(config)
    write_evaluated(cell, run, [str(row["predictions"]) for row in rows])


def waits_for(grid: Grid, cell: Cell) -> str:
    """Return what to say where a needed cell is not finished, else ""; a report needs none."""
    if cell.stage == REPORT:
        return ""
    for need in cell.needs:
        if not finished(grid, cell_of(grid, need)):
            return f"waits for {need}, which is not finished"
    return ""


def _report(grid: Grid, cell: Cell, run: Path) -> None:
    """Write the report of what is there, and say in it what is not."""

    from maskedclip.report.build import report
    from maskedclip.report.command import ReportConfig

    absent = [
        f"{other.name}: is not finished"
        for other in grid.cells
        if other.stage != REPORT and not finished(grid, other)
    ]
    shown = results_of(cell)
    options = {k: v for k, v in cell.config.items() if k not in ("runs", "out")}
    config = override(ReportConfig(), {**options, "out": str(run)})
    written = report([Path(path) for path in cell.config["runs"]], config, absent)
    write_shown(run, shown)
    sys.stdout.write(f"{written.text}\n{written.page}\n")
    for line in written.problems:
        sys.stderr.write(line + "\n")


def missing(grid: Grid) -> tuple[list[Cell], dict[str, str], list[str]]:
    """Return the cells to submit, the jobs by cell that still wait or run, and what is unknown.

    Its status decides: what may still run counts as running, as two of a cell would be worse than
    none.
    """
    rows = {row.cell: row for row in current_status(grid)}
    unknown = [f"{row.cell}: {row.note}" for row in rows.values() if row.state == LOST]
    # those that only wait for this process, which hands them out, are to come
    turn = {row.cell for row in rows.values() if row.state == PENDING and not row.job}
    going = {n: row for n, row in rows.items() if row.state not in (*OPEN, DONE) and n not in turn}
    active = {name: row.job for name, row in going.items() if row.job}
    kept = {*going, *(name for name, row in rows.items() if row.state == LOST)}
    open_cells = [cell for cell in grid.cells if rows[cell.name].state != DONE]
    # whatever is still to come makes a report that is there out of date
    reports = [cell for cell in grid.cells if cell.stage == REPORT and cell not in open_cells]
    open_cells += reports if open_cells else []
    return [cell for cell in open_cells if cell.name not in kept], active, unknown


def arrays_of(cells: Sequence[Cell], most: int, parallelism: int | None) -> list[CellArray]:
    """Return cells as arrays, stage by stage: those with the same needs together, split at `most`.

    The parallelism is shared by the parts of what was split.
    """
    arrays = []
    for stage in STAGES:
        groups: dict[tuple[str, ...], list[Cell]] = {}
        for cell in cells:
            if cell.stage == stage:
                groups.setdefault(cell.needs, []).append(cell)
        for needs, mine in groups.items():
            parts = [tuple(mine[i : i + most]) for i in range(0, len(mine), most)]
            share = max(1, parallelism // len(parts)) if parallelism else None
            arrays += [CellArray(stage, part, needs, share) for part in parts]
    return arrays


def submit(grid: Grid) -> list[Submission]:
    """Submit to SLURM what is neither finished nor waiting nor running; return what that was.

    Raises RuntimeError where another process submits the same grid, or SLURM refuses a job.
    """
    with held(grid):
        return _submit(grid)


@contextmanager
def held(grid: Grid) -> Iterator[None]:
    """Keep others from submitting or running a grid; RuntimeError where another process does."""
    try:
        with locked(grid.directory / LOCK, wait=False, without="do not start it twice at a time"):
            yield
    except BlockingIOError:
        raise RuntimeError(
            f"{grid.directory}: another process submits or runs it; wait for it"
        ) from None


def _submit(grid: Grid) -> list[Submission]:
    from submitit.core.utils import FailedJobError

    _refuse_strays(grid)
    cells, jobs, unknown = missing(grid)
    for line in unknown:
        logger.warning("%s; it is left alone", line)
    if not cells:
        return []
    attempts = {one.cell: one.attempt for one in submissions(grid)}
    (grid.directory / LOGS).mkdir(parents=True, exist_ok=True)
    code = on_code(code_of(grid))
    done: list[Submission] = []
    for array in arrays_of(cells, array_limit()[0], grid.parallelism):
        try:
            names = _queued(grid, array._replace(behind=jobs_before(array, jobs)), code)
        except FailedJobError as error:
            raise RuntimeError(
                f"{grid.directory}: sbatch refuses the {array.stage} jobs "
                f"({' '.join(str(error).split())}); {len(done)} cells are submitted, the same "
                f"command submits the others"
            ) from None
        now = time.time()
        added = [
            Submission(cell.name, job, attempts.get(cell.name, 0) + 1, now, f"{LOGS}/{job}_")
            for cell, job in zip(array.cells, names, strict=True)
        ]
        append(grid, added)
        jobs |= {one.cell: one.job for one in added}
        done += added
    return done


def _refuse_strays(grid: Grid) -> None:
    """Raise RuntimeError for jobs that a submission was killed before it could write down."""
    known = {one.job.partition("_")[0] for one in submissions(grid)}
    queued = writing_to((grid.directory / LOGS).resolve())
    strays = [job for job in queued if job not in known]
    if strays:
        raise RuntimeError(
            f"{grid.directory}: jobs {' '.join(strays)} of it wait or run, and {JOBS} does not say "
            f"for which cells (a submission was cut off); scancel {' '.join(strays)}, then submit"
        )


def jobs_before(array: CellArray, jobs: dict[str, str]) -> tuple[str, ...]:
    """Return the jobs that an array is to wait for; for a report whole arrays."""
    before = [jobs[need] for need in array.behind if need in jobs]
    if array.stage == REPORT:
        before = [job.partition("_")[0] for job in before]
    return tuple(dict.fromkeys(before))


def _queued(grid: Grid, array: CellArray, code: Sequence[str]) -> list[str]:
    """Submit an array; return the job of each cell."""
    import submitit

    from maskedclip.jobs.submit import check_logs

    python = interpreter(override(LaunchConfig(), grid.launch[array.stage]).python)
    folder = (grid.directory / LOGS).resolve()
    check_logs(folder)
    executor = submitit.AutoExecutor(
        folder=folder, cluster="slurm", slurm_max_num_timeout=100, slurm_python=python
    )
    executor.update_parameters(**parameters(grid, array, code))
    with executor.batch():
        jobs = [
            executor.submit(CellJob(str(grid.directory.resolve()), cell.name))
            for cell in array.cells
        ]
    return [str(job.job_id) for job in jobs]


def parameters(grid: Grid, array: CellArray, code: Sequence[str]) -> dict[str, Any]:
    """Return the parameters of an array for submitit; code: shell lines that select its code."""
    from maskedclip.jobs.submit import parameters as of_launch
    from maskedclip.jobs.submit import teardown

    launch = override(LaunchConfig(), grid.launch[array.stage])
    name = f"{grid.directory.name}-{array.stage}"
    wanted = of_launch(name, launch, "slurm", launch.gpus or launch.cpu_ranks)
    wanted["slurm_setup"] = [*wanted["slurm_setup"], *code]
    wanted |= teardown(launch, (grid.directory / LOGS).resolve())
    if array.parallelism:
        wanted["slurm_array_parallelism"] = array.parallelism
    if array.behind:
        wanted["slurm_dependency"] = "afterany:" + ":".join(array.behind)
    return wanted


def array_limit() -> tuple[int, str]:
    """Return how many elements SLURM lets an array have, and how that is known."""
    try:
        config = subprocess.run(
            ["scontrol", "show", "config"], capture_output=True, text=True, check=False, timeout=20
        ).stdout
    except (OSError, subprocess.TimeoutExpired):
        config = ""
    match = re.search(r"^MaxArraySize\s*=\s*(\d+)", config, re.MULTILINE)
    if match is None:
        return _MAX_ARRAY, "SLURM's default, as none answers here"
    return max(1, int(match[1])), "MaxArraySize of this cluster"


def code_of(grid: Grid) -> Path:
    """Return a folder with the package as it is now, which the cells submitted now will run."""
    return snapshot(grid.directory / CODE)
