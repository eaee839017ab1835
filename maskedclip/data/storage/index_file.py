"""The text file beside a tar that says where the members of each sample lie.

A line a sample: its key, and of each member offset, size and crc32, tab separated.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from maskedclip.data.storage.tar_members import IMAGE_LIMIT, TEXT_LIMIT

INDEX_HEADER = "#maskedclip-index 1"
INDEX_LIMIT = 1 << 29  # bytes
_OFFSET_LIMIT = 1 << 50  # bytes
_DIGITS = b"0123456789\t"
_LETTERS = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-\n"


class Table(NamedTuple):
    """The samples of one tar, in its order: of each the key, and where its members lie."""

    keys: list[str]  # empty where the key of a lost sample is not known
    places: np.ndarray  # int64, a row a sample: offset, size, crc32 of each member
    lost: dict[int, str]  # row to the reason why it cannot be had
    reason: str = ""  # why nothing of the tar can be had; there are keys, but no places


def nothing_of(samples: int, reason: str) -> Table:
    """Return the table of a tar of which nothing can be had."""
    return Table([""] * samples, np.empty((0, 0), dtype=np.int64), {}, reason)


def is_plain_key(key: str) -> bool:
    """Return whether a key can be one of ours."""
    return bool(key) and key.isprintable() and not {".", "/", "\\"} & set(key)


def format_line(key: str, places: Iterable[int]) -> str:
    """Return the line of one sample, without its end."""
    return "\t".join([key, *map(str, places)])


def parse_lines(content: bytes, columns: int) -> Table:
    """Return the samples of the lines of an index; one that is no key and numbers is lost."""
    rows = content.decode("utf-8", "surrogateescape").split("\n")
    if rows[-1] == "":  # behind the end of the last line
        rows.pop()
    parts = [row.partition("\t") for row in rows]
    keys = [key for key, _, _ in parts]
    places = _numbers([rest for _, _, rest in parts], columns)
    lost = dict.fromkeys(_rows(places < 0), "its line of the index is no key and numbers")
    highest = [_OFFSET_LIMIT, TEXT_LIMIT, (1 << 32) - 1] * (columns // 3)
    highest[1] = IMAGE_LIMIT
    beyond = "its line of the index has a place or a size over the limit"
    lost |= dict.fromkeys(_rows(places > np.array(highest)), beyond)
    return Table(keys, places, lost)


def refuse_keys(table: Table) -> None:
    """Give up the samples of a table whose key cannot be one of ours."""
    letters = "\n".join(table.keys).encode("utf-8", "surrogateescape")
    if letters.translate(None, _LETTERS) or not all(table.keys):
        for row, key in enumerate(table.keys):
            if not is_plain_key(key):
                table.lost.setdefault(row, f"its key {key[:40]!a} is empty or is not plain")
                table.keys[row] = ""


def _numbers(rests: Sequence[str], columns: int) -> np.ndarray:
    """Return places_NC, -1 all over the row of a text that is not `columns` numbers."""
    tabs = columns - 1
    together = "\t".join(rests).encode("utf-8", "surrogateescape")
    if not together.translate(None, _DIGITS) and all(rest.count("\t") == tabs for rest in rests):
        values = np.fromstring(together, dtype=np.int64, sep="\t")
        if values.size == columns * len(rests):
            return values.reshape(-1, columns)
    rows = [_row(rest, columns) for rest in rests]
    return np.array(rows, dtype=np.int64).reshape(-1, columns)


def _row(rest: str, columns: int) -> list[int]:
    fields = rest.split("\t")
    if len(fields) != columns or not all(f.isascii() and f.isdigit() for f in fields):
        return [-1] * columns
    return [min(int(field[:20]), 1 << 62) for field in fields]


def _rows(bad_NC: np.ndarray) -> list[int]:
    return [int(row) for row in np.flatnonzero(bad_NC.any(axis=1))]
