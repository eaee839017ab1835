"""Check shards before they are trained on: every byte, and whether a picture is seen twice."""

import json
import os
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # these import torch and OpenCV, and `--help` must not wait for that
    from maskedclip.shards.checks.dataset import CheckedDataset
    from maskedclip.shards.near_duplicates.leakage import CheckedSample, Pair

CSV_FILE, SHEET_FILE, UNCLEAR_FILE, REPORT_FILE = (
    "pairs.csv",
    "pairs.png",
    "unclear.png",
    "report.json",
)


@dataclass(frozen=True, kw_only=True)
class CheckRequest:
    """What is checked; the fields are the flags of tools/check_shards.py."""

    directories: tuple[Path, ...]
    against: tuple[Path, ...] = ()  # datasets that will be tested on: copies are leaks
    out: Path = Path("check")  # of pairs.csv, pairs.png, unclear.png and report.json
    drop: bool = False  # write exclude.csv into each directory that has to lose a sample
    workers: int = 0  # threads; 0 for all cores
    json: bool = False  # the last line of the output is one JSON object

    def __post_init__(self) -> None:
        if not 0 <= self.workers <= 1024:
            raise ValueError(f"--workers {self.workers} is out of range; use 0 to 1024")
        seen: set[Path] = set()
        for directory in (*self.directories, *self.against):
            if directory.resolve() in seen:
                raise ValueError(f"{directory}: is named twice; name each directory once")
            seen.add(directory.resolve())


@dataclass
class Findings:
    """What a check has found, and what it did about it."""

    request: CheckRequest
    checked: list["CheckedDataset"] = field(
        default_factory=list
    )  # directories, then those of --against
    pairs: list["Pair"] = field(default_factory=list)
    dropped: dict[Path, int] = field(default_factory=dict)  # by directory, newly
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def problems(self) -> int:
        """How many things are wrong with the files."""
        return sum(len(checked.problems) for checked in self.checked)

    @property
    def counts(self) -> dict[str, dict[str, int]]:
        """Pairs by kind and place."""
        from maskedclip.shards.near_duplicates.leakage import KINDS, PLACES

        count = Counter((pair.kind, pair.place) for pair in self.pairs)
        return {kind: {place: count[kind, place] for place in PLACES} for kind in KINDS}

    @property
    def clean(self) -> bool:
        """Whether nothing is wrong: unclear pairs are for a person to judge."""
        return not self.problems and all(pair.kind == "unclear" for pair in self.pairs)


def check(request: CheckRequest, *, progress: bool = True) -> Findings:
    """Check the directories, write what was found to `out`, and with `drop` the exclusion lists.

    Raises ValueError, RuntimeError or OSError, each of one line, where it cannot.
    """
    import cv2
    import torch

    workers = request.workers or len(os.sched_getaffinity(0))
    cv2.setNumThreads(1)  # our threads are the parallelism
    torch.set_num_threads(workers)
    findings = Findings(request)
    stage = partial(_stage, findings, progress)
    _check_files(findings, workers, stage)
    request.out.mkdir(parents=True, exist_ok=True)
    _find_pairs(findings, workers, stage)
    if request.drop:
        from maskedclip.shards.near_duplicates.leakage import drop

        findings.dropped = drop(findings.pairs)
    _write(findings)
    return findings


Stage = Callable[[str, int], Any]


@contextmanager
def _stage(
    findings: Findings, progress: bool, name: str, total: int
) -> Iterator[Callable[[int], object]]:
    """Show how far a stage is and how long it will take; give what is called with each advance."""
    import sys

    from tqdm import tqdm

    start = time.monotonic()
    interval = 0.2 if sys.stderr.isatty() else 10  # a log file wants few lines
    with tqdm(total=total, desc=name, disable=not progress, mininterval=interval) as bar:
        yield bar.update
    passed = time.monotonic() - start
    findings.seconds[name] = findings.seconds.get(name, 0.0) + passed


def _check_files(findings: Findings, workers: int, stage: Stage) -> None:
    from maskedclip.shards.checks import dataset as integrity

    directories = (*findings.request.directories, *findings.request.against)
    total = 0
    for directory in directories:  # a misspelt one ends here, before hours of reading
        with suppress(integrity.DamagedManifest):
            total += integrity.manifest_of(directory)["samples"]
    with stage("files", total) as done:
        for directory in directories:
            findings.checked.append(integrity.check(directory, workers, done))


