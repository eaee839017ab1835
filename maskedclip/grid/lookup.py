"""What status, retry and cancel name: a grid, or a single run as a grid of one cell."""

import difflib
import json
import os
import re
import socket
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

from maskedclip.config import Config, FinetuneConfig, flat, load
from maskedclip.grid.manifest import (
    FINETUNE,
    MANIFEST,
    PRETRAIN,
    Cell,
    Grid,
    Submission,
    read,
    submissions,
)
from maskedclip.jobs import processes

JOBS = "jobs"  # folder of a single run, where submitit keeps its files
LAUNCH = "launch.json"  # how a single run was submitted
_FILES = r"(\d+(?:_\d+)?)_(submitted\.pkl|submission\.sh|\d+_log\.(?:out|err))"  # submitit's
_CONFIG = "config.json"
_HOME = Path("runs")


class GridOrRun(NamedTuple):
    """A grid, and what was submitted of it."""

    grid: Grid
    submitted: list[Submission]
    run: Path | None  # where it is a single run


def opened(name: str) -> GridOrRun:
    """Return the grid or run at a path, or of that name below runs/grids and runs.

    Raises ValueError with the nearest name where there is none.
    """
    for path in (Path(name), _HOME / "grids" / name, _HOME / name):
        if (path / MANIFEST).is_file():
            grid = read(path)
            return GridOrRun(grid, submissions(grid), None)
        if (path / _CONFIG).is_file() or (path / JOBS).is_dir():
            return _single(path)
    near = _nearest(name)
    hint = f"did you mean {near}?" if near else "name a grid or a run, as runs/grids/NAME"
    raise ValueError(f"{name}: is no grid and no run; {hint}")


def known_paths() -> list[str]:
    """Return the grids and runs below runs, grids first."""
    return [*_inside(_HOME / "grids"), *_inside(_HOME)]


def _nearest(name: str) -> str | None:
    """Return the grid or run whose path or name is nearest."""
    paths = [*_inside(Path(name).parent), *known_paths()]
    by_path = difflib.get_close_matches(name, paths, n=1)
    names = {Path(path).name: path for path in reversed(paths)}
    by_name = difflib.get_close_matches(Path(name).name, names, n=1)
    return by_path[0] if by_path else names[by_name[0]] if by_name else None


def _inside(folder: Path) -> list[str]:
    """Return the grids and runs directly in a folder."""
    try:
        paths = sorted(Path(entry.path) for entry in os.scandir(folder) if entry.is_dir())
    except OSError:
        return []
    return [str(p) for p in paths if (p / MANIFEST).is_file() or (p / _CONFIG).is_file()]


def _single(run: Path) -> GridOrRun:
    # resolved: a run named . has no name
    run = run if run.name not in ("", "..") else run.resolve()
    fields = flat(_object(run / _CONFIG))
    stage = FINETUNE if "weights" in fields else PRETRAIN
    with suppress(ValueError, OSError):  # half a file: its fields as they stand
        path = run / _CONFIG
        known = load(path, FinetuneConfig) if stage == FINETUNE else load(path, Config)
        fields = flat(asdict(known))  # under their present names
    cell = Cell(run.name, stage, fields | {"out": ".", "name": run.name}, ())
    launch = _object(run / JOBS / LAUNCH)
    cluster = "local" if launch.get("cluster") == "local" else "slurm"
    grid = Grid(run.parent, (cell,), {stage: launch}, cluster)
    return GridOrRun(grid, _submitted(run), run)


def _submitted(run: Path) -> list[Submission]:
    """Return the jobs of a run by the files that submitit keeps of each, oldest first."""
    times: dict[str, float] = {}
    slurm: set[str] = set()
    for path in (run / JOBS).glob("*_*"):
        named = re.fullmatch(_FILES, path.name)
        if named is None:
            continue
        job, what = named.groups()
        times[job] = min(times.get(job, path.stat().st_mtime), path.stat().st_mtime)
        if what == "submission.sh":  # which only SLURM is given
            slurm.add(job)
    jobs = sorted(times, key=times.__getitem__)
    return [
        Submission(
            run.name,
            job if job in slurm else _process(run, int(job)),
            number,
            times[job],
            f"{run.name}/{JOBS}/{job}_",
        )
        for number, job in enumerate(jobs, 1)
    ]


def _process(run: Path, number: int) -> str:
    """Return the name of submitit's watcher over a run on this machine, by its own words."""
    try:
        words = Path(f"/proc/{number}/cmdline").read_bytes().split(b"\0")
    except OSError:
        words = []
    if str((run / JOBS).resolve()).encode() in words:
        return processes.named(number)
    attempts = _json(run / "provenance.json")
    last = attempts[-1] if isinstance(attempts, list) and attempts else {}
    host = last.get("host") if isinstance(last, dict) else None
    return f"{host or socket.gethostname()}:{number}:0"  # over, or on another machine


def _object(path: Path) -> dict[str, object]:
    content = _json(path)
    return content if isinstance(content, dict) else {}


def _json(path: Path) -> object:
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
