"""Building shards against Pillow in as many processes, and where the time of a photograph goes."""

import hashlib
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import cv2
from benches.photographs import photographs
from benches.turns import OtherWork, called
from PIL import Image

from maskedclip.data.photographs.decoding import decode
from maskedclip.data.photographs.field_of_view import find_field, square_field
from maskedclip.data.storage.shard_writer import write_shard
from maskedclip.shards.building.prepare_sample import encode, perceptual_hash
from maskedclip.shards.building.quality import quality_of
from maskedclip.shards.make import ShardRequest, build

SIZE = 512  # pixels, of the shards


def shards(images: int = 1000, rounds: int = 5, root: str = "") -> dict[str, float | str | None]:
    """Return the speed of make_shards and of Pillow, their ratio, and where our time goes."""
    cores = len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as place:
        originals = Path(place) / "originals"
        originals.mkdir()
        paths = list(_originals(originals, images, root))
        ours, pillow = [], []
        others = OtherWork()
        for turn in range(rounds):
            out = Path(place) / f"shards{turn}"
            start = time.perf_counter()
            build(
                ShardRequest(dataset="folder", root=originals, name="bench", out=out),
                progress=False,
            )
            ours.append(len(paths) / (time.perf_counter() - start))
            shutil.rmtree(out)
            out.mkdir()
            start = time.perf_counter()
            with ProcessPoolExecutor(cores) as pool:
                for _ in pool.map(partial(_plain_pillow, out=out), paths, chunksize=8):
                    pass
            pillow.append(len(paths) / (time.perf_counter() - start))
            shutil.rmtree(out)
        share = others.share()
        stages = _stages(paths[:100])
        kilobytes = statistics.mean(path.stat().st_size for path in paths) / 1000
    found = {
        "images_per_s": statistics.median(ours),
        "pillow_images_per_s": statistics.median(pillow),
        **called(share, ratio=[a / b for a, b in zip(ours, pillow, strict=True)]),
        "processes": cores,
        "kilobytes_each": kilobytes,
    }
    return found | {f"ms_{name}": value for name, value in stages.items()}


def _originals(place: Path, count: int, root: str) -> Iterable[Path]:
    """Write JPEGs of 20 pictures in three qualities, and links to them up to `count`."""
    different: list[Path] = []
    for image in photographs(20, root):
        for quality in (89, 90, 91)[: count - len(different)]:  # some 340 kB, as of a camera
            different.append(place / f"{len(different):05d}.jpg")
            image.save(different[-1], quality=quality)
    for number in range(count):
        path = place / f"{number:05d}.jpg"
        if number >= len(different):
            os.link(different[number % len(different)], path)
        yield path


def _plain_pillow(path: Path, out: Path) -> None:
    image = Image.open(path).convert("RGB")
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    square = image.crop((left, top, left + side, top + side))
    square.resize((SIZE, SIZE), Image.Resampling.BICUBIC).save(out / path.name, quality=95)


def _stages(paths: list[Path]) -> dict[str, float]:
    """Return the median milliseconds of each thing that is done to a photograph, in one process."""
    cv2.setNumThreads(1)
    took: dict[str, list[float]] = {}

    def timed(name: str, work: Callable[[], Any]) -> Any:
        start = time.perf_counter()
        found = work()
        took.setdefault(name, []).append(1000 * (time.perf_counter() - start))
        return found

    samples: list[tuple[str, bytes, dict[str, Any]]] = []
    for path in paths:
        content = timed("read", path.read_bytes)
        picture = timed("decode", partial(decode, content, SIZE)).image_HWC
        box = timed("field", partial(find_field, picture))
        square = timed("crop_resize", partial(square_field, picture, box, SIZE))
        timed("look", partial(quality_of, square))
        timed("phash", partial(perceptual_hash, square))
        timed("sha256", partial(hashlib.sha256, content))
        samples.append((path.stem, timed("encode", partial(encode, square, 95)), {}))
    with tempfile.TemporaryDirectory() as place:
        start = time.perf_counter()
        write_shard(Path(place), "bench", samples)
        took["write"] = [1000 * (time.perf_counter() - start) / len(samples)]
    return {name: statistics.median(values) for name, values in took.items()}
