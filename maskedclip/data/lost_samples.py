"""The lists of samples that were not delivered, so that what is missing has a name.

`expected = delivered + listed`: each slot of a run's batches shows the sample that its order names,
or stands in the ledger with the reason and with what was shown instead.
"""

import json
import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from maskedclip.data.rows import Lost
from maskedclip.data.source import Source
from maskedclip.data.storage.shard_writer import replacing
from maskedclip.data.storage.shards import DamagedSample

logger = logging.getLogger(__name__)
_ENOUGH = 1000  # expected samples, from which on a share of lost ones says something
_SHOWN = 10


class Ledger:
    """A file of damaged samples of a dataset, each once: dataset, shard, key and reason a line."""

    def __init__(self, path: Path, dataset: str) -> None:
        self._path, self._dataset = path, dataset
        self._known = set(path.read_text().splitlines()) if path.exists() else set()
        self._unwritten: list[str] = []

    def add(self, lost: Iterable[DamagedSample]) -> None:
        """Append the samples that are not listed yet, and say so."""
        for damage in lost:
            entry = {"dataset": self._dataset, "shard": damage.shard, "key": damage.key}
            line = json.dumps(entry | {"reason": damage.reason})
            if line not in self._known:
                self._known.add(line)
                self._unwritten.append(line)
                logger.warning("left out: %s", damage)
        _append_what_waits(self._path, self._unwritten)


class RunLedger:
    """The lost slots of a run that may be resumed at any step: step, row, sample, substitute.

    Every rank counts, the one that `writes` has the file. `kept` are the lines of earlier attempts,
    for all ranks from the one that read them.
    """

    def __init__(
        self, path: Path, kept: Sequence[str], images: int, max_lost: float, *, writes: bool
    ) -> None:
        """Images are those of a step; max_lost is a share of all that were expected so far."""
        self._path, self._images, self._max_lost = path, images, max_lost
        self._writes = writes
        self._count, self._unwritten = len(kept), list[str]()
        self._first = [_words(json.loads(line)) for line in kept[:_SHOWN]]
        if writes and path.exists():
            with replacing(path) as file:
                file.write("".join(line + "\n" for line in kept).encode())

    def add(self, step: int, lost: Sequence[Lost]) -> None:
        """List what all ranks together lost in a step; RuntimeError where that is too much."""
        entries = [entry._asdict() for entry in sorted(lost, key=lambda e: (e.source, e.row))]
        self._count += len(entries)
        self._first += [_words(entry) for entry in entries[: _SHOWN - len(self._first)]]
        if entries and self._writes:
            self._unwritten += [json.dumps(entry) for entry in entries]
            _append_what_waits(self._path, self._unwritten)
            logger.warning("%d damaged samples replaced; listed in %s", len(lost), self._path)
        expected = (step + 1) * self._images
        if expected >= _ENOUGH and self._count > self._max_lost * expected:
            raise RuntimeError(
                f"{self._path}: {self._count} of the first {expected} samples are lost, more than "
                f"data.max_lost={self._max_lost:g} allows: {', '.join(self._first)}"
                + (", ..." if self._count > _SHOWN else "")
                + "; build these shards again, or raise data.max_lost"
            )


def lines_before(path: Path, step: int) -> list[str]:
    """Return the lines of a run's ledger that an attempt which resumes at `step` keeps.

    What comes again is taken back, and so is half a line that a killed run left at the end.
    """
    text = path.read_text() if path.exists() else ""
    lines = text[: text.rfind("\n") + 1].splitlines()
    return [line for line in lines if json.loads(line)["step"] < step]


def write_unseen(path: Path, shown: Iterable[tuple[Source, int]]) -> dict[str, int]:
    """List what is missing to whole epochs after so many rows of each source; return how much.

    A line is source, epoch, dataset and key of a sample that this epoch has not shown.
    """
    counts: dict[str, int] = {}
    with replacing(path) as file:
        for source, rows in shown:
            counts[source.name] = 0
            for ref in source.unseen(rows):
                dataset = source.datasets[ref.dataset]
                line = {"source": source.name, "epoch": ref.epoch, "dataset": dataset.name}
                line |= {"key": dataset.key(ref.sample)}
                file.write(f"{json.dumps(line)}\n".encode())
                counts[source.name] += 1
    return counts


def _words(entry: Mapping[str, Any]) -> str:
    return f"{entry['dataset']}/{entry['key']} ({entry['reason']})"


def _append_what_waits(path: Path, lines: list[str]) -> None:
    """Append the lines and clear them; on a full disk they wait, by name, for the next ones."""
    if not lines:
        return
    content = "".join(line + "\n" for line in lines).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    start = path.stat().st_size if path.exists() else 0
    try:
        with path.open("ab") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        with suppress(OSError):
            os.truncate(path, start)
        logger.warning("%s: not written yet (%s): %s", path, error.strerror, "; ".join(lines))
        return
    lines.clear()
