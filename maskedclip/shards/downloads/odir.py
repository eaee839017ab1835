"""ODIR-5K: diagnostic keywords of every eye, in any of its three published forms.

The labels of an eye come from that eye's own keywords. The flags N ... O of the table are of the
patient, and so of both eyes; `labels` of full_df.csv keeps the first keyword only.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from maskedclip.data.captions import categories_of, keywords_of
from maskedclip.data.cell_values import is_missing, patient_of
from maskedclip.data.label_kinds import joined
from maskedclip.shards.downloads.cards import DatasetCard
from maskedclip.shards.downloads.files import list_files, remarks_on
from maskedclip.shards.downloads.image_names import stem_of
from maskedclip.shards.downloads.label_files import Remarks, rows_of
from maskedclip.shards.downloads.recognise import wrong_root
from maskedclip.shards.downloads.records import Record, Sources, in_order, record_of

NEEDED = ("ID", "Left-Fundus", "Right-Fundus", "Left-Diagnostic Keywords")
CODED = re.compile("^[A-Z](\\s*[\N{FULLWIDTH COMMA},]\\s*[A-Z])*$")  # letters in place of words
SETS = re.compile(r"(off|on)-?site", re.IGNORECASE)  # of OIA-ODIR, each with a table of its own


class OdirEye(NamedTuple):
    """One eye in a label file."""

    patient: str
    side: str  # "L" or "R"
    keywords: str


def read_odir(card: DatasetCard, root: Path) -> Sources:
    """Return a record for every eye on disk; one with no finding has no category and no report."""
    files = list_files(card, root)
    if not files.images:
        raise wrong_root(card, root, files)
    eyes, twice = _eyes(card, root, files.others)
    if not eyes:
        raise wrong_root(card, root, files)
    chosen: dict[tuple[str, str], str] = {}
    # The cropped copies of the Kaggle form have the names of the originals: originals first.
    for source in sorted(files.images, key=lambda name: ("preprocessed" in name, name)):
        chosen.setdefault((_set(source), stem_of(source.rpartition("/")[2]).lower()), source)
    remarks: Remarks = {
        "labels_without_image": {stem for _, stem in eyes.keys() - chosen.keys()},
        "repeated_names": set(files.images) - set(chosen.values()),
        "images_without_label": set(),
        "eyes_without_finding": set(),
        "images_with_two_rows": set(),
    }
    records = []
    for key, source in chosen.items():
        record, eye = record_of(card, root, source, files.images[source], remarks), eyes.get(key)
        if key in twice:
            remarks["images_with_two_rows"].add(source)
            continue
        if eye is None:
            remarks["images_without_label"].add(source)
        else:
            record = _with_findings(card, record, eye)
            remarks["eyes_without_finding"].update([] if record.categories else [source])
        records.append(record)
    orders = {task: tuple(dict.fromkeys(of.values())) for task, of in card.labels.items()}
    kinds = dict.fromkeys(card.labels, "labels")
    return in_order(records, remarks | remarks_on(files), kinds, orders)


def _with_findings(card: DatasetCard, record: Record, eye: OdirEye) -> Record:
    """Return the record with what the findings of the eye say of every task.

    That is the class on which all of them agree, or the labels of them all. An eye without a
    finding has no entry.
    """
    categories, labels = tuple(categories_of(eye.keywords)), {}
    for task, classes in card.findings.items():
        implied = {classes.get(category) for category in categories}
        if len(implied) == 1 and None not in implied:
            labels[task] = str(implied.pop())
    if categories:
        labels |= {task: labels_of(card, task, categories) for task in card.labels}
    return record._replace(
        patient=patient_of(eye.patient) or record.patient,
        eye=eye.side,
        labels=labels,
        categories=categories,
        report=", ".join(keywords_of(eye.keywords)) or None,
    )


def labels_of(card: DatasetCard, task: str, categories: Sequence[str]) -> str:
    """Return the labels of findings, joined; `*` stands for those without a label of their own.

    A normal fundus with another finding (one eye of ODIR-5K) is not normal.
    """
    label_of = card.labels[task]
    findings = [name for name in categories if name != "normal"] or categories
    labels = {label_of.get(name, label_of.get("*", "")) for name in findings} - {""}
    return joined(labels, list(dict.fromkeys(label_of.values())))


def _set(source: str) -> str:
    match = SETS.search(source)
    return match[1].lower() if match else ""


def _eyes(
    card: DatasetCard, root: Path, others: list[str]
) -> tuple[dict[tuple[str, str], OdirEye], set[tuple[str, str]]]:
    """Return the eyes by set and stem, and those on which two rows of one file disagree.

    CSV first, since some copies of the xlsx hold codes.
    """
    eyes: dict[tuple[str, str], OdirEye] = {}
    of_file: dict[tuple[str, tuple[str, str]], OdirEye] = {}
    twice: set[tuple[str, str]] = set()
    lacking, coded = "", ""
    for ending in (".csv", ".xlsx"):
        for source in (name for name in others if name.lower().endswith(ending)):
            if "chinese" in source.lower() or Path(source).name.startswith(("~", ".")):
                continue
            rows, missing = rows_of(root / source, NEEDED)
            lacking = lacking or (missing and f"{root / source}: {missing}")
            for row in rows:
                for side, name in (("L", "left"), ("R", "right")):
                    keywords = row.get(f"{name}-diagnostic keywords", "")
                    stem = stem_of(row.get(f"{name}-fundus", "")).lower()
                    if CODED.match(keywords):
                        coded = f"{root / source}: only letter codes for keywords"
                    elif stem and not is_missing(keywords):
                        key, eye = (_set(source), stem), OdirEye(row["id"], side, keywords)
                        kept = eyes.setdefault(key, eye)
                        if of_file.setdefault((source, key), eye) != eye and eye != kept:
                            twice.add(key)
    if not eyes and (coded or lacking):
        raise ValueError(f"{coded or lacking}; is it the label file of {card.title}?")
    return eyes, twice
