"""Leakage: samples that occur twice, or patients in two splits, and which sample to exclude."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from maskedclip.data.splits import FOLDER as SPLITS
from maskedclip.data.splits import split_rows
from maskedclip.data.storage.exclusions import Exclusion, read_exclusions, write_exclusions
from maskedclip.shards.checks.dataset import CheckedDataset
from maskedclip.shards.checks.shard import StoredSample
from maskedclip.shards.near_duplicates.search import NearDuplicate

KINDS = ("exact", "near", "unclear", "patient")
RELATIONS = ("within a split", "across splits", "between directories", "with --against")


class CheckedSample(NamedTuple):
    """A sample of one of the directories."""

    dataset: CheckedDataset
    sample: StoredSample
    against: bool  # of a dataset of --against, used for testing

    @property
    def name(self) -> str:
        """Its dataset and key, as an exclude.csv names it."""
        return f"{self.dataset.name}/{self.sample.key}"

    @property
    def part(self) -> str:
        """The split; of a sample without one train, into which such samples are divided."""
        return self.sample.metadata.split or "train"

    @property
    def rank(self) -> int:
        """Priority of keeping it: test 2, val 1, else 0."""
        split = self.part.lower()
        return 2 if "test" in split else int(split.startswith("val"))


class Pair(NamedTuple):
    """Two samples that show one photograph, or may, or one patient in two splits."""

    kind: str  # of KINDS
    one: CheckedSample
    other: CheckedSample
    match: NearDuplicate | None = None  # of a near or unclear pair
    dropped: bool = False  # whether it loses a sample though it is unclear

    @property
    def score(self) -> float:
        """How well the two agree; 1 where that was not measured."""
        return self.match.score if self.match else 1.0

    @property
    def relation(self) -> str:
        """Where the two lie relative to each other, one of RELATIONS."""
        if self.one.against or self.other.against:
            return RELATIONS[3]
        if self.one.dataset is not self.other.dataset:
            return RELATIONS[2]
        return RELATIONS[int(self.one.part != self.other.part)]

    @property
    def labels_agree(self) -> bool | None:
        """Whether the labels of all shared tasks are equal; None where there is no shared task."""
        one, other = self.one.sample.metadata.labels, self.other.sample.metadata.labels
        shared = one.keys() & other.keys()
        return all(one[task] == other[task] for task in shared) if shared else None

    @property
    def losers(self) -> tuple[CheckedSample, ...]:
        """Return the samples to exclude; none where the pair is not certain and not `dropped`.

        A duplicate of a sample of --against is excluded; within a dataset train goes before val
        before test, and test never. In one split the later key goes; where labels disagree in
        training, neither can be trusted, and both go.
        """
        one, other = self.one, self.other
        if self.kind not in ("exact", "near") and not self.dropped:
            return ()
        if one.against or other.against:
            return (other,) if one.against else (one,)
        if one.dataset is not other.dataset:
            return ()
        if one.rank != other.rank:
            return (one,) if one.rank < other.rank else (other,)
        if one.rank == 2:
            return ()
        if one.rank == 0 and self.labels_agree is False:
            return one, other
        return (max(one, other, key=lambda checked: checked.sample.key),)


def kept_samples(datasets: Sequence[CheckedDataset], against: bool) -> list[list[CheckedSample]]:
    """Return the samples of every dataset, less those that are excluded already."""
    return [
        [
            CheckedSample(dataset, s, against)
            for s in dataset.samples
            if s.key not in dataset.excluded
        ]
        for dataset in datasets
    ]


def exact_pairs(sets: Iterable[Sequence[CheckedSample]]) -> Iterator[Pair]:
    """Yield, for every file that occurs several times, the sample to keep with each of the others.

    Duplicates within the datasets of --against are not reported.
    """
    groups: defaultdict[str, list[CheckedSample]] = defaultdict(list)
    for samples in sets:
        for checked in samples:
            groups[checked.sample.metadata.sha256].append(checked)
    for group in groups.values():
        keeper, *others = sorted(group, key=lambda m: (not m.against, -m.rank, m.name))
        yield from (Pair("exact", keeper, other) for other in others if not other.against)


def near_pairs(
    matches: Iterable[NearDuplicate], one: Sequence[CheckedSample], other: Sequence[CheckedSample]
) -> Iterator[Pair]:
    """Yield the near-duplicates as pairs, but for equal files: those are exact pairs."""
    for match in matches:
        first, second = one[match.first], other[match.second]
        if first.sample.metadata.sha256 != second.sample.metadata.sha256:
            yield Pair("near" if match.certain else "unclear", first, second, match)


def patient_pairs(samples: Sequence[CheckedSample]) -> Iterator[Pair]:
    """Yield, for every patient in several splits of a dataset, one sample of each split with the
    one of the highest rank."""
    splits: defaultdict[str, dict[str, CheckedSample]] = defaultdict(dict)
    for checked in samples:
        if checked.sample.metadata.patient:
            splits[checked.sample.metadata.patient].setdefault(checked.part, checked)
    for by_split in splits.values():
        keeper, *others = sorted(by_split.values(), key=lambda m: (-m.rank, m.sample.key))
        yield from (Pair("patient", keeper, other) for other in others)


def with_unclear(pairs: Iterable[Pair]) -> list[Pair]:
    """Return the pairs so that unclear ones across splits or with --against lose a sample, too."""
    across = (RELATIONS[1], RELATIONS[3])
    return [
        pair._replace(dropped=True) if pair.kind == "unclear" and pair.relation in across else pair
        for pair in pairs
    ]


class Apart(NamedTuple):
    """The pairs of a dataset that stand in two parts of one of its split files."""

    directory: Path
    file: Path
    pairs: tuple[Pair, ...]

    @property
    def published(self) -> int:
        """How many of them published splits part: these are kept."""
        return sum(p.one.sample.metadata.split != p.other.sample.metadata.split for p in self.pairs)


def apart_in_splits(dataset: CheckedDataset, pairs: Iterable[Pair]) -> list[Apart]:
    """Return which copies and unclear pairs the split files of a dataset part."""
    own = [
        pair
        for pair in pairs
        if pair.kind != "patient" and pair.one.dataset is dataset is pair.other.dataset
    ]
    if not own or dataset.problems:
        return []
    found = []
    for path in sorted((dataset.directory / SPLITS).glob("*.csv")):
        part = {row[0]: row[2] for row in split_rows(path)}
        parted = [
            pair
            for pair in own
            # one without a label is in no part
            if len({part.get(m.sample.key) for m in (pair.one, pair.other)} - {None}) > 1
        ]
        found += [Apart(dataset.directory, path, tuple(parted))] if parted else []
    return found


def drop(pairs: Sequence[Pair]) -> dict[Path, int]:
    """Add the losers of the pairs to exclude.csv of their directories; return their number."""
    new: dict[Path, dict[str, Exclusion]] = {}
    keys: dict[Path, frozenset[str]] = {}
    for pair in pairs:
        for loser in pair.losers:
            kept = pair.other if loser is pair.one else pair.one
            entry = Exclusion(loser.sample.key, _reason(pair), kept.name)
            directory = loser.dataset.directory
            new.setdefault(directory, {}).setdefault(entry.key, entry)
            keys[directory] = loser.dataset.keys
    for directory, entries in new.items():
        before = read_exclusions(directory, keys[directory])
        write_exclusions(directory, [*before, *entries.values()])
    return {directory: len(entries) for directory, entries in new.items()}


def _reason(pair: Pair) -> str:
    both = "; their labels disagree" if len(pair.losers) == 2 else ""
    return f"{pair.kind} copy {pair.relation}{both}"
