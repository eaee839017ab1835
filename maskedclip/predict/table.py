"""Predictions as files: the CSV, the rows by which a stopped command goes on, the unreadable ones.

NAME.rows.jsonl holds a line for the network and the images, then one an image as it is computed.
The CSV is written from it when all are there.
"""

import csv
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from maskedclip.data.csv_files import UnixLines
from maskedclip.predict.photographs import Picture, facts_of


class KeptRows:
    """The rows that are computed, each of one version of an image; appended as they come."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._rows: dict[str, dict[str, Any]] = {}

    def open(self, facts: Mapping[str, Any]) -> str:
        """Read what an earlier command left, if it is of the same network and images.

        Returns why it is begun anew, "" where it is not. Raises ValueError where it is of another
        network or folder.
        """
        lines, whole = self._whole_lines()
        if not lines:
            self._begin(facts)
            return ""
        before = lines[0]
        for name, what in (("weights", "other weights"), ("images", "other images")):
            if _hash(before, name) != _hash(facts, name):
                raise ValueError(
                    f"{self.path}: holds predictions of {what}, {_named(before.get(name))}; choose "
                    f"another --out, or remove it"
                )
        before |= {name: facts[name] for name in ("weights", "images")}  # which may lie elsewhere
        if before != facts:
            changed = sorted(name for name in facts if before.get(name) != facts[name])
            self._begin(facts)
            return f"{', '.join(changed)} differ from those of {len(lines) - 1} earlier rows"
        self._rows = {line["path"]: line for line in lines[1:]}
        os.truncate(self.path, whole)  # a line that was cut as the command was killed
        return ""

    def _whole_lines(self) -> tuple[list[dict[str, Any]], int]:
        content = self.path.read_bytes() if self.path.exists() else b""
        whole = content.rfind(b"\n") + 1
        try:
            return [json.loads(line) for line in content[:whole].splitlines()], whole
        except ValueError:
            raise ValueError(
                f"{self.path}: is damaged; remove it and run the command again"
            ) from None

    def _begin(self, facts: Mapping[str, Any]) -> None:
        self.path.write_text(json.dumps(facts) + "\n")

    def values(self, picture: Picture) -> list[float] | None:
        """Return the values of an image, None where they are not computed for this file."""
        row = self._rows.get(picture.path)
        return row["values"] if row and row["version"] == list(picture.version) else None

    @property
    def paths(self) -> set[str]:
        return set(self._rows)

    def add(self, rows: Iterable[tuple[Picture, Sequence[float]]]) -> None:
        """Append rows; they are on the disk when the process is killed."""
        text = ""
        for picture, values in rows:
            row = facts_of(picture) | {"values": list(values)}
            self._rows[picture.path] = row
            text += json.dumps(row) + "\n"
        with self.path.open("a") as file:
            file.write(text)


def _hash(facts: Mapping[str, Any], name: str) -> Any:
    """Return what tells weights or images apart: their hash, of a folder its path."""
    found = facts.get(name, {})
    return found.get("sha256") or found.get("folder")


def _named(value: Any) -> str:
    return str(value.get("run") or value.get("folder") or value.get("shards"))


def write_csv(path: Path, heading: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Write a table whole, or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(UnixLines(file))
        writer.writerow(heading)
        writer.writerows(rows)
    temporary.replace(path)
