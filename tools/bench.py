"""Measure speed: `python tools/bench.py phantom|shards [--json]`; the last line is one JSON object.

phantom   images drawn a second on one core at 224 px, against the 30 that were promised; the median
          of 5 rounds of 60 phantoms of all diseases
shards    photographs of 2048 x 1536 to shards of 512 px by make_shards (field of view, hashes, tar,
          index, manifest, contact sheet, splits) against plain Pillow (open, convert, crop,
          resize, save) in as many processes, in turn; the median of --rounds 5. There are --images
          1000 files, links to 60 different ones: phantoms with the noise and the bytes of a
          camera's photographs, or those of --root DIR, resized
"""

import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from maskedclip.command import one_line_errors, read_flags, stop

PROMISED = 30  # phantoms a second and core
ORIGINAL = (2048, 1536)  # pixels, as many cameras write
SIZE = 512  # pixels, of the shards


def phantom() -> dict[str, float]:
    """Return the median speed of drawing and its spread."""
    import cv2

    from maskedclip.data.phantom import draw

    cv2.setNumThreads(1)
    draw(0)
    speeds = []
    for turn in range(5):
        start = time.perf_counter()
        for seed in range(60 * turn, 60 * (turn + 1)):
            draw(seed)
        speeds.append(60 / (time.perf_counter() - start))
    middle = statistics.median(speeds)
    return {
        "images_per_s": middle,
        "lowest": min(speeds),
        "highest": max(speeds),
        "ratio": middle / PROMISED,
    }


def shards(images: str = "1000", rounds: str = "5", root: str = "") -> dict[str, float]:
    """Return the speed of make_shards and of Pillow, their ratio, and where our time goes."""
    from maskedclip.make_shards import build
    from maskedclip.shard_request import Request

    cores = len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as place:
        originals = Path(place) / "originals"
        originals.mkdir()
        paths = list(_originals(originals, int(images), root))
        ours, pillow = [], []
        for turn in range(int(rounds)):
            out = Path(place) / f"shards{turn}"
            start = time.perf_counter()
            build(Request(dataset="folder", root=originals, name="bench", out=out), progress=False)
            ours.append(len(paths) / (time.perf_counter() - start))
            shutil.rmtree(out)
            out.mkdir()
            start = time.perf_counter()
            with ProcessPoolExecutor(cores) as pool:
                for _ in pool.map(partial(_plain_pillow, out=out), paths, chunksize=8):
                    pass
            pillow.append(len(paths) / (time.perf_counter() - start))
            shutil.rmtree(out)
        stages = _stages(paths[:100])
        kilobytes = statistics.mean(path.stat().st_size for path in paths) / 1000
    found = {
        "images_per_s": statistics.median(ours),
        "pillow_images_per_s": statistics.median(pillow),
        "ratio": statistics.median(a / b for a, b in zip(ours, pillow, strict=True)),
        "lowest_ratio": min(a / b for a, b in zip(ours, pillow, strict=True)),
        "processes": cores,
        "kilobytes_each": kilobytes,
    }
    return found | {f"ms_{name}": value for name, value in stages.items()}


def _originals(place: Path, count: int, root: str) -> Iterable[Path]:
    """Write JPEGs of ORIGINAL pixels: phantoms with noise, or the photographs of root."""
    import numpy as np
    from PIL import Image

    from maskedclip.data.phantom import draw
    from maskedclip.data.sources import image_files

    width, height = ORIGINAL
    pictures: list[Image.Image] = []
    if root:
        for path in image_files(Path(root))[:20]:
            pictures.append(Image.open(path).convert("RGB").resize(ORIGINAL))
    else:
        noise = np.random.default_rng(0)
        for seed in range(20):
            eye_HWC = draw(seed, height - 64).image_HWC
            picture_HWC = np.zeros((height, width, 3), np.int16)
            left = (width - len(eye_HWC)) // 2
            picture_HWC[32:-32, left : left + len(eye_HWC)] = eye_HWC
            picture_HWC += noise.normal(0, 3.5, picture_HWC.shape).astype(np.int16)
            pictures.append(Image.fromarray(picture_HWC.clip(0, 255).astype(np.uint8)))
    different: list[Path] = []
    for number in range(count):
        path = place / f"{number:05d}.jpg"
        if number < 3 * len(pictures):
            pictures[number // 3].save(path, quality=90 + 2 * (number % 3))
            different.append(path)
        else:
            os.link(different[number % len(different)], path)
        yield path


def _plain_pillow(path: Path, out: Path) -> None:
    from PIL import Image

    image = Image.open(path).convert("RGB")
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    square = image.crop((left, top, left + side, top + side))
    square.resize((SIZE, SIZE), Image.Resampling.BICUBIC).save(out / path.name, quality=95)


def _stages(paths: list[Path]) -> dict[str, float]:
    """Return the median milliseconds of each thing that is done to a photograph, in one process."""
    import hashlib

    import cv2

    from maskedclip.data.decoding import decode
    from maskedclip.data.field import find_field, square_field
    from maskedclip.data.fundus import encode, perceptual_hash
    from maskedclip.data.looks import look_of
    from maskedclip.data.shard_writer import write_shard

    cv2.setNumThreads(1)
    took: dict[str, list[float]] = {}

    def timed(name: str, work: Callable[[], object]) -> object:
        start = time.perf_counter()
        found = work()
        took.setdefault(name, []).append(1000 * (time.perf_counter() - start))
        return found

    samples = []
    for path in paths:
        content = timed("read", path.read_bytes)
        picture = timed("decode", lambda content=content: decode(content, SIZE)).image_HWC
        box = timed("field", lambda p=picture: find_field(p))
        square = timed("crop_resize", lambda p=picture, b=box: square_field(p, b, SIZE))
        timed("look", lambda s=square: look_of(s))
        timed("phash", lambda s=square: perceptual_hash(s))
        timed("sha256", lambda c=content: hashlib.sha256(c).hexdigest())
        samples.append((path.stem, timed("encode", lambda s=square: encode(s, 95)), {}))
    with tempfile.TemporaryDirectory() as place:
        start = time.perf_counter()
        write_shard(Path(place), "bench", samples)
        took["write"] = [1000 * (time.perf_counter() - start) / len(samples)]
    return {name: statistics.median(values) for name, values in took.items()}


BENCHES = {"phantom": (phantom, ()), "shards": (shards, ("images", "rounds", "root"))}


if __name__ == "__main__":
    words, flags = read_flags()
    if flags.keys() & {"help", "h"} or not words:
        sys.stdout.write(__doc__)
        raise SystemExit(0)
    bench, options = BENCHES.get(words[0], (None, ()))
    if bench is None or len(words) > 1 or flags.keys() - {"json", *options}:
        stop(f"{' '.join(sys.argv[1:])}: use one of {', '.join(BENCHES)}, and the flags of --help")
    with one_line_errors():
        found = bench(**{name: value for name, value in flags.items() if name != "json"})
    if "json" not in flags:
        for name, value in found.items():
            print(f"{name:20} {value:.2f}")
    print(json.dumps(found))
