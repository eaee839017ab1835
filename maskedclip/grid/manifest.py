"""A grid of runs as files: what it is made of, what was submitted, and what is really finished.

    OUT/grids/NAME/grid.json    the cells: pre-trainings, evaluations, fine-tunings, the report
    OUT/grids/NAME/jobs.jsonl   a line each time a cell was submitted
    OUT/grids/NAME/waiting.json cells that a limit on submitted jobs has left no room for
    OUT/grids/NAME/turns.json   cells that the process which runs the grid here is still to start
    OUT/grids/NAME/logs/        what the jobs wrote
    OUT/grids/NAME/code/        the package as it was when they were submitted

A cell is finished only if the files that it was to write verify; no one's word counts for it.
"""

import difflib
import json
import logging
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from maskedclip.config import Config, FinetuneConfig, load, override
from maskedclip.engine.whole_file import write_whole
from maskedclip.metrics.result_record import RESULTS, damaged, read_record, record_of, undamaged
from maskedclip.models.checkpoints.files import ENCODER, FINETUNED, MODEL
from maskedclip.models.checkpoints.sealed import file_sha256
from maskedclip.models.checkpoints.verified import is_intact
from maskedclip.pretrain.run_identity import learnt

WAITING = "waiting.json"  # the cells that a limit on submitted jobs has left no room for
TURNS = "turns.json"  # the cells that the process which runs the grid here is still to start
WAITS = 3  # exit code of a cell whose needs are not finished
MANIFEST, JOBS, LOGS, CODE, LOCK = "grid.json", "jobs.jsonl", "logs", "code", ".lock"
PRETRAIN, EVALUATE, FINETUNE, REPORT = STAGES = ("pretrain", "evaluate", "finetune", "report")
_EXPORTS = (ENCODER, MODEL)
logger = logging.getLogger(__name__)
EVALUATED = "evaluated.json"  # of an evaluation: its options, and the predictions it scored
SHOWN = "shown.json"  # of a report: the results that it was made of, and the sha256 of its files
_VERSION = 1


class Cell(NamedTuple):
    """One run of a grid."""

    name: str  # unique, a plain folder name
    stage: str  # one of STAGES
    config: dict[
        str, Any
    ]  # by dotted field: of Config, EvaluateConfig, FinetuneConfig, the report's
    needs: tuple[str, ...]  # names of the cells that are to be finished before it


class Grid(NamedTuple):
    """Cells that belong together, and how each stage is launched."""

    directory: Path
    cells: tuple[Cell, ...]
    launch: dict[str, dict[str, Any]]  # stage -> fields of LaunchConfig
    cluster: str  # slurm or local
    parallelism: int | None = None  # jobs at a time; None: on SLURM any number, here one
    pack: int = 1  # evaluations or fine-tunings a job of SLURM, one after another
    commands: Mapping[str, str] = {}  # pre-training -> the last command line that asked for it


class Submission(NamedTuple):
    """One cell as it was once submitted."""

    cell: str
    job: str  # SLURM's, as 123_4; empty where it ran on this machine
    attempt: int  # of this cell, from 1
    time_s: float  # since 1970
    logs: str  # prefix of the job's log files, relative to the grid


def read(directory: Path) -> Grid:
    """Return the grid that a directory holds; ValueError, in one line, where it holds none."""
    path = directory / MANIFEST
    if not path.is_file():
        raise ValueError(f"{directory}: is no grid (no {MANIFEST}); name one, as runs/grids/NAME")
    try:
        content = json.loads(path.read_text("utf-8"))
        if content["version"] != _VERSION:
            version = content["version"]
            raise ValueError(f"it has version {version}, and this code reads {_VERSION}")
        cells = tuple(
            Cell(cell["name"], cell["stage"], dict(cell["config"]), tuple(cell["needs"]))
            for cell in content["cells"]
        )
        launch, cluster = dict(content["launch"]), str(content["cluster"])
        pack = int(content.get("pack", 1))  # not before 2026-11-29
        commands = dict(content.get("commands", {}))  # not before 2026-11-30
        return Grid(directory, cells, launch, cluster, content["parallelism"], pack, commands)
    except (OSError, ValueError, KeyError, TypeError) as error:
        what = " ".join(str(error).split())
        raise ValueError(f"{path}: is no manifest of a grid ({what}); submit it again") from None


def write(grid: Grid) -> None:
    """Write the manifest in one rename."""
    grid.directory.mkdir(parents=True, exist_ok=True)
    content = {
        "version": _VERSION,
        "cluster": grid.cluster,
        "parallelism": grid.parallelism,
        "pack": grid.pack,
        "launch": grid.launch,
        "commands": dict(grid.commands),
        "cells": [cell._asdict() for cell in grid.cells],
    }
    write_whole(grid.directory / MANIFEST, json.dumps(content, indent=1) + "\n")


