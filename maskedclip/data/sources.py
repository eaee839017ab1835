"""What a downloaded dataset says of each of its images: cards in, records out.

A card (shards/*.toml) names the label files, their columns and the classes. Label files and images
are searched for under the root, since the archives unpack into one, two or three nested folders.
"""

import csv
import difflib
import io
import os
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, NamedTuple

CARDS = Path(__file__).resolve().parents[2] / "shards"
ENDINGS = frozenset({".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".ppm"})
JUNK = re.compile(r"^(\._.*|\.ds_store|thumbs\.db|__macosx)$")
SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}


@dataclass(frozen=True, kw_only=True)
class Card:
    """One dataset: what it is, and how its files are read."""

    name: str
    title: str
    role: str  # paired, unpaired or downstream: what the paper uses it for
    licence: str
    citation: str
    obtain: str
    reader: str  # table, odir, folder, csv or phantom
    images: int = 0  # as published; 0 where that is up to the user
    identity: str = ""  # regular expression on the file's stem, groups `patient` and `eye`
    tables: tuple[Mapping[str, Any], ...] = ()
    classes: Mapping[str, Mapping[str, str]] = field(default_factory=dict)  # task, class, category
    findings: Mapping[str, Mapping[str, str]] = field(default_factory=dict)  # task, category, class
    exclude: tuple[str, ...] = ()  # folders that repeat images, in lower case


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


def card_names() -> list[str]:
    """Return the names of the cards that come with the code."""
    return sorted(path.stem for path in CARDS.glob("*.toml"))


def read_card(dataset: str) -> Card:
    """Return the card of a dataset's name, or of a TOML file; ValueError with the nearest name."""
    path = Path(dataset) if dataset.endswith(".toml") else CARDS / f"{dataset}.toml"
    if not path.is_file():
        if dataset.endswith(".toml"):
            raise ValueError(f"{dataset}: no such card; copy one of {CARDS}")
        near = difflib.get_close_matches(dataset.lower(), card_names(), n=1, cutoff=0.4)
        hint = f"did you mean {near[0]}?" if near else f"use one of {', '.join(card_names())}"
        raise ValueError(f"unknown dataset {dataset!r}; {hint}")
    try:
        facts = tomllib.loads(path.read_text(encoding="utf-8"))
        facts["tables"] = tuple(facts.pop("table", ()))
        facts["exclude"] = tuple(facts.get("exclude", ()))
        return Card(**facts)
    except (tomllib.TOMLDecodeError, TypeError) as error:
        raise ValueError(f"{path}: {error}; compare it with the cards of {CARDS}") from None


def files_under(root: Path) -> list[Path]:
    """Return every file under `root` in order, also behind linked folders, each of those once."""

    def refuse(error: OSError) -> None:
        raise error

    found, seen = [], set()
    for folder, inner, names in os.walk(root, onerror=refuse, followlinks=True):
        place = os.path.realpath(folder)
        if place in seen:
            inner.clear()
            continue
        seen.add(place)
        inner.sort()  # which of two links to one folder is taken must not depend on the disk
        found += [Path(folder, name) for name in names]
    return sorted(found)


def image_files(root: Path, exclude: Iterable[str] = ()) -> list[Path]:
    """Return every image under `root` in order; ValueError where there is none."""
    if not root.is_dir():
        raise ValueError(f"--root {root}: no such directory; give the folder of the download")
    hidden = frozenset(exclude)
    found = []
    for path in files_under(root):
        parts = [part.lower() for part in path.relative_to(root).parts]
        if path.suffix.lower() in ENDINGS and not any(JUNK.match(p) or p in hidden for p in parts):
            found.append(path)
    if not found:
        raise ValueError(f"--root {root}: no image in it; give the folder that holds the images")
    return found


def source_of(path: Path, root: Path) -> str:
    """Return the path under the root, the same on every machine."""
    return path.relative_to(root).as_posix()


def rows_of(path: Path) -> list[dict[str, str]]:
    """Return the rows of a CSV by lower-cased, stripped heading; values stripped, all strings."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 ({error.reason}); save it as UTF-8") from None
    first = text.partition("\n")[0]
    lines = csv.reader(io.StringIO(text, newline=""), delimiter=";" if ";" in first else ",")
    heading = [name.strip().lower() for name in next(lines, [])]
    return [
        {n: value.strip() for n, value in zip(heading, line, strict=False) if n}
        for line in lines
        if any(value.strip() for value in line)
    ]


def identity(card: Card, path: Path) -> tuple[str | None, str | None]:
    """Return the patient and the eye ("L" or "R") that the file's name tells, else None."""
    match = re.search(card.identity, path.stem, re.IGNORECASE) if card.identity else None
    found = match.groupdict() if match else {}
    return found.get("patient"), eye_of(found.get("eye"))


def eye_of(word: str | None) -> str | None:
    """Return "L" or "R" for left, right, l, r, OS or OD; None for anything else."""
    sides = dict.fromkeys(("l", "left", "os"), "L") | dict.fromkeys(("r", "right", "od"), "R")
    return sides.get((word or "").strip().lower())


def read_tables(card: Card, root: Path) -> Sources:
    """Return the records of a dataset whose labels stand in CSV files."""
    files = image_files(root, card.exclude)
    tables = list(_tables_under(card, root))
    if not tables:
        wanted = " or ".join(str(table["file"]) for table in card.tables)
        raise ValueError(f"--root {root}: no {wanted} under it; is it the folder of {card.title}?")
    remarks: dict[str, list[str]] = {"labels_without_image": [], "unknown_classes": []}
    records: dict[Path, Record] = {}
    for table, rows in tables:
        inside = str(table.get("inside", ""))
        by_stem: dict[str, Path] = {}
        for path in files:
            if inside in source_of(path, root).lower():
                by_stem.setdefault(path.stem.lower(), path)
        for row in rows:
            stem = Path(row[table["image"].lower()]).name.lower()
            match = by_stem.get(stem) or by_stem.get(Path(stem).stem)
            if match is None:
                remarks["labels_without_image"].append(stem)
            else:
                records[match] = _labelled(card, table, row, match, root, remarks)
    remarks["images_without_label"] = [source_of(p, root) for p in files if p not in records]
    for path in files:
        if path not in records:
            patient, eye = identity(card, path)
            records[path] = Record(source_of(path, root), path, patient, eye)
    return in_order(records.values(), remarks)


def _tables_under(
    card: Card, root: Path
) -> Iterator[tuple[Mapping[str, Any], list[dict[str, str]]]]:
    candidates = [path for path in files_under(root) if path.suffix.lower() == ".csv"]
    for table in card.tables:
        wanted = {table["image"].lower(), *(c.lower() for c in table["labels"].values())}
        for path in candidates:
            if fnmatch(path.name.lower(), table["file"]):
                rows = rows_of(path)
                if rows and wanted <= rows[0].keys():
                    yield table, rows
                    break


def _labelled(
    card: Card,
    table: Mapping[str, Any],
    row: Mapping[str, str],
    path: Path,
    root: Path,
    remarks: dict[str, list[str]],
) -> Record:
    labels = {}
    for task, column in table["labels"].items():
        value = row.get(column.lower(), "")
        if value in card.classes[task]:
            labels[task] = value
        elif value:
            remarks["unknown_classes"].append(f"{path.stem}: {task} {value}")
    categories = [card.classes[task][value] for task, value in labels.items()]
    split = table.get("split") or table.get("splits", {}).get(
        row.get(str(table.get("split_column", "")).lower(), "")
    )
    patient, eye = identity(card, path)
    return Record(source_of(path, root), path, patient, eye, split, labels, tuple(categories), None)


def in_order(records: Iterable[Record], remarks: Mapping[str, list[str]]) -> Sources:
    """Return records sorted by source, with the remarks that there are."""
    found = {name: sorted(values) for name, values in remarks.items() if values}
    return Sources(sorted(records, key=lambda record: record.source), found)
