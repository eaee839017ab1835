"""The runs that a report is about: found, read, and held against their own predictions."""

import difflib
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from maskedclip.metrics.results import RESULTS, Predictions, read_rows, read_test_split
from maskedclip.metrics.scores import point
from maskedclip.models.checkpoints.formats import training_datasets
from maskedclip.report.pages.measurements import Measurement, measurements

USUAL = "finetune"
_SAME = 1e-9  # of a value and its recomputation


class Found(NamedTuple):
    """The measurements of one protocol, those of others by name, and what was left out."""

    protocol: str
    measured: list[Measurement]
    other_protocols: dict[str, int]
    problems: list[str]


def find(roots: Sequence[Path], protocol: str) -> Found:
    """Return what the runs under `roots` measured by `protocol`; "": fine-tuning, or the commonest.

    A results.jsonl that is damaged is named and left out; of two runs that fill the same place the
    first stays. Raises ValueError where there is nothing of that protocol.
    """
    measured: list[Measurement] = []
    problems: list[str] = []
    for directory in run_directories(roots):
        try:
            rows = read_rows(directory)
        except (ValueError, OSError) as error:
            problems.append(_line(error))
            continue
        more, faults = measurements(directory, rows)
        measured += more
        problems += faults
    where = ", ".join(map(str, roots))
    if not measured:
        why = f" that can be read: {problems[0]}" if problems else ""
        raise ValueError(f"{where}: no {RESULTS}{why}; fine-tune or evaluate first")
    counts = Counter(each.protocol for each in measured)
    usual = USUAL if USUAL in counts else counts.most_common(1)[0][0]
    protocol = protocol or usual
    mine = [each for each in measured if each.protocol == protocol]
    if not mine:
        near = difflib.get_close_matches(protocol, counts, n=1) or [usual]
        raise ValueError(
            f"{where}: nothing measured by {protocol!r}; there is {', '.join(sorted(counts))}; "
            f"try --protocol={near[0]}"
        )
    kept, repeated = _once([_told(each) for each in mine])
    others = {name: count for name, count in sorted(counts.items()) if name != protocol}
    return Found(protocol, kept, others, problems + repeated)


def _told(measured: Measurement) -> Measurement:
    """Return it with what is known of its weights' training, where the rows do not say."""
    if measured.seen is None and measured.dataset in training_datasets(measured.method):
        return replace(measured, seen=measured.method)
    return measured


def run_directories(roots: Iterable[Path]) -> Iterator[Path]:
    """Yield each directory with results under `roots`, once, in the order of names."""
    seen: set[Path] = set()
    for root in roots:
        for folder, folders, files in os.walk(root):
            folders.sort()
            place = Path(folder).resolve()
            if RESULTS in files and place not in seen:
                seen.add(place)
                yield place


def _once(measured: Sequence[Measurement]) -> tuple[list[Measurement], list[str]]:
    kept: dict[tuple[Any, ...], Measurement] = {}
    problems = []
    for each in measured:
        first = kept.setdefault((*each.cell, each.fraction, each.seed), each)
        if first is not each:
            problems.append(
                f"{each.directory}: {each.title} is there twice; that of {first.directory} is "
                f"shown, give only one of them"
            )
    return list(kept.values()), problems


def read(run: Measurement) -> tuple[Predictions, list[str]]:
    """Return a measurement's predictions and their classes; ValueError where there are none."""
    path = Path(run.predictions)
    assert run.predictions
    if path.is_absolute() or ".." in path.parts:
        raise ValueError(f"{run.directory / RESULTS}: predictions {path} are not of this run")
    return read_test_split(run.directory / path)


def disagreements(run: Measurement, found: Predictions) -> list[str]:
    """Return a line for each value of the rows that the predictions do not give again."""
    problems = []
    for metric, score in run.scores.items():
        try:
            again, _ = point(metric, found.label_B, found.probability_BY)
        except (KeyError, ValueError) as error:
            problems.append(f"{run.directory / RESULTS}: {metric}: {_line(error)}")
            continue
        same = again is score.value is None
        if again is not None and score.value is not None:
            same = abs(again - score.value) < _SAME
        if not same:
            problems.append(
                f"{run.directory / run.predictions}: gives {metric} {again}, and {RESULTS} says "
                f"{score.value}; measure again"
            )
    return problems


def pretraining(run: Path) -> tuple[Path, dict[str, Any]] | None:
    """Return (directory, config.json) of the pre-training that a run's weights come from.

    None where that is not known: other weights, or their directory is no longer there.
    """
    config = _config(run)
    if config is None or "weights" not in config:
        return (run, config) if config is not None else None
    weights = Path(str(config["weights"]))
    # a relative path was relative to where the command ran: the run lies below that
    for base in (Path(), *run.parents):
        there = base / weights
        if there.is_file():
            there = there.parent
        found = _config(there) if there.is_dir() else None
        if found is not None:
            return there.resolve(), found
    return None


def _config(directory: Path) -> dict[str, Any] | None:
    try:
        found = json.loads((directory / "config.json").read_text())
    except (OSError, ValueError):
        return None  # no run of ours, or a damaged one: nothing is known of it
    return found if isinstance(found, dict) else None


def _line(error: Exception) -> str:
    return " ".join(str(error).split())
