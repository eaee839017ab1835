"""What a run's directory tells of itself: its data and their licences, its time, its checks.

What it does not hold is said to be not known; nothing is guessed.
"""

import csv
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from maskedclip.data.storage.shard_writer import MANIFEST
from maskedclip.engine.provenance import EXCLUSIONS
from maskedclip.metrics.results import read_rows
from maskedclip.report.collect import pretraining, run_directories
from maskedclip.shards.check import REPORT_FILE
from maskedclip.shards.downloads.cards import card_names, read_card
from maskedclip.weights.source_run import Subject, read_json

UNKNOWN = "not known"
CHECK = "check"  # folder of a run where check_shards' report is looked for


class Dataset(NamedTuple):
    """One source of a run's images."""

    directory: str  # as the run was told
    use: str  # paired or unpaired
    title: str
    samples: str
    licence: str
    citation: str
    note: str  # where the facts are from, if not from the shards that the run read


def datasets(subject: Subject) -> list[Dataset]:
    """Return the sources of a run, in the order of its configuration; none where it has none."""
    data = subject.config.get("data", {})
    told = lives(subject)[-1].get("manifests_sha256", {}) if lives(subject) else {}
    return [
        _dataset(subject.run, str(directory), use, told)
        for use in ("paired", "unpaired")
        for directory in data.get(use, ())
    ]


def lives(subject: Subject) -> list[dict[str, Any]]:
    """Return the facts of each start of a run (provenance.json)."""
    return read_json(subject.run / "provenance.json", [])


def _dataset(run: Path, directory: str, use: str, told: Mapping[str, str]) -> Dataset:
    # a relative path was relative to where the command ran: the run lies below that
    places = (base / directory for base in (Path(), *run.resolve().parents))
    manifest = next((p / MANIFEST for p in places if (p / MANIFEST).is_file()), None)
    if manifest is None:
        return _from_card(directory, use)
    facts = read_json(manifest, {})
    digest = hashlib.sha256(manifest.read_bytes()).hexdigest()
    note = "" if told.get(directory) == digest else "the shards have changed since the run"
    if directory not in told:
        note = "the run does not say which manifest it read"
    samples = f"{facts['samples']:,}" if "samples" in facts else UNKNOWN
    if excluded := _excluded(manifest.with_name(EXCLUSIONS)):
        samples += f", of which {excluded:,} are excluded"
    title = facts.get("recipe", {}).get("title") or facts.get("name")
    return Dataset(
        directory, use, title or UNKNOWN, samples, facts.get("licence") or UNKNOWN,
        facts.get("citation") or UNKNOWN, note,
    )  # fmt: skip


def _excluded(path: Path) -> int:
    if not path.is_file():
        return 0
    with path.open(newline="") as file:
        return sum(1 for _ in csv.DictReader(file))


def _from_card(directory: str, use: str) -> Dataset:
    """Return what the card of that name says: the shards are no longer there."""
    name = Path(directory).name
    if name not in card_names():
        gone = "the shards are not there any more"
        return Dataset(directory, use, name, UNKNOWN, UNKNOWN, UNKNOWN, gone)
    card = read_card(name)
    return Dataset(
        directory, use, card.title, UNKNOWN, card.licence or UNKNOWN, card.citation or UNKNOWN,
        f"the shards are not there any more; from the card shards/{name}.toml",
    )  # fmt: skip


def results(subject: Subject) -> list[dict[str, Any]]:
    """Return the rows of results.jsonl of the run, and of fine-tunings beside it."""
    rows = list(read_rows(subject.run))
    for directory in run_directories([subject.run.resolve().parent]):
        found = pretraining(directory)
        if directory.resolve() != subject.run.resolve() and found:
            rows += read_rows(directory) if found[0] == subject.run.resolve() else []
    return rows


def compute(subject: Subject) -> str:
    """Return the GPU-hours of a run in words: from the speed of each logged step."""
    data, starts = subject.config.get("data", {}), lives(subject)
    seconds = _seconds(subject.run / "metrics.jsonl", data)
    if not seconds or not starts:
        return f"{UNKNOWN}: the run has no metrics.jsonl or no provenance.json"
    worlds = {start["world"] for start in starts}
    devices = {start.get("device") for start in starts}  # absent of runs before it was noted
    if len(worlds) > 1:
        several = ", ".join(map(str, sorted(worlds)))
        return f"{UNKNOWN}: {_hours(seconds)} hours on {several} processes in turn"
    world = int(*worlds)
    wall = f"{_hours(seconds)} hours x {world} process{'es' if world > 1 else ''}"
    if devices == {"cpu"}:
        return f"0 GPU-hours: {wall} on processors"
    if None in devices:
        return f"{UNKNOWN}: {wall}, and the run does not say whether they had GPUs"
    names = ", ".join(sorted(map(str, devices)))
    return f"{_hours(seconds * world)} GPU-hours: {wall} with a GPU each ({names})"


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:,.3g}"


def _seconds(path: Path, data: Mapping[str, Any]) -> float:
    images = data.get("paired_batch", 0) + data.get("unpaired_batch", 0)
    seconds, before = 0.0, 0
    for row in json_lines(path):
        step, speed = row.get("step", 0), row.get("images_per_s", 0)
        if step > before and speed:
            seconds += (step - before) * images / speed
            before = step
    return seconds


def json_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the objects of a file of JSON lines; a last line that was cut off is no object."""
    if not path.is_file():
        return
    lines = path.read_text().splitlines()
    for number, line in enumerate(lines, 1):
        try:
            yield json.loads(line)
        except ValueError:
            if number < len(lines):
                raise ValueError(f"{path}: line {number} is not JSON; mend it") from None


def leakage(subject: Subject, found: Sequence[Dataset]) -> list[str]:
    """Return lines of the report of check_shards that is kept in the run, or how to make it."""
    report = read_json(subject.run / CHECK / REPORT_FILE, None)
    if report is None:
        directories = " ".join(entry.directory for entry in found) or "SHARDS"
        return [
            "Not checked: the run keeps no report. This makes one, which the next export shows:",
            "",
            f"    python tools/check_shards.py {directories} --against TEST_SHARDS "
            f"--out {subject.run / CHECK}",
        ]
    looked = ", ".join(f"`{name}`" for name in report.get("datasets", {})) or UNKNOWN
    lines = [f"`check_shards` looked at {looked}: {report.get('samples', UNKNOWN)} samples."]
    names = {Path(name).name for name in report.get("datasets", {})}
    if missing := [e.directory for e in found if Path(e.directory).name not in names]:
        lines.append(f"It did not look at {', '.join(f'`{name}`' for name in missing)}.")
    lines += ["", "| pairs of pictures | " + " | ".join(_places(report)) + " |"]
    lines.append("|---" * (1 + len(_places(report))) + "|")
    for kind, counts in report.get("pairs", {}).items():
        lines.append(f"| {kind} | " + " | ".join(str(counts[p]) for p in _places(report)) + " |")
    lines += ["", f"Samples excluded for it: {report.get('dropped', UNKNOWN)}; still to drop: "
              f"{report.get('to_drop', UNKNOWN)}."]  # fmt: skip
    return lines


def _places(report: Mapping[str, Any]) -> list[str]:
    return list(next(iter(report.get("pairs", {}).values()), {}))
