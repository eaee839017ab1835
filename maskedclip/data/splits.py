"""A task's split as a file, so that another machine, or another laboratory, uses the same one.

DIR/splits/TASK.csv has a row a sample: key, class, split, and for each of five seeds the smallest
of the usual label fractions that holds it: 10 % are the rows up to 0.1, and lie inside 20 %.
"""

import csv
import io
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from maskedclip.data.csv_files import UnixLines, csv_rows
from maskedclip.data.labelled import (
    LabelledSample,
    Task,
    divide,
    labelled,
    refuse_too_few,
    share_of,
)
from maskedclip.data.order import number
from maskedclip.data.storage.shard_writer import replacing
from maskedclip.data.storage.shards import Shards

FOLDER = "splits"
FRACTIONS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
SEEDS = 5
UNUSED = "none"  # the split of samples that take no part, as the published test in folds
_WORDS = {f"{fraction:g}" for fraction in FRACTIONS}
_HEADING = ["key", "class", "split", *(f"fraction_seed{seed}" for seed in range(SEEDS))]
_FIX = "write it again with tools/make_splits.py"


def split_file(directory: Path, task: str, seed: int = 0) -> Path:
    """Return where the split of a task lies."""
    return directory / FOLDER / (f"{task}-seed{seed}.csv" if seed else f"{task}.csv")


def write_split(path: Path, task: Task, parts: Mapping[str, Sequence[LabelledSample]]) -> None:
    """Write a split and its label fractions; the same split, the same bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        file.write(split_bytes(task, parts))


def split_bytes(task: Task, parts: Mapping[str, Sequence[LabelledSample]]) -> bytes:
    """Return what the file of a split holds; samples in no part are of `UNUSED`."""
    smallest = _smallest_fractions(parts["train"])
    named = {sample.key for samples in parts.values() for sample in samples}
    rest = [sample for sample in task.samples if sample.key not in named]
    parts = {**parts, UNUSED: [*parts.get(UNUSED, ()), *rest]}
    rows = [
        [sample.key, task.text(sample), name, *smallest.get(sample.key, [""] * SEEDS)]
        for name, samples in parts.items()
        for sample in samples
    ]
    text = io.StringIO()
    csv.writer(UnixLines(text)).writerows([_HEADING, *sorted(rows)])
    return text.getvalue().encode()


def _smallest_fractions(samples: Sequence[LabelledSample]) -> dict[str, list[str]]:
    found = {sample.key: [""] * SEEDS for sample in samples}
    for seed in range(SEEDS):
        for fraction in reversed(FRACTIONS):
            for sample in share_of(samples, fraction, seed):
                found[sample.key][seed] = f"{fraction:g}"
    return found


class Division(NamedTuple):
    """Who trains, who validates and who tests, and which few train with a part of the labels."""

    parts: dict[str, list[LabelledSample]]
    smallest: Mapping[str, Sequence[float]]  # of a training key, a fraction a seed; empty: by rule


def read_split(path: Path, task: Task, excluded: Collection[str] = ()) -> Division:
    """Return the division that a file names, without the samples of the keys `excluded`.

    Raises ValueError, in one line, where the file is no split of exactly these samples.
    """
    rows = split_rows(path)
    by_key = {sample.key: sample for sample in task.samples}
    found = Division({"train": [], "val": [], "test": []}, smallest := {})
    for line, row in enumerate(rows, 2):
        if row[0] in excluded:
            continue
        sample = by_key.pop(row[0], None)
        if sample is None or row[1] != task.text(sample) or row[2] not in {*found.parts, UNUSED}:
            raise ValueError(f"{path}: row {line} is of no sample of this dataset; {_FIX}")
        if row[2] == UNUSED:
            continue
        found.parts[row[2]].append(sample)
        if row[2] == "train":
            if not set(row[3:]) <= _WORDS:
                raise ValueError(f"{path}: row {line} has a fraction that is none; {_FIX}")
            smallest[sample.key] = [float(word) for word in row[3:]]
    if by_key:
        missing = f"{len(by_key)} samples, {min(by_key)} the first, are in no row"
        raise ValueError(f"{path}: {missing}; {_FIX}")
    for samples in found.parts.values():
        samples.sort(key=lambda sample: sample.index)
    return found


def split_rows(path: Path) -> list[list[str]]:
    """Return the rows of a split file: key, class, split, fractions; ValueError for others."""
    try:
        heading, *rows = csv_rows(path)
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file; {_FIX}") from None
    except ValueError as error:  # not UTF-8, empty, or no table
        raise ValueError(f"{path}: is not a CSV ({error}); {_FIX}") from None
    if heading != _HEADING or any(len(row) != len(_HEADING) for row in rows):
        found = ",".join(heading)[:60]
        raise ValueError(f"{path}: begins with {found!r} or has a short row; {_FIX}")
    return rows


def division_of(dataset: Shards, task: Task, file: Path | None = None) -> Division:
    """Return the division that `file` names, or the dataset's own file, or else the rule.

    Raises ValueError as `read_split` and `divide` do; a file, too, may leave a split too few
    samples, as where it names none or exclude.csv takes them.
    """
    path = file or split_file(dataset.directory, task.name)
    if not file and not path.is_file():
        return Division(divide(task), {})
    excluded = {dataset.key(index) for index in dataset.excluded}
    division = read_split(path, task, excluded)
    for name, samples in division.parts.items():
        try:
            refuse_too_few(task, name, samples)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
    return division


def training_share(division: Division, fraction: float, seed: int) -> list[LabelledSample]:
    """Return the training samples of a label fraction: the file's, where it has a column of it."""
    training = division.parts["train"]
    if division.smallest and fraction in FRACTIONS and seed in range(SEEDS):
        return [s for s in training if division.smallest[s.key][seed] <= fraction]
    return share_of(training, fraction, seed)


def few_shots(division: Division, shots: int, seed: int) -> list[LabelledSample]:
    """Return `shots` training samples of each class, all of a class that has fewer.

    A pure function of the keys, the seed and the number; a smaller one is part of a larger one. A
    sample of several labels is taken where one of them needs it.
    """
    rank = {sample.key: number(seed, "fraction", sample.key) for sample in division.parts["train"]}
    taken: Counter[int] = Counter()
    kept = set()
    for sample in sorted(division.parts["train"], key=lambda sample: rank[sample.key]):
        labels = sample.labels or (sample.label,)
        if any(taken[label] < shots for label in labels):
            taken.update(labels)
            kept.add(sample.index)
    return [sample for sample in division.parts["train"] if sample.index in kept]


def tasks_of(manifest: Mapping[str, Any]) -> list[str]:
    """Return the tasks of a dataset, those whose labels are numbers last."""
    return list(manifest.get("classes", {}) | manifest.get("kinds", {}))


def write_missing_splits(dataset: Shards) -> dict[str, Path | str]:
    """Write the split of every task that has none; return its file, or why it has none."""
    found: dict[str, Path | str] = {}
    for name in tasks_of(dataset.manifest):
        path = split_file(dataset.directory, name)
        try:
            if not path.is_file():
                task = labelled(dataset, name)
                write_split(path, task, divide(task))
            found[name] = path
        except ValueError as error:
            found[name] = str(error)
    return found
