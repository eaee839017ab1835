"""Labelled samples of a dataset: who trains, who validates, who tests, and with how many labels.

A published test split is kept as it is. What has to be divided is divided by patient, the same way
for every seed of a run, so that repeats are compared on the same test images.
"""

import difflib
import logging
import math
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from sys import intern
from typing import Any, NamedTuple

from maskedclip.data.class_order import in_order, is_ordered
from maskedclip.data.order import number
from maskedclip.data.storage.shards import DamagedSample, Shards

logger = logging.getLogger(__name__)
TEST_SHARE = 0.3  # RETFound's rule, where no test split is published
VALIDATION_SHARE = 0.2  # of what is then left, where no validation split is
_NAMES = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
_NAMES |= {"off-site test": "test", "on-site test": "test"}  # of OIA-ODIR


@dataclass(frozen=True, slots=True)
class LabelledSample:
    """One labelled image."""

    index: int  # in the dataset
    key: str
    label: int  # index of its class in Task.classes
    split: str | None  # as published: train, val or test
    patient: str | None
    unit: str  # samples of one unit (a patient, or copies of one file) stay together


class Task(NamedTuple):
    """A label of a dataset, and the samples that have it."""

    name: str
    classes: tuple[str, ...]
    samples: list[LabelledSample]
    lost: list[DamagedSample]
    ordered: bool = False  # whether the classes are grades in their order: kappa is of such alone

    def untrained(self, training: Iterable[LabelledSample]) -> tuple[int, ...]:
        """Return the classes that have no sample among the training ones."""
        trained = {sample.label for sample in training}
        return tuple(label for label in range(len(self.classes)) if label not in trained)


