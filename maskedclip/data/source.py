"""Several shard directories read as one endless sequence, in an order that is new each epoch.

Nothing grows with the number of samples: the position in the sequence is one integer, and of the
samples that take no part alone there is a list.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from maskedclip.data.order import number, ordered, pieces, shares_of, turns_at
from maskedclip.data.storage.shards import DamagedSample, Shards

_AT_ONCE = 4096  # positions computed at a time where many are asked for


class SampleRef(NamedTuple):
    """A sample, and in which epoch of its order it is shown."""

    epoch: int
    dataset: int  # of the source's datasets
    sample: int  # index in the dataset


class Span(NamedTuple):
    """Samples start..stop-1 of a dataset, which lie side by side in its shards."""

    dataset: int
    start: int
    stop: int


class Source:
    """The samples of `datasets`, each once an epoch; with `weights`, each dataset has its epochs.

    Samples that an exclude.csv names take no part (`excluded` of them), nor, with `captioned`,
    those that have neither categories nor a report (`left_out`); `uncaptioned` are those, sorted
    indices of each dataset, where they are already known. Of the rest those in `tested`, sorted
    indices of each dataset, take no part either (`held_out`). Raises ValueError where nothing is
    left, or a weight has nothing to give.
    """

    def __init__(
        self,
        name: str,
        datasets: Sequence[Shards],
        seed: int,
        captioned: bool,
        *,
        window: int = 0,
        weights: Sequence[float] = (),
        uncaptioned: Sequence[np.ndarray] | None = None,
        tested: Sequence[np.ndarray] | None = None,
    ) -> None:
        self.name, self.seed, self.datasets = name, seed, list(datasets)
        nothing = np.zeros(0, np.int64)
        if uncaptioned is None:
            uncaptioned = [without_caption(d) if captioned else nothing for d in datasets]
        self.uncaptioned = list(uncaptioned)
        self.tested = list(tested) if tested is not None else [nothing for _ in datasets]
        before = sum(len(_Kept(d, q)) for d, q in zip(datasets, self.uncaptioned, strict=True))
        out = [np.union1d(*two) for two in zip(self.uncaptioned, self.tested, strict=True)]
        kept = [_Kept(d, indices) for d, indices in zip(datasets, out, strict=True)]
        self._size = sum(map(len, kept))
        self.excluded = sum(len(dataset.excluded) for dataset in self.datasets)
        self.left_out = sum(map(len, self.datasets)) - self.excluded - before
        self.held_out = before - self._size
        self._kept, self._weights = kept, tuple(weights)
        self._check(captioned, kept, weights)
        key, parts = number(seed, name, "mixture"), [(i,) for i in range(len(kept))]
        self._key, self._shares = key, shares_of(weights) if weights else (1,)
        self._parts = [
            _Part(self, kept, members, window)
            for members in (parts if weights else [tuple(range(len(kept)))])
        ]

    def _check(self, captioned: bool, kept: Sequence["_Kept"], weights: Sequence[float]) -> None:
        if not self._size:
            names = ", ".join(str(dataset.directory) for dataset in self.datasets)
            raise ValueError(
                f"data.{self.name}: no sample in {names or 'no directory'}{self._why(captioned)}"
            )
        for dataset, samples, weight in zip(self.datasets, kept, weights, strict=bool(weights)):
            if weight and not len(samples):
                raise ValueError(
                    f"data.{self.name}_weights: {dataset.directory} has the weight {weight:g} and "
                    f"no sample to show; leave it out, or give it the weight 0"
                )

    def _why(self, captioned: bool) -> str:
        """Return why no sample is left: by what the last of them went, with how to keep them."""
        if self.held_out:
            return (
                f" is left: {self.held_out} are test images; --data.leave_out_tests=false (and "
                f"--data.leave_out_tests_of=) lets them take part, and scores on them get a dagger"
            )
        if captioned and self.left_out:
            return (
                " has a caption; name shards with reports, or build them with words for their "
                "classes (--class_words)"
            )
        return f" is left: {self.excluded} stand in exclude.csv; remove it" if self.excluded else ""

    def __len__(self) -> int:
        return self._size

    def taking_part(self, dataset: int) -> np.ndarray:
        """Return the sorted indices of the samples of a dataset that are shown."""
        kept = self._kept[dataset]
        shown = len(kept) if not self._weights or self._weights[dataset] else 0
        return kept.index(np.arange(shown))

    @property
    def parts(self) -> int:
        """The number of orders that the samples stand in: one, or with weights one a dataset."""
        return len(self._parts)

    def samples_at(self, first: int, rows: int) -> list[SampleRef]:
        """Return what stands at `rows` positions of the endless sequence from `first` on."""
        which_B, before = self._turns(first, rows)
        counts = np.bincount(which_B, minlength=self.parts).tolist()
        of_parts = [
            iter(part.samples_at(start, count))
            for part, start, count in zip(self._parts, before, counts, strict=True)
        ]
        return [next(of_parts[which]) for which in which_B]

    def _turns(self, first: int, rows: int) -> tuple[np.ndarray, list[int]]:
        if self.parts == 1:
            return np.zeros(rows, np.int64), [first]
        return turns_at(first, rows, self._shares, self._key)

    def instead(self, ref: SampleRef, attempt: int) -> SampleRef:
        """Return the substitute of a damaged sample, from the datasets that it is mixed with."""
        part = self._parts[ref.dataset if self.parts > 1 else 0]
        draw = number(self.seed, self.name, *ref, attempt) % len(part)
        return SampleRef(ref.epoch, *part.locate(np.array([draw]))[0])

    def unseen(self, rows: int) -> Iterator[SampleRef]:
        """Yield what the first `rows` positions leave out of the epochs that they end within."""
        _, before = self._turns(rows, 0)
        for part, shown in zip(self._parts, before, strict=True):
            end = -(-shown // max(1, len(part))) * len(part)
            for start in range(shown, end, _AT_ONCE):
                yield from part.samples_at(start, min(_AT_ONCE, end - start))

    def ahead(self, first: int, rows: int, fresh: bool) -> list[list[Span]]:
        """Return the windows to read into the cache when these positions are first needed.

        That is the window behind each that begins here; at a `fresh` start also the first itself.
        """
        which_B, before = self._turns(first, rows)
        counts = np.bincount(which_B, minlength=self.parts).tolist()
        return [
            window
            for part, start, count in zip(self._parts, before, counts, strict=True)
            for window in part.ahead(start, count, fresh)
        ]


class _Kept:
    """The samples of a dataset that take part; only the others are stored."""

    def __init__(self, dataset: Shards, uncaptioned: np.ndarray) -> None:
        excluded = np.array(sorted(dataset.excluded), np.int64)
        out = np.union1d(excluded, uncaptioned).astype(np.int64)
        self._size = len(dataset) - len(out)
        self._before = out - np.arange(len(out))  # kept samples in front of each that is not

    def __len__(self) -> int:
        return self._size

    def index(self, position_B: np.ndarray) -> np.ndarray:
        """Return the indices in the dataset of the samples at these positions of those kept."""
        return position_B + np.searchsorted(self._before, position_B, side="right")


class _Part:
    """Datasets of a source that are mixed in one permutation an epoch."""

    def __init__(
        self, source: Source, kept: Sequence[_Kept], members: tuple[int, ...], window: int
    ) -> None:
        self._kept, self._members, self._window = kept, members, window
        self._ends = np.cumsum([len(kept[i]) for i in members]).tolist()
        alone = (members[0],) if len(members) == 1 and len(kept) > 1 else ()
        self._name = (source.seed, source.name, "order", *alone)

    def __len__(self) -> int:
        return int(self._ends[-1])

    def _key(self, epoch: int) -> int:
        return number(*self._name, epoch)

    def locate(self, position_B: np.ndarray) -> list[tuple[int, int]]:
        """Return the dataset and the index within it of the samples at these positions."""
        which_B = np.searchsorted(self._ends, position_B, side="right")
        sample_B = np.empty_like(position_B)
        for which in set(which_B.tolist()):
            start = self._ends[which - 1] if which else 0
            here_B = which_B == which
            kept = self._kept[self._members[which]]
            sample_B[here_B] = kept.index(position_B[here_B] - start)
        members = [self._members[which] for which in which_B.tolist()]
        return list(zip(members, sample_B.tolist(), strict=True))

    def samples_at(self, first: int, rows: int) -> list[SampleRef]:
        refs: list[SampleRef] = []
        while rows:
            epoch, inside = divmod(first, len(self))
            count = min(rows, len(self) - inside)
            index_B = ordered(inside, count, len(self), self._window, self._key(epoch))
            refs += [SampleRef(epoch, *sample) for sample in self.locate(index_B)]
            first, rows = first + count, rows - count
        return refs

    def ahead(self, first: int, rows: int, fresh: bool) -> list[list[Span]]:
        if rows >= self._window:  # its windows are shorter than a step
            return []
        windows, position = [], first
        while position < first + rows:
            inside = position % len(self)
            left = min(self._window - inside % self._window, len(self) - inside)
            new = fresh and position == first
            windows += [self._window_at(position)] if new else []
            begins = inside % self._window == 0
            windows += [self._window_at(position + left)] if new or begins else []
            position += left
        return windows

    def _window_at(self, position: int) -> list[Span]:
        epoch, inside = divmod(position, len(self))
        runs = pieces(inside, len(self), self._window, self._key(epoch))
        return [span for run in runs for span in self._spans(*run)]

    def _spans(self, start: int, stop: int) -> list[Span]:
        spans = []
        while start < stop:
            end = min(stop, self._ends[int(np.searchsorted(self._ends, start, side="right"))])
            (dataset, first), (_, last) = self.locate(np.array([start, end - 1]))
            spans.append(Span(dataset, first, last + 1))
            start = end
        return spans


def without_caption(dataset: Shards) -> np.ndarray:
    """Return the sorted indices of the samples that have neither categories nor a report.

    One whose metadata is damaged is not among them: it keeps its slot, so that the ledger names it.
    """
    if dataset.manifest.get("counts", {}).get("without_caption") == 0:
        return np.zeros(0, np.int64)
    return np.array([i for i in range(len(dataset)) if not _has_caption(dataset, i)], np.int64)


def _has_caption(dataset: Shards, index: int) -> bool:
    try:
        metadata = dataset.metadata(index)
    except DamagedSample:
        return True
    return bool(metadata["categories"] or metadata["report"])
