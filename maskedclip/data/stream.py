"""Batch t of the training run, as a pure function of the seed and t.

Ranks and threads only share the work out, so resuming is one integer, at any number of ranks. A
sample that is damaged costs that sample: another takes its slot and every other slot stays.
"""

import weakref
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from itertools import count
from threading import Event
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor

from maskedclip.data.multi_crop import Crops, collate_crops
from maskedclip.data.rows import BatchRow, Lost, RowJob, View, draws_of, make_row, read_row
from maskedclip.data.source import Source, Span
from maskedclip.data.threaded_loading import rows_in_order


class Batch(NamedTuple):
    """This rank's share of a step: paired rows first (A of them), then unpaired ones."""

    image_BCHW: Tensor  # uint8 RGB, channels last, not yet mirrored
    flip_B: Tensor  # bool, mirror on the device
    hidden_BN: Tensor  # bool, True where hidden from E_I
    token_AL: Tensor  # int64
    token_mask_AL: Tensor  # int64, 0 at padding
    label_A: Tensor  # int64, equal where two pairs are positives
    keys: list[str]  # dataset/key of every row
    captions: list[str]
    lost: list[Lost]  # the samples meant where a row is a substitute
    crops: Crops | None = None  # of a view of several; image_BCHW is the first of each image


def stream(  # noqa: PLR0913 (what is read, then who reads it)
    paired: Source | None,
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
    readers: int = 1,
) -> Generator[Batch, None, None]:
    """Return an iterator over this rank's share of the batches from `first_step` on, without end.

    batch_sizes are paired and unpaired images a step over all ranks, multiples of `world`. Raises
    RuntimeError where a source has nothing but damaged samples to show.
    """
    assert all(size % world == 0 for size in batch_sizes), "shares of a batch must be even"
    cv2.setNumThreads(0)  # our threads are the parallelism
    shares = [
        (source, size, source is paired)
        for source, size in zip((paired, unpaired), batch_sizes, strict=True)
        if source is not None
    ]

    def jobs_of(step: int) -> list[RowJob]:
        jobs: list[RowJob] = []
        # no image is copied again: the threads write to the batch, channels last as they decode
        block = blocks.take()
        images.append(block)
        slots = iter(block.numpy())
        for source, size, is_paired in shares:
            for window in source.ahead(step * size, size, step == first_step):
                cache.add(source, window)
            first = rank * (size // world)
            refs = source.samples_at(step * size + first, size // world)
            draws = draws_of(source, refs, view)
            jobs += [
                RowJob(source, ref, step, row, is_paired, drawn, next(slots))
                for row, ref, drawn in zip(count(first), refs, draws, strict=False)
            ]
        return jobs

    rows_a_step = sum(size // world for _, size, _ in shares)
    size = view.image_size
    blocks = _Blocks((rows_a_step, *([view.crops.bytes(size)] if view.crops else [size, size, 3])))
    images: deque[Tensor] = deque()  # of the batches under way
    cache = _Cache(2 * sum(source.parts for source, _, _ in shares))
    rows = rows_in_order(
        map(jobs_of, count(first_step)), read_row, partial(make_row, view=view),
        readers=readers, threads=threads, prefetch=prefetch,
    )  # fmt: skip
    batches = (collate(images.popleft(), batch, tokenize, view) for batch in rows)
    closed = _closing(batches, rows, cache)
    return _one_ahead(closed) if threads else closed


def _closing(
    batches: Iterator[Batch], rows: Generator[list[BatchRow], None, None], cache: "_Cache"
) -> Generator[Batch, None, None]:
    """Yield the batches, and end the threads that make them when the caller has enough."""
    try:
        yield from batches
    finally:
        rows.close()
        cache.close()


def _one_ahead(batches: Generator[Batch, None, None]) -> Generator[Batch, None, None]:
    """Yield batches that are put together in a thread of their own, the next during a step.

    Drawing, tokenizing and pinning then take no time of the thread that starts the kernels.
    """
    with ThreadPoolExecutor(1) as thread:
        coming = thread.submit(next, batches)
        try:
            while True:
                batch = coming.result()
                coming = thread.submit(next, batches)
                yield batch
        finally:
            coming.cancel()
            thread.submit(batches.close)  # behind the one under way


class _Blocks:
    """Memory for the images of a batch, used again once nothing holds that batch any more.

    New memory for each batch would cost a tenth of the speed in page faults.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        self._shape = shape
        self._free: list[np.ndarray] = []

    def take(self) -> Tensor:
        if torch.cuda.is_available():  # pinned, the copy to the device is not waited for
            return torch.empty(self._shape, dtype=torch.uint8, pin_memory=True)  # torch reuses it
        block_BHWC = self._free.pop() if self._free else np.empty(self._shape, np.uint8)
        view_BHWC = block_BHWC.view()  # all tensors that share its storage hold it, as nobody else
        weakref.finalize(view_BHWC, self._free.append, block_BHWC)
        return torch.from_numpy(view_BHWC)


class _Cache:
    """A thread that reads windows into the system's cache, before their samples are asked for.

    It holds nothing itself. Of more than `limit` windows that wait the oldest are given up: their
    samples are being read one by one already.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._pool = ThreadPoolExecutor(1)
        self._closed = Event()
        self._waiting: list[Future[None]] = []

    def add(self, source: Source, window: list[Span]) -> None:
        for future in self._waiting[: -self._limit]:
            future.cancel()
        for future in self._waiting:
            if future.done() and not future.cancelled():
                future.result()  # an error of ours is not to be lost in a thread
        self._waiting = [future for future in self._waiting if not future.done()]
        self._waiting.append(self._pool.submit(self._read, source, window))

    def _read(self, source: Source, window: list[Span]) -> None:
        for span in window:
            for _ in source.datasets[span.dataset].warm(span.start, span.stop):
                if self._closed.is_set():
                    return

    def close(self) -> None:
        self._closed.set()
        self._pool.shutdown(wait=True, cancel_futures=True)


def collate(
    block: Tensor,
    rows: list[BatchRow],
    tokenize: Callable[[list[str]], tuple[Tensor, Tensor]],
    view: View,
) -> Batch:
    """Return the batch of the rows of a step, whose images are there already."""
    crops, image_BHWC = None, block
    if view.crops is not None:
        its = [row.crops for row in rows if row.crops is not None]
        crops = collate_crops(block, its, view.crops, view.image_size)
        image_BHWC = crops.large_crops()[:, 0]
    captions = [row.caption for row in rows if row.caption]
    token_AL, token_mask_AL = tokenize(captions)
    batch = Batch(
        image_BCHW=image_BHWC.permute(0, 3, 1, 2),
        flip_B=torch.tensor([row.flip for row in rows]),
        hidden_BN=torch.from_numpy(np.stack([row.hidden_N for row in rows])),
        token_AL=token_AL,
        token_mask_AL=token_mask_AL,
        label_A=torch.tensor([row.label for row in rows if row.caption], dtype=torch.int64),
        keys=[row.key for row in rows],
        captions=captions,
        lost=[row.lost for row in rows if row.lost],
        crops=crops,
    )
    return _pinned(batch) if torch.cuda.is_available() else batch


def _pinned(batch: Batch) -> Batch:
    """Return the batch in pinned memory, which is copied to a GPU while the host goes on."""
    crops = batch.crops
    if crops is not None:
        crops = crops._replace(**_pinned_fields(crops))
    own = _pinned_fields(batch)
    del own["image_BCHW"]  # made so, or a view of what is
    return batch._replace(crops=crops, **own)


def _pinned_fields(fields: Batch | Crops) -> dict[str, Any]:
    named = fields._asdict().items()
    return {name: value.pin_memory() for name, value in named if isinstance(value, Tensor)}
