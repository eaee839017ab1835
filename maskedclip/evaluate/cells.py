"""The measurements of frozen weights on a dataset: which there are, and which are done."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from maskedclip.data.captions import prompts
from maskedclip.data.expert_dictionary import EXPERT
from maskedclip.data.labelled import Sample, Task
from maskedclip.data.splits import Division, few_shots, training_share
from maskedclip.data.storage.shards import Shards
from maskedclip.evaluate.frozen_encoder import Frozen
from maskedclip.metrics.scores import METRICS
from maskedclip.metrics.zero_shot import categories
from maskedclip.shards.downloads.folder_or_csv import words_of_class

ZERO_SHOT, SHOTS = "zeroshot", "-shot"
_VERSION = 1  # raise it where the same features would give other scores


class Held(NamedTuple):
    """A dataset's task with its samples divided."""

    dataset: Shards
    task: Task
    division: Division


class Cell(NamedTuple):
    """One measurement: a protocol, and the labels that it learns from."""

    protocol: str
    fraction: float  # of the training labels
    seed: int
    train: list[Sample]


def cells_of(
    division: Division,
    protocols: Sequence[str],
    fractions: Sequence[float],
    seeds: int,
    shots: Sequence[int],
) -> Iterator[Cell]:
    """Yield the measurements; where the seed decides nothing there is one, of seed 0."""
    whole = len(division.parts["train"])
    for protocol in protocols:
        if protocol == ZERO_SHOT:
            yield Cell(protocol, 0.0, 0, [])
            continue
        for fraction in fractions:
            drawn = fraction < 1 or protocol == "linear"  # which also starts from random weights
            for seed in range(seeds if drawn else 1):
                share = training_share(division, fraction, seed)
                yield Cell(protocol, fraction, seed, share)
    for number in shots:
        for seed in range(seeds):
            few = few_shots(division, number, seed)
            yield Cell(f"{number}{SHOTS}", round(len(few) / whole, 6), seed, few)


def needed(held: Held, cells: Sequence[Cell]) -> list[Sample]:
    """Return the samples whose features are used, each once: of train no more than that."""
    parts = held.division.parts
    taught = [] if all(cell.protocol == ZERO_SHOT for cell in cells) else parts["val"]
    train = {sample.index: sample for cell in cells for sample in cell.train}
    return [*parts["test"], *taught, *train.values()]


def is_there(out: Path, rows: Sequence[dict[str, Any]]) -> bool:
    """Return whether every metric of a cell is there, and its predictions."""
    tables = [out / str(row.get("predictions")) for row in rows]
    files = tables + [table.with_suffix(".units.csv") for table in tables]
    return {row["metric"] for row in rows} >= set(METRICS) and all(file.is_file() for file in files)


def inputs_of(facts: Mapping[str, Any], frozen: Frozen, held: Held, cell: Cell) -> str:
    """Return the hash of all that decides a cell's numbers; facts are those of its features."""
    parts = {"train": cell.train, **{name: held.division.parts[name] for name in ("val", "test")}}
    decisive = [
        _VERSION,
        facts,
        list(identity_of(frozen, held, cell).items()),
        held.task.classes,
        {name: [(s.key, s.label, s.unit) for s in samples] for name, samples in parts.items()},
        class_prompts(held) if cell.protocol == ZERO_SHOT else None,
    ]
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()


def identity_of(frozen: Frozen, held: Held, cell: Cell) -> dict[str, Any]:
    """Return the fields of a row's identity, without the metric."""
    return {
        "run": frozen.name,
        "dataset": held.dataset.name,
        "task": held.task.name,
        "protocol": cell.protocol,
        "fraction": cell.fraction,
        "seed": cell.seed,
    }


def class_prompts(held: Held) -> list[list[str]]:
    """Return the captions of each class, of whose embeddings zero-shot takes the mean.

    They are of the dataset's category for it, else of the dictionary's, else of its own words.
    """
    published = held.dataset.manifest.get("classes", {}).get(held.task.name)
    mapping = published if isinstance(published, dict) else None
    names = categories(held.task.name, held.task.classes, mapping)
    return [prompts(name if name in EXPERT else _known(name)) for name in names]


def _known(name: str) -> str:
    """Return the dictionary's key for a class name such as "2_Cataract", else the name itself."""
    words = words_of_class(name)
    return words[0] if len(words) == 1 and words[0] in EXPERT else name
