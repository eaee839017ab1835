"""The stream of pre-training against webdataset, Pillow and torchvision, on the same shards."""

import itertools
import os
import statistics
import tempfile
import time
import zlib
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import webdataset
from benches.photographs import photographs
from benches.turns import OtherWork, called
from torch.utils.data import DataLoader
from torchvision import transforms

from maskedclip.data.captions import caption
from maskedclip.data.photographs.field_of_view import find_field, square_field
from maskedclip.data.rows import BatchRow, View, draws_of
from maskedclip.data.source import Source
from maskedclip.data.storage.shards import Shards, ShardWriter
from maskedclip.data.stream import Batch, collate, stream
from maskedclip.data.transforms import MEAN, STD, TRIES, crop_of, cut
from maskedclip.shards.building.prepare_sample import encode

IMAGE = 224  # pixels
AREA = (0.2, 1.0)
PREFETCH, READERS = 3, 16
SECONDS = 1.0  # of each turn
_DIFFERENT = 64  # JPEGs, each in the shards many times


def loader(
    size: str = "512", rounds: int = 15, root: str = "", fidelity: str = "fine"
) -> dict[str, float | str | None]:
    """Return the speed of our stream, of the reference and of decoding alone, in turn.

    The turns are short, and the loaders wait in between: a machine that does other things as well
    then hinders all three alike.
    """
    cores = len(os.sched_getaffinity(0))
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    batch = 32 if int(size) > 1024 else 64
    with shards_of(size, root) as directory:
        dataset = Shards(directory)
        jpegs = [dataset.read(i)[0] for i in range(min(256, len(dataset)))]
        best = best_workers(directory, batch)
        our, their = our_batches(dataset, batch, cores, fidelity), reference(directory, batch, best)
        ours, theirs, ceiling = [], [], []
        others = OtherWork()
        for _ in range(rounds):
            ours.append(rate(our, batch, stored=PREFETCH + 1))
            theirs.append(rate(their, batch, stored=3 * best))
            ceiling.append(decoded(jpegs, cores, fidelity))
        share = others.share()
        our.close()
        stages = stages_of(dataset, fidelity)
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    shares = [a / b for a, b in zip(ours, ceiling, strict=True)]
    return {
        "images_per_s": statistics.median(ours),
        "reference_images_per_s": statistics.median(theirs),
        "ceiling_images_per_s": statistics.median(ceiling),
        **called(share, ratio=ratios, share_of_ceiling=shares),
        "kilobytes_each": statistics.mean(map(len, jpegs)) / 1000,
        "reference_workers": best,
        "threads": cores,
        **{f"ms_{name}": value for name, value in stages.items()},
        "binds": max(stages, key=lambda name: stages[name]),
    }


@contextmanager
def shards_of(size: str, root: str) -> Iterator[Path]:
    """Give a directory of shards: root, or one written for the time being."""
    with tempfile.TemporaryDirectory() as place:
        yield Path(root) if root else write(Path(place) / "bench", int(size))


