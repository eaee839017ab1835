"""What to say of a folder that is not the download it was taken for."""

import re
from pathlib import Path

from maskedclip.shards.downloads.cards import Card, Lookalike, card_names, read_card
from maskedclip.shards.downloads.files import Files
from maskedclip.shards.downloads.recognise import fits

ARCHIVE = re.compile(r"\.(zip|rar|7z|tar|tgz|gz|z\d\d|\d{3})$", re.IGNORECASE)


def wrong_root(card: Card, root: Path, files: Files) -> ValueError:
    """Return the error, in one line: what was looked for, what is there, and what to do."""
    where = f"--root {root}"
    images = [*files.images, *files.left_out]
    archives = [source for source in files.others if ARCHIVE.search(source)]
    if archives and not files.images:
        more = f" and {len(archives) - 1} more archives" if archives[1:] else ""
        there = f"no image of {card.title}" if images else "no image"
        return ValueError(f"{where}: {there} but {archives[0]}{more}; unpack it first")
    if not images:
        return ValueError(f"{where}: no image in it; give the folder that holds the images")
    wanted = " or ".join(marker.removeprefix("*/") for marker in card.marker)
    looked = f"looked for {wanted}" if wanted else "no image fits the card"
    found = sorted({source.partition("/")[0] for source in images + files.others})
    found.sort(key=lambda name: name not in files.others)  # what may be a label file first
    listed = ", ".join(found[:5]) + (f" and {len(found) - 5} more" if found[5:] else "")
    return ValueError(
        f"{where}: {looked}, found {listed} (images: {len(images)}); {_advice(card, root, files)}"
    )


def _advice(card: Card, root: Path, files: Files) -> str:
    if files.images:
        rest = "with its label files, or use `make_shards.py folder` for images alone"
        return f"give the folder of {card.title} {rest}"
    for name in card_names():
        if name != card.name and fits(read_card(name), root, files):
            return f"it looks like {name}, not {card.name}: use `make_shards.py {name}`"
    return f"give the folder of {card.title}"


def refuse_lookalikes(card: Card, root: Path, files: Files) -> None:
    """Raise ValueError where a file tells that this is a dataset which could be taken for it."""
    above = "/" + root.absolute().name
    for other in card.lookalikes:
        pattern = re.compile(other.file, re.IGNORECASE)
        for source in [*files.images, *files.left_out, *files.others]:
            if pattern.search(f"{above}/{source}") and _has_columns(other, root / source):
                raise ValueError(f"--root {root}: {source} tells that this is {other.title}")


def _has_columns(other: Lookalike, path: Path) -> bool:
    if not other.columns:
        return True
    with path.open(encoding="latin-1") as file:
        heading = file.readline().lower()
    return all(column.lower() in heading for column in other.columns)
