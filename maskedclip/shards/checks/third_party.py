"""Check third-party tars: every sample is read as training reads it, then cropped as by a build.

There is no manifest to compare with: what a reader cannot have is a problem, by name and reason,
and members that nothing reads are none.
"""

import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from maskedclip.data.photographs.decoding import UnreadableImage
from maskedclip.data.storage.shards import DamagedSample, Shards
from maskedclip.shards.building.prepare_sample import encode, field_photograph
from maskedclip.shards.checks.shard import MemberSpan, Metadata, Problem, StoredSample, read_jpeg

_SIDE, _QUALITY = 512, 95  # as make_shards stores a photograph


def check_samples(
    dataset: Shards, workers: int, done: Callable[[int], object]
) -> tuple[list[Problem], list[StoredSample], dict[str, str]]:
    """Return the problems and the intact samples of third-party tars, and the kinds of tasks."""
    kinds: dict[str, str] = {}

    def check(index: int) -> Problem | StoredSample:
        done(1)
        try:
            jpeg, metadata = dataset.read(index)
            photograph = field_photograph(jpeg, _SIDE)
        except DamagedSample as damage:
            return Problem(damage.shard, damage.key, damage.reason)
        except UnreadableImage as error:
            return Problem(dataset.shard(index), dataset.key(index), f"its image: {error}")
        kinds.update(metadata.get("kinds", {}))
        used = {name: metadata[name] for name in ("source", "patient", "split", "labels")}
        facts = Metadata(
            **used,
            captioned=bool(metadata["categories"] or metadata["report"]),
            width=photograph.width,
            height=photograph.height,
            sha256=hashlib.sha256(jpeg).hexdigest(),
        )
        span = MemberSpan(*dataset.image_span(index))
        side = min(photograph.width, photograph.height)
        return StoredSample(dataset.key(index), dataset.shard(index), span, side, facts, False)

    with ThreadPoolExecutor(workers) as pool:
        results = list(pool.map(check, range(len(dataset))))
    return (
        [result for result in results if isinstance(result, Problem)],
        [result for result in results if isinstance(result, StoredSample)],
        kinds,
    )


def read_square(dataset: Path, sample: StoredSample) -> bytes:
    """Return a photograph as a build of ours stores it: of third-party tars it is made now.

    Raises RuntimeError where its bytes changed meanwhile.
    """
    jpeg = read_jpeg(dataset.parent if dataset.is_file() else dataset, sample)
    if sample.is_square:
        return jpeg
    return encode(field_photograph(jpeg, _SIDE).image_HWC, _QUALITY)
