"""Damaged JPEGs within a shard, beside the decoders alone."""

import io
import logging
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import simplejpeg
from PIL import Image
from tortures.damages import damaged
from tortures.trials import OURS, Trial, Verdict, of_an_anchor, refused

from maskedclip.data.storage.shards import DamagedSample, Shards, ShardWriter
from maskedclip.data.transforms import decode
from maskedclip.shards.phantoms.phantom import draw

NUMBER = 10_000
SECONDS = 30.0  # of a trial; one that takes longer hangs
SAMPLES, SIZE = 4, 224  # images of the shard, pixels


@contextmanager
def trials(folder: Path) -> Iterator[Trial]:
    """A shard of phantoms, of which one JPEG is damaged where it lies in the tar."""
    directory = folder / "eyes"
    jpegs = [simplejpeg.encode_jpeg(draw(seed, SIZE).image_HWC) for seed in range(SAMPLES)]
    with ShardWriter(directory, "eyes", samples_per_shard=SAMPLES) as writer:
        for number, jpeg in enumerate(jpegs):
            writer.add(f"{number}", jpeg, {"dataset": "eyes", "report": "an eye"})
    tar = directory / "eyes-000000.tar"
    whole = tar.read_bytes()
    pixels = {name: [read(jpeg) for jpeg in jpegs] for name, read in DECODERS.items()}

    def trial(rng: random.Random, number: int) -> Mapping[str, Verdict]:
        at = number % SAMPLES
        content = damaged(jpegs[at], rng)
        before, after = whole.split(jpegs[at])
        tar.write_bytes(before + content + after)
        try:
            verdicts = {OURS: delivered(directory, jpegs)}
        finally:
            tar.write_bytes(whole)
        for name, read in DECODERS.items():
            verdicts[name] = decoded(name, read, content, pixels[name][at])
        bare = verdicts[BARE]
        if bare.outcome == "LOST":  # no checksum is no reason to break
            verdicts[OURS] = bare
        return verdicts

    yield trial


def delivered(directory: Path, jpegs: list[bytes]) -> Verdict:
    """Return whether each sample arrives as it was written, or is listed."""
    listed = ""
    logging.disable(logging.ERROR)
    try:
        shards = Shards(directory)
        if len(shards) != len(jpegs):
            return Verdict("SILENT", f"{len(shards)} samples of {len(jpegs)}")
        for number, jpeg in enumerate(jpegs):
            try:
                if shards.image(number) != jpeg:
                    return Verdict("SILENT", f"sample {number} is another image")
            except DamagedSample as damage:
                listed = damage.reason
    finally:
        logging.disable(logging.NOTSET)
    return Verdict("refused", listed) if listed else Verdict("harmless")


def by_pillow(jpeg: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(jpeg), formats=["JPEG"]) as image:
        return np.asarray(image.convert("RGB"))


def by_opencv(jpeg: bytes) -> np.ndarray:
    found = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
    if found is None:
        raise ValueError("no image")
    return found


BARE = "our decode, no checksum"  # of files that nobody hashed before, as make_shards meets them
DECODERS: Mapping[str, Callable[[bytes], np.ndarray]] = {
    "Pillow": by_pillow,
    "OpenCV": by_opencv,
    "simplejpeg": simplejpeg.decode_jpeg,
    BARE: decode,
}


def decoded(
    name: str, read: Callable[[bytes], np.ndarray], jpeg: bytes, wanted: np.ndarray
) -> Verdict:
    def judge(found: np.ndarray) -> Verdict:
        return Verdict("harmless" if np.array_equal(found, wanted) else "SILENT", "other pixels")

    if name != BARE:
        return of_an_anchor(lambda: read(jpeg), judge)
    try:
        return judge(read(jpeg))
    except ValueError as error:
        return refused(error)
