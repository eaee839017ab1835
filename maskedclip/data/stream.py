"""Batch t of the training run, as a pure function of the seed and t.

Ranks and threads only share the work out, so resuming is one integer, at any number of ranks. A
sample that is damaged costs that sample: another takes its slot and every other slot stays.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor

from maskedclip.data.captions import caption
from maskedclip.data.order import generator, number, permuted
from maskedclip.data.shards import DamagedSample, Shards
from maskedclip.data.transforms import decode, random_crop, random_mask

_SUBSTITUTES = 100  # damaged samples in a row before a source is given up


class Lost(NamedTuple):
    """A sample that could not be delivered, for the ledger."""

    step: int
    dataset: str
    shard: str
    key: str
    reason: str


class Batch(NamedTuple):
    """This rank's share of a step: paired rows first (A of them), then unpaired ones."""

    image_BCHW: Tensor  # uint8 RGB, not yet mirrored
    flip_B: Tensor  # bool, mirror on the device
    hidden_BN: Tensor  # bool, True where E_I must not look
    token_AL: Tensor  # int64
    token_mask_AL: Tensor  # int64, 0 at padding
    label_A: Tensor  # int64, equal where two pairs are positives
    keys: list[str]  # dataset/key of every row
    captions: list[str]
    lost: list[Lost]


class Row(NamedTuple):
    image_HWC: np.ndarray
    flip: bool
    hidden_N: np.ndarray
    caption: str
    label: int
    key: str
    lost: list[Lost]


@dataclass(frozen=True)
class View:
    """How one sample becomes one row."""

    image_size: int  # pixels
    num_patches: int
    mask_ratio: float
    crop_area: tuple[float, float]
    caption_template: str
    caption_from: str


