"""The files of a download: which images belong to the dataset, and which were left out and why.

Archives unpack into one, two or three nested folders, so everything is searched for under the root.
"""

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import NamedTuple

from maskedclip.shards.downloads.cards import DatasetCard

ENDINGS = frozenset({".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".ppm"})
JUNK = re.compile(r"^(\._.*|~\$.*|\.ds_store|thumbs\.db|__macosx)$", re.IGNORECASE)


class DownloadFiles(NamedTuple):
    """The files under a root, each by its path under it, with slashes, in order."""

    images: dict[str, dict[str, str]]  # what the path of each tells: patient, eye, split, tasks
    left_out: list[str]  # images that are none of the dataset's: decoys, copies, junk
    others: list[str]


def list_files(card: DatasetCard, root: Path) -> DownloadFiles:
    """Return the files of a dataset; ValueError where the root is no directory."""
    rules = [(re.compile(rule.pattern, re.IGNORECASE), rule) for rule in card.paths]
    found = DownloadFiles({}, [], [])
    for source, hidden in _walk(root, card.exclude):
        if os.path.splitext(source)[1].lower() not in ENDINGS:  # noqa: PTH122 - quick on many
            found.others.extend([] if hidden else [source])
        elif hidden:
            found.left_out.append(source)
        elif not rules:
            found.images[source] = {}
        else:
            matches = ((pattern.search("/" + source), rule) for pattern, rule in rules)
            match, rule = next((pair for pair in matches if pair[0]), (None, None))
            if match is None or rule is None:
                found.left_out.append(source)
            else:
                told = {name: text for name, text in match.groupdict().items() if text}
                constant = {"split": rule.split} if rule.split else {}
                found.images[source] = {**constant, **rule.labels, **told}
    if card.nearest and found.images:
        depth = min(source.count("/") for source in found.images)
        deeper = [source for source in found.images if source.count("/") > depth]
        found.left_out.extend(deeper)
        for source in deeper:
            del found.images[source]
    return found


def left_out_folders(files: DownloadFiles) -> list[str]:
    """Return a line a folder: the highest one that holds no image of the dataset, and a count."""
    used = {""}
    for folder in {source.rpartition("/")[0] for source in files.images}:
        used |= {folder[: match.start()] for match in re.finditer("/|$", folder)}
    counts: Counter[str] = Counter()
    for folder, count in Counter(source.rpartition("/")[0] for source in files.left_out).items():
        above = (folder[: match.start()] for match in re.finditer("/|$", folder))
        counts[next((place for place in above if place not in used), folder)] += count
    return [f"{folder or '.'}: {count} images" for folder, count in sorted(counts.items())]


def files_under(root: Path) -> list[Path]:
    """Return every file under `root` in order, also behind linked folders, each of those once."""
    return sorted(root / source for source, _ in _walk(root, ()))


def image_files(root: Path, exclude: Iterable[str] = ()) -> list[Path]:
    """Return every image under `root` in order; ValueError where there is none."""
    sources = [source for source, hidden in _walk(root, tuple(exclude)) if not hidden]
    found = [root / source for source in sources if Path(source).suffix.lower() in ENDINGS]
    if not found:
        raise ValueError(f"--root {root}: no image in it; give the folder that holds the images")
    return sorted(found)


def source_of(path: Path, root: Path) -> str:
    """Return the path under the root, the same on every machine."""
    return path.relative_to(root).as_posix()


def _walk(root: Path, exclude: tuple[str, ...]) -> Iterator[tuple[str, bool]]:
    """Give each file's path under the root, and whether it is junk or lies in an excluded folder.

    Nothing is asked of a file itself: on a network disk that would take longer than all the rest.
    """
    if not root.is_dir():
        raise ValueError(f"--root {root}: no such directory; give the folder of the download")

    def refuse(error: OSError) -> None:
        raise error

    def is_hidden(name: str) -> bool:
        return bool(JUNK.match(name)) or any(fnmatch(name.lower(), glob) for glob in exclude)

    top = str(root)
    seen: set[str] = set()
    hidden_folders: set[str] = set()
    for folder, inner, names in os.walk(top, onerror=refuse, followlinks=True):
        place = os.path.realpath(folder)
        if place in seen:
            inner.clear()
            continue
        seen.add(place)
        inner.sort()  # which of two links to one folder is taken must not depend on the disk
        base = os.path.relpath(folder, top).replace(os.sep, "/")
        prefix = "" if base == "." else base + "/"
        hidden = folder in hidden_folders
        hidden_folders.update(os.path.join(folder, n) for n in inner if hidden or is_hidden(n))  # noqa: PTH118
        for name in sorted(names):
            yield prefix + name, hidden or bool(JUNK.match(name))
