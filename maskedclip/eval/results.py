"""results.jsonl and predictions: what a run has measured, row by row, and the images behind it."""

import csv
import errno
import fcntl
import json
import logging
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from maskedclip.eval.scores import METRICS, Score, score

logger = logging.getLogger(__name__)
RESULTS = "results.jsonl"
IDENTITY = ("run", "dataset", "task", "protocol", "fraction", "seed", "metric")
_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)


class Measured(NamedTuple):
    """Test images and what was predicted for them."""

    keys: list[str]
    units: list[str]  # what the bootstrap draws: the patient where known
    label_B: np.ndarray
    probability_BY: np.ndarray


def row(identity: dict[str, Any], found: Score) -> dict[str, Any]:
    """Return a row of results.jsonl; identity holds the fields of IDENTITY."""
    assert tuple(identity) == IDENTITY
    return identity | {"value": found.value, "n": found.n, "low": found.low, "high": found.high}


def measure(
    identity: dict[str, Any], classes: Sequence[str], found: Measured, predictions: Path
) -> list[dict[str, Any]]:
    """Write the predictions and return a row a metric; a class without images is named.

    Args:
        identity: the fields of IDENTITY without the metric.
    """
    write_predictions(predictions, classes, found.keys, found.label_B, found.probability_BY)
    scores = {
        metric: score(metric, found.label_B, found.probability_BY, found.units)
        for metric in METRICS
    }
    for label in scores[METRICS[0]].absent:
        name = identity["dataset"]
        logger.warning("%s: no test image of %s; left out of the mean", name, classes[label])
    return [row(identity | {"metric": metric}, scores[metric]) for metric in METRICS]


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
        assert math.isfinite(new["value"])
    directory.mkdir(parents=True, exist_ok=True)
    replaced = {_identity(new) for new in rows}
    with _locked(directory / ".results.lock"):
        kept = [old for old in read_rows(directory) if _identity(old) not in replaced]
        lines = [json.dumps(every, allow_nan=False) + "\n" for every in [*kept, *rows]]
        temporary = directory / (RESULTS + ".tmp")
        temporary.write_text("".join(lines))
        temporary.replace(directory / RESULTS)


def _identity(found: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(found.get(name) for name in IDENTITY)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Let one process at a time rewrite the results, where the file system has locks."""
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            logger.warning("%s: no locks here; do not write two results at a time", path.parent)
        yield


def write_predictions(
    path: Path,
    classes: Sequence[str],
    keys: Iterable[str],
    label_B: np.ndarray,
    probability_BY: np.ndarray,
) -> None:
    """Write a CSV of id, label and one probability a class: the scores follow from it alone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    with temporary.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["id", "label", *classes])
        for key, label, probability_Y in zip(keys, label_B, probability_BY, strict=True):
            writer.writerow([key, classes[label], *(repr(float(p)) for p in probability_Y)])
    temporary.replace(path)


def read_predictions(path: Path) -> tuple[list[str], list[str], np.ndarray, np.ndarray]:
    """Return (ids, classes, label_B, probability_BY) of what `write_predictions` wrote."""
    with path.open(newline="") as file:
        header, *lines = csv.reader(file)
    classes = header[2:]
    label_B = np.array([classes.index(line[1]) for line in lines])
    probability_BY = np.array([[float(value) for value in line[2:]] for line in lines])
    return [line[0] for line in lines], classes, label_B, probability_BY


def file_name(*parts: str) -> str:
    """Return the parts joined by '-', with nothing in them that a file name should not have."""
    return "-".join(re.sub(r"[^\w.=]+", "_", part) for part in parts if part)


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Return rows as text: a line a measurement, AUROC with its interval and average precision."""
    head = (
        "dataset",
        "task",
        "protocol",
        "labels",
        "seed",
        "AUROC [95 %]",
        "average precision",
        "n",
    )
    found: dict[tuple[Any, ...], dict[str, dict[str, Any]]] = {}
    for each in rows:
        place = (each["dataset"], each["task"], each["protocol"], each["fraction"], each["seed"])
        found.setdefault(place, {})[each["metric"]] = each
    lines = [head]
    for (dataset, task, protocol, fraction, seed), by_metric in found.items():
        scores = [_cell(by_metric.get(metric)) for metric in METRICS]
        n = max(each["n"] for each in by_metric.values())
        lines.append((dataset, task, protocol, f"{fraction:.0%}", str(seed), *scores, str(n)))
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    return "".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        + "\n"
        for line in lines
    )


def _cell(each: dict[str, Any] | None) -> str:
    if each is None:
        return "-"
    return f"{100 * each['value']:.1f} [{100 * each['low']:.1f}, {100 * each['high']:.1f}]"