def _find_pairs(findings: Findings, workers: int, stage: Stage) -> None:
    from maskedclip.shards.near_duplicates.leakage import exact_pairs, members, patient_pairs

    own = len(findings.request.directories)
    sets = members(findings.checked[:own], False) + members(findings.checked[own:], True)
    findings.pairs += exact_pairs(sets)
    for found in sets[:own]:
        findings.pairs += patient_pairs(found)
    with tempfile.TemporaryDirectory(prefix=".check-", dir=findings.request.out) as folder:
        findings.pairs += _near(sets, own, Path(folder), workers, stage)
    order = {"exact": 0, "near": 1, "unclear": 2, "patient": 3}
    findings.pairs.sort(key=lambda pair: (order[pair.kind], pair.score, pair.one.name))


def _near(
    sets: "Sequence[Sequence[CheckedSample]]", own: int, folder: Path, workers: int, stage: Stage
) -> "list[Pair]":
    from maskedclip.shards.near_duplicates.leakage import near_pairs
    from maskedclip.shards.near_duplicates.search import describe_all, near_copies

    described = []
    with stage("descriptors", sum(map(len, sets))) as done:
        for number, found in enumerate(sets):
            place = folder / str(number)
            place.mkdir()
            read = partial(_read, found)
            described.append(describe_all(read, len(found), place, workers, done))
    ways = [(i, j) for i in range(own) for j in range(i, len(sets)) if sets[i] and sets[j]]
    pairs: list[Pair] = []
    looked_up = sum(len(sets[i]) + (len(sets[j]) if i != j else 0) for i, j in ways)
    with stage("search", looked_up) as done:
        likely = [_likely(described[i], described[j], done) for i, j in ways]
    with stage("comparison", sum(map(len, likely))) as done:
        for (i, j), candidates in zip(ways, likely, strict=True):
            copies = near_copies(described[i], described[j], candidates, workers, done)
            pairs += near_pairs(copies, sets[i], sets[j])
    return pairs


def _likely(one: Any, other: Any, done: Callable[[int], object]) -> Any:
    from maskedclip.shards.near_duplicates.search import likely

    return likely(one, other, done)


def _read(found: "Sequence[CheckedSample]", place: int) -> bytes:
    from maskedclip.shards.checks.shard import read_jpeg

    return read_jpeg(found[place].dataset.directory, found[place].sample)


def _write(findings: Findings) -> None:
    from maskedclip.data.storage.shard_writer import replacing
    from maskedclip.shards.near_duplicates.pair_report import write_csv, write_pictures

    out = findings.request.out
    write_csv(out / CSV_FILE, findings.pairs)
    certain = [pair for pair in findings.pairs if pair.kind in ("near", "exact")]
    certain.sort(key=lambda pair: pair.score)
    write_pictures(out / SHEET_FILE, certain)
    write_pictures(out / UNCLEAR_FILE, [pair for pair in findings.pairs if pair.kind == "unclear"])
    with replacing(out / REPORT_FILE) as file:
        file.write((json.dumps(_report(findings), indent=1) + "\n").encode())


def _report(findings: Findings) -> dict[str, Any]:
    from maskedclip.shards.checks.dataset import tables

    return summary(findings) | {
        "datasets": {
            str(checked.directory): {
                "problems": [problem._asdict() for problem in checked.problems],
                **tables(checked.samples),
            }
            for checked in findings.checked
        }
    }


def summary(findings: Findings) -> dict[str, Any]:
    """Return the numbers of a check, without its lists."""
    return {
        "samples": sum(len(checked.keys) for checked in findings.checked),
        "whole": sum(len(checked.samples) for checked in findings.checked),
        "excluded": sum(len(checked.excluded) for checked in findings.checked),
        "problems": findings.problems,
        "pairs": findings.counts,
        "labels_disagree": sum(
            pair.labels_agree is False for pair in findings.pairs if pair.kind != "unclear"
        ),
        "to_drop": len({loser.name for pair in findings.pairs for loser in pair.losers}),
        "dropped": sum(findings.dropped.values()),
        "clean": findings.clean,
        "seconds": {name: round(value, 2) for name, value in findings.seconds.items()},
        "out": str(findings.request.out),
    }
