"""From a position of a source to one row of a batch, and to the name of what could not be read.

Reading and decoding are two functions, so that they can wait and work in different threads.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from maskedclip.data.captions import caption, wording_of
from maskedclip.data.multi_crop import CropDraws, MultiCrop, crop_draws, hidden_blocks
from maskedclip.data.order import number, uniform
from maskedclip.data.source import SampleRef, Source
from maskedclip.data.storage.shards import DamagedSample
from maskedclip.data.transforms import TRIES, hidden_patches, write_crop, write_crops

_SUBSTITUTES = 100  # damaged samples in a row before a source is given up


class Lost(NamedTuple):
    """A sample that could not be delivered, and what stands in its slot."""

    step: int
    source: str
    row: int  # of the global batch's rows of this source; with step and source the slot's name
    dataset: str
    shard: str
    key: str
    reason: str
    replaced_by: str  # dataset/key


class BatchRow(NamedTuple):
    """What goes with an image; `lost` says what it is a substitute for."""

    flip: bool
    hidden_N: np.ndarray
    caption: str
    label: int
    key: str
    lost: Lost | None
    crops: tuple[CropDraws, np.ndarray] | None = None  # with hidden_GN of the large ones


@dataclass(frozen=True)
class View:
    """How one sample becomes one row."""

    image_size: int  # pixels
    num_patches: int
    mask_ratio: float
    crop_area: tuple[float, float]
    caption_template: str
    caption_from: str
    fidelity: str
    label_guided: bool = True  # pairs of the same findings share a label
    mask_unit: int = 1  # patches along the side of what is hidden as one
    crops: MultiCrop | None = None  # the image is then the first of its crops


class Draws(NamedTuple):
    """What chance decides of a sample in an epoch."""

    name: str  # dataset/key, which they depend on
    flip: bool
    word: float  # in [0, 1), of the caption
    crop_EF: np.ndarray  # in [0, 1)
    hidden_N: np.ndarray
    crops: CropDraws | None = None


class RowJob(NamedTuple):
    """A slot to be filled: `row` counts the rows of this source in the global batch."""

    source: Source
    ref: SampleRef
    step: int
    row: int
    paired: bool
    draws: Draws  # of the sample at `ref`
    image_HWC: np.ndarray  # of the batch: where the image goes; flat where there are several crops


class RawSample(NamedTuple):
    """A sample as it is stored; attempt 0 is the one meant, others stand in for it."""

    jpeg: bytes
    metadata: dict[str, Any]  # empty where the job is not of a pair
    ref: SampleRef
    attempt: int
    damage: DamagedSample | None  # why the one meant is not here


def draws_of(source: Source, refs: Sequence[SampleRef], view: View) -> list[Draws]:
    """Return the draws of samples, each a function of (seed, epoch, dataset/key) alone."""
    datasets = [source.datasets[ref.dataset] for ref in refs]
    names = [f"{d.name}/{d.key(p.sample)}" for d, p in zip(datasets, refs, strict=True)]
    keys = [number(source.seed, p.epoch, name) for p, name in zip(refs, names, strict=True)]
    value_BF = uniform(np.array(keys, dtype=np.uint64), 2 + 4 * TRIES + view.num_patches)
    crop_BEF = value_BF[:, 2 : 2 + 4 * TRIES].reshape(-1, TRIES, 4)
    hidden_BN = hidden_patches(value_BF[:, 2 + 4 * TRIES :], view.mask_ratio, view.mask_unit)
    flips, words = (value_BF[:, 0] < 0.5).tolist(), value_BF[:, 1].tolist()
    draws = list(map(Draws, names, flips, words, crop_BEF, hidden_BN))
    if view.crops is None:
        return draws
    epochs = [ref.epoch for ref in refs]
    crops = crop_draws(source.seed, epochs, names, view.crops, view.num_patches)
    return [one._replace(crops=its) for one, its in zip(draws, crops, strict=True)]


def read_row(job: RowJob) -> RawSample:
    """Return the bytes for a slot: the sample it names or, if that is damaged, a substitute.

    Raises RuntimeError where none of many draws is whole.
    """
    return _read(job, 0, None)


def _read(job: RowJob, first: int, damage: DamagedSample | None) -> RawSample:
    """Try the sample itself (attempt 0) and then fixed draws, from attempt `first` on."""
    source = job.source
    for attempt in range(first, _SUBSTITUTES):
        ref = source.instead(job.ref, attempt) if attempt else job.ref
        try:
            dataset = source.datasets[ref.dataset]
            jpeg = dataset.image(ref.sample)
            metadata = dataset.metadata(ref.sample) if job.paired else {}
        except DamagedSample as error:  # a damaged substitute is listed at its own slot alone
            damage = damage or error
        else:
            return RawSample(jpeg, metadata, ref, attempt, damage)
    raise RuntimeError(
        f"data.{source.name}, step {job.step}: {_SUBSTITUTES} samples in a row are damaged, the "
        f"first {damage}; build these shards again"
    )


def make_row(job: RowJob, raw: RawSample, view: View) -> BatchRow:
    """Write the image of a slot, cut as `view` says, and return what goes with it.

    What does not decode is lost and replaced.
    """
    while True:
        try:
            row = _decoded(job, raw, view)
        except DamagedSample as damage:
            raw = _read(job, raw.attempt + 1, raw.damage or damage)
        else:
            return row._replace(lost=_lost(job, raw.damage, row.key) if raw.damage else None)


def _lost(job: RowJob, damage: DamagedSample, substitute: str) -> Lost:
    dataset = job.source.datasets[job.ref.dataset].name
    return Lost(
        job.step, job.source.name, job.row, dataset, damage.shard, damage.key, damage.reason,
        substitute,
    )  # fmt: skip


def _decoded(job: RowJob, raw: RawSample, view: View) -> BatchRow:
    dataset, index = job.source.datasets[raw.ref.dataset], raw.ref.sample
    draws = draws_of(job.source, [raw.ref], view)[0] if raw.attempt else job.draws
    try:
        crops = _write(job.image_HWC, raw.jpeg, draws, view)
    except ValueError as error:
        raise DamagedSample(dataset.shard(index), dataset.key(index), str(error)) from error
    text, label = "", 0
    if job.paired:
        categories, report = raw.metadata["categories"], raw.metadata["report"]
        prefer = view.caption_from
        wording = wording_of(dataset.manifest, view.caption_template)
        if not categories and not report:  # unreadable when the pairs were chosen
            raise DamagedSample(dataset.shard(index), dataset.key(index), "has no caption")
        text = caption(categories, report, wording, prefer, draw=draws.word)
        label = label_of(categories if view.label_guided else (), draws.name)
    return BatchRow(draws.flip, draws.hidden_N, text, label, draws.name, None, crops)


def _write(
    out_HWC: np.ndarray, jpeg: bytes, draws: Draws, view: View
) -> tuple[CropDraws, np.ndarray] | None:
    """Write what is cut from an image, and return what goes with several crops of it."""
    if view.crops is None or draws.crops is None:
        write_crop(out_HWC, jpeg, view.crop_area, draws.crop_EF, view.fidelity)
        return None
    slots, areas = view.crops.slots(out_HWC, view.image_size), view.crops.areas(view.crop_area)
    write_crops(slots, jpeg, areas, draws.crops.crop_XEF, view.fidelity)
    hidden_GN = hidden_blocks(draws.crops.mask_F, view.crops.mask_ratio, view.num_patches)
    return draws.crops, hidden_GN


def label_of(categories: Sequence[str], name: str) -> int:
    """Return the label of a pair: of its set of categories, or its own where it has none.

    Two pairs with the same set are positives, whatever the dataset. Its own label is that of the
    sample (`name`, dataset/key), not of its row: shown twice in a batch, as a small source is, or
    where an epoch ends within it, a sample is a positive of itself and not its own negative.
    """
    if not categories:
        return -1 - (number("sample", name, bits=64) >> 1)
    return number("categories", *sorted(set(categories)), bits=64) >> 1
