"""List the files of a download: the images of the dataset, those left out, and other files.

Archives unpack into one, two or three nested folders, so the whole tree under the root is searched.
Cards, `folder`, `csv` and trees train/val/test/CLASS are all listed here, by one rule.
"""

import os
import re
import stat
from collections import Counter
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from maskedclip.data.control_characters import CONTROL, escaped
from maskedclip.data.photographs.decoding import ENDINGS_OF, FORMATS
from maskedclip.data.photographs.dicom import (
    DICOM_ENDINGS,
    INSTALL,
    PREAMBLE,
    has_pydicom,
    is_dicom,
)
from maskedclip.shards.downloads.cards import DatasetCard

SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
_READ = frozenset(ending for endings in ENDINGS_OF.values() for ending in endings)
ENDINGS = _READ | {*DICOM_ENDINGS}  # of images, also where nothing here reads them
# what file managers, storage devices and editors leave behind: dot files and folders, @eaDir,
# $RECYCLE.BIN, ~$1.jpg, thumbnails ...
JUNK = re.compile(
    r"[.@$~].*|#(recycle|snapshot)|thumbs\.db|ehthumbs\w*\.db|desktop\.ini|__macosx|__pycache__"
    r"|(\w*[_-])?thumb(nail)?s?|recycler|recycled|lost\+found|found\.\d{3}|lost\.dir"
    r"|system volume information|network trash folder|temporary items",
    re.IGNORECASE,
)
# texts and tables: no pictures, and what is missing in a table has remarks of its own
_DOCUMENT = re.compile(
    r".*\.(txt|md|rst|rtf|pdf|docx?|odt|html?|css|js|[ct]sv|xlsx?|ods|jsonl?|xml|ya?ml|toml|ini|cfg"
    r"|log|bib|tex|py|ipynb|m|r|sh|bat)"
    r"|readme|licen[cs]e|copying|notice|changelog|citation|authors|version|dicomdir|(md5|sha\d+)(sums?)?",
    re.IGNORECASE | re.DOTALL,
)
_ENDING = re.compile(r"\.(?=.*\D)\S{1,10}")  # ".5" of a DICOM number is none, nor ". left eye"


class DownloadFiles(NamedTuple):
    """The files under a root, as sorted paths relative to it, with slashes."""

    images: dict[str, dict[str, str]]  # what its path states: patient, eye, split, tasks
    left_out: list[str]  # images that do not belong to the dataset: decoys, copies, junk
    others: list[str]
    again: list[tuple[str, str]]  # a link to a folder that was read before, and that folder
    nameless: set[str]  # of the others, DICOM files without an ending
    empty: list[str]  # folders without a file or folder, but for junk
    named: set[str]  # of those left out, what lines of their own name, such as masks

    def leave_out(self, sources: list[str], *, named: bool = False) -> None:
        """Move images to those that are left out; `named`: other lines say so."""
        self.left_out.extend(sources)
        self.named.update(sources if named else ())
        for source in sources:
            del self.images[source]


def list_files(card: DatasetCard, root: Path) -> DownloadFiles:
    """Return the files of a dataset; ValueError where the root is no directory."""
    rules = [(re.compile(rule.pattern, re.IGNORECASE), rule) for rule in card.paths]
    files = DownloadFiles({}, [], [], [], set(), [], set())
    dicom = has_pydicom()
    for source, hidden in _walk(root, card.exclude, files.again, files.empty):
        kind = _kind(root, source, hidden)
        if kind != "image" and not (kind == "DICOM" and dicom):
            files.others.extend([] if hidden else [source])
            if kind == "DICOM" and not ending_of(source):
                files.nameless.add(source)
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
        files.leave_out([source for source in files.images if source.count("/") > depth])
    return files


def left_out_folders(files: DownloadFiles) -> list[str]:
    """Return a line for every topmost folder without an image of the dataset, with a count."""
    used = {""}
    for folder in {source.rpartition("/")[0] for source in files.images}:
        used |= {folder[: match.start()] for match in re.finditer("/|$", folder)}
    counts: Counter[str] = Counter()
    rest = (source for source in files.left_out if source not in files.named)
    for folder, count in Counter(source.rpartition("/")[0] for source in rest).items():
        above = (folder[: match.start()] for match in re.finditer("/|$", folder))
        counts[next((path for path in above if path not in used), folder)] += count
    return [f"{folder or '.'}: {count} images" for folder, count in sorted(counts.items())]


