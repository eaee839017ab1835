"""A grid on SLURM: one array a stage, the later ones behind the earlier, each cell a job again.

A dependency only orders (afterany): whether a cell may run is seen in the files of those it needs,
so a failed pre-training holds nobody's fine-tunings but its own, and those end at once.

Where a limit on submitted jobs leaves no room, what fits is submitted, and the rest is written into
waiting.json: `status --watch` submits it as others end (`feed`).
"""

import json
import logging
import os
import re
import subprocess
import sys
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Any, NamedTuple, TypeVar

from maskedclip.command import log_lines
from maskedclip.config import Config, FinetuneConfig, LaunchConfig, override
from maskedclip.grid.cells import not_measured
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
    forget_damaged,
    read,
    results_of,
    run_of,
    submissions,
    waiting,
    write_evaluated,
    write_shown,
    write_waiting,
)
from maskedclip.grid.status import DONE, LOST, OPEN, PENDING, current_status
from maskedclip.jobs.code_snapshot import on_code, snapshot
from maskedclip.jobs.job import Job, Repeatable, as_a_job, check_gpus, interpreter
from maskedclip.jobs.slurm_queue import writing_to
from maskedclip.metrics.file_lock import locked

logger = logging.getLogger(__name__)
T = TypeVar("T")
PACKED = (EVALUATE, FINETUNE)  # stages of which a job may hold several cells
_MAX_ARRAY = 1001  # elements of an array, where SLURM is not asked: its own default
_ANY = sys.maxsize
# sbatch's reason where a limit of an association or a QOS is reached; its error alone says as much
# of a job that is too large or too long
_LIMIT = re.compile(r"\b(?:Assoc|QOS)\w*Submit\w*Limit\b")
_UNSUBMITTED = re.compile(r"[0-9a-f]{32}\.pkl|\.submission_file_[0-9a-f]{32}\.sh")


@dataclass(frozen=True)
class CellJob(Repeatable):
    """Cells as a job, one after another: picklable, repeatable; what is finished does nothing."""

    directory: str  # of the grid
    names: tuple[str, ...]

    def __call__(self) -> None:
        log_lines(force=True)
        grid = read(Path(self.directory))
        cells = [cell_of(grid, name) for name in self.names]
        if len(cells) == 1:
            run_cell(grid, cells[0])
        else:
            run_several(grid, cells)


class CellArray(NamedTuple):
    """Cells that are submitted together: an array, or where it is one job a plain one."""

    stage: str
    elements: tuple[tuple[Cell, ...], ...]  # the cells of each job, one after another
    behind: tuple[str, ...]  # jobs whose end it waits for, or for a plan the cells
    parallelism: int | None  # jobs of it that run at a time; None: as many as there is room for
    lane: int = 0  # arrays of a stage and a lane come one after another, where that is limited

    @property
    def cells(self) -> list[Cell]:
        return [cell for element in self.elements for cell in element]


class Submitted(NamedTuple):
    """What was submitted, and what waits for room under a limit."""

    done: list[Submission]
    waiting: list[str]  # cells
    limit: str = ""  # in sbatch's words
    held_up: Sequence[str] = ()  # cells that were named, and need one that does not come


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
    forget_damaged(run)
    rows = evaluate(config, config.protocols)  # none of them: shots alone
    write_evaluated(cell, run, [str(row["predictions"]) for row in rows])


def waits_for(grid: Grid, cell: Cell) -> str:
    """Return what to say where a needed cell is not finished, else ""; a report needs none."""
    if cell.stage == REPORT:
        return ""
    for need in cell.needs:
        if not finished(grid, cell_of(grid, need)):
            return f"waits for {need}, which is not finished"
    return ""


def run_several(grid: Grid, cells: Sequence[Cell]) -> None:
    """Carry out cells one after another, each with a log of its own; a failure ends no other.

    Raises SystemExit with code 1 where one failed; one that is asked to leave ends them all, and
    the job goes on with it.
    """
    import submitit

    job = str(submitit.JobEnvironment().job_id)
    failed = []
    for cell in cells:
        with _output_to(grid.directory / f"{_logs(job, cell, cells)}log"):
            sys.excepthook = sys.__excepthook__  # `as_a_job` has its own for mistakes
            try:
                run_cell(grid, cell)
            except (ValueError, RuntimeError, OSError) as error:
                sys.excepthook(type(error), error, error.__traceback__)
                failed.append(cell.name)
            except SystemExit as end:
                if end.code != WAITS:
                    raise
                failed.append(cell.name)
    if failed:
        sys.stderr.write(f"failed: {', '.join(failed)}; each has a log of its own\n")
        raise SystemExit(1)


