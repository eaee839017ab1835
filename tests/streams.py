"""Small datasets for the stream, stored and computed, and the batches of ranks put together."""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import simplejpeg
import torch

from maskedclip.data.rows import View
from maskedclip.data.source import Source
from maskedclip.data.storage.shards import Shards, ShardWriter
from maskedclip.data.stream import Batch, stream

VIEW = View(
    image_size=16,
    num_patches=4,
    mask_ratio=0.75,
    crop_area=(0.2, 1.0),
    caption_template="A fundus photograph of [CLS]",
    caption_from="both",
    fidelity="fine",
)
FINDINGS = [("glaucoma",), ("cataract", "drusens"), ("my word",), ()]


def picture(number: int) -> bytes:
    generator = np.random.default_rng(number)
    return simplejpeg.encode_jpeg(generator.integers(0, 255, (24, 24, 3), dtype=np.uint8))


def facts(number: int, captioned: bool = True) -> dict[str, Any]:
    findings = FINDINGS[number % 4]
    report = "as it is" if captioned and not findings else None
    return {"categories": list(findings), "report": report}


PICTURES = [picture(number) for number in range(16)]


class Computed:
    """A dataset of any size that is computed when it is read: `Shards` without files."""

    excluded: frozenset[int] = frozenset()

    def __init__(self, name: str, size: int) -> None:
        self.name, self.directory, self._size = name, Path(name), size
        self.manifest = {"counts": {"without_caption": 0}}
        self.warmed: list[tuple[int, int]] = []

    def __len__(self) -> int:
        return self._size

    def key(self, index: int) -> str:
        assert 0 <= index < self._size
        return f"{index:09d}"

    def shard(self, index: int) -> str:
        return f"{self.name}-{index // 1000:06d}.tar"

    def image(self, index: int) -> bytes:
        return PICTURES[index % 16]

    def metadata(self, index: int) -> dict[str, Any]:
        return facts(index)

    def warm(self, start: int, stop: int) -> Iterator[int]:
        self.warmed.append((start, stop))
        yield stop - start


def stored(folder: Path, name: str, samples: int, captioned: bool = True) -> Shards:
    with ShardWriter(folder / name, name, samples_per_shard=7) as writer:
        for i in range(samples):
            writer.add(f"{i:04d}", picture(i), {"dataset": name, **facts(i, captioned)})
    return Shards(folder / name)


def tokenize(captions: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
    token_AL = torch.tensor([[sum(caption.encode())] for caption in captions], dtype=torch.int64)
    return token_AL, torch.ones_like(token_AL)


class Plan(NamedTuple):
    """What alone decides the batches."""

    paired: Source
    unpaired: Source | None
    batch_sizes: tuple[int, int]


def share(
    plan: Plan, first: int, steps: int, rank: int, world: int, threads: int = 0
) -> list[Batch]:
    """Return one rank's share of some steps."""
    endless = stream(
        *plan, VIEW, tokenize,
        first_step=first, rank=rank, world=world, readers=2, threads=threads, prefetch=2,
    )  # fmt: skip
    found = list(itertools.islice(endless, steps))
    endless.close()
    return found


def batches(plan: Plan, first: int, steps: int, world: int = 1, threads: int = 0) -> list[Batch]:
    """Return the global batches of some steps, from as many ranks."""
    shares = [share(plan, first, steps, rank, world, threads) for rank in range(world)]
    sizes = [size // world for size in plan.batch_sizes]
    return [together(of_a_step, sizes[0]) for of_a_step in zip(*shares, strict=True)]


def flat(lists: Iterable[list]) -> list:
    return list(itertools.chain.from_iterable(lists))


def together(shares: Sequence[Batch], paired: int) -> Batch:
    """Return the global batch: the paired rows of all ranks (`paired` each), then the others."""
    if len(shares) == 1:
        return shares[0]

    def rows(name: str) -> Any:
        values = [getattr(batch, name) for batch in shares]
        if name.endswith("A") or name.endswith("AL"):
            return torch.cat(values)
        parts = [value[:paired] for value in values] + [value[paired:] for value in values]
        return torch.cat(parts) if torch.is_tensor(parts[0]) else flat(parts)

    names = [name for name in Batch._fields if name not in ("captions", "lost", "crops")]
    lost = sorted(lost for batch in shares for lost in batch.lost)
    captions = [caption for batch in shares for caption in batch.captions]
    return Batch(captions=captions, lost=lost, **{name: rows(name) for name in names})


def assert_same(ours: Batch, theirs: Batch) -> None:
    for name, value in ours._asdict().items():
        other = getattr(theirs, name)
        assert torch.equal(value, other) if torch.is_tensor(value) else value == other, name


def assert_whole_epochs(shown: Sequence[str], everything: Sequence[str], unseen: list[str]) -> None:
    """Fail unless each epoch of `shown` is `everything` once, the last one with `unseen`."""
    size = len(everything)
    for start in range(0, len(shown), size):
        epoch = list(shown[start : start + size])
        if len(epoch) < size:
            epoch += unseen
        assert sorted(epoch) == sorted(everything)
    assert len(unseen) == -len(shown) % size