class Source:
    """Several shard directories read as one, in an order that is new each epoch.

    Samples that an exclude.csv names take no part (`excluded` of them), nor, with `captioned`,
    those that have neither categories nor a report (`left_out`). Raises ValueError where nothing
    is left.
    """

    def __init__(self, name: str, datasets: Sequence[Shards], seed: int, captioned: bool) -> None:
        self.name = name
        self.seed = seed
        self._datasets = list(datasets)
        self._inside = [
            np.array(
                [
                    i
                    for i in range(len(dataset))
                    if i not in dataset.excluded and (not captioned or _has_caption(dataset, i))
                ]
            )
            for dataset in self._datasets
        ]
        self._ends = np.cumsum([len(inside) for inside in self._inside])
        self.excluded = sum(len(dataset.excluded) for dataset in self._datasets)
        self.left_out = sum(map(len, self._datasets)) - self.excluded - len(self)
        if not len(self):
            names = ", ".join(str(dataset.directory) for dataset in self._datasets)
            raise ValueError(
                f"data.{name}: no sample in {names or 'no directory'}"
                + (" has a caption; name shards with labels or reports" if captioned else "")
                + (f" ({self.excluded} are left out by exclude.csv)" if self.excluded else "")
            )

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def places(self, first: int, rows: int) -> list[tuple[int, int]]:
        """Return (epoch, index) of `rows` positions of the endless stream from `first` on."""
        position_B = np.arange(first, first + rows)
        found = []
        for epoch in np.unique(position_B // len(self)):
            inside_B = position_B[position_B // len(self) == epoch] % len(self)
            key = number(self.seed, self.name, "order", epoch)
            found += [(int(epoch), int(i)) for i in permuted(inside_B, len(self), key)]
        return found

    def locate(self, index: int) -> tuple[Shards, int]:
        """Return the dataset and the index within it."""
        which = int(np.searchsorted(self._ends, index, side="right"))
        start = int(self._ends[which]) - len(self._inside[which])
        return self._datasets[which], int(self._inside[which][index - start])


def _has_caption(dataset: Shards, index: int) -> bool:
    try:
        metadata = dataset.metadata(index)
    except DamagedSample:
        return True  # keeps its slot, so that the ledger names it
    return bool(metadata["categories"] or metadata["report"])


def load_row(
    source: Source, place: tuple[int, int], view: View, slot: tuple[int, int, bool]
) -> Row:
    """Return the sample at `place`, cut as `view` says; slot is (step, row of the batch, paired).

    A damaged sample is listed and another, by a fixed draw, stands in (one that is damaged itself
    is listed at its own place alone). Raises RuntimeError where none of many draws is whole.
    """
    step, row, paired = slot
    epoch, index = place
    lost: list[Lost] = []
    for attempt in range(_SUBSTITUTES):
        dataset, inside = source.locate(index)
        try:
            found = _row(dataset, inside, source.seed, epoch, view, row if paired else None)
            return found._replace(lost=lost)
        except DamagedSample as damage:
            lost = lost or [Lost(step, dataset.name, damage.shard, damage.key, damage.reason)]
        index = number(source.seed, source.name, epoch, place[1], attempt) % len(source)
    raise RuntimeError(
        f"data.{source.name}, step {step}: {_SUBSTITUTES} samples in a row are damaged, the first "
        f"{lost[0].shard} {lost[0].key}: {lost[0].reason}; build these shards again"
    )


def _row(
    dataset: Shards, index: int, seed: int, epoch: int, view: View, paired_row: int | None
) -> Row:
    jpeg, metadata = dataset.read(index)
    key = f"{dataset.name}/{dataset.key(index)}"
    draws = generator(seed, epoch, key)
    flip, word = draws.random(2)  # drawn for every row, so that a caption shifts nothing else
    hidden_N = random_mask(view.num_patches, view.mask_ratio, draws)
    try:
        image_HWC = random_crop(decode(jpeg), view.image_size, view.crop_area, draws)
    except ValueError as error:
        raise DamagedSample(dataset.shard(index), dataset.key(index), str(error)) from error
    text, label = "", 0
    if paired_row is not None:
        categories, report = metadata["categories"], metadata["report"]
        template, prefer = view.caption_template, view.caption_from
        text = caption(categories, report, template, prefer, draw=float(word))
        label = label_of(categories, paired_row)
    return Row(image_HWC, bool(flip < 0.5), hidden_N, text, label, key, [])


def label_of(categories: Sequence[str], row: int) -> int:
    """Return the label of a pair: of its set of categories, or its own where it has none.

    Two pairs with the same set are positives, whatever the dataset. `row` is the row in the global
    batch, so an id of its own is unique over all ranks.
    """
    if not categories:
        return -1 - row
    return number("categories", *sorted(set(categories)), bits=64) >> 1


def stream(  # noqa: PLR0913 (what is read, then who reads it)
    paired: Source,
    unpaired: Source | None,
    batch_sizes: tuple[int, int],
    view: View,
    tokenize: Callable[[list[str]], tuple[Tensor, Tensor]],
    *,
    first_step: int,
    rank: int,
    world: int,
    threads: int,
    prefetch: int,
) -> Iterator[Batch]:
    """Yield this rank's share of the batches from `first_step` on, without end.

    batch_sizes are paired and unpaired images a step over all ranks, multiples of `world`.
    """
    assert all(size % world == 0 for size in batch_sizes), "shares of a batch must be even"
    cv2.setNumThreads(0)  # our threads are the parallelism
    shares = [
        (source, size, source is paired)
        for source, size in zip((paired, unpaired), batch_sizes, strict=True)
        if source is not None
    ]

    def jobs(step: int) -> list[tuple[Source, tuple[int, int], View, tuple[int, int, bool]]]:
        found = []
        for source, size, is_paired in shares:
            share = size // world
            first = rank * share
            places = source.places(step * size + first, share)
            found += [
                (source, place, view, (step, first + i, is_paired))
                for i, place in enumerate(places)
            ]
        return found

    if not threads:
        for step in count(first_step):
            yield _collate([load_row(*job) for job in jobs(step)], tokenize)
    with ThreadPoolExecutor(threads) as pool:
        ahead: deque[list[Future[Row]]] = deque()
        try:
            for step in count(first_step):
                ahead.append([pool.submit(load_row, *job) for job in jobs(step)])
                if len(ahead) > prefetch:
                    yield _collate([row.result() for row in ahead.popleft()], tokenize)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _collate(rows: list[Row], tokenize: Callable[[list[str]], tuple[Tensor, Tensor]]) -> Batch:
    captions = [row.caption for row in rows if row.caption]
    token_AL, token_mask_AL = tokenize(captions)
    image_BHWC = torch.from_numpy(np.stack([row.image_HWC for row in rows]))
    return Batch(
        image_BCHW=image_BHWC.permute(0, 3, 1, 2).contiguous(),
        flip_B=torch.tensor([row.flip for row in rows]),
        hidden_BN=torch.from_numpy(np.stack([row.hidden_N for row in rows])),
        token_AL=token_AL,
        token_mask_AL=token_mask_AL,
        label_A=torch.tensor([row.label for row in rows if row.caption], dtype=torch.int64),
        keys=[row.key for row in rows],
        captions=captions,
        lost=[lost for row in rows for lost in row.lost],
    )
