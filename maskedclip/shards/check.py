"""Check shards before training: every byte, and near-duplicates within and between datasets."""

import json
import os
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maskedclip.engine.whole_file import refuse_unwritable

if TYPE_CHECKING:  # these import torch and OpenCV, and `--help` must not wait for that
    from maskedclip.shards.checks.dataset import CheckedDataset
    from maskedclip.shards.near_duplicates.leakage import Apart, CheckedSample, Pair

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
    drop_unclear: bool = False  # with drop: of unclear pairs across splits or with against, too
    workers: int = 0  # threads; 0 for all cores
    json: bool = False  # the last line of the output is one JSON object

    def __post_init__(self) -> None:
        if not 0 <= self.workers <= 1024:
            raise ValueError(f"--workers {self.workers} is out of range; use 0 to 1024")
        if self.drop_unclear and not self.drop:
            raise ValueError("--drop_unclear is for --drop; add it")
        named: set[Path] = set()
        for directory in (*self.directories, *self.against):
            if directory.resolve() in named:
                raise ValueError(f"{directory}: is named twice; name each directory once")
            named.add(directory.resolve())


@dataclass
class Findings:
    """The result of a check, and how many samples it excluded."""

    request: CheckRequest
    checked: list["CheckedDataset"] = field(
        default_factory=list
    )  # directories, then those of --against
    pairs: list["Pair"] = field(default_factory=list)
    dropped: dict[Path, int] = field(default_factory=dict)  # by directory, newly
    seconds: dict[str, float] = field(default_factory=dict)
    own: int = 0  # how many of the checked ones are not of --against

    @property
    def problems(self) -> int:
        """Number of problems of files and samples."""
        return sum(len(checked.problems) for checked in self.checked)

    @property
    def counts(self) -> dict[str, dict[str, int]]:
        """Number of pairs by kind and by where the two samples lie."""
        from maskedclip.shards.near_duplicates.leakage import KINDS, RELATIONS

        count = Counter((pair.kind, pair.relation) for pair in self.pairs)
        return {kind: {name: count[kind, name] for name in RELATIONS} for kind in KINDS}

    @property
    def apart(self) -> list["Apart"]:
        """The split files that part copies or unclear pairs, less those that are dropped now."""
        from maskedclip.shards.near_duplicates.leakage import apart_in_splits

        kept = [pair for pair in self.pairs if not (self.request.drop and pair.losers)]
        of_datasets = self.checked[: len(self.request.directories)]
        return [apart for one in of_datasets for apart in apart_in_splits(one, kept)]

    @property
    def clean(self) -> bool:
        """Whether nothing is wrong: no problem, and no pair but unclear ones."""
        return not self.problems and all(pair.kind == "unclear" for pair in self.pairs)


def check(request: CheckRequest, *, progress: bool = True) -> Findings:
    """Check the directories, write the reports to `out`, and with `drop` the exclusion lists.

    Raises ValueError, RuntimeError or OSError with a message of one line.
    """
    import cv2
    import torch

    workers = request.workers or len(os.sched_getaffinity(0))
    cv2.setNumThreads(1)  # our threads are the parallelism
    torch.set_num_threads(1)
    refuse_unwritable("out", request.out)
    findings = Findings(request)
    stage = partial(_stage, findings, progress)
    _check_files(findings, workers, stage)
    request.out.mkdir(parents=True, exist_ok=True)
    _find_pairs(findings, workers, stage)
    if request.drop:
        from maskedclip.shards.near_duplicates.leakage import drop, with_unclear

        findings.pairs = with_unclear(findings.pairs) if request.drop_unclear else findings.pairs
        findings.dropped = drop(findings.pairs)
    _write(findings)
    return findings


Stage = Callable[[str, int], Any]


@contextmanager
def _stage(
    findings: Findings, progress: bool, name: str, total: int
) -> Iterator[Callable[[int], object]]:
    """Show a progress bar and record the time of a stage; yields what advances the bar."""
    import sys

    from tqdm import tqdm

    start = time.monotonic()
    interval = 0.2 if sys.stderr.isatty() else 10  # a log file wants few lines
    with tqdm(
        total=total, desc=name, unit=" samples", disable=not progress, mininterval=interval
    ) as bar:
        yield bar.update
    passed = time.monotonic() - start
    findings.seconds[name] = findings.seconds.get(name, 0.0) + passed


