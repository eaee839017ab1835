"""Recognise datasets by the markers of the cards, and explain a root that is another folder."""

import re
from fnmatch import translate
from pathlib import Path

from maskedclip.shards.downloads.cards import (
    DatasetCard,
    LabelTable,
    Lookalike,
    card_names,
    read_card,
)
from maskedclip.shards.downloads.files import DownloadFiles, files_not_read
from maskedclip.shards.downloads.label_files import rows_of


def known_datasets(root: Path, files: DownloadFiles) -> list[str]:
    """Return a line for every known dataset that a user's own tree seems to contain.

    Collections such as SMDG-19 contain the images of other datasets, test images among them: these
    would leak into training.
    """
    folders = {folder for s in files.images for folder in f"{root.absolute().name}/{s}".split("/")}
    lines = []
    for name in card_names():
        card = read_card(name)
        globs = [re.compile(translate(glob), re.IGNORECASE) for glob in card.overlaps]
        inside = sorted(f for f in folders if any(glob.match(f) for glob in globs))
        if inside:
            lines.append(f"{name}: {inside[0]} is known to hold its images")
        elif fits(card, root, files):
            lines.append(f"{name}: its files are here")
    return lines


def fits(card: DatasetCard, root: Path, files: DownloadFiles) -> bool:
    """Return whether images and a marker of a card are there; a table must have its columns."""
    images = [*files.images, *files.left_out]
    rules = [re.compile(rule.pattern, re.IGNORECASE) for rule in card.paths]
    if not any(rule.search("/" + source) for source in images for rule in rules):
        return False
    globs = [re.compile(translate(marker), re.IGNORECASE) for marker in card.marker]
    if any(glob.match("/" + source) for source in images for glob in globs):
        return True
    for source in files.others:
        if any(glob.match("/" + source) for glob in globs):
            tables = [t for t in card.tables if re.search(t.file, "/" + source, re.IGNORECASE)]
            if not card.tables or any(_has_wanted(root / source, table) for table in tables):
                return True
    return False


def _has_wanted(path: Path, table: LabelTable) -> bool:
    try:
        return not rows_of(path, table.wanted, table.sheet)[1]
    except ValueError:  # some other table, and not a whole one
        return False


ARCHIVE = re.compile(r"\.(zip|rar|7z|tar|tgz|gz|z\d\d|\d{3})$", re.IGNORECASE)


def wrong_root(card: DatasetCard, root: Path, files: DownloadFiles) -> ValueError:
    """Return the error of one line: what was expected, what is there, and what to do."""
    where = f"--root {root}"
    images = [*files.images, *files.left_out]
    archives = [source for source in files.others if ARCHIVE.search(source)]
    if archives and not files.images:
        more = f" and {len(archives) - 1} more archives" if archives[1:] else ""
        missing = f"no image of {card.title}" if images else "no image"
        return ValueError(f"{where}: {missing} but {archives[0]}{more}; unpack it first")
    if not images:
        passed_over = "; ".join(files_not_read(files)[:5])
        found = f" ({passed_over})" if passed_over else ""
        return ValueError(f"{where}: no image in it{found}; give the folder that holds the images")
    wanted = " or ".join(marker.removeprefix("*/") for marker in card.marker)
    expected = f"expected {wanted}" if wanted else "no image fits the card"
    top = sorted({source.partition("/")[0] for source in images + files.others})
    top.sort(key=lambda name: name not in files.others)  # what may be a label file first
    listed = ", ".join(top[:5]) + (f" and {len(top) - 5} more" if top[5:] else "")
    return ValueError(
        f"{where}: {expected}, found {listed} (images: {len(images)}); {_advice(card, root, files)}"
    )


def _advice(card: DatasetCard, root: Path, files: DownloadFiles) -> str:
    if files.images:
        rest = "with its label files, or use `make_shards.py folder` for images alone"
        return f"give the folder of {card.title} {rest}"
    for name in card_names():
        if name != card.name and fits(read_card(name), root, files):
            return f"it looks like {name}, not {card.name}: use `make_shards.py {name}`"
    return f"give the folder of {card.title}"


def refuse_lookalikes(card: DatasetCard, root: Path, files: DownloadFiles) -> None:
    """Raise ValueError where a file shows that this is a dataset which resembles the card's."""
    above = "/" + root.absolute().name
    for other in card.lookalikes:
        pattern = re.compile(other.file, re.IGNORECASE)
        for source in [*files.images, *files.left_out, *files.others]:
            if pattern.search(f"{above}/{source}") and _has_columns(other, root / source):
                raise ValueError(f"--root {root}: {source} shows that this is {other.title}")


def _has_columns(other: Lookalike, path: Path) -> bool:
    if not other.columns:
        return True
    with path.open(encoding="latin-1") as file:
        heading = file.readline().lower()
    return all(column.lower() in heading for column in other.columns)
