"""List the files of a download: the images of the dataset, those left out, and other files.

Archives unpack into one, two or three nested folders, so the whole tree under the root is searched.
"""

import os
import re
from collections import Counter
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import NamedTuple

from maskedclip.shards.downloads.cards import DatasetCard

ENDINGS = frozenset({".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".ppm"})
JUNK = re.compile(r"^(\._.*|~\$.*|\.ds_store|thumbs\.db|__macosx)$", re.IGNORECASE)


class DownloadFiles(NamedTuple):
    """The files under a root, as sorted paths relative to it, with slashes."""

    images: dict[str, dict[str, str]]  # what its path states: patient, eye, split, tasks
    left_out: list[str]  # images that do not belong to the dataset: decoys, copies, junk
    others: list[str]


def list_files(card: DatasetCard, root: Path) -> DownloadFiles:
    """Return the files of a dataset; ValueError where the root is no directory."""
    rules = [(re.compile(rule.pattern, re.IGNORECASE), rule) for rule in card.paths]
    files = DownloadFiles({}, [], [])
    for source, hidden in _walk(root, card.exclude):
        if os.path.splitext(source)[1].lower() not in ENDINGS:  # noqa: PTH122 - quick on many
            files.others.extend([] if hidden else [source])
        elif hidden:
            files.left_out.append(source)
        elif not rules:
            files.images[source] = {}
        else:
            matches = ((pattern.search("/" + source), rule) for pattern, rule in rules)
            match, rule = next((pair for pair in matches if pair[0]), (None, None))
            if match is None or rule is None:
                files.left_out.append(source)
            else:
                groups = {name: text for name, text in match.groupdict().items() if text}
                constant = {"split": rule.split} if rule.split else {}
                files.images[source] = {**constant, **rule.labels, **groups}
    if card.nearest and files.images:
        depth = min(source.count("/") for source in files.images)
        deeper = [source for source in files.images if source.count("/") > depth]
        files.left_out.extend(deeper)
        for source in deeper:
            del files.images[source]
    return files


def left_out_folders(files: DownloadFiles) -> list[str]:
    """Return a line for every topmost folder without an image of the dataset, with a count."""
    used = {""}
    for folder in {source.rpartition("/")[0] for source in files.images}:
        used |= {folder[: match.start()] for match in re.finditer("/|$", folder)}
    counts: Counter[str] = Counter()
    for folder, count in Counter(source.rpartition("/")[0] for source in files.left_out).items():
        above = (folder[: match.start()] for match in re.finditer("/|$", folder))
        counts[next((path for path in above if path not in used), folder)] += count
    return [f"{folder or '.'}: {count} images" for folder, count in sorted(counts.items())]


def files_under(root: Path) -> list[Path]:
    """Return all files under `root` in order; linked folders are followed, every one once."""
    return sorted(root / source for source, _ in _walk(root, ()))


def source_of(path: Path, root: Path) -> str:
    """Return the path relative to the root, with slashes on every system."""
    return path.relative_to(root).as_posix()


def _walk(root: Path, exclude: tuple[str, ...]) -> Iterator[tuple[str, bool]]:
    """Yield the path of every file, and whether it is junk or lies in an excluded folder.

    No file is opened or stat-ed: on a network disk that would take longer than all the rest.
    """
    if not root.is_dir():
        raise ValueError(f"--root {root}: no such directory; give the folder of the download")

    def refuse(error: OSError) -> None:
        raise error

    def is_hidden(name: str) -> bool:
        return bool(JUNK.match(name)) or any(fnmatch(name.lower(), glob) for glob in exclude)

    top = str(root)
    visited: set[str] = set()
    hidden_folders: set[str] = set()
    for folder, inner, names in os.walk(top, onerror=refuse, followlinks=True):
        real = os.path.realpath(folder)
        if real in visited:
            inner.clear()
            continue
        visited.add(real)
        inner.sort()  # which of two links to one folder is taken must not depend on the disk
        base = os.path.relpath(folder, top).replace(os.sep, "/")
        prefix = "" if base == "." else base + "/"
        hidden = folder in hidden_folders
        hidden_folders.update(os.path.join(folder, n) for n in inner if hidden or is_hidden(n))  # noqa: PTH118
        for name in sorted(names):
            yield prefix + name, hidden or bool(JUNK.match(name))
