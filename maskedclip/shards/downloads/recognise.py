"""Which of the known datasets a tree of files holds: by the markers of the cards."""

import re
from fnmatch import translate
from pathlib import Path

from maskedclip.shards.downloads.cards import Card, card_names, read_card
from maskedclip.shards.downloads.files import Files
from maskedclip.shards.downloads.tables import rows_of


def known_datasets(root: Path, files: Files) -> list[str]:
    """Return a line for each dataset that seems to be in a user's own tree.

    Collections such as SMDG-19 hand out the images of others, test images among them: trained on
    as one's own, those would leak.
    """
    folders = {folder for s in files.images for folder in f"{root.absolute().name}/{s}".split("/")}
    found = []
    for name in card_names():
        card = read_card(name)
        globs = [re.compile(translate(glob), re.IGNORECASE) for glob in card.overlaps]
        inside = sorted(f for f in folders if any(glob.match(f) for glob in globs))
        if inside:
            found.append(f"{name}: {inside[0]} is known to hold its images")
        elif fits(card, root, files):
            found.append(f"{name}: its files are here")
    return found


def fits(card: Card, root: Path, files: Files) -> bool:
    """Tell whether images of a card are there, and a marker; a table has to have its columns."""
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
            if not card.tables or any(
                not rows_of(root / source, table.wanted, table.sheet)[1] for table in tables
            ):
                return True
    return False
