"""The curves of runs, from metrics.jsonl alone: at any time, thinned to what a screen shows."""

import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

METRICS = "metrics.jsonl"
PRETRAINING, FINETUNING = "Pre-training", "Fine-tuning"
_NOT_DRAWN = ("step", "epoch", "run_s", "unix_s")
ALARMS = "alarms"  # of a row: what was said of the steps up to it
# folders of a run that hold no other run, and may hold many files
_NO_RUNS = frozenset({"checkpoints", "code", "export", "features", "hang", "jobs", "predictions"})


class Points(NamedTuple):
    """A curve: values of K rows, or the means of K bins of rows with their lowest and highest."""

    step_K: np.ndarray
    value_K: np.ndarray
    low_K: np.ndarray | None = None
    high_K: np.ndarray | None = None
    rows: int = 1  # in a bin


@dataclass(frozen=True)
class RunCurves:
    """What the rows of a run say."""

    directory: Path
    name: str  # apart from those of the other runs
    kind: str  # PRETRAINING or FINETUNING
    progress: str  # how far it is, in words
    points: Mapping[str, Points]  # by the key of a row
    alarms: Sequence[tuple[int, str]]  # (step, what was said)
    faults: Sequence[str]  # what cannot be drawn, a line each
    config: Mapping[str, Any]


def curves_of(roots: Iterable[Path]) -> list[RunCurves]:
    """Return the curves of each run under `roots` whose metrics.jsonl has a row, by their paths."""
    directories = list(_directories(roots))
    names = _names(directories)
    found = (_curves(path, name) for path, name in zip(directories, names, strict=True))
    return [one for one in found if one.points or one.faults]


def _directories(roots: Iterable[Path]) -> Iterator[Path]:
    known: set[Path] = set()
    for root in roots:
        for folder, folders, files in os.walk(root):
            folders[:] = sorted(set(folders) - (_NO_RUNS if METRICS in files else set()))
            directory = Path(folder).resolve()
            if METRICS in files and directory not in known:
                known.add(directory)
                yield directory


def _names(directories: Sequence[Path]) -> list[str]:
    """Return each directory's own name, or its path from where all are where two share one."""
    own = [path.name for path in directories]
    if len(set(own)) == len(own):
        return own
    common = Path(os.path.commonpath(directories))
    return [str(path.relative_to(common)) for path in directories]


def _curves(directory: Path, name: str) -> RunCurves:
    config = _config(directory)
    faults: list[str] = []
    try:
        rows = list(_rows(directory / METRICS, faults))
    except OSError as error:
        rows, faults = [], [f"cannot be read: {error.strerror}"]
    points, odd = _points(rows)
    faults += [
        f"{key} is not finite in {len(steps)} row{'s' * (len(steps) > 1)}, first at step {steps[0]}"
        for key, steps in odd.items()
    ]
    tuned = "weights" in config or (not config and any(key.startswith("val_") for key in points))
    kind = FINETUNING if tuned else PRETRAINING
    progress = _progress(rows[-1], config) if rows else "no row yet"
    return RunCurves(directory, name, kind, progress, points, _alarms(rows), faults, config)


def reference_points(path: Path) -> dict[str, Points]:
    """Return the points of a run's metrics.jsonl, which is drawn beside others; ValueError."""
    faults: list[str] = []
    try:
        rows = _rows(path / METRICS if path.is_dir() else path, faults)
    except OSError as error:
        raise ValueError(f"--reference {path}: {error.strerror}; name a run or its rows") from None
    if faults or not rows:
        raise ValueError(f"--reference {path}: {faults[0] if faults else 'no row'}")
    return _points(rows)[0]


def _points(rows: Iterable[Mapping[str, Any]]) -> tuple[dict[str, Points], dict[str, list[int]]]:
    """Return the points of each key, and the steps where it is not finite."""
    values: dict[str, list[tuple[int, float]]] = {}
    odd: dict[str, list[int]] = {}
    for row in rows:
        for key, value in row.items():
            if key in _NOT_DRAWN or isinstance(value, bool) or not isinstance(value, int | float):
                continue  # null: not measured in these steps
            if math.isfinite(value):
                values.setdefault(key, []).append((row["step"], value))
            else:
                odd.setdefault(key, []).append(row["step"])
    points = {
        key: Points(np.array([step for step, _ in own]), np.array([value for _, value in own]))
        for key, own in values.items()
    }
    return points, odd


def _rows(path: Path, faults: list[str]) -> list[dict[str, Any]]:
    """Return the rows by rising step, of each step the last; half a row may stand at the end."""
    lines = path.read_bytes().split(b"\n")
    by_step: dict[int, dict[str, Any]] = {}
    for number, line in enumerate(lines[:-1], 1):
        try:
            row = json.loads(line)
            by_step[int(row["step"])] = row | {"step": int(row["step"])}
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
            faults.append(f"{METRICS}: line {number} is no row; it is left out")
    return [by_step[step] for step in sorted(by_step)]


def _alarms(rows: Iterable[Mapping[str, Any]]) -> list[tuple[int, str]]:
    """Return what each row raised; an alarm that goes on from row to row was raised once."""
    said: list[tuple[int, str]] = []
    before: list[str] = []
    for row in rows:
        own = row.get(ALARMS) or ()
        texts = own.values() if isinstance(own, dict) else [own] if isinstance(own, str) else own
        now = [" ".join(str(text).split()) for text in texts]
        said += [(row["step"], text) for text in now if text not in before]
        before = now
    return said


def _config(directory: Path) -> dict[str, Any]:
    try:
        config = json.loads((directory / "config.json").read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}  # the rows have curves without it
    return config if isinstance(config, dict) else {}


def _progress(row: Mapping[str, Any], config: Mapping[str, Any]) -> str:
    """Return how far a run is, of what it will be where its configuration says that."""
    optim = config.get("optim") if isinstance(config.get("optim"), dict) else {}
    steps, epochs = (optim or {}).get("steps"), (optim or config).get("epochs")
    words = f"step {row['step']:,}"
    if isinstance(steps, int) and steps > 0:
        return f"{words} of {steps:,}"
    epoch = row.get("epoch")
    if isinstance(epoch, int | float) and isinstance(epochs, int | float):
        return f"{words}, epoch {epoch:.4g} of {epochs:g}"
    return words


def thinned(points: Points, most: int) -> Points:
    """Return at most `most` bins of equally many rows, each at its last step; fewer rows stay."""
    count = len(points.step_K)
    if count <= most:
        return points
    rows = -(-count // most)
    start_K = np.arange(0, count, rows)
    end_K = np.append(start_K[1:], count)
    return Points(
        points.step_K[end_K - 1],
        np.add.reduceat(points.value_K, start_K) / (end_K - start_K),
        np.minimum.reduceat(points.value_K, start_K),
        np.maximum.reduceat(points.value_K, start_K),
        rows,
    )
