"""A user's own images: a tree of folders, or image files with a CSV."""

import difflib
import re
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

from maskedclip.data.captions import categories_of
from maskedclip.shards.downloads.cards import DatasetCard
from maskedclip.shards.downloads.files import SPLITS, list_files, outside_of_splits, remarks_on
from maskedclip.shards.downloads.label_files import (
    Remarks,
    Row,
    cell,
    images_by_stem,
    images_named,
    names_of,
    rows_of,
)
from maskedclip.shards.downloads.recognise import known_datasets, wrong_root
from maskedclip.shards.downloads.records import Record, Sources, eye_of, in_order


def words_of_class(name: str) -> tuple[str, ...]:
    """Return the categories in a class name: "2_cataract" is cataract, "3" is nothing."""
    words = re.sub(r"[\s_]+", " ", re.sub(r"^[\d.]+[\s._-]*", "", name)).strip()
    return tuple(categories_of(words)) if re.search("[a-z]{3}", words, re.IGNORECASE) else ()


def read_folder(card: DatasetCard, root: Path, classes: str) -> Sources:
    """Return the records of a tree of images.

    Args:
        classes: a task; the folder that an image lies in is then its class. "" for no labels.

    A folder train, val or test anywhere above the class is the split. Where there are classes,
    images beside such folders are left out: they would be of the training data, or classes.
    """
    files = list_files(card, root)
    if classes:
        files.leave_out(outside_of_splits(files))
    if not files.images:
        raise wrong_root(card, root, files)
    records, unlabelled = [], []
    for source in files.images:
        folders = source.split("/")[:-1]
        splits = [SPLITS[name.lower()] for name in folders if name.lower() in SPLITS]
        named = [name for name in folders if name.lower() not in SPLITS]
        labels = {classes: named[-1]} if classes and named else {}
        if classes and not named:
            unlabelled.append(source)
        categories = words_of_class(named[-1]) if labels else ()
        split = splits[0] if splits else None
        record = Record(source, root / source, split=split, labels=labels)
        records.append(record._replace(categories=categories))
    remarks: Remarks = {"images_without_label": set(unlabelled), **remarks_on(files)}
    return in_order(records, remarks | {"known_datasets": set(known_datasets(root, files))})


class Columns(NamedTuple):
    """The columns of a user's CSV; "" where it has none."""

    image: str
    label: str = ""
    task: str = ""
    patient: str = ""
    eye: str = ""
    split: str = ""
    report: str = ""
    categories: str = ""


def read_csv(card: DatasetCard, root: Path, file: Path, columns: Columns) -> Sources:
    """Return the records of a user's CSV; ValueError for a missing column."""
    if not file.is_file():
        raise ValueError(f"--csv {file}: no such file; give the table of labels")
    rows, _ = rows_of(file)
    heading = list(rows[0]) if rows else []
    for flag, column in columns._replace(task="")._asdict().items():
        if column and names_of(column)[0] not in heading:
            near = difflib.get_close_matches(column.lower(), heading, n=1) or heading
            raise ValueError(
                f"--{flag}_column {column!r} is not in {file}; it has {', '.join(near)}"
            )
    files = list_files(card, root)
    if not files.images:
        raise wrong_root(card, root, files)
    by_stem = images_by_stem(files.images, "")
    remarks: Remarks = defaultdict(set)
    records: dict[str, Record] = {}
    for row in rows:
        name = cell(row, columns.image)
        source, *others = images_named(name.replace("\\", "/"), by_stem) or [""]
        if source:
            records[source] = _row_of_csv(columns, row, source, root)
            remarks["repeated_names"].update(others)
        else:
            remarks["labels_without_image"].add(name)
    remarks["images_without_label"] = files.images.keys() - records.keys()
    remarks["repeated_names"] -= records.keys()
    remarks |= remarks_on(files)
    remarks["known_datasets"] = set(known_datasets(root, files))
    return in_order(records.values(), remarks)


def _row_of_csv(columns: Columns, row: Row, source: str, root: Path) -> Record:
    def of(column: str) -> str:
        return cell(row, column) if column else ""

    label, findings, split = of(columns.label), of(columns.categories), of(columns.split)
    return Record(
        source=source,
        path=root / source,
        patient=of(columns.patient) or None,
        eye=eye_of(of(columns.eye)),
        split=SPLITS.get(split.lower(), split) or None,
        labels={columns.task: label} if label else {},
        categories=tuple(categories_of(findings)) if findings else words_of_class(label),
        report=" ".join(of(columns.report).split()) or None,
    )
