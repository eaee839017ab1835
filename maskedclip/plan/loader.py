"""The cores that a GPU needs for its images, and whether those of its rank are enough."""

import json
from itertools import chain, pairwise
from pathlib import Path
from typing import NamedTuple

from maskedclip.config import DataConfig
from maskedclip.engine.cores import decoding_threads_of

_SHARD_SIZE = 512  # pixels, of make_shards unless it is told another
# milliseconds of one core to read, check, decode and cut a stored image to 224 px, by its side
# (2048: 2048 x 1536), measured by processor time on a busy EPYC on 2026-11-29: rather too long
_SIDES = (256, 512, 768, 1024, 2048)
_MS = {
    "fast": (0.49, 1.29, 2.31, 3.24, 6.35),
    "fine": (0.48, 1.30, 2.64, 3.58, 7.03),
    "exact": (1.09, 2.66, 5.40, 8.45, 21.9),
}
# of 2 crops of 224 px and 8 of 96 px, times one crop of 224 px: the most of 256, 512 and 1024 px,
# measured by processor time on a busy EPYC on 2026-11-30
_MULTI_CROP, _MULTI_CROPS = {"fast": 1.8, "fine": 2.6, "exact": 3.1}, 10
_QUICKER = {"exact": "fine", "fine": "fast"}


class Decoding(NamedTuple):
    """What decoding costs a GPU's rank; figures are planned."""

    side: int  # pixels of the stored images
    ms: float  # of a core, an image
    cores: float  # that one GPU's images keep busy
    usable: int  # cores of a rank that can decode
    starves: str  # what to do where these are too few, else ""


def decoding(
    data: DataConfig, images_per_s: float, cpus: int, side: int = 0, crops: int = 1
) -> Decoding:
    """Return what it takes to bring a GPU `images_per_s`, on `cpus` cores a rank.

    Args:
        side: pixels of the stored images; 0: as the manifests of the shards say, else 512.
        crops: cut from one image, all from one decoding.
    """
    side = side or _stated_side(data) or _SHARD_SIZE
    ms = _ms(side, data.fidelity, crops)
    wanted = images_per_s * ms / 1000
    usable = min(decoding_threads_of(cpus) if data.threads is None else data.threads, cpus)
    starves = "" if wanted <= usable else _advice(data, images_per_s, usable, side, crops)
    return Decoding(side, ms, wanted, usable, starves)


def _ms(side: float, fidelity: str, crops: int) -> float:
    """Return the milliseconds of an image and its crops, in proportion between measured ones."""
    more = (_MULTI_CROP[fidelity] - 1) * (crops - 1) / (_MULTI_CROPS - 1)
    return (1 + more) * _ms_of_one(side, fidelity)


def _ms_of_one(side: float, fidelity: str) -> float:
    known = list(zip(_SIDES, _MS[fidelity], strict=True))
    for (low, low_ms), (high, high_ms) in pairwise(known):
        if side <= high:
            return max(0.5 * low_ms, low_ms + (high_ms - low_ms) * (side - low) / (high - low))
    return known[-1][1] * (side / known[-1][0]) ** 2


def _advice(data: DataConfig, images_per_s: float, usable: int, side: int, crops: int) -> str:
    ways = []
    if quicker := _QUICKER.get(data.fidelity):
        cores = images_per_s * _ms(side, quicker, crops) / 1000
        ways.append(f"--data.fidelity={quicker} ({cores:.1f} cores)")
    for smaller in (size for size in (512, 256) if size < side):
        cores = images_per_s * _ms(smaller, data.fidelity, crops) / 1000
        ways.append(f"shards of {smaller} px (make_shards --size={smaller}: {cores:.1f} cores)")
    more = "more --data.threads and cores a GPU" if data.threads is not None else "more cores a GPU"
    share = usable / (images_per_s * _ms(side, data.fidelity, crops) / 1000)
    first = f"{', '.join(ways)}, then {more}" if ways else more
    return f"the loader brings {share:.0%} of the images, which the times leave out; use {first}"


def _stated_side(data: DataConfig) -> int:
    """Return the largest side that manifests of the run's shards state, 0 where none does."""
    sides = [0]
    for name in chain(*data.read):
        manifest = Path(name) / "manifest.json"
        if manifest.is_file():
            settings = json.loads(manifest.read_text()).get("settings", {})
            sides.append(int(settings.get("size") or 0))
    return max(sides)
