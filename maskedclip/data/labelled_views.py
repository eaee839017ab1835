"""A labelled photograph as the network sees it: augmented to train, cut the same way to measure.

timm's augmentation draws from the global generators of Python, numpy and torch. So it runs in
worker processes, seeded anew for each sample: what is drawn depends on (seed, epoch, sample) alone.
"""

import logging
import random
import shutil
import signal
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from timm.data import create_transform
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from maskedclip.data.labelled import LabelledSample
from maskedclip.data.order import number, permuted
from maskedclip.data.storage.shards import DamagedSample, Shards
from maskedclip.data.transforms import MEAN, STD, decode

logger = logging.getLogger(__name__)
RESIZE = 256 / 224  # of the image size: the shorter side before the middle is cut out (MAE)
_LOADER_AHEAD = 2  # batches a worker makes ahead
_SHARED = Path("/dev/shm")
_AHEAD = 2  # batches decoded ahead of the one in use, a thread


class LabelledBatch(NamedTuple):
    """Images of a batch, normalised, and the samples they are of; the others are in `lost`."""

    image_BCHW: Tensor
    samples: list[LabelledSample]
    lost: list[DamagedSample]


def preparation(
    image_size: int,
    *,
    mean: Sequence[float] = MEAN,
    std: Sequence[float] = STD,
    resize: float = RESIZE,
    interpolation: str = "bicubic",
    whole: bool = False,
    squash: bool = False,
) -> Callable[[Image.Image], Tensor]:
    """Return what brings an image to a network; as it is, MAE's evaluation.

    The shorter side goes to `resize` of the size, and the middle is cut out. With `whole` the
    longer side fills the square and black is put to the right or below (FLAIR), with `squash` both
    sides are brought to the size (RETFound-Green).
    """
    prepare = create_transform(
        image_size,
        is_training=False,
        interpolation=interpolation,
        crop_pct=1.0 if squash else 1 / resize,
        crop_mode="squash" if squash else "center",
        mean=tuple(mean),
        std=tuple(std),
    )
    if whole:
        prepare.transforms[:2] = [_Canvas(image_size, interpolation)]
    return prepare


class _Canvas:
    """A square with all of an image in it, in its upper left corner."""

    def __init__(self, image_size: int, interpolation: str) -> None:
        self._size = image_size
        self._filter = Image.Resampling[interpolation.upper()]

    def __call__(self, image: Image.Image) -> Image.Image:
        scale = max(image.size) / self._size
        wide, high = (max(1, int(side / scale)) for side in image.size)
        canvas = Image.new("RGB", (self._size, self._size))
        canvas.paste(image.resize((wide, high), self._filter))
        return canvas


def sample_image(dataset: Shards, index: int) -> Image.Image:
    """Return a sample's RGB image; DamagedSample where it is no whole JPEG."""
    jpeg, _ = dataset.read(index)
    try:
        return Image.fromarray(decode(jpeg))
    except ValueError as error:
        reason = f"image does not decode ({' '.join(str(error).split())})"
        raise DamagedSample(dataset.shard(index), dataset.key(index), reason) from error


@contextmanager
def seeded(value: int) -> Iterator[None]:
    """Let the global generators start from `value`, and go on as if nothing had been drawn."""
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()
    random.seed(value)
    np.random.seed(value)
    torch.default_generator.manual_seed(value)
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
        torch.set_rng_state(before[2])


class _Augmented(Dataset):
    def __init__(
        self,
        dataset: Shards,
        samples: Sequence[LabelledSample],
        augment: Callable[[Image.Image], Tensor],
        seed: int,
    ) -> None:
        self._dataset, self._samples, self._seed = dataset, samples, seed
        self._augment = augment

    def __getitem__(
        self, item: tuple[int, int, int]
    ) -> tuple[LabelledSample, Tensor | DamagedSample]:
        epoch, position, again = item
        sample = self._samples[position]
        try:
            image = sample_image(self._dataset, sample.index)
        except DamagedSample as damage:
            return sample, damage
        repeat = (again,) if again else ()  # a sample's second view in an epoch is another one
        with seeded(number(self._seed, "augment", epoch, sample.key, *repeat, bits=32)):
            return sample, self._augment(image)


