"""ODIR-5K: keywords of each eye, in any of the three forms in which it is handed out.

The label of an eye comes from that eye's own keywords. The flags N ... O of the table speak of the
patient, and so of the other eye too; `labels` of full_df.csv keeps the first keyword only.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import openpyxl

from maskedclip.data.captions import categories_of, keywords_of
from maskedclip.data.sources import (
    Card,
    Record,
    Sources,
    files_under,
    identity,
    image_files,
    in_order,
    rows_of,
    source_of,
)

NEEDED = {"id", "left-fundus", "right-fundus", "left-diagnostic keywords"}
CODED = re.compile("^[A-Z](\\s*[\N{FULLWIDTH COMMA},]\\s*[A-Z])*$")  # letters in place of words


class Eye(NamedTuple):
    """What a table says of one eye."""

    patient: str
    side: str  # "L" or "R"
    keywords: str


def read_odir(card: Card, root: Path) -> Sources:
    """Return a record for every eye on disk; one with no finding has no category and no report."""
    files = image_files(root, card.exclude)
    eyes = _eyes(root, card)
    chosen: dict[str, Path] = {}
    # The cropped copies of the Kaggle form carry the names of the originals: originals first.
    for path in sorted(files, key=lambda file: ("preprocessed" in source_of(file, root), file)):
        chosen.setdefault(path.stem.lower(), path)
    records, remarks = [], {"labels_without_image": sorted(eyes.keys() - chosen.keys())}
    repeated = set(files) - set(chosen.values())
    remarks["repeated_names"] = [source_of(path, root) for path in repeated]
    remarks["images_without_label"] = []
    remarks["eyes_without_finding"] = []
    for stem, path in chosen.items():
        source, eye = source_of(path, root), eyes.get(stem)
        if eye is None:
            remarks["images_without_label"].append(source)
            patient, side = identity(card, path)
            records.append(Record(source, path, patient, side, _split(source)))
            continue
        categories = tuple(categories_of(eye.keywords))
        if not categories:
            remarks["eyes_without_finding"].append(source)
        labels = _labels(card, categories)
        report = ", ".join(keywords_of(eye.keywords)) or None
        record = Record(source, path, eye.patient, eye.side, _split(source), labels, categories)
        records.append(record._replace(report=report))
    return in_order(records, remarks)


def _labels(card: Card, categories: tuple[str, ...]) -> dict[str, str]:
    """Return the class of each task on which all findings of the eye agree."""
    labels = {}
    for task, classes in card.findings.items():
        found = {classes.get(category) for category in categories}
        if len(found) == 1 and None not in found:
            labels[task] = str(found.pop())
    return labels


def _split(source: str) -> str:
    place = source.lower().replace("_", " ")
    published = {"off-site": "off-site test", "on-site": "on-site test", "testing": "test"}
    return next((split for word, split in published.items() if word in place), "train")


def _eyes(root: Path, card: Card) -> dict[str, Eye]:
    eyes: dict[str, Eye] = {}
    tables = 0
    for rows in _tables(root):
        tables += 1
        for row in rows:
            for side, name in (("L", "left"), ("R", "right")):
                keywords = row.get(f"{name}-diagnostic keywords", "")
                stem = Path(row.get(f"{name}-fundus", "")).stem.lower()
                if stem and keywords and not CODED.match(keywords):
                    eyes.setdefault(stem, Eye(row["id"], side, keywords))
    if not eyes:
        found = "no full_df.csv or xlsx" if not tables else "only letter codes for keywords"
        raise ValueError(f"--root {root}: {found} under it; is it the folder of {card.title}?")
    return eyes


def _tables(root: Path) -> Iterator[list[dict[str, str]]]:
    """Give the rows of each table under `root`, CSV first: some copies of the xlsx hold codes."""
    for path in files_under(root):
        if path.suffix.lower() == ".csv":
            rows = rows_of(path)
            if rows and rows[0].keys() >= NEEDED:
                yield rows
    for path in files_under(root):
        if path.suffix.lower() == ".xlsx" and not path.name.startswith(("~", ".")):
            sheet = openpyxl.load_workbook(path, read_only=True).worksheets[0]
            lines = [["" if c is None else str(c) for c in line] for line in sheet.values]
            rows = list(_by_heading(lines))
            if "chinese" not in path.name.lower() and rows and rows[0].keys() >= NEEDED:
                yield rows


def _by_heading(lines: list[list[str]]) -> Iterator[dict[str, str]]:
    heading = [name.strip().lower() for name in lines[0]] if lines else []
    for line in lines[1:]:
        yield {n: value.strip() for n, value in zip(heading, line, strict=False) if n}
