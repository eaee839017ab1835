"""The pairs of samples that no division may part: together.csv beside the shards of a dataset.

tools/make_splits.py writes it from the pairs that tools/check_shards.py found: copies of one
exposure, and pairs that may be copies. Like exclude.csv it touches neither shards nor manifest.
"""

import csv
import io
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from maskedclip.data.csv_files import UnixLines
from maskedclip.data.storage.exclusions import read_rows
from maskedclip.data.storage.shard_writer import replacing

TOGETHER = "together.csv"
_FIX = "remove it, and write it again with tools/make_splits.py --pairs"


class Together(NamedTuple):
    """Two samples of a dataset that stay in one part, and why: exact, near or unclear."""

    one: str
    other: str
    why: str


def read_together(directory: Path, keys: Collection[str] | None) -> list[Together]:
    """Return the pairs of a dataset with these keys, none where there is no such file.

    Raises ValueError, in one line, where the file is damaged or names an unknown key (keys None:
    not all are known, of a damaged dataset).
    """
    path = directory / TOGETHER
    if not path.is_file():
        return []
    rows = read_rows(path, Together._fields, _FIX)
    for row in rows:
        unknown = [] if keys is None else [key for key in row[:2] if key not in keys]
        if unknown:
            raise ValueError(f"{path}: the dataset has no sample {unknown[0][:40]!r}; {_FIX}")
    return [Together(*row) for row in rows]


def write_together(directory: Path, pairs: Iterable[Together]) -> None:
    """Write the pairs in the order of their keys."""
    text = io.StringIO()
    csv.writer(UnixLines(text)).writerows([Together._fields, *sorted({*pairs})])
    with replacing(directory / TOGETHER) as file:
        file.write(text.getvalue().encode())


class Groups:
    """Names joined to groups: what is joined with the same name is in one group (union-find)."""

    def __init__(self) -> None:
        """Begin with each name in a group of its own."""
        self._above: dict[str, str] = {}

    def of(self, name: str) -> str:
        """Return the first name, in the order of text, of the group of a name."""
        path = []
        while (above := self._above.get(name, name)) != name:
            path.append(name)
            name = above
        for passed in path:
            self._above[passed] = name
        return name

    def join(self, names: Sequence[str]) -> None:
        """Make one group of the groups of these names."""
        roots = sorted({self.of(name) for name in names})
        for root in roots[1:]:
            self._above[root] = roots[0]