def files_not_read(files: DownloadFiles) -> list[str]:
    """Return a line for every ending that was passed over, with a count and one example.

    Texts and tables are none: they are no pictures. Of DICOM it is said what would read it.
    """
    sources: dict[tuple[str, bool], list[str]] = {}
    for source in files.others:
        if not _DOCUMENT.fullmatch(source.rpartition("/")[2]):
            ending = ending_of(source)
            dicom = ending in DICOM_ENDINGS or source in files.nameless
            sources.setdefault((ending or "without an ending", dicom), []).append(source)
    return [
        f"{len(s)} {ending}: not read, such as {s[0]}{f' ({INSTALL} reads DICOM)' * dicom}"
        for (ending, dicom), s in sorted(sources.items())
    ]


def remarks_on(files: DownloadFiles) -> dict[str, set[str]]:
    """Return what a build says of the files that it leaves out; in_order drops what is empty."""
    return {
        "left_out_folders": set(left_out_folders(files)),
        "files_not_read": set(files_not_read(files)),
        "folders_that_are_one": {f"{link} is {folder}" for link, folder in files.again},
    }


def ending_of(source: str) -> str:
    """Return the ending of a file in lower case; "" where what follows the last dot is none."""
    stem, ending = os.path.splitext(source.lower())  # noqa: PTH122 - quick on many
    if _ENDING.fullmatch(ending.strip()):
        return ending.strip()
    before = os.path.splitext(stem)[1]  # noqa: PTH122
    return before + ending if ending and before in ENDINGS else ""  # 1.jpg.1 is a copy


def is_junk(name: str) -> bool:
    """Return whether a file or folder of this name is what a program leaves behind."""
    return bool(JUNK.fullmatch(name))


def size_and_time(path: Path) -> tuple[int, int]:
    """Return the size and the time (ns) of a file; 0 and 0 of a broken link, a pipe, ..."""
    try:
        facts = path.stat()
    except OSError:  # the build names it as unreadable
        return 0, 0
    return (facts.st_size, facts.st_mtime_ns) if stat.S_ISREG(facts.st_mode) else (0, 0)


def printable(text: str) -> str:
    """Return a name as UTF-8; bytes of it that are none, and control characters, as \\xe9."""
    text = text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return escaped(text)


def odd_name(text: str) -> str:
    """Return why no JSON, table or terminal could hold a name; "" where they can."""
    if CONTROL.search(text):
        return "its name has control characters; rename it"
    return "" if printable(text) == text else "its name is not UTF-8; rename it"


def _kind(root: Path, source: str, hidden: bool) -> str:
    """Return "image", "DICOM" or "" by the ending of a file; one without is opened, unless hidden.

    Others are neither opened nor stat-ed: on a network disk that takes longer than all the rest.
    """
    ending = ending_of(source)
    if ending or hidden:
        return "image" if ending in _READ else "DICOM" if ending in DICOM_ENDINGS else ""
    if source.rpartition("/")[2].upper() == "DICOMDIR":  # the list of a disc, in the same format
        return ""
    try:
        # a pipe would be waited for
        descriptor = os.open(root / source, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return ""
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return ""
        head = file.read(PREAMBLE)
        file.seek(0)
        try:
            Image.open(file, formats=FORMATS).close()
        except Image.DecompressionBombError:
            return "image"
        except (OSError, SyntaxError, ValueError):  # no image, or its first bytes alone
            return "DICOM" if is_dicom(head) else ""
    return "image"


def _walk(
    root: Path, exclude: tuple[str, ...], again: list[tuple[str, str]], empty: list[str]
) -> Iterator[tuple[str, bool]]:
    """Yield the path of every file, and whether it is junk or lies in an excluded folder.

    A folder is read once; links to it go to `again`, unless they are junk. Folders that hold
    nothing but junk go to `empty`.
    """
    if not root.is_dir():
        raise ValueError(f"--root {root}: no such directory; give the folder of the download")

    def refuse(error: OSError) -> None:
        if error.filename not in hidden_folders:  # lost+found is for the administrator alone
            raise error

    def is_hidden(name: str) -> bool:
        return is_junk(name) or any(fnmatch(name.lower(), glob) for glob in exclude)

    top = str(root)
    visited: dict[str, str] = {}
    hidden_folders: set[str] = set()
    for folder, inner, names in os.walk(top, onerror=refuse, followlinks=True):
        real, relative = os.path.realpath(folder), os.path.relpath(folder, top)
        if real in visited:
            inner.clear()
            if folder not in hidden_folders:
                again.append((relative.replace(os.sep, "/"), visited[real]))
            continue
        visited[real] = relative.replace(os.sep, "/")
        inner.sort()  # which of two links to one folder is taken must not depend on the disk
        base = visited[real]
        prefix = "" if base == "." else base + "/"
        hidden = folder in hidden_folders
        hidden_folders.update(os.path.join(folder, n) for n in inner if hidden or is_hidden(n))  # noqa: PTH118
        if base != "." and not hidden and all(is_junk(name) for name in [*inner, *names]):
            empty.append(base)
        for name in sorted(names):
            yield prefix + name, hidden or is_junk(name)
