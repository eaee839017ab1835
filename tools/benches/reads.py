"""Raw verified reads of a tar against webdataset's iteration of it."""

import random
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from benches.loader import shards_of
from benches.turns import OtherWork, called


def reads(size: str = "512", rounds: int = 5, root: str = "") -> dict[str, float | str | None]:
    """Return `raw_reads` of a tar, or of the first one of a directory of shards."""
    with shards_of(size, root) as place:
        tar = place if place.suffix == ".tar" else min(place.glob("*.tar"))
        return raw_reads(tar, rounds)


def raw_reads(tar: Path, rounds: int = 5) -> dict[str, float | str | None]:
    """Return samples and GB a second of our reads (in order, at random; each with its crc32) and of
    webdataset's plain iteration without decoding, in one thread, and the ratios.

    The tar is read once before, so that it is in the page cache and its index is there. The ways
    take turns; the medians of `rounds` turns, and of their ratios, are returned.
    """
    import webdataset

    from maskedclip.data.storage.shards import Shards

    shards = Shards(tar)
    places = list(range(len(shards)))
    mixed = random.Random(0).sample(places, len(places))

    def ours(order: list[int]) -> Iterator[int]:
        for index in order:
            yield sum(map(len, shards.read_members(index)))

    def theirs() -> Iterator[int]:
        for sample in webdataset.WebDataset(str(tar), shardshuffle=False):
            yield sum(len(content) for content in sample.values() if isinstance(content, bytes))

    ways: dict[str, Callable[[], Iterator[int]]] = {
        "ours": lambda: ours(places),
        "ours_at_random": lambda: ours(mixed),
        "webdataset": theirs,
    }
    rates: dict[str, list[float]] = {name: [] for name in ways}
    sizes: dict[str, tuple[int, int]] = {}
    others = OtherWork()
    for turn in range(-1, rounds):
        for name, way in ways.items():
            start = time.perf_counter()
            read = list(way())
            seconds = time.perf_counter() - start
            sizes[name] = (len(read), sum(read))
            if turn >= 0:
                rates[name].append(len(read) / seconds)
    share = others.share()
    assert len(set(sizes.values())) == 1, f"the ways read different samples: {sizes}"
    count, total = sizes["ours"]
    middle = {name: statistics.median(values) for name, values in rates.items()}
    found = {f"{name}_samples_per_s": value for name, value in middle.items()}
    found |= {f"{name}_gb_per_s": value * total / count / 1e9 for name, value in middle.items()}
    ratios = {
        key: [a / b for a, b in zip(rates[name], rates["webdataset"], strict=True)]
        for key, name in (("ratio", "ours"), ("ratio_at_random", "ours_at_random"))
    }
    return {**found, **called(share, **ratios), "kilobytes_each": total / count / 1000}
