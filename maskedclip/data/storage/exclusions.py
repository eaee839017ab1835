"""The list of samples that a dataset is used without: exclude.csv beside its shards.

The shards stay as they were built, and so does the manifest: the list can be written, inspected and
removed without touching either.
"""

import csv
import io
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from maskedclip.data.csv_files import UnixLines, csv_rows
from maskedclip.data.storage.shard_writer import replacing

EXCLUSIONS = "exclude.csv"
_FIX = "remove it, and write it again with tools/check_shards.py --drop"


class Exclusion(NamedTuple):
    """One sample that is left out, why, and (dataset/key) what it is a copy of."""

    key: str
    reason: str
    copy_of: str


def read_exclusions(directory: Path, keys: Collection[str] | None) -> list[Exclusion]:
    """Return the list of a dataset with these keys, empty where there is none.

    Raises ValueError, in one line, where the list is damaged or names an unknown key
    (keys None: not all are known, of a damaged dataset).
    """
    path = directory / EXCLUSIONS
    if not path.is_file():
        return []
    entries = [Exclusion(*row) for row in read_rows(path, Exclusion._fields, _FIX)]
    known = set(keys or ())
    for entry in entries:
        if keys is not None and entry.key not in known:
            raise ValueError(f"{path}: the dataset has no sample {entry.key[:40]!r}; {_FIX}")
    return entries


def read_rows(path: Path, heading: Sequence[str], fix: str) -> list[list[str]]:
    """Return the rows of a CSV of ours below its heading; ValueError, in one line, with the fix."""
    try:
        header, *rows = csv_rows(path)
    except ValueError as error:  # not UTF-8, empty, or not a table
        raise ValueError(f"{path}: is not a CSV ({error}); {fix}") from None
    if header != list(heading):
        wanted = ",".join(heading)
        raise ValueError(f"{path}: begins with {','.join(header)[:80]!r}, not {wanted}; {fix}")
    for number, row in enumerate(rows, 2):
        if len(row) != len(header):
            raise ValueError(f"{path}: row {number} has {len(row)} of {len(header)} fields; {fix}")
    return rows


def write_exclusions(directory: Path, entries: Iterable[Exclusion]) -> None:
    """Write the list in the order of keys; of two entries of a key the first is kept."""
    by_key: dict[str, Exclusion] = {}
    for entry in entries:
        by_key.setdefault(entry.key, entry)
    text = io.StringIO()
    writer = csv.writer(UnixLines(text))
    writer.writerows([Exclusion._fields, *(by_key[key] for key in sorted(by_key))])
    with replacing(directory / EXCLUSIONS) as file:
        file.write(text.getvalue().encode())
