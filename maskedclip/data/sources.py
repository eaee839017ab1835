"""What a downloaded dataset says of each of its images: a card in, records out.

The path of an image tells some of it, label files tell the rest; where both speak, the file counts.
"""

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from maskedclip.data.cards import Card, Table, card_names, read_card
from maskedclip.data.files import (
    ENDINGS,
    files_under,
    image_files,
    left_out_folders,
    list_files,
    source_of,
)
from maskedclip.data.tables import Row, cell, names_of, rows_of
from maskedclip.data.wrong_root import wrong_root

__all__ = [
    "ENDINGS",
    "Card",
    "Record",
    "Sources",
    "card_names",
    "files_under",
    "image_files",
    "in_order",
    "read_card",
    "read_dataset",
    "source_of",
]
SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
SIDES = dict.fromkeys(("l", "left", "os"), "L") | dict.fromkeys(("r", "right", "od"), "R")


class Record(NamedTuple):
    """One image file, or one phantom, and what is known of it."""

    source: str  # path under the root, with slashes
    path: Path
    patient: str | None = None
    eye: str | None = None
    split: str | None = None
    labels: dict[str, str] = {}  # noqa: RUF012 - never changed
    categories: tuple[str, ...] = ()
    report: str | None = None


class Sources(NamedTuple):
    """The records of a dataset sorted by source, and what did not fit together."""

    records: list[Record]
    remarks: dict[str, list[str]]


Remarks = dict[str, set[str]]


def in_order(records: Iterable[Record], remarks: Mapping[str, Iterable[str]]) -> Sources:
    """Return records sorted by source, with the remarks that there are."""
    found = {name: sorted(values) for name, values in remarks.items()}
    found = {name: values for name, values in found.items() if values}
    return Sources(sorted(records, key=lambda record: record.source), found)


def eye_of(word: str | None) -> str | None:
    """Return "L" or "R" for left, right, l, r, OS or OD; None for anything else."""
    return SIDES.get((word or "").strip().lower())


def read_dataset(card: Card, root: Path) -> Sources:
    """Return the records of a dataset by its card alone; ValueError where the root is another."""
    files = list_files(card, root)
    if not files.images:
        raise wrong_root(card, root, files)
    told = dict(files.images)
    places: dict[str, dict[str, list[str]]] = {}
    remarks: Remarks = {name: set() for name in ("labels_without_image", "unknown_classes")}
    named: set[str] = set()  # by a row that may hold a label
    copies: set[str] = set()
    for table, groups, rows in _label_files(card, root, files.others, remarks):
        inside = table.inside.format(**groups).lower()
        by_stem = places.setdefault(inside, _by_stem(files.images, inside))
        for row in rows:
            name = _image_name(table, row)
            if name is None:
                remarks.setdefault("rows_that_name_no_image", set()).add(" ".join(row.values()))
                continue
            chosen, *others = _called(name, by_stem) or [""]
            if not chosen:
                remarks["labels_without_image"].add(stem_of(name))
                continue
            told[chosen] = told[chosen] | _told(table, row, groups)
            copies.update(others)
            named.update([chosen] if table.labels else [])
    copies -= named
    records = [
        record_of(card, root, source, facts, remarks)
        for source, facts in told.items()
        if source not in copies
    ]
    if card.classes and not any(record.labels for record in records):
        raise wrong_root(card, root, files)
    silent = {record.source for record in records if not record.labels}
    remarks["repeated_names"] = copies
    remarks["images_without_label"] = silent - named
    remarks["images_with_an_empty_label"] = {
        source for source in silent & named if not told[source].keys() & card.classes.keys()
    }
    return in_order(records, remarks | {"left_out_folders": left_out_folders(files)})


def record_of(
    card: Card, root: Path, source: str, facts: Mapping[str, str], remarks: Remarks
) -> Record:
    """Return the record of an image of which `facts` are told, in the words of the dataset."""
    labels, categories = {}, []
    for task, classes in card.classes.items():
        written = facts.get(task, "")
        label = _class_of(written, classes, card.values.get(task, {}))
        if label is not None:
            labels[task] = label
            categories += [classes[label]] if classes[label] else []
        elif written:
            remarks["unknown_classes"].add(f"{source}: {task} {written}")
    eye, split = (
        _class_of(facts.get(name, ""), {}, card.values.get(name, {})) or facts.get(name, "")
        for name in ("eye", "split")
    )
    return Record(
        source=source,
        path=root / source,
        patient=facts.get("patient"),
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
    known = {name: name for name in classes} | dict(values)
    return next((label for name, label in known.items() if names_of(name) == (word,)), None)


def _label_files(
    card: Card, root: Path, others: list[str], remarks: Remarks
) -> Iterator[tuple[Table, dict[str, str], list[Row]]]:
    """Give the rows of every label file with what its own path tells; later ones count more.

    Raises ValueError where all files of a table's name lack columns.
    """
    for table in card.tables:
        matches = [(s, re.search(table.file, "/" + s, re.IGNORECASE)) for s in others]
        read, refused = 0, []
        for source, match in matches:
            if match is None:
                continue
            rows, lacking = rows_of(root / source, table.wanted, table.sheet)
            if lacking:
                refused.append(f"{source}: {lacking}")
            else:
                read += 1
                yield table, {name: text or "" for name, text in match.groupdict().items()}, rows
        if refused and not read:
            raise ValueError(f"--root {root}: {refused[0]}; is it the label file of {card.title}?")
        remarks.setdefault("label_files_not_read", set()).update(refused)


def _by_stem(sources: Iterable[str], inside: str) -> dict[str, list[str]]:
    """Return the images inside a part of the tree by stem, those nearest the root first."""
    found: dict[str, list[str]] = {}
    for source in sorted(sources, key=lambda s: s.count("/")):
        if inside in "/" + source.lower():
            found.setdefault(stem_of(source.rpartition("/")[2]).lower(), []).append(source)
    return found


def stem_of(name: str) -> str:
    """Return a file's name without its ending where that is one of an image."""
    stem, ending = os.path.splitext(name)  # noqa: PTH122 - quick on many
    return stem if ending.lower() in ENDINGS else name


def _image_name(table: Table, row: Row) -> str | None:
    name = cell(row, table.image).replace("\\", "/")
    match = re.search(table.image_pattern, name) if table.image_pattern else None
    if match:
        name = match[1]
    return name.strip() if name and (match or not table.image_pattern) else None


def _called(name: str, by_stem: Mapping[str, list[str]]) -> list[str]:
    """Return the images of a name; where it has folders, those that lie in them count alone."""
    folder, _, last = name.lower().removeprefix("./").rpartition("/")
    found = by_stem.get(stem_of(last), [])
    within = [s for s in found if f"/{s.lower()}".rpartition("/")[0].endswith(f"/{folder}")]
    return within if folder and within else found


def _told(table: Table, row: Row, groups: Mapping[str, str]) -> dict[str, str]:
    """Return what a row says, in the words of the dataset; what it leaves empty is not there."""
    told = {task: cell(row, columns) for task, columns in table.labels.items()}
    told["patient"] = stem_of(cell(row, table.patient)) if table.patient else ""
    if isinstance(table.eye, str):
        told["eye"] = cell(row, table.eye)
    else:
        told["eye"] = next((side for side, name in table.eye.items() if cell(row, name)), "")
    of_row = cell(row, table.split_column)
    told["split"] = of_row or table.split or groups.get("split", "")
    return {name: text for name, text in told.items() if text}
