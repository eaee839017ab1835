"""What a board is shown of: a grid, or a single run, which is seen as a grid of one cell."""

import difflib
import json
import os
import re
import socket
from pathlib import Path
from typing import NamedTuple

from maskedclip.config import flat
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


class Opened(NamedTuple):
    """A grid, and what was submitted of it."""

    grid: Grid
    submitted: list[Submission]
    run: Path | None  # where it is a single run


def opened(name: str) -> Opened:
    """Return the grid or run at a path, or of that name below runs/grids and runs.

    Raises ValueError with the nearest name where there is none.
    """
    for place in (Path(name), _HOME / "grids" / name, _HOME / name):
        if (place / MANIFEST).is_file():
            grid = read(place)
            return Opened(grid, submissions(grid), None)
        if (place / _CONFIG).is_file() or (place / JOBS).is_dir():
            return _single(place)
    near = _nearest(name)
    hint = f"did you mean {near}?" if near else "name a grid or a run, as runs/grids/NAME"
    raise ValueError(f"{name}: is no grid and no run; {hint}")


def known_places() -> list[str]:
    """Return the grids and runs below runs, grids first."""
    found = [_HOME / "grids" / each for each in _folders(_HOME / "grids")]
    found += [_HOME / each for each in _folders(_HOME) if each != "grids"]
    return [str(p) for p in found if (p / MANIFEST).is_file() or (p / _CONFIG).is_file()]


def _nearest(name: str) -> str | None:
    """Return the grid or run whose path or name is nearest."""
    path = Path(name)
    beside = [path.parent / each for each in _folders(path.parent)]
    places = [str(p) for p in beside if (p / MANIFEST).is_file() or (p / _CONFIG).is_file()]
    places += known_places()
    by_path = difflib.get_close_matches(name, places, n=1)
    names = {Path(place).name: place for place in reversed(places)}
    by_name = difflib.get_close_matches(path.name, names, n=1)
    return by_path[0] if by_path else names[by_name[0]] if by_name else None


def _folders(place: Path) -> list[str]:
    try:
        return sorted(entry.name for entry in os.scandir(place) if entry.is_dir())
    except OSError:
        return []


def _single(run: Path) -> Opened:
    # resolved: a run named . has no name
    run = run if run.name not in ("", "..") else run.resolve()
    fields = flat(_object(run / _CONFIG))
    stage = FINETUNE if "weights" in fields else PRETRAIN
    cell = Cell(run.name, stage, fields | {"out": ".", "name": run.name}, ())
    launch = _object(run / JOBS / LAUNCH)
    cluster = "local" if launch.get("cluster") == "local" else "slurm"
    grid = Grid(run.parent, (cell,), {stage: launch}, cluster)
    return Opened(grid, _submitted(run), run)


def _submitted(run: Path) -> list[Submission]:
    """Return the jobs of a run by the files that submitit keeps of each, oldest first."""
    found: dict[str, float] = {}
    slurm: set[str] = set()
    for path in (run / JOBS).glob("*_*"):
        named = re.fullmatch(_FILES, path.name)
        if named is None:
            continue
        job, what = named.groups()
        found[job] = min(found.get(job, path.stat().st_mtime), path.stat().st_mtime)
        if what == "submission.sh":  # which only SLURM is given
            slurm.add(job)
    jobs = sorted(found, key=found.__getitem__)
    return [
        Submission(
            run.name,
            job if job in slurm else _process(run, int(job)),
            number,
            found[job],
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
    lives = _list(run / "provenance.json")
    last = lives[-1] if lives and isinstance(lives[-1], dict) else {}
    host = str(last.get("host") or socket.gethostname())
    return f"{host}:{number}:0"  # over, or on another machine


def _object(path: Path) -> dict[str, object]:
    found = _json(path)
    return found if isinstance(found, dict) else {}


def _list(path: Path) -> list[object]:
    found = _json(path)
    return found if isinstance(found, list) else []


def _json(path: Path) -> object:
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
