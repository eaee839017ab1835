"""Which image a row of a table means: never the picture of another row."""

import filecmp
import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable
from itertools import takewhile
from pathlib import Path
from typing import NamedTuple

from maskedclip.shards.downloads.files import ENDINGS
from maskedclip.shards.downloads.folder_names import plain_split

DIGITS = re.compile(r"(\d+)(?:\.0*)?")


class Named(NamedTuple):
    """What a name in a table means."""

    image: str = ""  # "" for none, or where it is unclear
    copies: tuple[str, ...] = ()  # further files of that name, left out
    unclear: tuple[str, ...] = ()  # images of which it may mean any
    elsewhere: bool = False  # the only image of that name, in a folder that the name does not say


class ImageNames:
    """The images under a root, by the names that tables give them."""

    def __init__(
        self, sources: Iterable[str], root: Path, inside: str = "", *, nearest: bool = False
    ) -> None:
        """Collect the images.

        Args:
            inside: the part of the tree, in lower case, that the table is about.
            nearest: whether of several images the one nearest the root is meant, as in the
                published datasets of the cards; without it only copies, byte by byte, are one.
        """
        self._root = root
        self._nearest = nearest
        self._above = _folders(root.absolute().as_posix())
        self._by_stem: defaultdict[str, list[str]] = defaultdict(list)
        self._by_number: defaultdict[int, list[str]] = defaultdict(list)
        for source in sorted(sources, key=lambda s: (s.count("/"), s)):
            if inside in "/" + source.lower():
                stem = stem_of(source.rpartition("/")[2])
                self._by_stem[_same(stem)].append(source)
                if stem.isdecimal():
                    self._by_number[int(stem)].append(source)

    def named(self, name: str, split: str = "") -> Named:
        """Return the image of a name; its folders and ending count where any image has them.

        Args:
            split: train, val or test, if the row says so: it decides between folders of that name.
        """
        last = name.replace("\\", "/").rpartition("/")[2]
        return self._chosen(name, self._by_stem.get(_same(stem_of(last)), []), split)

    def with_zeros(self, name: str, split: str = "") -> Named:
        """Return the image of a number that has lost its leading zeros: "1" or "1.0" for 001."""
        match = DIGITS.fullmatch(stem_of(name.replace("\\", "/").rpartition("/")[2]))
        return self._chosen(name, self._by_number.get(int(match[1]), []) if match else [], split)

    def _chosen(self, name: str, candidates: list[str], split: str) -> Named:
        name = re.sub(r"/(\./)*", "/", name.replace("\\", "/")).removeprefix("./")
        folder, _, last = name.rpartition("/")
        candidates, elsewhere = self._in_folders(candidates, _folders(folder))
        for fits in (
            lambda s: s == name,
            lambda s: s.rpartition("/")[2] == last,
            lambda s: _same(s.rpartition("/")[2]) == _same(last),
            lambda s: _same(stem_of(s)) == _same(stem_of(name)),  # the very path
            lambda s: split in _splits(_folders(s.rpartition("/")[0])),
        ):
            candidates = [s for s in candidates if fits(s)] or candidates
        if len(candidates) < 2:
            return Named(candidates[0], elsewhere=elsewhere) if candidates else Named()
        if self._is_first(candidates):
            return Named(candidates[0], tuple(candidates[1:]))
        return Named(unclear=tuple(candidates))

    def _in_folders(self, candidates: list[str], wanted: list[str]) -> tuple[list[str], bool]:
        """Return the images whose folders agree best, and whether they are in another folder."""
        if not wanted or not candidates:
            return candidates, False
        agreeing: dict[int, list[str]] = defaultdict(list)
        for source in candidates:
            folders = _folders(source.rpartition("/")[0])
            common = _common_end(wanted, [*self._above, *folders])
            if common >= min(len(wanted), len(folders)):
                agreeing[common].append(source)
        if agreeing:
            return agreeing[max(agreeing)], False
        splits = _splits(wanted)
        others = [
            source
            for source in candidates
            if not splits or _splits(_folders(source.rpartition("/")[0])) in (set(), splits)
        ]
        return (others, True) if len(others) == 1 else ([], False)

    def _is_first(self, candidates: list[str]) -> bool:
        first, *others = candidates
        if self._nearest and all(other.count("/") > first.count("/") for other in others):
            return True
        try:
            return all(
                filecmp.cmp(self._root / first, self._root / other, shallow=False)
                for other in others
            )
        except OSError:  # a link to nothing, which the build will name
            return False


def stem_of(name: str) -> str:
    """Return a file's name without its ending where that is one of an image."""
    stem, ending = os.path.splitext(name)  # noqa: PTH122 - quick on many
    return stem if ending.lower() in ENDINGS else name


def _same(text: str) -> str:
    return unicodedata.normalize("NFC", text).lower()


def _folders(path: str) -> list[str]:
    return [_same(folder) for folder in path.split("/") if folder not in ("", ".")]


def _common_end(one: list[str], other: list[str]) -> int:
    pairs = zip(reversed(one), reversed(other), strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def _splits(folders: Iterable[str]) -> set[str]:
    return {split for folder in folders if (split := plain_split(folder))}
