"""The sha256 of what a run's scores rest on: its tables of predictions, and its rows.

A CSV with another digit, or a row with another value, reads as well as the one that was written.
Weights have a sha256 of their own in their header (models/checkpoints/sealed.py).
"""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

RECORD = "sha256.json"
RESULTS = "results.jsonl"


def record_of(run: Path, rows: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the sha256 of rows, and of the tables that they name, which are there."""
    written = list(rows)
    named = {str(row[kind]) for row in written for kind in ("predictions", "validation")
             if row.get(kind)}  # fmt: skip
    tables = sorted(named | {str(Path(name).with_suffix(".units.csv")) for name in named})
    return {
        "files": {name: _sha256((run / name).read_bytes()) for name in tables},
        "rows": sorted({_of_row(row) for row in written}),
    }


def write_record(run: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write the record of rows that are about to be written, in one rename."""
    temporary = run / f".{RECORD}.{os.getpid()}.tmp"
    with temporary.open("w", encoding="utf-8") as file:
        file.write(json.dumps(record_of(run, rows), indent=1) + "\n")
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(run / RECORD)


def read_record(run: Path) -> dict[str, Any] | None:
    """Return the record of a run, None where an older version wrote none; ValueError if damaged."""
    path = run / RECORD
    if not path.is_file():
        return None
    try:
        record = json.loads(path.read_bytes())
    except ValueError:
        record = None
    if not isinstance(record, dict) or not {"files", "rows"} <= record.keys():
        raise ValueError(f"{path}: damaged: it is no record of results; run it again")
    return record


def damaged(run: Path, record: Mapping[str, Any]) -> list[str]:
    """Return the files that are not there, or not as they were recorded."""
    found = [
        name
        for name, digest in record["files"].items()
        if not (run / name).is_file() or _sha256((run / name).read_bytes()) != digest
    ]
    if not set(record["rows"]) <= _rows_in(run / RESULTS):
        found.append(RESULTS)
    return found


def undamaged(
    run: Path, record: Mapping[str, Any], rows: Iterable[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Return the rows less those that the record speaks of and that are not as it has them.

    A row whose table of predictions is another now is none of them either.
    """
    broken = {name.replace(".units.csv", ".csv") for name in damaged(run, record)}

    def stays(row: Mapping[str, Any]) -> bool:
        tables = {str(row.get("predictions")), str(row.get("validation"))}
        return _of_row(row) in record["rows"] and not tables & broken

    return [r for r in rows if str(r.get("predictions")) not in record["files"] or stays(r)]


def _rows_in(path: Path) -> set[str]:
    try:
        rows = [json.loads(line) for line in path.read_bytes().splitlines() if line]
    except (FileNotFoundError, ValueError):
        return set()
    return {_of_row(row) for row in rows}


def _of_row(row: Mapping[str, Any]) -> str:
    return _sha256(json.dumps(row, sort_keys=True).encode())


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