def _check_files(findings: Findings, workers: int, stage: Stage) -> None:
    from maskedclip.shards.checks.dataset import check_dataset, datasets_at, samples_of

    request = findings.request
    against = [found for path in request.against for found in datasets_at(path)]
    tested = {path.resolve() for path in against}  # shards --against shards/idrid
    own = [found for path in request.directories for found in datasets_at(path)]
    own = [path for path in own if path.resolve() not in tested]
    if not own:
        raise ValueError(f"{request.directories[0]}: all of it is behind --against as well")
    directories = list({path.resolve(): path for path in (*own, *against)}.values())
    findings.own = len(directories) - len(tested)
    if request.drop:
        for path in (path for path in directories[: findings.own] if path.is_file()):
            raise ValueError(
                f"--drop: exclude.csv stands in a folder; name {path.parent}, not {path}"
            )
    total = sum(map(samples_of, directories))  # a misspelt one ends here, before hours of reading
    with stage("files", total) as done:
        for directory in directories:
            findings.checked.append(check_dataset(directory, workers, done))


def _find_pairs(findings: Findings, workers: int, stage: Stage) -> None:
    from maskedclip.shards.near_duplicates.leakage import exact_pairs, kept_samples, patient_pairs

    own = findings.own
    sets = kept_samples(findings.checked[:own], False)
    sets += kept_samples(findings.checked[own:], True)
    findings.pairs += exact_pairs(sets)
    for samples in sets[:own]:
        findings.pairs += patient_pairs(samples)
    with tempfile.TemporaryDirectory(prefix=".check-", dir=findings.request.out) as folder:
        findings.pairs += _near(sets, own, Path(folder), workers, stage)
    order = {"exact": 0, "near": 1, "unclear": 2, "patient": 3}
    findings.pairs.sort(key=lambda pair: (order[pair.kind], pair.score, pair.one.name))


def _near(
    sets: "Sequence[Sequence[CheckedSample]]", own: int, folder: Path, workers: int, stage: Stage
) -> "list[Pair]":
    """Return the near-duplicates of all pairs of sets, of two without round fields by speckle."""
    from maskedclip.shards.near_duplicates import search, speckle
    from maskedclip.shards.near_duplicates.leakage import near_pairs

    combinations = [(i, j) for i in range(own) for j in range(i, len(sets)) if sets[i] and sets[j]]
    whole = {number for number, samples in enumerate(sets) if samples and samples[0].dataset.whole}
    pairs: list[Pair] = []
    for method in (search, speckle):
        by_speckle = method is speckle
        own_pairs = [pair for pair in combinations if whole.issuperset(pair) == by_speckle]
        if by_speckle and not own_pairs:
            continue
        described = {}
        members = sorted({number for pair in own_pairs for number in pair})
        with stage("descriptors", sum(len(sets[number]) for number in members)) as done:
            for number in members:
                cache = folder / f"{number}-{method.__name__}"
                cache.mkdir()
                read = partial(_read, sets[number])
                described[number] = method.describe_all(
                    read, len(sets[number]), cache, workers, done
                )
        queries = sum(len(sets[i]) + (len(sets[j]) if i != j else 0) for i, j in own_pairs)
        with stage("search", queries) as done:
            likely = [
                method.likely_pairs(described[i], described[j], workers, done) for i, j in own_pairs
            ]
        with stage("comparison", sum(map(len, likely))) as done:
            for (i, j), candidates in zip(own_pairs, likely, strict=True):
                found = method.near_duplicates(
                    described[i], described[j], candidates, workers, done
                )
                pairs += near_pairs(found, sets[i], sets[j])
    return pairs


def _read(samples: "Sequence[CheckedSample]", index: int) -> bytes:
    from maskedclip.shards.checks.third_party import read_square

    return read_square(samples[index].dataset.directory, samples[index].sample)


def _write(findings: Findings) -> None:
    from maskedclip.data.storage.shard_writer import replacing
    from maskedclip.shards.near_duplicates.pair_report import write_csv, write_images

    out = findings.request.out
    write_csv(out / CSV_FILE, findings.pairs)
    certain = [pair for pair in findings.pairs if pair.kind in ("near", "exact")]
    certain.sort(key=lambda pair: pair.score)
    write_images(out / SHEET_FILE, certain)
    write_images(out / UNCLEAR_FILE, [pair for pair in findings.pairs if pair.kind == "unclear"])
    with replacing(out / REPORT_FILE) as file:
        file.write((json.dumps(_report(findings), indent=1) + "\n").encode())


def _report(findings: Findings) -> dict[str, Any]:
    from maskedclip.shards.checks.dataset import tables

    return summary(findings) | {
        # whose own pairs were looked for; those of --against were not compared with one another
        "searched": [str(one.directory) for one in findings.checked[: findings.own]],
        "datasets": {
            str(checked.directory): {
                "problems": [problem._asdict() for problem in checked.problems],
                **tables(checked),
            }
            for checked in findings.checked
        },
    }


def summary(findings: Findings) -> dict[str, Any]:
    """Return the counts of a check, without its lists."""
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
