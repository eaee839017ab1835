"""Labelled samples of a dataset: who trains, who validates, who tests, and with how many labels.

A published test split is kept as it is. What has to be divided is divided by patient, the same way
for every seed of a run, so that repeats are compared on the same test images.
"""

import difflib
import logging
import math
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from shlex import quote
from sys import intern
from typing import Any, NamedTuple

import numpy as np

from maskedclip.data.class_names import joined_spellings
from maskedclip.data.class_order import in_order, is_ordered
from maskedclip.data.label_kinds import NO_LABEL, SEPARATOR, kind_of, labels_in, number_text
from maskedclip.data.order import number
from maskedclip.data.storage.shards import DamagedSample, Shards
from maskedclip.data.stratified import chosen_units
from maskedclip.data.together import TOGETHER, Groups, read_together

logger = logging.getLogger(__name__)
TEST_SHARE = 0.3  # RETFound's rule, where no test split is published
VALIDATION_SHARE = 0.2  # of what is then left, where no validation split is
SPLIT_NAMES = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
SPLIT_NAMES |= {"off-site test": "test", "on-site test": "test"}  # of OIA-ODIR


@dataclass(frozen=True, slots=True)
class LabelledSample:
    """One labelled image."""

    index: int  # in the dataset
    key: str
    label: int  # index of its class in Task.classes; -1 where the task is of another kind
    split: str | None  # as published: train, val or test
    patient: str | None
    unit: str  # samples of one unit (a patient, or copies of one file) stay together
    labels: tuple[int, ...] = ()  # kind "labels": indices in Task.classes; () where it has none
    value: float = 0.0  # kind "number"
    source: str = ""  # path in the download; its hash where the build was anonymised
    file: str = ""  # sha256 of its source file; "" where not known


class Task(NamedTuple):
    """A label of a dataset, and the samples that have it."""

    name: str
    classes: tuple[str, ...]  # of kind "number" its name alone
    samples: list[LabelledSample]
    lost: list[DamagedSample]
    ordered: bool = False  # whether the classes are grades in their order: kappa is of such alone
    kind: str = "class"  # an image has one class; "labels": any number of them; "number": a number
    together: tuple[tuple[str, str], ...] = ()  # keys that no division parts, of together.csv

    def labels_of(self, sample: LabelledSample) -> tuple[int, ...]:
        """Return the classes of a sample: one, or of kind "labels" all that it has."""
        return sample.labels if self.kind == "labels" else (sample.label,)

    def text(self, sample: LabelledSample) -> str:
        """Return what the sample's JSON and the split file say."""
        if self.kind == "number":
            return number_text(sample.value)
        return SEPARATOR.join(self.classes[label] for label in self.labels_of(sample))

    def answers(self, samples: Sequence[LabelledSample]) -> np.ndarray:
        """Return what is to be predicted: label_B, of labels rows of 0 and 1, or numbers."""
        if self.kind == "number":
            return np.array([sample.value for sample in samples], dtype=np.float64)
        if self.kind == "class":
            return np.array([sample.label for sample in samples], dtype=np.int64)
        label_BY = np.zeros((len(samples), len(self.classes)), dtype=np.int64)
        for row, sample in enumerate(samples):
            label_BY[row, list(sample.labels)] = 1
        return label_BY

    def untrained(self, training: Sequence[LabelledSample]) -> tuple[int, ...]:
        """Return the classes that no training sample has, and labels that all of them have."""
        if self.kind == "number":
            return ()
        count = Counter(label for sample in training for label in self.labels_of(sample))
        most = len(training) - (self.kind == "labels")
        trained = {label for label in count if count[label] <= most}
        return tuple(label for label in range(len(self.classes)) if label not in trained)


