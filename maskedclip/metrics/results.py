"""results.jsonl: what a run has measured, row by row, and where the images behind it are."""

import json
import logging
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from maskedclip.metrics.file_lock import locked
from maskedclip.metrics.predictions import Measured, read_measured, write_measured
from maskedclip.metrics.scores import METRICS, OVER_CLASSES, Score, score

logger = logging.getLogger(__name__)
RESULTS = "results.jsonl"
IDENTITY = ("run", "dataset", "task", "protocol", "fraction", "seed", "metric")
_COLUMNS = {  # of the table on the terminal: there is no room for more
    "auroc": "AUROC [95 %]",
    "average_precision": "AP [95 %]",
    "quadratic_kappa": "kappa",
    "macro_f1": "F1",
}


def measure(
    identity: dict[str, Any],
    classes: Sequence[str],
    found: Measured,
    run: Path,
    *,
    method: str,
    shards: Path,
) -> list[dict[str, Any]]:
    """Write the predictions under `run` and return a row a metric, for `write_rows`.

    Args:
        identity: the fields of IDENTITY without the metric.
        method: name of the encoder's weights, a row of the tables.
        shards: directory of the dataset.
    """
    predictions = Path("predictions") / f"{_name(identity, run)}.csv"
    write_measured(run / predictions, classes, found)
    files = {
        "method": method,
        "predictions": predictions.as_posix(),
        "shards": str(shards.resolve()),
    }
    rows = []
    for metric in METRICS:
        one = score(metric, found.label_B, found.probability_BY, found.units)
        rows.append(row(identity | {"metric": metric}, one, classes) | files)
    for note in dict.fromkeys(each["note"] for each in rows if each["note"]):
        logger.warning("%s: %s", identity["dataset"], note)
    return rows


def _name(identity: dict[str, Any], run: Path) -> str:
    """Return what the predictions are called: by the run too, where a directory holds several."""
    several = "" if run.resolve().name == identity["run"] else identity["run"]
    labels, seed = f"{identity['fraction']:g}", f"seed{identity['seed']}"
    what = (identity[key] for key in ("dataset", "task", "protocol"))
    return file_name(several, *what, labels, seed, "test")


def row(identity: dict[str, Any], found: Score, classes: Sequence[str]) -> dict[str, Any]:
    """Return a row of results.jsonl without its files; identity holds the fields of IDENTITY."""
    assert tuple(identity) == IDENTITY
    note = _note(identity["metric"], found, classes)
    numbers = {"value": found.value, "n": found.n, "low": found.low, "high": found.high}
    return identity | numbers | {"note": note}


def _note(metric: str, found: Score, classes: Sequence[str]) -> str:
    """Return in words what a value leaves out, or why there is none."""
    missing = ", ".join(classes[label] for label in found.absent)
    if found.value is None:
        (only,) = set(range(len(classes))) - set(found.absent)
        return f"undefined: all {found.n} test images are of one class, {classes[only]}"
    notes = []
    if missing and metric in OVER_CLASSES:
        notes.append(f"no test image of {missing}: mean of the other classes")
    if found.low is None:
        notes.append("no interval: too few patients in the test split")
    return "; ".join(notes)


def recomputed(run: Path, found: dict[str, Any]) -> Score:
    """Return a row's score computed again from the predictions in the run directory alone.

    Raises ValueError as `predicted` does.
    """
    again, _ = predicted(run, found)
    return score(found["metric"], again.label_B, again.probability_BY, again.units)


def predicted(run: Path, found: dict[str, Any]) -> tuple[Measured, list[str]]:
    """Return the predictions behind a row of a run, and the classes.

    Raises ValueError where they are not there, damaged, or outside of the run.
    """
    name = found.get("predictions")
    if not isinstance(name, str) or Path(name).is_absolute() or ".." in Path(name).parts:
        raise ValueError(f"{run / RESULTS}: a row names {name!r} as its predictions; measure again")
    return read_measured(run / name)


def read_rows(directory: Path) -> list[dict[str, Any]]:
    """Return the rows of a run, none where it has none; ValueError for a damaged file."""
    path = directory / RESULTS
    if not path.exists():
        return []
    try:
        return [json.loads(line) for line in path.read_text().splitlines() if line]
    except ValueError as error:
        raise ValueError(f"{path}: a line is not JSON ({error}); remove it and rerun") from None


def write_rows(directory: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Add rows to a run's results; each takes the place of an earlier one of the same identity."""
    for new in rows:
        assert new["value"] is None or math.isfinite(new["value"])
    directory.mkdir(parents=True, exist_ok=True)
    replaced = {_identity(new) for new in rows}
    lock = directory / ".results.lock"
    with locked(lock, wait=True, without="do not write two results at a time"):
        kept = [old for old in read_rows(directory) if _identity(old) not in replaced]
        lines = [json.dumps(every, allow_nan=False) + "\n" for every in [*kept, *rows]]
        temporary = directory / (RESULTS + ".tmp")
        temporary.write_text("".join(lines))
        temporary.replace(directory / RESULTS)


def _identity(found: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(found.get(name) for name in IDENTITY)


def file_name(*parts: str) -> str:
    """Return the parts joined by '-', with nothing in them that a file name should not have."""
    return "-".join(re.sub(r"[^\w.=]+", "_", part) for part in parts if part)


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Return rows as text, in per cent: a line a measurement, with two of the intervals."""
    head = ("dataset", "task", "protocol", "labels", "seed", *_COLUMNS.values(), "n")
    found: dict[tuple[Any, ...], dict[str, dict[str, Any]]] = {}
    for each in rows:
        place = (each["dataset"], each["task"], each["protocol"], each["fraction"], each["seed"])
        found.setdefault(place, {})[each["metric"]] = each
    lines = [head]
    for (dataset, task, protocol, fraction, seed), by_metric in found.items():
        scores = [_cell(by_metric.get(m), interval="[" in _COLUMNS[m]) for m in _COLUMNS]
        n = max(each["n"] for each in by_metric.values())
        lines.append(
            (dataset, task, protocol, f"{100 * fraction:.3g}%", str(seed), *scores, str(n))
        )
    return in_columns(lines)


def in_columns(lines: Sequence[Sequence[str]]) -> str:
    """Return lines of cells as text, each column as wide as its widest cell."""
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        + "\n"
        for line in lines
    )


def _cell(each: dict[str, Any] | None, *, interval: bool) -> str:
    if each is None or each["value"] is None:
        return "-"
    value = f"{100 * each['value']:.1f}"
    if not interval or each["low"] is None:
        return value
    return f"{value} [{100 * each['low']:.1f}, {100 * each['high']:.1f}]"
