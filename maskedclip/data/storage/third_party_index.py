"""Tars of other makers: their samples by WebDataset's rule, and an index made at first use.

A member DIR/BASE.EXT belongs to the sample DIR/BASE; EXT begins at the first dot of the last
part. Members of a sample are adjacent. Such a tar has no manifest, so all that is known is what it
is now: a sample beside a broken place is not trusted to be whole, nor is a second one of a key.
"""

from array import array
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np

from maskedclip.data.storage.index_file import Table
from maskedclip.data.storage.tar_headers import name_problem, shown
from maskedclip.data.storage.tar_members import REFUSED_LIMIT, TEXT_LIMIT, Member

KINDS = {"jpg": 0, "jpeg": 0, "json": 1, "txt": 2, "cls": 3}  # extension to place in a row
COLUMNS = 12  # offset, size, crc32 of image, json, txt and cls
_OTHER_IMAGES = ("png", "webp")
_HOW = "unpack the tar and build it with make_shards folder"


class Found(NamedTuple):
    """The samples of a tar, and how many members of other kinds were left out."""

    table: Table
    ignored: dict[str, int]


class _Sample:
    """The members of a sample that were met so far."""

    def __init__(self, key: str, problem: str) -> None:
        self.key, self.problem = key, problem
        self.places = [0] * COLUMNS
        self.other_image = ""

    def add(self, member: Member, extension: str) -> None:
        kind = KINDS[extension]
        problem = member.problem
        if self.places[3 * kind]:
            problem = f"has two members of the kind {extension}"
        elif kind and member.size > TEXT_LIMIT:
            problem = f"its {extension} has {member.size} bytes, over the limit of {TEXT_LIMIT}"
        elif not kind and not problem and not member.size:
            problem = "its image is empty"
        self.problem = self.problem or problem
        self.places[3 * kind : 3 * kind + 3] = member[1:4]

    def reason(self) -> str:
        """Return why the sample cannot be had, empty where it can."""
        if self.problem or self.places[0]:
            return self.problem
        if self.other_image:
            return f"its image is {self.other_image}, and only JPEG is read: {_HOW}"
        return "has no image"


class Grouping:
    """Makes samples of members, in the order of the tar."""

    def __init__(self) -> None:
        self._keys: list[str] = []
        self._known: set[str] = set()
        self._numbers = array("q")
        self._lost: dict[int, str] = {}
        self._ignored: Counter[str] = Counter()
        self._sample: _Sample | None = None
        self._doubt = ""  # of the next sample

    def found(self, members: Iterable[Member]) -> Found:
        """Return the samples of a tar's members."""
        for member in members:
            if member.broken:
                self._end(f"may lack a member: {member.problem}")
                self._append("", [0] * COLUMNS, member.problem)
                self._doubt = f"may lack a member: {member.problem}"
            else:
                self._add(member)
            if len(self._lost) > REFUSED_LIMIT:
                reason = f"comes behind {REFUSED_LIMIT:,} samples that cannot be had, the limit"
                self._append("", [0] * COLUMNS, reason)
                break
        self._end()
        places = np.frombuffer(self._numbers, dtype=np.int64).reshape(-1, COLUMNS)
        ignored = dict(sorted(self._ignored.items()))
        return Found(Table(self._keys, places, self._lost), ignored)

    def _add(self, member: Member) -> None:
        if member.name.endswith("/") and not member.problem:
            self._ignored["folders"] += 1
            return
        key, extension = key_of(member.name)
        if member.problem and (not key or name_problem(member.name)):
            self._append("", [0] * COLUMNS, member.problem)
            return
        if not key:
            self._ignored["without a key"] += 1
            return
        if self._sample is None or self._sample.key != key:
            self._end()
            self._sample = _Sample(key, self._doubt)
            self._doubt = ""
        if extension in KINDS:
            self._sample.add(member, extension)
        elif member.problem:
            self._sample.problem = self._sample.problem or member.problem
        else:
            self._ignored[f".{extension}"[:40]] += 1
            if extension in _OTHER_IMAGES:
                self._sample.other_image = extension

    def _end(self, doubt: str = "") -> None:
        sample, self._sample = self._sample, None
        if sample is None:
            return
        if sample.key in self._known:
            self._append("", sample.places, f"the key {shown(sample.key)} is there before")
            return
        self._known.add(sample.key)
        self._append(sample.key, sample.places, sample.reason() or doubt)

    def _append(self, key: str, places: list[int], reason: str) -> None:
        if reason:
            self._lost[len(self._keys)] = reason
        self._keys.append(key)
        self._numbers.extend([0] * COLUMNS if reason else places)


def key_of(name: str) -> tuple[str, str]:
    """Return (key, extension in small letters) of a member; no key where it is of no sample."""
    name = name.removeprefix("./")
    folder, slash, last = name.rpartition("/")
    base, dot, extension = last.partition(".")
    return (folder + slash + base, extension.lower()) if base and dot else ("", "")


def remark(ignored: Mapping[str, int]) -> str:
    """Return how many members were left out, in words."""
    return ", ".join(f"{count} {kind}" for kind, count in ignored.items())