@contextmanager
def _output_to(path: Path) -> Iterator[None]:
    """Point stdout and stderr at a file, which is added to."""
    ours = [os.dup(number) for number in (1, 2)]
    with path.open("ab") as log:
        for number in (1, 2):
            os.dup2(log.fileno(), number)
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for number, own in enumerate(ours, 1):
            os.dup2(own, number)
            os.close(own)


def _report(grid: Grid, cell: Cell, run: Path) -> None:
    """Write the report of what is there, and say in it what is not."""
    from maskedclip.report.build import report, report_of_nothing
    from maskedclip.report.command import ReportConfig

    absent = [
        f"{other.name}: is not finished"
        for other in grid.cells
        if other.stage != REPORT and not finished(grid, other)
    ]
    absent += not_measured(grid, cell.config.get("protocol", FINETUNE))
    shown = results_of(cell)
    options = {k: v for k, v in cell.config.items() if k not in ("runs", "out")}
    config = override(ReportConfig(), {**options, "out": str(run)})
    runs = [Path(path) for path in cell.config["runs"]]
    written = report(runs, config, absent) if shown else report_of_nothing(config, absent)
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
    # those that only wait for this process, which hands them out, or for room are to come
    turn = {row.cell for row in rows.values() if row.state == PENDING and not row.job}
    turn |= {name for name in waiting(grid) if rows[name].state == PENDING}
    going = {n: row for n, row in rows.items() if row.state not in (*OPEN, DONE) and n not in turn}
    active = {name: row.job for name, row in going.items() if row.job}
    kept = {*going, *(name for name, row in rows.items() if row.state == LOST)}
    open_cells = [cell for cell in grid.cells if rows[cell.name].state != DONE]
    # whatever is still to come makes a report that is there out of date
    reports = [cell for cell in grid.cells if cell.stage == REPORT and cell not in open_cells]
    open_cells += reports if open_cells else []
    return [cell for cell in open_cells if cell.name not in kept], active, unknown


def arrays_of(
    cells: Sequence[Cell], most: int, parallelism: int | None, pack: int = 1
) -> list[CellArray]:
    """Return cells as arrays, stage by stage: those with the same needs together, split at `most`.

    So many jobs of a stage run at a time as `parallelism` says, over all of its arrays: these share
    it, and where they are more than that, they come one after another in as many lanes.

    Args:
        pack: evaluations or fine-tunings a job.
    """
    arrays = []
    for stage in STAGES:
        groups: dict[tuple[str, ...], list[Cell]] = {}
        for cell in cells:
            if cell.stage == stage:
                groups.setdefault(cell.needs, []).append(cell)
        size = pack if stage in PACKED else 1
        parts = [
            (needs, part)
            for needs, mine in groups.items()
            for part in _split(_split(mine, size), most)
        ]
        lanes = min(parallelism or 0, len(parts))
        for number, (needs, part) in enumerate(parts):
            lane = number % lanes if lanes else number
            share = None
            if parallelism:
                share = parallelism // lanes + (lane < parallelism % lanes)
            arrays.append(CellArray(stage, part, needs, share, lane))
    return arrays


def _split(items: Sequence[T], size: int) -> list[tuple[T, ...]]:
    return [tuple(items[i : i + size]) for i in range(0, len(items), size)]


def submit(
    grid: Grid, names: Collection[str] | None = None, changes: Mapping[str, Any] | None = None
) -> Submitted:
    """Submit to SLURM what is neither finished nor waiting nor running; return what that was.

    Args:
        names: of the cells that may be submitted; None: all.
        changes: fields of LaunchConfig in which they differ from their stage's.

    Raises RuntimeError where another process submits the same grid, or SLURM refuses a job for
    another reason than a limit on submitted jobs.
    """
    with held(grid):
        return _submit(grid, names, changes or {})


def feed(grid: Grid) -> Submitted:
    """Submit of what waits for room under a limit as much as fits now."""
    with held(grid):
        done: list[Submission] = []
        left = waiting(grid)
        for changes in {json.dumps(one): one for one in left.values()}.values():
            names = [name for name, own in left.items() if own == changes]
            one = _submit(grid, names, changes)
            done += one.done
            if one.waiting:
                return one._replace(done=done)
        return Submitted(done, [])


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