def labelled(dataset: Shards, task: str = "") -> Task:
    """Return the samples that have a label of `task`; an empty name takes the dataset's first.

    Those that exclude.csv names take no part. Classes are in the order that the dataset's card or
    --classes_order states, else in that of data/class_order.py. Raises ValueError where there are
    no labels, no such task, or a split of an unknown name.
    """
    entries: list[tuple[int, dict[str, str], str | None, str | None, str]] = []
    lost: list[DamagedSample] = []
    if dataset.excluded:
        count = len(dataset.excluded)
        logger.info("%s: %d samples are left out by exclude.csv", dataset.directory, count)
    for index in range(len(dataset)):
        if index in dataset.excluded:
            continue
        try:
            metadata = dataset.metadata(index)
        except DamagedSample as damage:
            lost.append(damage)
            continue
        # what is needed, and each word once: there may be a million
        labels = {intern(name): intern(value) for name, value in metadata["labels"].items()}
        # copies of one file are one unit: in two splits they would be a leak
        unit = metadata["patient"] or metadata["sha256"] or dataset.key(index)
        entries.append((index, labels, metadata["split"], metadata["patient"], unit))
    tasks = sorted({name for _, labels, *_ in entries for name in labels})
    if not tasks:
        raise ValueError(f"{dataset.directory}: no sample has a label; choose a labelled dataset")
    if task and task not in tasks:
        near = difflib.get_close_matches(task, tasks, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise ValueError(f"{dataset.directory}: no task {task!r}; {hint}it has {', '.join(tasks)}")
    name = task or tasks[0]
    entries = [facts for facts in entries if name in facts[1]]
    classes, ordered = classes_of(
        dataset.manifest, name, {labels[name] for _, labels, *_ in entries}
    )
    label_of = {value: label for label, value in enumerate(classes)}
    samples = [
        LabelledSample(
            index,
            dataset.key(index),
            label_of[labels[name]],
            _split(dataset, index, split),
            patient,
            unit,
        )
        for index, labels, split, patient, unit in entries
    ]
    return Task(name, classes, samples, lost, ordered)


def classes_of(
    manifest: Mapping[str, Any], task: str, present: Collection[str]
) -> tuple[tuple[str, ...], bool]:
    """Return the classes that samples have, in their order, and whether that is one of grades.

    The manifest's order is stated by the card; where it is that of the text, nobody stated it.
    """
    named = [name for name in manifest.get("classes", {}).get(task, ()) if name in present]
    covers = len(named) == len(present)
    if covers and task in manifest.get("ordered", ()):
        return tuple(named), True
    classes = tuple(named) if covers and named != sorted(named) else in_order(present)
    return classes, is_ordered(classes)


def _split(dataset: Shards, index: int, published: str | None) -> str | None:
    if published is None or published in _NAMES:
        return None if published is None else _NAMES[published]
    raise ValueError(
        f"{dataset.directory}: sample {dataset.key(index)} is in split {published!r}; "
        f"build the shards with train, val and test"
    )


def divide(
    task: Task,
    *,
    test_share: float = TEST_SHARE,
    validation_share: float = VALIDATION_SHARE,
    seed: int = 0,
) -> dict[str, list[LabelledSample]]:
    """Return the samples of train, val and test.

    Published test and val splits are kept, and samples of none are for training. Where no test is
    published, ceil(test_share * n) units of each class become it, and where no val is,
    ceil(validation_share * n) of the rest (the rule behind RETFound's splits; a class with few
    units keeps one for training). A unit is a patient, or where none is known an image with its
    copies. Raises ValueError for a split that is empty or, but for test, of one class.
    """
    parts: dict[str, list[LabelledSample]] = {"train": [], "val": [], "test": []}
    for sample in task.samples:
        parts[sample.split or "train"].append(sample)
    for name, share in (("test", test_share), ("val", validation_share)):
        if not parts[name]:
            parts[name], parts["train"] = _part_off(parts["train"], share, (seed, name))
    for name, samples in parts.items():
        classes = len({sample.label for sample in samples})
        if classes == 1 and name == "test":
            logger.warning("task %s: the test split has one class: no AUROC", task.name)
        elif classes < 2:
            raise ValueError(
                f"task {task.name}: {len(samples)} samples of {classes} classes are left for "
                f"{name}, two classes are needed; use a larger dataset or other shares"
            )
    return parts


def _part_off(
    samples: Sequence[LabelledSample], share: float, draw: tuple[int, str]
) -> tuple[list[LabelledSample], list[LabelledSample]]:
    """Return (part, rest), whole units, the same share of the units of each class."""
    count = Counter(sample.label for sample in samples)
    labels: defaultdict[str, set[int]] = defaultdict(set)
    for sample in samples:
        labels[sample.unit].add(sample.label)
    strata: defaultdict[int, list[str]] = defaultdict(list)
    for unit, seen in labels.items():  # a unit of two classes counts as its rarer one
        strata[min(seen, key=lambda label: (count[label], label))].append(unit)
    chosen: set[str] = set()
    for units in strata.values():
        ranked = sorted(units, key=lambda unit: number("split", *draw, unit))
        wanted = math.ceil(round(share * len(units), 6))  # 0.07 * 100 is 7.000000000000001
        chosen.update(ranked[: min(wanted, len(units) - 1)])
    part = [sample for sample in samples if sample.unit in chosen]
    return part, [sample for sample in samples if sample.unit not in chosen]


def share_of(samples: Sequence[LabelledSample], fraction: float, seed: int) -> list[LabelledSample]:
    """Return `fraction` of the samples of each class, at least one, in the given order.

    A pure function of the keys, the seed and the fraction; a smaller one is part of a larger one.
    """
    by_class: defaultdict[int, list[LabelledSample]] = defaultdict(list)
    for sample in samples:
        by_class[sample.label].append(sample)
    kept: set[int] = set()
    for group in by_class.values():
        ranked = sorted(group, key=lambda sample: number(seed, "fraction", sample.key))
        kept.update(s.index for s in ranked[: max(1, round(fraction * len(group)))])
    return [sample for sample in samples if sample.index in kept]