def write(directory: Path, size: int) -> Path:
    """Write shards of phantoms with noise: squares of `size`, or ORIGINAL ones where it is 2048."""
    jpegs = []
    for picture in photographs(_DIFFERENT // 8):
        image_HWC = np.asarray(picture)
        if size < picture.width:
            image_HWC = square_field(image_HWC, find_field(image_HWC), size)
        for turn in range(8):
            turned_HWC = np.rot90(image_HWC[:, :: 1 - 2 * (turn % 2)], turn // 4 * 2)
            quality = 92 + turn // 2 if size <= 1024 else 89 + turn // 3  # 340 kB, as of a camera
            jpegs.append(encode(np.ascontiguousarray(turned_HWC), quality))
    samples = 2048 if size <= 1024 else 256
    with ShardWriter(directory, "bench", samples_per_shard=samples // 8) as writer:
        for number in range(samples):
            metadata: dict[str, Any] = {
                "dataset": "bench", "source": f"{number:05d}.jpg", "patient": None, "eye": "L",
                "split": None, "labels": {}, "categories": ["glaucoma"], "report": None,
                "width": 2048, "height": 1536, "sha256": "0" * 64, "phash": "0" * 16,
            }  # fmt: skip
            writer.add(f"{number:05d}", jpegs[number % len(jpegs)], metadata)
    return directory


def rate(batches: Iterator[Any], batch: int, stored: int, seconds: float = SECONDS) -> float:
    """Return images a second, once the batches are used up that were made in between.

    Waits until all is at rest again.
    """
    for _ in range(stored):
        next(batches)
    start, count = time.perf_counter(), 0
    while (took := time.perf_counter() - start) < seconds or count % max(1, stored):
        next(batches)
        count += 1
    time.sleep(2 * stored * took / count)  # it works on until as many are stored again
    return count * batch / took


def best_workers(directory: Path, batch: int) -> int:
    """Return how many workers, of 0 to 4, make the reference fastest; the best of two tries."""
    found: dict[int, float] = {}
    for workers in (*range(5), *range(5)):
        speed = rate(reference(directory, batch, workers), batch, stored=3 * workers)
        found[workers] = max(speed, found.get(workers, 0.0))
    return max(found, key=lambda workers: found[workers])


def our_batches(
    dataset: Shards, batch: int, threads: int, fidelity: str
) -> Generator[Batch, None, None]:
    """Return the stream that pretrain reads, of unpaired images alone."""
    source, pairs = (Source(name, [dataset], 0, captioned=False) for name in ("unpaired", "paired"))
    nothing = torch.zeros(0, 1, dtype=torch.int64)
    return stream(
        pairs, source, (0, batch), view(fidelity), lambda _: (nothing, nothing),
        first_step=0, rank=0, world=1, threads=threads, prefetch=PREFETCH, readers=READERS,
    )  # fmt: skip


def view(fidelity: str) -> View:
    """Return how the stream cuts: as the reference does, and with MAE's mask."""
    return View(
        image_size=IMAGE, num_patches=196, mask_ratio=0.75, crop_area=AREA,
        caption_template="[CLS]", caption_from="report", fidelity=fidelity,
    )  # fmt: skip


def reference(directory: Path, batch: int, workers: int) -> Iterator[Any]:
    """Return the batches of the usual recipe: webdataset, Pillow, torchvision, DataLoader."""
    augment = transforms.Compose(
        [
            transforms.RandomResizedCrop(IMAGE, scale=AREA),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(MEAN, STD),
        ]
    )
    tars = [str(path) for path in sorted(directory.glob("*.tar"))]
    dataset = webdataset.WebDataset(tars, shardshuffle=False, empty_check=False)
    dataset = dataset.repeat().decode("pil").to_tuple("jpg").map_tuple(augment)
    return iter(DataLoader(dataset, batch_size=batch, num_workers=workers))


def decoded(jpegs: list[bytes], threads: int, fidelity: str, seconds: float = SECONDS) -> float:
    """Return images a second of decoding and cropping alone: bytes in memory, nothing else."""
    chunks = [jpegs[first : first + 16] for first in range(0, len(jpegs), 16)]

    def work(seed: int) -> int:
        draws, count = np.random.default_rng(seed), 0
        for chunk in itertools.islice(itertools.cycle(chunks), seed, None):
            for jpeg in chunk:
                crop_of(jpeg, IMAGE, AREA, draws.random((TRIES, 4)), fidelity)
            count += len(chunk)
            if time.perf_counter() > end:
                break
        return count

    start = time.perf_counter()
    end = start + seconds
    with ThreadPoolExecutor(threads) as pool:
        count = sum(pool.map(work, range(threads)))
    return count / (time.perf_counter() - start)


def stages_of(dataset: Shards, fidelity: str, rows: int = 200) -> dict[str, float]:
    """Return the median milliseconds a row of each thing that is done, one after the other."""
    took: dict[str, list[float]] = {}

    def timed(name: str, work: Callable[[], Any]) -> Any:
        start = time.perf_counter()
        found = work()
        took.setdefault(name, []).append(1000 * (time.perf_counter() - start))
        return found

    made = []
    for number in range(rows):
        index = number % len(dataset)
        jpeg, _ = timed("read_check", partial(dataset.read, index))
        timed("check", partial(zlib.crc32, jpeg))
        timed("caption", partial(caption, ["glaucoma"], None, draw=0.5))
        numbers = np.random.default_rng(number).random((TRIES, 4))
        timed("decode", partial(cut, jpeg, IMAGE, AREA, numbers, fidelity))
        timed("decode_crop", partial(crop_of, jpeg, IMAGE, AREA, numbers, fidelity))
        made.append(BatchRow(False, np.zeros(196, bool), "", 0, "", None))
    found = {name: statistics.median(values) for name, values in took.items()}
    nothing = torch.zeros(0, 1, dtype=torch.int64)
    source = Source("unpaired", [dataset], 0, captioned=False)
    start = time.perf_counter()
    draws_of(source, source.samples_at(0, rows), view(fidelity))
    found["draws_mask"] = 1000 * (time.perf_counter() - start) / rows
    start = time.perf_counter()
    collate(torch.empty(0, 1, 1, 3), made, lambda _: (nothing, nothing), view(fidelity))
    found["collate"] = 1000 * (time.perf_counter() - start) / rows
    found["read"] = found["read_check"] - found["check"]
    found["crop_resize"] = found["decode_crop"] - found["decode"]
    order = ("read", "check", "draws_mask", "caption", "decode", "crop_resize", "collate")
    return {name: found[name] for name in order}
