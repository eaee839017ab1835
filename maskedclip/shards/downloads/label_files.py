"""Label files joined to images: which row speaks of which file, and what it tells."""

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from maskedclip.shards.downloads.cards import Card, Table
from maskedclip.shards.downloads.files import ENDINGS
from maskedclip.shards.downloads.tables import Row, cell, rows_of

Remarks = dict[str, set[str]]


class LabelFile(NamedTuple):
    """A label file that was found and read."""

    source: str
    table: Table
    groups: dict[str, str]  # what its path tells
    rows: list[Row]


def label_files(card: Card, root: Path, others: list[str], remarks: Remarks) -> Iterator[LabelFile]:
    """Give every label file, those of a later table last; the last word counts.

    Raises ValueError where all files of a table's name lack columns.
    """
    for table in card.tables:
        read, refused = 0, []
        for source in others:
            match = re.search(table.file, "/" + source, re.IGNORECASE)
            if match is None:
                continue
            rows, lacking = rows_of(root / source, table.wanted, table.sheet)
            if lacking:
                refused.append(f"{source}: {lacking}")
            else:
                read += 1
                groups = {name: text or "" for name, text in match.groupdict().items()}
                yield LabelFile(source, table, groups, rows)
        if refused and not read:
            raise ValueError(f"--root {root}: {refused[0]}; is it the label file of {card.title}?")
        remarks["label_files_not_read"].update(refused)


def rows_of_images(
    file: LabelFile, images: Iterable[str], remarks: Remarks
) -> Iterator[tuple[str, dict[str, str], list[str]]]:
    """Give for each row its image, what it tells, and other images of the same name."""
    by_stem = images_by_stem(images, file.table.inside.format(**file.groups).lower())
    seen: dict[str, dict[str, str]] = {}
    nameless = 0
    for row in file.rows:
        name = _image_name(file.table, row)
        chosen, *others = called(name, by_stem) or [""]
        if not name:
            nameless += 1
        elif not chosen:
            remarks["labels_without_image"].add(stem_of(name))
        else:
            told = _told(file.table, row, file.groups)
            if seen.setdefault(chosen, told) != told:
                remarks["images_with_two_rows"].add(f"{file.source}: {stem_of(name)}")
            yield chosen, told, others
    if nameless:  # not what the rows say: they may speak of patients
        remarks["rows_that_name_no_image"].add(f"{file.source}: {nameless} rows")


def images_by_stem(sources: Iterable[str], inside: str) -> dict[str, list[str]]:
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


def _image_name(table: Table, row: Row) -> str:
    name = cell(row, table.image).replace("\\", "/")
    if table.image_pattern:
        match = re.search(table.image_pattern, name)
        name = match[1].strip() if match else ""
    return name


def called(name: str, by_stem: Mapping[str, list[str]]) -> list[str]:
    """Return the images of a name; its folders and its ending count where any image has them."""
    folder, _, last = name.lower().removeprefix("./").rpartition("/")
    found = by_stem.get(stem_of(last), [])
    within = [s for s in found if f"/{s.lower()}".rpartition("/")[0].endswith(f"/{folder}")]
    found = within if folder and within else found
    return [s for s in found if s.lower().endswith(last)] or found


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
