"""A user's own images: a tree of folders, or any files with a table."""

import difflib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from maskedclip.data.captions import categories_of
from maskedclip.data.cards import Card
from maskedclip.data.files import image_files, source_of
from maskedclip.data.sources import SPLITS, Record, Sources, eye_of, in_order
from maskedclip.data.tables import rows_of


def words_of_class(name: str) -> tuple[str, ...]:
    """Return the categories that a class name says: "2_cataract" is cataract, "3" is nothing."""
    words = re.sub(r"[\s_]+", " ", re.sub(r"^[\d.]+[\s._-]*", "", name)).strip()
    return tuple(categories_of(words)) if re.search("[a-z]{3}", words, re.IGNORECASE) else ()


def read_folder(card: Card, root: Path, classes: str) -> Sources:
    """Return the records of a tree of images.

    Args:
        classes: a task; the folder that an image lies in is then its class. "" for no labels.

    A folder train, val or test anywhere above the class is the split.
    """
    records, unlabelled = [], []
    for path in image_files(root, card.exclude):
        folders = path.relative_to(root).parts[:-1]
        splits = [SPLITS[name.lower()] for name in folders if name.lower() in SPLITS]
        named = [name for name in folders if name.lower() not in SPLITS]
        labels = {classes: named[-1]} if classes and named else {}
        if classes and not named:
            unlabelled.append(source_of(path, root))
        categories = words_of_class(named[-1]) if labels else ()
        split = splits[0] if splits else None
        record = Record(source_of(path, root), path, split=split, labels=labels)
        records.append(record._replace(categories=categories))
    return in_order(records, {"images_without_label": unlabelled})


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


def read_csv(card: Card, root: Path, file: Path, columns: Columns) -> Sources:
    """Return the records of a user's CSV; ValueError for a column that it has not."""
    if not file.is_file():
        raise ValueError(f"--csv {file}: no such file; give the table of labels")
    rows, _ = rows_of(file)
    heading = list(rows[0]) if rows else []
    wanted = columns._replace(task="")
    for flag, column in wanted._asdict().items():
        if column and column.lower() not in heading:
            near = difflib.get_close_matches(column.lower(), heading, n=1) or heading
            raise ValueError(
                f"--{flag}_column {column!r} is not in {file}; it has {', '.join(near)}"
            )
    files = image_files(root, card.exclude)
    by_source = {source_of(path, root).lower(): path for path in files}
    by_name = {path.name.lower(): path for path in reversed(files)}
    by_stem = {path.stem.lower(): path for path in reversed(files)}
    remarks: dict[str, list[str]] = {"labels_without_image": []}
    records: dict[Path, Record] = {}
    for row in rows:
        named = row[columns.image.lower()].replace("\\", "/").removeprefix("./").lower()
        last = named.rpartition("/")[2]
        path = by_source.get(named) or by_name.get(last) or by_stem.get(last)
        if path is None:
            remarks["labels_without_image"].append(row[columns.image.lower()])
        else:
            records[path] = _row_of_csv(columns, row, path, root)
    remarks["images_without_label"] = [source_of(p, root) for p in files if p not in records]
    return in_order(records.values(), remarks)


def _row_of_csv(columns: Columns, row: Mapping[str, str], path: Path, root: Path) -> Record:
    def cell(column: str) -> str:
        return row.get(column.lower(), "") if column else ""

    label, findings = cell(columns.label), cell(columns.categories)
    split = cell(columns.split)
    return Record(
        source=source_of(path, root),
        path=path,
        patient=cell(columns.patient) or None,
        eye=eye_of(cell(columns.eye)),
        split=SPLITS.get(split.lower(), split) or None,
        labels={columns.task: label} if label else {},
        categories=tuple(categories_of(findings)) if findings else words_of_class(label),
        report=" ".join(cell(columns.report).split()) or None,
    )