def labelled(dataset: Shards, task: str = "", classes_order: Sequence[str] = ()) -> Task:
    """Return the samples that have a label of `task`; an empty name takes the dataset's first.

    Those that exclude.csv names take no part. Classes are in the order that `classes_order` or the
    dataset's card states, else in that of data/class_order.py. Raises ValueError where no sample
    can be read or has a label, where there is no such task, a split of an unknown name, or a class
    that `classes_order` lacks.

    Args:
        classes_order: the classes as grades, the lowest first.
    """
    entries, lost, unread = _entries(dataset)
    tasks = sorted({name for entry in entries for name in entry.labels})
    if lost and not entries:
        raise ValueError(
            f"{dataset.directory}: none of its {len(lost)} samples can be read, the first: "
            f"{lost[0]}; see python tools/check_shards.py {quote(str(dataset.directory))}"
        )
    if not tasks:
        raise ValueError(f"{dataset.directory}: {NO_LABEL}")
    if task and task not in tasks:
        near = difflib.get_close_matches(task, tasks, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise ValueError(f"{dataset.directory}: no task {task!r}; {hint}it has {', '.join(tasks)}")
    name = task or tasks[0]
    if unread[name]:
        logger.warning(
            "%s: %d samples have a %s that is neither a text nor a list of texts: left out",
            dataset.directory, unread[name], name,
        )  # fmt: skip
    entries = [entry for entry in entries if name in entry.labels]
    lists = any(entry.kinds.get(name) == "labels" for entry in entries)
    kind = "labels" if lists else kind_of(dataset.manifest, name)
    classes, ordered, samples = _samples(dataset, entries, name, kind, classes_order)
    whole = [one for one in classes if SEPARATOR in one]
    if whole and dataset.third_party:
        logger.warning(
            "%s: the class %r of %s is taken as one; write several labels of an image as a list",
            dataset.directory, whole[0], name,
        )  # fmt: skip
    together = _together(dataset)
    if not task and len(tasks) > 1:  # behind what is refused, whose line stands alone
        others = ", ".join(tasks[1:])
        logger.info(
            "%s: task %s, the first by name; --task has %s", dataset.directory, name, others
        )
    return Task(name, classes or (name,), samples, lost, ordered, kind, together)


def _together(dataset: Shards) -> tuple[tuple[str, str], ...]:
    if not (dataset.directory / TOGETHER).is_file():
        return ()
    keys = {dataset.key(index) for index in range(len(dataset))}
    return tuple((pair.one, pair.other) for pair in read_together(dataset.directory, keys))


@dataclass(frozen=True, slots=True)
class _Entry:
    """What is needed of a sample's metadata: there may be a million."""

    index: int
    labels: dict[str, str]
    kinds: Mapping[str, str]  # of third-party tars, which have no manifest
    split: str | None
    patient: str | None
    unit: str
    source: str
    file: str


def _entries(dataset: Shards) -> tuple[list[_Entry], list[DamagedSample], Counter[str]]:
    """Return the samples that take part, those lost, and of each task the labels not read."""
    entries: list[_Entry] = []
    lost: list[DamagedSample] = []
    unread: Counter[str] = Counter()
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
        # each word once
        labels = {intern(name): intern(value) for name, value in metadata["labels"].items()}
        kinds = metadata.get("kinds", {})
        unread.update(name for name, kind in kinds.items() if kind == "unread")
        unit = _unit(metadata["patient"], metadata["sha256"], dataset.key(index))
        source, file = metadata["source"] or "", metadata["sha256"]
        facts = (metadata["split"], metadata["patient"], unit, source, file)
        entries.append(_Entry(index, labels, kinds, *facts))
    return entries, lost, unread


def _unit(patient: str | None, sha256: str, key: str) -> str:
    """Return the patient, or where none is known what copies of one file have in common.

    In two splits these would be a leak. No patient is written as a file or a key is.
    """
    if patient:
        return f"patient {patient}" if len(patient) == 64 or patient == key else patient
    return sha256 or key


def _samples(
    dataset: Shards,
    entries: Sequence[_Entry],
    name: str,
    kind: str,
    classes_order: Sequence[str],
) -> tuple[tuple[str, ...], bool, list[LabelledSample]]:
    """Return the classes of a task, whether they are grades, and its samples."""
    texts = [entry.labels[name] for entry in entries]
    classes: tuple[str, ...] = ()
    ordered = False
    class_of: dict[str, str] = {}  # of spellings
    if classes_order and kind != "class":
        raise ValueError(f"{dataset.directory}: classes_order is of classes; {name} is of {kind}")
    if kind == "class":
        if dataset.third_party:
            class_of, joined = joined_spellings(texts)
            for line in joined:
                logger.warning("%s: spellings joined: %s", dataset.directory, line)
        present = {class_of.get(text, text) for text in texts}
        if classes_order:
            classes, ordered = _stated(dataset, present, classes_order), True
        else:
            classes, ordered = classes_of(dataset.manifest, name, present)
    elif kind == "labels":
        present = {label for text in texts for label in labels_in(text)}
        stated = dataset.manifest.get("classes", {}).get(name, ())
        classes = tuple(label for label in stated if label in present)
        classes += in_order(present - {*classes})
    label_of = {value: label for label, value in enumerate(classes)}

    def facts(entry: _Entry) -> dict[str, Any]:
        text = entry.labels[name]
        if kind == "labels":
            return {"label": -1, "labels": tuple(sorted(label_of[one] for one in labels_in(text)))}
        if kind == "number":
            return {"label": -1, "value": _finite(text, dataset, entry.index)}
        return {"label": label_of[class_of.get(text, text)]}

    samples = [
        LabelledSample(
            index=entry.index,
            key=dataset.key(entry.index),
            split=_split(dataset, entry.index, entry.split),
            patient=entry.patient,
            unit=entry.unit,
            file=entry.file,
            source=entry.source or dataset.key(entry.index),
            **facts(entry),
        )
        for entry in entries
    ]
    return classes, ordered, samples


def _stated(dataset: Shards, present: Collection[str], order: Sequence[str]) -> tuple[str, ...]:
    """Return the classes that samples have in the order stated; ValueError where it lacks one."""
    given = ",".join(order)
    missing = in_order(set(present) - {*order})
    if missing:
        raise ValueError(
            f"{dataset.directory}: classes_order {given} has not {', '.join(missing[:8])}, which "
            f"images have; name all of {','.join(in_order(present))}"
        )
    unused = [name for name in order if name not in present]
    if unused:
        logger.warning(
            "%s: no image is of %s, which classes_order names", dataset.directory,
            ", ".join(unused),
        )  # fmt: skip
    return tuple(name for name in order if name in present)


def _finite(text: str, dataset: Shards, index: int) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(
            f"{dataset.directory}: sample {dataset.key(index)} has {text[:40]!r} where a number is "
            f"wanted; build the dataset again"
        )
    return value


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
    if published is None or published in SPLIT_NAMES:
        return None if published is None else SPLIT_NAMES[published]
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

    Published test and val splits are kept, and samples of none are for training, but those that
    share a group with a published test or val sample, which take no part. Where no test is
    published, ceil(test_share * n) units of each class become it, and where no val is,
    ceil(validation_share * n) of the rest (the rule behind RETFound's splits; a class with few
    units keeps one for training). Of kind "labels" they are that share of the images of each label
    as near as may be (data/stratified.py), of kind "number" of all units. A unit is a group of
    `groups_of`: a patient, or where none is known an image, with the copies. Raises ValueError for
    a split that is empty or, but for test, of one class.
    """
    parts: dict[str, list[LabelledSample]] = {"train": [], "val": [], "test": []}
    group_of = groups_of(task)
    held = {group_of[s.key] for s in task.samples if s.split in ("val", "test")}
    unused = [s for s in task.samples if not s.split and group_of[s.key] in held]
    for sample in task.samples:
        if sample.split or group_of[sample.key] not in held:
            parts[sample.split or "train"].append(replace(sample, unit=group_of[sample.key]))
    if unused:
        logger.warning(
            "task %s: %d images without a split are of patients, or copies of images, in a "
            "published val or test split: left out", task.name, len(unused),
        )  # fmt: skip
    for name, share in (("test", test_share), ("val", validation_share)):
        if not parts[name]:
            part_off = {"class": _part_off, "labels": _labels_off, "number": _units_off}[task.kind]
            parts[name], parts["train"] = part_off(parts["train"], share, (seed, name))
    own = {sample.key: sample for sample in task.samples}
    parts = {name: [own[sample.key] for sample in samples] for name, samples in parts.items()}
    for name, samples in parts.items():
        refuse_too_few(task, name, samples)
    return parts


def groups_of(task: Task) -> dict[str, str]:
    """Return of every key the group that no division parts.

    One are the images of a patient, those of one file, and what together.csv names: patients that
    share a copy are in one group. A group of one unit has its name.
    """
    groups = Groups()
    by_file: defaultdict[str, set[str]] = defaultdict(set)
    for sample in task.samples:
        by_file[sample.file].add(sample.unit)
    by_file.pop("", None)
    for units in by_file.values():
        groups.join([*units])
    own = {sample.key: sample.unit for sample in task.samples}
    for pair in task.together:
        # by keys, too: an image without a label of this task may be a copy of two that have one
        groups.join([f"key {key}" for key in pair])
        for key in pair:
            groups.join([f"key {key}", own.get(key, f"key {key}")])
    units_of: defaultdict[str, set[str]] = defaultdict(set)
    for unit in own.values():
        units_of[groups.of(unit)].add(unit)
    return {key: min(units_of[groups.of(unit)]) for key, unit in own.items()}


def refuse_too_few(task: Task, name: str, samples: Sequence[LabelledSample]) -> None:
    """Raise ValueError for a split from which nothing can be learned or, but for test, judged."""
    what = "classes"
    count = len({sample.label for sample in samples})
    if task.kind == "number":
        what, count = "values", len({sample.value for sample in samples})
    elif task.kind == "labels":  # labels that some have and some have not are two classes
        having = Counter(label for sample in samples for label in sample.labels)
        told_apart = any(images < len(samples) for images in having.values())
        count = 2 if told_apart else int(bool(samples))
    if count == 1 and name == "test":
        without = "R2" if task.kind == "number" else "AUROC"
        one = {"classes": "one class", "values": "one value"}[what]
        logger.warning("task %s: the test split has %s: no %s", task.name, one, without)
    elif count < 2:
        of = f"{len(samples)} samples of {count} {what}"
        if task.kind == "labels":
            of = f"{len(samples)} samples and no label that some have and others have not"
        raise ValueError(
            f"task {task.name}: {of} are left for {name}, two {what} are needed; use a larger "
            f"dataset or other shares"
        )


def _labels_off(
    samples: Sequence[LabelledSample], share: float, draw: tuple[int, str]
) -> tuple[list[LabelledSample], list[LabelledSample]]:
    """Return (part, rest), whole units, the same share of the images of each label."""
    images_of: defaultdict[str, list[tuple[int, ...]]] = defaultdict(list)
    for sample in samples:
        images_of[sample.unit].append(sample.labels)
    chosen = chosen_units(images_of, share, lambda unit: number("split", *draw, unit))
    part = [sample for sample in samples if sample.unit in chosen]
    return part, [sample for sample in samples if sample.unit not in chosen]


def _units_off(
    samples: Sequence[LabelledSample], share: float, draw: tuple[int, str]
) -> tuple[list[LabelledSample], list[LabelledSample]]:
    """Return (part, rest), whole units, drawn without regard to what they are labelled with."""
    units = {sample.unit for sample in samples}
    ranked = sorted(units, key=lambda unit: (number("split", *draw, unit), unit))
    chosen = {*ranked[: min(math.ceil(round(share * len(units), 6)), len(units) - 1)]}
    part = [sample for sample in samples if sample.unit in chosen]
    return part, [sample for sample in samples if sample.unit not in chosen]


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
    A sample of several labels counts as its rarest one, one of none as a class of its own.
    """
    images = Counter(label for sample in samples for label in sample.labels)
    by_class: defaultdict[int, list[LabelledSample]] = defaultdict(list)
    for sample in samples:
        rarest = min(sample.labels, key=lambda label: (images[label], label), default=sample.label)
        by_class[rarest].append(sample)
    kept: set[int] = set()
    for group in by_class.values():
        ranked = sorted(group, key=lambda sample: number(seed, "fraction", sample.key))
        kept.update(s.index for s in ranked[: max(1, round(fraction * len(group)))])
    return [sample for sample in samples if sample.index in kept]
