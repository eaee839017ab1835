"""How far a run has come, by what it has written: a look at its files, and never an error."""

import json
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

METRICS, CHECKPOINTS = "metrics.jsonl", "checkpoints"
CONFIG, PROVENANCE = "config.json", "provenance.json"
_TAIL = 1 << 16  # bytes at the end of metrics.jsonl that hold its last row


class Progress(NamedTuple):
    """Where a run is; None where its files do not tell."""

    step: int | None = None
    steps: int | None = None
    loss: float | None = None
    images_per_s: float | None = None
    left_s: float | None = None
    checkpoint_age_s: float | None = None  # of the newest
    checkpoint_step: int | None = None


def progress_of(run: Path, config: Mapping[str, Any], now: float) -> Progress:
    """Return what the last row of metrics.jsonl and the newest checkpoint say.

    Args:
        config: by dotted field, with optim.* and data.* of a pre-training or epochs of a
            fine-tuning.
        now: seconds since 1970.
    """
    row = _last_row(run / METRICS)
    step, epoch, rate = map(_number, (row.get("step"), row.get("epoch"), row.get("images_per_s")))
    steps, epochs = (
        _number(config.get(name) or None)
        for name in ("optim.steps", "optim.epochs" if "optim.epochs" in config else "epochs")
    )
    if steps is None and step and epoch and epochs:
        steps = math.ceil(round(step / epoch * epochs, 3))
    newest = _newest_checkpoint(run / CHECKPOINTS)
    return Progress(
        None if step is None else int(step),
        None if steps is None else int(steps),
        _number(row.get("loss")),
        rate,
        _left_s(run, config, step, steps, rate),
        None if newest is None else max(0.0, now - newest[1]),
        None if newest is None else newest[0],
    )


def _left_s(
    run: Path,
    config: Mapping[str, Any],
    step: float | None,
    steps: float | None,
    rate: float | None,
) -> float | None:
    """Return the seconds left: by the rate of the last row, or the pace of a run's only life."""
    if not step or steps is None:
        return None
    images = _images(config)
    if rate and images:
        return max(0.0, steps - step) * images / rate
    # config.json is written as a life begins
    began, last = _changed(run / CONFIG), _changed(run / METRICS)
    if began is None or last is None or last <= began or _lives(run) != 1:
        return None
    return max(0.0, steps - step) * (last - began) / step


def _lives(run: Path) -> int:
    """Return how often a run was started."""
    try:
        lives = json.loads((run / PROVENANCE).read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return 0
    return len(lives) if isinstance(lives, list) else 0


def written_s(run: Path, logs: Iterable[Path]) -> float | None:
    """Return when a run last wrote anything, in seconds since 1970; None: never."""
    # not results.jsonl and the like: who looks at a run later may add to them
    watched = [run / METRICS, run / CHECKPOINTS, run / CONFIG, *logs]
    times = [time for time in map(_changed, watched) if time is not None]
    return max(times, default=None)


def _newest_checkpoint(folder: Path) -> tuple[int, float] | None:
    """Return (step, time) of the newest published checkpoint."""
    try:
        names = [entry.name for entry in os.scandir(folder)]
    except OSError:
        return None
    numbers = [name.removeprefix("step-") for name in names if name.startswith("step-")]
    for number in sorted((n for n in numbers if len(n) == 8 and n.isdecimal()), reverse=True):
        changed = _changed(folder / f"step-{number}" / "manifest.json")
        if changed is not None:
            return int(number), changed
    return None


def _changed(path: Path) -> float | None:
    try:
        return path.stat().st_mtime
    except OSError:
        return None


def _last_row(path: Path) -> dict[str, Any]:
    """Return the last whole row, {} where there is none."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - _TAIL))
            lines = file.read().split(b"\n")[:-1]
    except OSError:
        return {}
    for line in reversed(lines):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(row, dict) and _number(row.get("step")) is not None:
            return row
    return {}


def _images(config: Mapping[str, Any]) -> float | None:
    """Return the images of a step of a pre-training."""
    paired = _number(config.get("data.paired_batch"))
    unpaired = _number(config.get("data.unpaired_batch")) if config.get("data.unpaired") else 0.0
    return None if paired is None or unpaired is None else paired + unpaired


def _number(value: Any) -> float | None:
    fine = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if fine and 0 <= abs(value) < 1e300 else None