def _submit(grid: Grid, names: Collection[str] | None, changes: Mapping[str, Any]) -> Submitted:
    _refuse_strays(grid)
    cells, jobs, unknown = missing(grid)
    for line in unknown:
        logger.warning("%s; it is left alone", line)
    held_up: list[str] = []
    if names is not None:
        cells = [cell for cell in cells if cell.name in names]
        held_up = _held_up(grid, cells, jobs)
        cells = [cell for cell in cells if cell.name not in held_up]
    if not cells:
        return Submitted([], [], held_up=held_up)
    queue = _Queue(grid, jobs, changes)
    for array in arrays_of(cells, array_limit()[0], grid.parallelism, grid.pack):
        queue.add(array)
    kept = {name: own for name, own in waiting(grid).items() if names and name not in names}
    write_waiting(grid, kept | {cell.name: dict(changes) for cell in queue.left})
    return Submitted(queue.done, [cell.name for cell in queue.left], queue.limit, held_up)


def _held_up(grid: Grid, cells: Sequence[Cell], jobs: Mapping[str, str]) -> list[str]:
    """Return which of the cells need one that is neither finished, nor under way, nor of them."""
    come, held_up = set(jobs), []
    for cell in sorted(cells, key=lambda cell: STAGES.index(cell.stage)):
        absent = [need for need in cell.needs if need not in come]
        if cell.stage == REPORT or all(finished(grid, cell_of(grid, need)) for need in absent):
            come.add(cell.name)
        else:
            held_up.append(cell.name)
    return held_up


class _Queue:
    """A submission under way: what is submitted, and what no longer fits."""

    def __init__(self, grid: Grid, jobs: dict[str, str], changes: Mapping[str, Any]) -> None:
        self.grid, self.jobs, self.changes = grid, jobs, changes
        self.done: list[Submission] = []
        self.left: list[Cell] = []
        self.limit = ""
        self.attempts = {one.cell: one.attempt for one in submissions(grid)}
        # jobs of earlier submissions, by stage: what comes now waits for them, or there would be
        # more of the stage at a time than --parallelism
        self.going: dict[str, list[str]] = {}
        for cell in grid.cells:
            if grid.parallelism and cell.name in jobs:
                self.going.setdefault(cell.stage, []).append(_array(jobs[cell.name]))
        self.tails: dict[tuple[str, int], str] = {}
        self.room = _room()
        (grid.directory / LOGS).mkdir(parents=True, exist_ok=True)
        self.code = on_code(code_of(grid))

    def add(self, array: CellArray) -> None:
        """Submit an array, or as much of it as fits; RuntimeError where SLURM refuses a job."""
        rest = array.elements
        size = len(rest)
        while rest and not self.left:  # behind what is left comes what needs it
            size = min(size, len(rest), self.room)
            fault = self._submit(array, rest[:size]) if size else "MaxJobCount of this cluster"
            if not fault:
                rest = rest[size:]
                continue
            if size > 1 and not _is_full(fault):
                size //= 2
                continue
            self.limit = fault
            break
        self.left += [cell for element in rest for cell in element]

    def _submit(self, array: CellArray, part: tuple[tuple[Cell, ...], ...]) -> str:
        """Submit a part of an array; return the limit that refuses it, "" where none does."""
        from submitit.core.utils import FailedJobError

        before = [*jobs_before(array, self.jobs), *self._before(array)]
        part_of = array._replace(elements=part, behind=tuple(dict.fromkeys(before)))
        try:
            names = _queued(self.grid, part_of, self.code, self.changes)
        except FailedJobError as error:
            words = " ".join(str(error).split())
            if not (_LIMIT.search(words) or _is_full(words)):
                raise RuntimeError(
                    f"{self.grid.directory}: sbatch refuses the {array.stage} jobs ({words}); "
                    f"{len(self.done)} cells are submitted; with that put right, the same command "
                    f"submits the others"
                ) from None
            return _limit_in(words)
        now = time.time()
        added = [
            Submission(
                cell.name, job, self.attempts.get(cell.name, 0) + 1, now, _logs(job, cell, element)
            )
            for element, job in zip(part, names, strict=True)
            for cell in element
        ]
        append(self.grid, added)
        self.jobs |= {one.cell: one.job for one in added}
        self.done += added
        self.room -= len(part)
        self.tails[array.stage, array.lane] = _array(names[0])
        return ""

    def _before(self, array: CellArray) -> list[str]:
        """Return the arrays that it waits for so that no more run at a time than may."""
        if not self.grid.parallelism:
            return []
        tail = self.tails.get((array.stage, array.lane))
        return [tail] if tail else self.going.get(array.stage, [])


