"""STARE: one line of free-text diagnoses an image."""

import re
from pathlib import Path

from maskedclip.data.captions import categories_of
from maskedclip.shards.downloads.cards import DatasetCard
from maskedclip.shards.downloads.files import list_files, remarks_on
from maskedclip.shards.downloads.image_names import stem_of
from maskedclip.shards.downloads.label_files import Remarks
from maskedclip.shards.downloads.recognise import wrong_root
from maskedclip.shards.downloads.records import Record, Sources, in_order, record_of

DIAGNOSES = re.compile(r"/(all-mg-codes|diagnos[ie]s)\.txt$", re.IGNORECASE)
BESIDE = re.compile(r"\(\s*(recommendation|old)\b[^)]*\)|\[[^]]*\]|[\"?]", re.IGNORECASE)
BETWEEN = re.compile(r"\s+(?:and|or)\s+|\s*&\s*")


def read_stare(card: DatasetCard, root: Path) -> Sources:
    """Return a record for every image: the diagnoses as the report, its findings as categories.

    Without a diagnosis ("unknown diagnosis") there is neither. Raises ValueError where the root is
    another folder, or lacks the file of diagnoses.
    """
    files = list_files(card, root)
    names = [source for source in files.others if DIAGNOSES.search("/" + source)]
    if not files.images or not names:
        raise wrong_root(card, root, files)
    texts, doubtful = _texts(root / names[0])
    if not texts:
        raise ValueError(f"{root / names[0]}: no line of it names an image; download it again")
    remarks: Remarks = {"images_without_label": set(), "images_without_finding": set()}
    stems = {stem_of(source.rpartition("/")[2]).lower(): source for source in files.images}
    remarks["images_with_two_rows"] = {stems[stem] for stem in doubtful & stems.keys()}
    remarks["unclear_images_left_out"] = remarks["images_with_two_rows"]
    remarks["labels_without_image"] = set(texts.keys() - stems.keys())
    remarks["repeated_names"] = files.images.keys() - set(stems.values())
    records: list[Record] = []
    for stem, source in stems.items():
        if stem in doubtful:
            continue
        record = record_of(card, root, source, files.images[source], remarks)
        text = texts.get(stem)
        categories = findings_of(card, text or "")
        if text is None:
            remarks["images_without_label"].add(source)
        elif not categories:
            remarks["images_without_finding"].add(source)
        report = text if categories else None
        records.append(record._replace(categories=categories, report=report))
    return in_order(records, remarks | remarks_on(files))


def findings_of(card: DatasetCard, text: str) -> tuple[str, ...]:
    """Return the categories of a diagnosis: the card's words for its spellings, then EXPERT's."""
    spellings = card.values.get("finding", {})
    words = (" ".join(w.split()) for w in BETWEEN.split(" " + BESIDE.sub(" ", text).lower() + " "))
    terms = [spellings.get(word.strip(" ,"), word.strip(" ,")) for word in words]
    return tuple(dict.fromkeys(category for word in terms for category in categories_of(word)))


def _texts(path: Path) -> tuple[dict[str, str], set[str]]:
    """Return the text of every image, and the images of which two lines say different things.

    The codes before a text are left out: they do not always agree with it.
    """
    texts: dict[str, str] = {}
    doubtful = set()
    # One odd letter in a diagnosis is no reason to refuse the other 396.
    for line in path.read_text(encoding="utf-8-sig", errors="replace").splitlines():
        match = re.match(r"\s*(\w+)[\d\s]*(.*)$", line)
        if match:
            stem, text = match[1].lower(), " ".join(match[2].strip('" ').split())
            before = texts.setdefault(stem, text)
            if before.lower() != text.lower() and before and text:
                doubtful.add(stem)
            texts[stem] = before or text
    return texts, doubtful