def training_batches(
    dataset: Shards,
    samples: Sequence[LabelledSample],
    augment: Callable[[Image.Image], Tensor],
    *,
    batch: int,
    epochs: range,
    seed: int,
    workers: int,
    balanced: bool = False,
    image_size: int = 224,
) -> Generator[LabelledBatch]:
    """Yield all batches of `epochs`, ceil(samples / batch) each: the last may be smaller.

    A damaged sample is left out of its batch. An epoch is the same whichever came before it.

    Args:
        balanced: an epoch holds each class equally often, as many samples in all.
        image_size: of what `augment` returns, in pixels.
    """
    bytes_ahead = 4 * 3 * image_size**2 * batch * (_LOADER_AHEAD * workers + 1)
    piped = workers > 0 and not _fits_shared_memory(bytes_ahead)

    def positions() -> Iterator[list[tuple[int, int, int]]]:
        for epoch in epochs:
            key = number(seed, "fine-tuning order", epoch)
            drawn = [(position, 0) for position in range(len(samples))]
            if balanced:
                drawn = balanced_positions([sample.label for sample in samples], seed, epoch)
            order = permuted(np.arange(len(drawn)), len(drawn), key).tolist()
            for first in range(0, len(order), batch):
                yield [(epoch, *drawn[index]) for index in order[first : first + batch]]

    loader: DataLoader[Any] = DataLoader(
        _Augmented(dataset, samples, augment, seed),
        batch_sampler=positions(),  # type: ignore[arg-type]
        num_workers=workers,
        # any other way runs the user's script again in each worker
        multiprocessing_context="fork" if workers else None,
        collate_fn=_collate_for_a_pipe if piped else _collate,
        prefetch_factor=_LOADER_AHEAD if workers else None,
        pin_memory=torch.cuda.is_available(),
        worker_init_fn=_outlive,
        # a generator of its own: else each loader would draw from the global one
        generator=torch.Generator().manual_seed(0),
    )
    for views in loader:
        yield views._replace(image_BCHW=torch.from_numpy(views.image_BCHW)) if piped else views


def _fits_shared_memory(wanted: int) -> bool:
    """Return whether workers can hand so many bytes over in shared memory; a line says where not.

    There a worker's error is its thread's alone, and whoever waits for the batch waits for ever.
    """
    if not _SHARED.is_dir():
        return True
    free = shutil.disk_usage(_SHARED).free
    if free >= 2 * wanted:  # others use it, too
        return True
    logger.warning(
        "%s has %.0f MB free, and batches that are made ahead take %.0f: they go through pipes, "
        "which is slower; in a container give it more (--shm-size)",
        _SHARED, free / 1e6, wanted / 1e6,
    )  # fmt: skip
    return False


def balanced_positions(labels: Sequence[int], seed: int, epoch: int) -> list[tuple[int, int]]:
    """Return (position, times it was drawn before) of an epoch in which classes are equally many.

    As many as there are labels; what does not divide goes to other classes in each epoch. Of a
    class all samples are drawn before one is again. A pure function of (labels, seed, epoch).
    """
    classes = sorted(set(labels))
    least, more = divmod(len(labels), len(classes))
    drawn: list[tuple[int, int]] = []
    for place, label in enumerate(classes):
        own = [position for position, one in enumerate(labels) if one == label]
        wanted = least + ((place + epoch) % len(classes) < more)
        for again in range(-(-wanted // len(own))):
            key = number(seed, "balance", epoch, label, again)
            order = permuted(np.arange(len(own)), len(own), key).tolist()
            drawn += [(own[index], again) for index in order[: wanted - again * len(own)]]
    return drawn


def _outlive(_worker: int) -> None:
    # it may reach every process of a job, and the one that answers it has an epoch to end
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def prepared_batches(
    dataset: Shards,
    samples: Sequence[LabelledSample],
    *,
    prepare: Callable[[Image.Image], Tensor],
    batch: int,
    threads: int,
) -> Iterator[LabelledBatch]:
    """Yield each sample once, in order, as `preparation` makes it; damaged ones are left out."""

    def load(sample: LabelledSample) -> tuple[LabelledSample, Tensor | DamagedSample]:
        try:
            return sample, prepare(sample_image(dataset, sample.index))
        except DamagedSample as damage:
            return sample, damage

    groups = (samples[first : first + batch] for first in range(0, len(samples), batch))
    with ThreadPoolExecutor(max(1, threads)) as pool:
        ahead: deque[list[Any]] = deque()
        for group in groups:
            ahead.append([pool.submit(load, sample) for sample in group])
            if len(ahead) > _AHEAD:
                yield _collate([row.result() for row in ahead.popleft()])
        for rows in ahead:
            yield _collate([row.result() for row in rows])


def _collate_for_a_pipe(rows: Iterable[tuple[LabelledSample, Tensor | DamagedSample]]) -> Any:
    views = _collate(rows)
    return views._replace(image_BCHW=views.image_BCHW.numpy())  # type: ignore[arg-type]


def _collate(rows: Iterable[tuple[LabelledSample, Tensor | DamagedSample]]) -> LabelledBatch:
    whole = [(sample, image) for sample, image in rows if isinstance(image, Tensor)]
    lost = [image for _, image in rows if isinstance(image, DamagedSample)]
    images = [image for _, image in whole]
    image_BCHW = torch.stack(images) if images else torch.zeros(0, 3, 1, 1)
    return LabelledBatch(image_BCHW, [sample for sample, _ in whole], lost)
