"""Features of a frozen network, computed once and kept in a file.

A file belongs to (sha256 of the weights, of the dataset, image size, preparation, arithmetic), and
every frozen protocol, seed and label fraction reads it. It is safetensors with a JSON header; what
is not whole, or is of something else, is computed again.
"""

import hashlib
import json
import logging
import os
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import safetensors.numpy
from safetensors import SafetensorError, safe_open
from tqdm import tqdm

from maskedclip.data.labelled import Sample
from maskedclip.data.labelled_views import Views, preparation, prepared_batches
from maskedclip.data.storage.shards import DamagedSample, Shards
from maskedclip.evaluate.frozen_encoder import Frozen

logger = logging.getLogger(__name__)
FOLDER = "features"
_BATCH = 64
_SAVE_EVERY = 60.0  # seconds: what a killed run computes again


class Features(NamedTuple):
    """A row of features a sample, by its place in the dataset; `lost` are those just not read."""

    index_N: np.ndarray
    rows: Mapping[str, np.ndarray]  # of each kind
    lost: Sequence[DamagedSample] = ()

    def of(self, samples: Sequence[Sample], kind: str) -> tuple[list[Sample], np.ndarray]:
        """Return the samples that could be read, and a row of features for each."""
        place = {int(index): row for row, index in enumerate(self.index_N)}
        kept = [sample for sample in samples if sample.index in place]
        return kept, self.rows[kind][[place[sample.index] for sample in kept]]


def features(
    frozen: Frozen, dataset: Shards, samples: Sequence[Sample], folder: Path, threads: int
) -> Features:
    """Return the features of at least these samples: read from `folder`, the missing computed.

    Samples that cannot be read are tried anew each time. Raises RuntimeError where there is not
    one that can.
    """
    facts = frozen.facts(dataset)
    path = folder / f"{dataset.name}-{_digest(facts)[:12]}.safetensors"
    parts = _read(path, facts)
    known = {int(index) for part in parts for index in part.index_N}
    missing = [sample for sample in samples if sample.index not in known]
    lost: list[DamagedSample] = []
    if missing:
        saved, before = time.monotonic(), len(parts)
        for views in _batches(frozen, dataset, missing, threads):
            lost += views.lost
            if views.samples:
                index_B = np.array([sample.index for sample in views.samples])
                parts.append(Features(index_B, frozen.encode(views.image_BCHW)))
            if time.monotonic() - saved > _SAVE_EVERY:
                parts, before = [_joined(parts)], 1
                _write(path, facts, parts[0])
                saved = time.monotonic()
        if not parts:
            raise RuntimeError(f"{dataset.directory}: no image can be read; check the shards")
        if len(parts) > before:
            parts = [_joined(parts)]
            _write(path, facts, parts[0])
    logger.info("%s: features of %d images in %s", dataset.name, len(parts[0].index_N), path)
    return parts[0]._replace(lost=lost)


def _batches(
    frozen: Frozen, dataset: Shards, samples: Sequence[Sample], threads: int
) -> Iterator[Views]:
    """Yield the images, and show how far it is."""
    prepare = preparation(**frozen.info.preparation._asdict())
    with tqdm(total=len(samples), desc=f"features of {dataset.name}", unit="image") as bar:
        for views in prepared_batches(
            dataset, samples, prepare=prepare, batch=_BATCH, threads=threads
        ):
            yield views
            bar.update(len(views.samples) + len(views.lost))


def _joined(parts: Sequence[Features]) -> Features:
    rows = {k: np.concatenate([part.rows[k] for part in parts]) for k in parts[0].rows}
    return Features(np.concatenate([part.index_N for part in parts]), rows)


def _digest(facts: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _read(path: Path, facts: Mapping[str, Any]) -> list[Features]:
    """Return what a file holds; nothing, and why, where it is damaged."""
    if not path.exists():
        return []
    try:
        with safe_open(path, framework="np") as file:
            header = json.loads((file.metadata() or {})["maskedclip"])
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if header["sha256"] != _sha256(arrays) or header["facts"] != json.loads(json.dumps(facts)):
            raise ValueError("its content is not what its header says")
        return [Features(arrays.pop("index"), arrays)]
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        logger.warning("%s: is damaged (%s); its features are computed again", path, error)
        return []


def _write(path: Path, facts: Mapping[str, Any], found: Features) -> None:
    """Write in one rename, under a name of its own until then: others may write the same."""
    arrays = {"index": found.index_N, **found.rows}
    header = json.dumps({"facts": facts, "sha256": _sha256(arrays)})
    path.parent.mkdir(parents=True, exist_ok=True)
    content = safetensors.numpy.save(arrays, {"maskedclip": header})
    descriptor, name = tempfile.mkstemp(prefix=path.stem, suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    finally:
        Path(name).unlink(missing_ok=True)


def _sha256(arrays: Mapping[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name} {array.dtype} {array.shape}".encode() + array.tobytes())
    return digest.hexdigest()