def no_room(submitted: Submitted, path: str) -> str:
    """Return what to say of cells that a limit leaves no room for, "" where there are none."""
    if not submitted.waiting:
        return ""
    watch = f"python -m maskedclip.slurm status {quote(path)} --watch=60"
    return (
        f"{len(submitted.waiting)} cells wait for room under a limit on submitted jobs "
        f"({submitted.limit}). They are submitted as others end, while this runs:\n"
        f"  nohup {watch} > {quote(f'{path}/watch.log')} &\n"
    )


def forget_waiting(grid: Grid, names: Collection[str]) -> list[str]:
    """Take cells from those that wait for room; return which these were."""
    with held(grid):
        cells = waiting(grid)
        write_waiting(grid, {name: own for name, own in cells.items() if name not in names})
    return [name for name in cells if name in names]


def _is_full(words: str) -> bool:
    """Return whether SLURM takes no job at all, of anyone; sbatch tries for two minutes then."""
    return "temporarily" in words


def _limit_in(words: str) -> str:
    named = _LIMIT.search(words)
    return named[0] if named else words


def _room() -> int:
    """Return how many jobs the cluster takes before sbatch waits; a large number if unknown."""
    most = _setting("MaxJobCount")
    if most is None:
        return _ANY
    try:
        listed = subprocess.run(
            ["squeue", "--all", "--array", "--noheader", "--states=all", "--format=%i"],
            capture_output=True, text=True, check=True, timeout=20,
        ).stdout  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return _ANY
    return max(0, most - 1 - len(listed.splitlines()))


def _array(job: str) -> str:
    return job.partition("_")[0]


def _logs(job: str, cell: Cell, element: Sequence[Cell]) -> str:
    """Return the prefix of a cell's logs: its job's own, or in a job of several one a cell."""
    return f"{LOGS}/{job}_" if len(element) == 1 else f"{LOGS}/{job}_{cell.name}."


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


def _queued(
    grid: Grid, array: CellArray, code: Sequence[str], changes: Mapping[str, Any]
) -> list[str]:
    """Submit an array; return the job of each element. What a refusal leaves is removed."""
    import submitit
    from submitit.core.utils import FailedJobError

    from maskedclip.jobs.submit import check_logs, stderr_to

    python = interpreter(override(LaunchConfig(), grid.launch[array.stage]).python)
    folder = (grid.directory / LOGS).resolve()
    check_logs(folder)
    before = set(folder.iterdir())
    executor = submitit.AutoExecutor(
        folder=folder, cluster="slurm", slurm_max_num_timeout=100, slurm_python=python
    )
    executor.update_parameters(**parameters(grid, array, code, changes))
    directory = str(grid.directory.resolve())
    try:
        # what sbatch says of a refusal is in the error
        with stderr_to(folder / "submitit.log"), executor.batch():
            jobs = [
                executor.submit(CellJob(directory, tuple(cell.name for cell in element)))
                for element in array.elements
            ]
    except FailedJobError:
        for path in set(folder.iterdir()) - before:
            if _UNSUBMITTED.fullmatch(path.name):
                path.unlink()
        raise
    return [str(job.job_id) for job in jobs]


def parameters(
    grid: Grid, array: CellArray, code: Sequence[str], changes: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return the parameters of an array for submitit.

    Args:
        code: shell lines that select its code.
        changes: fields of LaunchConfig in which it differs from its stage's.
    """
    from maskedclip.jobs.submit import parameters as of_launch
    from maskedclip.jobs.submit import teardown

    launch = override(LaunchConfig(), grid.launch[array.stage] | dict(changes or {}))
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
    most = _setting("MaxArraySize")
    if most is None:
        return _MAX_ARRAY, "SLURM's default, as none answers here"
    return max(1, most), "MaxArraySize of this cluster"


def _setting(name: str) -> int | None:
    """Return a number of SLURM's configuration; None where SLURM does not say."""
    try:
        config = subprocess.run(
            ["scontrol", "show", "config"], capture_output=True, text=True, check=False, timeout=20
        ).stdout
    except (OSError, subprocess.TimeoutExpired):
        return None
    match = re.search(rf"^{name}\s*=\s*(\d+)", config, re.MULTILINE)
    return int(match[1]) if match else None


def code_of(grid: Grid) -> Path:
    """Return a folder with the package as it is now, which the cells submitted now will run."""
    return snapshot(grid.directory / CODE)