def submissions(grid: Grid) -> list[Submission]:
    """Return what was submitted, in that order; a line that was only half written is left out."""
    path = grid.directory / JOBS
    submitted: list[Submission] = []
    lines = path.read_bytes().splitlines() if path.exists() else []
    for line in lines:
        try:
            submitted.append(Submission(**json.loads(line)))
        except (ValueError, TypeError):
            continue  # its writer was killed as it wrote
    return submitted


def waiting(grid: Grid) -> dict[str, dict[str, Any]]:
    """Return the cells that wait for room under a limit, each with its changes of the launch."""
    try:
        content = json.loads((grid.directory / WAITING).read_text("utf-8"))
    except FileNotFoundError:
        return {}
    return {str(name): dict(changes) for name, changes in content.items()}


def write_waiting(grid: Grid, cells: Mapping[str, Mapping[str, Any]]) -> None:
    """Write down, in one rename, which cells wait for room."""
    path = grid.directory / WAITING
    if not cells:
        path.unlink(missing_ok=True)
        return
    write_whole(path, json.dumps(cells, indent=1) + "\n")


def turns(grid: Grid) -> frozenset[str]:
    """Return the cells that the process which runs the grid here is still to start.

    All, as long as it has not written down which. What a process that was killed has left here says
    nothing: ask first whether one holds LOCK.
    """
    try:
        return frozenset(json.loads((grid.directory / TURNS).read_text("utf-8")))
    except (OSError, ValueError):
        return frozenset(cell.name for cell in grid.cells)


def write_turns(grid: Grid, cells: Iterable[Cell]) -> None:
    """Write down, in one rename, which cells this process is still to start."""
    write_whole(grid.directory / TURNS, json.dumps([cell.name for cell in cells]) + "\n")


def cell_of(grid: Grid, name: str) -> Cell:
    """Return the cell of a name; ValueError with the nearest where there is none."""
    for cell in grid.cells:
        if cell.name == name:
            return cell
    near = difflib.get_close_matches(name, [cell.name for cell in grid.cells], n=1, cutoff=0.4)
    hint = f"did you mean {near[0]}?" if near else f"it has {len(grid.cells)}; see its status"
    raise ValueError(f"{grid.directory}: has no cell {name!r}; {hint}")


def append(grid: Grid, submitted: Iterable[Submission]) -> None:
    """Add lines to jobs.jsonl, on the disk when this returns."""
    lines = "".join(json.dumps(one._asdict()) + "\n" for one in submitted)
    with (grid.directory / JOBS).open("ab+") as file:
        if file.tell() and not _ends_a_line(file.name):
            lines = "\n" + lines  # behind what a killed writer left
        file.write(lines.encode())
        file.flush()
        os.fsync(file.fileno())


def _ends_a_line(name: str) -> bool:
    with Path(name).open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"


def run_of(grid: Grid, cell: Cell) -> Path:
    """Return the directory that a cell writes into."""
    if cell.stage in (EVALUATE, REPORT):
        return grid.directory / str(cell.config["out"])
    return grid.directory / str(cell.config["out"]) / str(cell.config["name"])


def finished(grid: Grid, cell: Cell) -> bool:
    """Return whether the cell's results are there, whole, and its own."""
    run = run_of(grid, cell)
    try:
        if cell.stage == PRETRAIN:
            return _pretrained(override(Config(), cell.config), run)
        if cell.stage == FINETUNE:
            return _finetuned(override(FinetuneConfig(), cell.config), run)
        if cell.stage == EVALUATE:
            return _evaluated(cell, run)
        return _reported(cell, run)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False  # damaged, or another run's: running the cell says what is wrong


def present(grid: Grid, cell: Cell) -> str:
    """Return what of a finished cell is there without a sha256 to verify it by, or "" for none."""
    run = run_of(grid, cell)
    weights = {PRETRAIN: _EXPORTS, FINETUNE: (FINETUNED,)}.get(cell.stage, ())
    gone = [name for name in weights if not (run / name).is_file()]
    unsealed = [name for name in weights if name not in gone and is_intact(run / name) is None]
    if cell.stage == FINETUNE and read_record(run) is None:
        unsealed.append(RESULTS)
    words = f"present, without a sha256: {', '.join(unsealed)}" if unsealed else ""
    absent = f"not there any more: {', '.join(gone)}" if gone else ""
    return "; ".join(filter(None, (words, absent)))


