"""Records of a downloaded dataset: patient, eye, split and labels of every image, by its card.

They come from the path of an image and from label files; where these disagree, the file counts.
"""

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from maskedclip.data.cell_values import is_missing, patient_of
from maskedclip.data.label_kinds import labels_in
from maskedclip.shards.downloads.cards import DatasetCard
from maskedclip.shards.downloads.files import SPLITS, list_files, printable, remarks_on
from maskedclip.shards.downloads.label_files import Remarks, label_files, names_of, rows_of_images
from maskedclip.shards.downloads.recognise import refuse_lookalikes, wrong_root

SIDES = dict.fromkeys(("l", "left", "os", "le", "left eye", "oculus sinister"), "L")
SIDES |= dict.fromkeys(("r", "right", "od", "re", "right eye", "oculus dexter"), "R")


class Record(NamedTuple):
    """One image file, or one phantom, and its facts."""

    source: str  # path under the root, with slashes
    path: Path
    patient: str | None = None
    eye: str | None = None
    split: str | None = None
    labels: dict[str, str] = {}  # noqa: RUF012 - never changed
    categories: tuple[str, ...] = ()
    report: str | None = None


class Sources(NamedTuple):
    """The records of a dataset sorted by source, and remarks on what did not match."""

    records: list[Record]
    remarks: dict[str, list[str]]
    kinds: dict[str, str] = {}  # noqa: RUF012 - never changed; of tasks that are no plain class
    classes: dict[str, tuple[str, ...]] = {}  # noqa: RUF012 - of a task, those in a stated order
    # of a task, what captions call its classes; of cards, which say that themselves, nothing
    words: dict[str, dict[str, tuple[str, ...]]] = {}  # noqa: RUF012


def in_order(
    records: Iterable[Record],
    remarks: Mapping[str, Iterable[str]],
    kinds: Mapping[str, str] = {},
    classes: Mapping[str, tuple[str, ...]] = {},
) -> Sources:
    """Return records sorted by source, with the remarks that are not empty.

    Args:
        kinds: of tasks that are no plain class; of those that no record has, nothing is said.
    """
    texts = {name: sorted(map(printable, values)) for name, values in remarks.items() if values}
    found = sorted(records, key=lambda record: record.source)
    tasks = {task for record in found for task in record.labels}
    present = {task: kinds[task] for task in sorted(kinds) if task in tasks}
    return Sources(found, texts, present, dict(classes))


def left_tasks(images: Iterable[tuple[str, str, bool]], numbers: Collection[str] = ()) -> set[str]:
    """Return a remark for every task on the images without an entry, their cell being empty.

    Args:
        images: a task, an image, which may name the columns, and whether a code was in its cell.
        numbers: tasks that cells leave also where they hold no number.
    """
    of_task: defaultdict[str, list[tuple[str, bool]]] = defaultdict(list)
    for task, image, code in images:
        of_task[task].append((image, code))
    remarks = set()
    for task, left in of_task.items():
        empty = "empty or no number" if task in numbers else "empty"
        codes = sum(code for _, code in left)
        why = f"a cell being {empty}"
        if codes:
            why = f"{len(left) - codes} with a cell that is {empty} and {codes} with a code"
        if codes == len(left):
            why = "a cell being a code"
        remarks.add(f"{task}: {len(left)} images left it, {why}, such as {left[0][0]}")
    return remarks


def eye_of(word: str | None) -> str | None:
    """Return "L" or "R" for left, right, l, r, OS or OD; None for anything else."""
    return SIDES.get((word or "").strip().lower())


def read_dataset(card: DatasetCard, root: Path) -> Sources:
    """Return the records of a dataset by its card alone; ValueError where the root is another."""
    files = list_files(card, root)
    refuse_lookalikes(card, root, files)
    if not files.images:
        raise wrong_root(card, root, files)
    remarks: Remarks = defaultdict(set)
    facts = dict(files.images)
    graded: dict[str, set[str]] = {}  # images with a row that may hold labels; their tasks
    repeated: set[str] = set()
    unclear: set[str] = set()
    for file in label_files(card, root, files.others, remarks):
        rows, unclear_here = rows_of_images(file, files.images, root, remarks)
        unclear |= unclear_here
        for source, row, copies in rows:
            facts[source] = facts[source] | row
            repeated.update(copies)
            if file.table.tasks:
                graded.setdefault(source, set()).update(file.table.tasks)
    repeated -= graded.keys()
    repeated |= unclear
    records = [
        record_of(card, root, source, stated, remarks)
        for source, stated in facts.items()
        if source not in repeated
    ]
    if card.classes and not any(record.labels for record in records):
        if remarks["labels_without_image"] and not graded:
            raise ValueError(
                f"--root {root}: no row of the label files of {card.title} names an image (such as "
                f"{min(remarks['labels_without_image'])}, but {min(files.images)}); are all of its "
                f"images here, under their own names?"
            )
        raise wrong_root(card, root, files)
    remarks["repeated_names"] = repeated - unclear
    remarks["unclear_images_left_out"] = unclear
    remarks["images_without_label"] = {
        record.source for record in records if not record.labels and record.source not in graded
    }
    remarks["images_that_left_a_task"] = left_tasks(
        (task, source, False)
        for source, tasks in sorted(graded.items())
        for task in tasks - facts[source].keys()
    )
    remarks["images_with_an_empty_label"] = {
        f"{source}: {', '.join(sorted(tasks - facts[source].keys()))}"
        for source, tasks in graded.items()
        if tasks - facts[source].keys()
    }
    return in_order(records, remarks | remarks_on(files), dict.fromkeys(card.several, "labels"))


def record_of(
    card: DatasetCard, root: Path, source: str, facts: Mapping[str, str], remarks: Remarks
) -> Record:
    """Return the record of an image from `facts`, written in the words of the dataset."""
    labels, categories = {}, []
    for task, classes in card.classes.items():
        if task in card.several:
            if task in facts:  # "" where it has none of them
                labels[task] = facts[task]
                categories += [word for name in labels_in(facts[task]) if (word := classes[name])]
            continue
        written = facts.get(task, "")
        label = _class_of(written, classes, card.values.get(task, {}))
        if label is not None:
            labels[task] = label
            categories += [classes[label]] if classes[label] else []
        elif not is_missing(written):
            remarks["unknown_classes"].add(f"{source}: {task} {written}")
    eye, split = (
        _class_of(facts.get(name, ""), {}, card.values.get(name, {})) or facts.get(name, "")
        for name in ("eye", "split")
    )
    return Record(
        source=source,
        path=root / source,
        patient=patient_of(facts.get("patient")),
        eye=eye_of(eye),
        split=SPLITS.get(split.lower(), split) or None,
        labels=labels,
        categories=tuple(dict.fromkeys(categories)),
    )


def _class_of(written: str, classes: Mapping[str, str], values: Mapping[str, str]) -> str | None:
    """Return the class that a cell or a folder name means; "2.0" is "2", case does not count."""
    if not written:
        return None
    (word,) = names_of(re.sub(r"^(\d+)\.0+$", r"\1", written))
    known = [*values.items(), *((name, name) for name in classes)]
    return next((label for name, label in known if names_of(name) == (word,)), None)
