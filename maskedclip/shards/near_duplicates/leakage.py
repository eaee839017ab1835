"""Which samples are seen twice, and which of the two has to go."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from maskedclip.data.storage.exclusions import Exclusion, read_exclusions, write_exclusions
from maskedclip.shards.checks.dataset import CheckedDataset
from maskedclip.shards.checks.shard import StoredSample
from maskedclip.shards.near_duplicates.search import NearDuplicate

KINDS = ("exact", "near", "unclear", "patient")
PLACES = ("within a split", "across splits", "between directories", "with --against")


class CheckedSample(NamedTuple):
    """A sample of one of the directories."""

    dataset: CheckedDataset
    sample: StoredSample
    against: bool  # of a dataset that is tested on

    @property
    def name(self) -> str:
        """Its dataset and key, as an exclude.csv names it."""
        return f"{self.dataset.name}/{self.sample.key}"

    @property
    def rank(self) -> int:
        """How much it is worth keeping: test 2, val 1, else 0."""
        split = (self.sample.metadata.split or "").lower()
        return 2 if "test" in split else int(split.startswith("val"))


class Pair(NamedTuple):
    """Two samples that are one picture, or may be, or two of one patient in two splits."""

    kind: str  # of KINDS
    one: CheckedSample
    other: CheckedSample
    copy: NearDuplicate | None = None  # of a near or unclear pair

    @property
    def score(self) -> float:
        """How well the two agree; 1 where that was not measured."""
        return self.copy.score if self.copy else 1.0

    @property
    def place(self) -> str:
        """Where the two lie, of PLACES."""
        if self.one.against or self.other.against:
            return PLACES[3]
        if self.one.dataset is not self.other.dataset:
            return PLACES[2]
        return PLACES[int(self.one.sample.metadata.split != self.other.sample.metadata.split)]

    @property
    def labels_agree(self) -> bool | None:
        """Whether the labels of all tasks that both have are equal; None where there is none."""
        one, other = self.one.sample.metadata.labels, self.other.sample.metadata.labels
        shared = one.keys() & other.keys()
        return all(one[task] == other[task] for task in shared) if shared else None

    @property
    def losers(self) -> tuple[CheckedSample, ...]:
        """Return who has to go: nobody where that is not certain, or nobody's to say.

        Before a picture of --against its copy goes; within a dataset train goes before val before
        test, and test never. In one split the later key goes; where labels disagree in training
        nobody knows which is right, and both go.
        """
        one, other = self.one, self.other
        if self.kind not in ("exact", "near"):
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
        return (max(one, other, key=lambda member: member.sample.key),)


def members(datasets: Sequence[CheckedDataset], against: bool) -> list[list[CheckedSample]]:
    """Return the samples of each dataset, less those that are excluded already."""
    return [
        [
            CheckedSample(dataset, s, against)
            for s in dataset.samples
            if s.key not in dataset.excluded
        ]
        for dataset in datasets
    ]


def exact_pairs(sets: Iterable[Sequence[CheckedSample]]) -> Iterator[Pair]:
    """Yield, for each file that is there several times, the copy to keep with each of the others.

    Copies within what is tested on are not looked for.
    """
    groups: defaultdict[str, list[CheckedSample]] = defaultdict(list)
    for found in sets:
        for member in found:
            groups[member.sample.metadata.sha256].append(member)
    for group in groups.values():
        keeper, *others = sorted(group, key=lambda m: (not m.against, -m.rank, m.name))
        yield from (Pair("exact", keeper, other) for other in others if not other.against)


def near_pairs(
    copies: Iterable[NearDuplicate], one: Sequence[CheckedSample], other: Sequence[CheckedSample]
) -> Iterator[Pair]:
    """Yield the pairs of copies that are not equal files: those are exact ones."""
    for copy in copies:
        first, second = one[copy.first], other[copy.second]
        if first.sample.metadata.sha256 != second.sample.metadata.sha256:
            yield Pair("near" if copy.certain else "unclear", first, second, copy)


def patient_pairs(found: Sequence[CheckedSample]) -> Iterator[Pair]:
    """Yield, for each patient of a dataset who is in several splits, one sample of each with the
    one most worth keeping."""
    splits: defaultdict[str, dict[str | None, CheckedSample]] = defaultdict(dict)
    for member in found:
        if member.sample.metadata.patient:
            seen = splits[member.sample.metadata.patient]
            seen.setdefault(member.sample.metadata.split, member)
    for seen in splits.values():
        keeper, *others = sorted(seen.values(), key=lambda m: (-m.rank, m.sample.key))
        yield from (Pair("patient", keeper, other) for other in others)


def drop(pairs: Sequence[Pair]) -> dict[Path, int]:
    """Add the losers of the pairs to the exclude.csv of their directories; return how many."""
    new: dict[Path, dict[str, Exclusion]] = {}
    keys: dict[Path, frozenset[str]] = {}
    for pair in pairs:
        for loser in pair.losers:
            kept = pair.other if loser is pair.one else pair.one
            entry = Exclusion(loser.sample.key, _why(pair), kept.name)
            directory = loser.dataset.directory
            new.setdefault(directory, {}).setdefault(entry.key, entry)
            keys[directory] = loser.dataset.keys
    for directory, entries in new.items():
        before = read_exclusions(directory, keys[directory])
        write_exclusions(directory, [*before, *entries.values()])
    return {directory: len(entries) for directory, entries in new.items()}


def _why(pair: Pair) -> str:
    both = "; their labels disagree" if len(pair.losers) == 2 else ""
    return f"{pair.kind} copy {pair.place}{both}"