def _pretrained(config: Config, run: Path) -> bool:
    if learnt(load(run / "config.json", Config)) != learnt(config):
        return False
    row = _last_row(run / "metrics.jsonl")
    steps, optim = int(row["step"]), config.optim
    if steps < optim.steps or (not optim.steps and float(row["epoch"]) < optim.epochs - 1e-6):
        return False
    return all(is_intact(run / name) is not False for name in _EXPORTS)


def _last_row(path: Path) -> dict[str, Any]:
    """Return the last of the rows, of which each is whole; ValueError where one is not."""
    *lines, _half = path.read_bytes().split(b"\n")
    rows = [json.loads(line) for line in lines]
    steps = [row["step"] for row in rows]
    if not rows or steps != sorted(set(steps)):
        raise ValueError(f"{path}: has no whole rows in their order")
    last: dict[str, Any] = rows[-1]
    return last


def tail_of(path: Path, most: int) -> bytes:
    """Return at most so many bytes from the end of a file."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - most))
        return file.read(most)


def _finetuned(config: FinetuneConfig, run: Path) -> bool:
    if not (run / RESULTS).is_file():
        return False  # before torch is imported
    from maskedclip.finetune.run_directory import finished as verified

    return verified(config, run)


def _evaluated(cell: Cell, run: Path) -> bool:
    done = json.loads((run / EVALUATED).read_text("utf-8"))
    if done["options"] != json.loads(json.dumps(cell.config)):
        return False
    return not damaged(run, done)


def asked_since(grid: Grid, cell: Cell, submitted_s: float) -> str:
    """Return what an evaluation or a report lacks that was whole when its last job ended, or "".

    Options that were given since, and results that came since.

    Args:
        submitted_s: when that job was submitted, in seconds since 1970: what a later one has not
            added was not asked for since.
    """
    record = {EVALUATE: EVALUATED, REPORT: SHOWN}.get(cell.stage)
    path = run_of(grid, cell) / str(record)
    try:
        if record is None or path.stat().st_mtime < submitted_s:
            return ""
        content = json.loads(path.read_text("utf-8"))
        if record == SHOWN:
            return "results came since; it is made again" * (content["results"] != results_of(cell))
        before, now = content["options"], json.loads(json.dumps(cell.config))
    except (OSError, ValueError, KeyError, TypeError):
        return ""
    names = [name for name in now if now[name] != before.get(name)]
    return f"measured before other {', '.join(names)} were asked for" if names else ""


def write_evaluated(cell: Cell, run: Path, predictions: Iterable[str]) -> None:
    """Write down, in one rename, what an evaluation was of and which predictions it scored."""
    from maskedclip.metrics.operating_points import OPERATING
    from maskedclip.metrics.results import read_rows

    scored = set(predictions)
    rows = [
        row
        for row in read_rows(run)
        # thresholds may be chosen again
        if row.get("predictions") in scored and row["metric"] not in OPERATING
    ]
    content = {"options": cell.config, **record_of(run, rows)}
    write_whole(run / EVALUATED, json.dumps(content, indent=1) + "\n")


def forget_damaged(run: Path) -> None:
    """Take the rows out of a run's results that are not as the last evaluation wrote them."""
    from maskedclip.metrics.results import change_rows

    if not (run / EVALUATED).is_file():
        return
    record = json.loads((run / EVALUATED).read_text("utf-8"))
    if broken := damaged(run, record):
        logger.warning("%s: not as it was written; measured again", run / broken[0])
        change_rows(run, lambda rows: undamaged(run, record, rows))


def _reported(cell: Cell, run: Path) -> bool:
    shown = json.loads((run / SHOWN).read_text("utf-8"))
    if shown["results"] != results_of(cell):
        return False
    return all(file_sha256(run / name) == digest for name, digest in shown["sha256"].items())


def write_shown(run: Path, results: dict[str, list[int]]) -> None:
    """Write down which results a report was made of, and the sha256 of its files."""
    files = sorted(path for path in run.rglob("*") if path.is_file() and path.name != SHOWN)
    sha256 = {path.relative_to(run).as_posix(): file_sha256(path) for path in files}
    content = {"results": results, "sha256": sha256}
    write_whole(run / SHOWN, json.dumps(content, indent=1) + "\n")


def results_of(report: Cell) -> dict[str, list[int]]:
    """Return (bytes, time of writing) of the results that a report has to show, by their path.

    Taken before a report is made and kept in it: results that came later make it out of date.
    """
    paths = [Path(run) / RESULTS for run in report.config["runs"]]
    facts = {str(path): path.stat() for path in paths if path.is_file()}
    return {path: [fact.st_size, fact.st_mtime_ns] for path, fact in facts.items()}
