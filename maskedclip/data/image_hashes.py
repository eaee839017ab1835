"""By which content an image is recognised, whatever its dataset is called and at whichever size.

Of each sample there are two 64-bit numbers: the beginning of the sha256 of its source file, which
builds of other names and sizes share, and size and checksum of the JPEG as it is stored. For a
sample that states no source (of third-party tars) its JPEG is the source.
"""

import hashlib
import json
import logging
import re
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np

from maskedclip.data.labelled import SPLIT_NAMES, labelled
from maskedclip.data.splits import division_of, split_file, split_rows
from maskedclip.data.storage.shards import DamagedSample, Shards

logger = logging.getLogger(__name__)
_PHANTOM = re.compile(r"phantom/\d+")
_SHA256 = re.compile("[0-9a-f]{64}")
_MANY = 2000  # JPEGs to be hashed from which on it is worth a line in the log
_THREADS = 8  # they wait for the disk
_PART = 64  # samples that a thread reads at a time: to hand over one costs more than to read it


class ImageFacts(NamedTuple):
    """What is known of all images of a dataset without decoding one."""

    hash_N2: np.ndarray  # uint64: source, stored file; 0 where it is not known, of a damaged sample
    published: np.ndarray  # sorted indices of those with a label whose published split is test
    tasks: frozenset[str]


_KNOWN: WeakKeyDictionary[Shards, ImageFacts] = WeakKeyDictionary()
_LAST: WeakKeyDictionary[Shards, tuple[np.ndarray, np.ndarray]] = WeakKeyDictionary()


def image_facts(dataset: Shards) -> ImageFacts:
    """Return the facts of all images of a dataset, read once."""
    if dataset not in _KNOWN:
        found = _read(dataset, np.arange(len(dataset)))
        source_N = [source for source, *_ in found]
        hash_N2 = np.stack([np.array(source_N, np.uint64), _stored(dataset)], axis=1)
        # without a label there is no score that training on an image would spoil
        published = [
            i for i, (_, split, own) in enumerate(found) if own and SPLIT_NAMES.get(split) == "test"
        ]
        tasks = frozenset(task for *_, tasks in found for task in tasks)
        _KNOWN[dataset] = ImageFacts(hash_N2, np.array(published, np.int64), tasks)
    return _KNOWN[dataset]


def hashes_of(dataset: Shards, index_B: np.ndarray) -> np.ndarray:
    """Return hash_B2 of some images; others are not read, and the last ones are remembered."""
    if dataset in _KNOWN:
        return np.asarray(_KNOWN[dataset].hash_N2[index_B])
    asked, hash_B2 = _LAST.get(dataset, (None, np.zeros((0, 2), np.uint64)))
    if asked is None or not np.array_equal(asked, index_B):
        source_B = [source for source, *_ in _read(dataset, index_B)]
        hash_B2 = np.stack([np.array(source_B, np.uint64), _stored(dataset)[index_B]], axis=1)
        _LAST[dataset] = index_B, hash_B2
    return hash_B2


def _stored(dataset: Shards) -> np.ndarray:
    size_N, crc_N = dataset.stored_images()
    return (size_N.astype(np.uint64) << np.uint64(32)) | crc_N.astype(np.uint64)


def _read(dataset: Shards, index_B: np.ndarray) -> list[tuple[int, str, tuple[str, ...]]]:
    """Return of each sample the number of its source, its published split, and its tasks."""
    if dataset.third_party and len(index_B) >= _MANY:
        logger.info("%s: its %d images are hashed, once", dataset.directory, len(index_B))
    parts = [index_B[first : first + _PART].tolist() for first in range(0, len(index_B), _PART)]
    with ThreadPoolExecutor(_THREADS) as pool:
        found = pool.map(lambda part: [_facts(dataset, index) for index in part], parts)
        return [facts for part in found for facts in part]


def _facts(dataset: Shards, index: int) -> tuple[int, str, tuple[str, ...]]:
    split, tasks, digest = "", (), ""
    try:
        metadata = dataset.metadata(index)
        split, tasks = metadata["split"] or "", tuple(metadata["labels"])
        digest = _stated(dataset, index, metadata)
    except DamagedSample:
        pass
    try:
        digest = digest or hashlib.sha256(dataset.image(index)).hexdigest()
    except DamagedSample:
        return 0, split, tasks
    return int(digest[:16], 16), split, tasks


def _stated(dataset: Shards, index: int, metadata: Mapping[str, Any]) -> str:
    """Return the sha256 of the source of a sample where it states one, else ""."""
    drawn = dataset.manifest.get("recipe", {}).get("name") == "phantom"
    if drawn and _PHANTOM.fullmatch(metadata["source"]):  # a number, the same eye at any size
        return hashlib.sha256(metadata["source"].encode()).hexdigest()
    stated = metadata["sha256"]
    if dataset.third_party:  # the JSON of a copy of our tars, or of img2dataset's, has it
        try:
            content = json.loads(dataset.read_members(index)[1] or b"{}")
        except (ValueError, RecursionError):
            return ""
        stated = content.get("sha256") if isinstance(content, dict) else ""
    return stated if isinstance(stated, str) and _SHA256.fullmatch(stated) else ""


class ImageSet:
    """A set of images, by both of their hashes."""

    def __init__(self, hashes: Iterable[np.ndarray] = ()) -> None:
        parts = [np.asarray(part, np.uint64).ravel() for part in hashes]
        hash_K = np.unique(np.concatenate([*parts, np.zeros(0, np.uint64)]))
        self.hash_K = hash_K[hash_K != 0]

    def holds(self, hash_B2: np.ndarray) -> np.ndarray:
        """Return is_B: whether each image is in the set, by its source or as it is stored."""
        return np.asarray(np.isin(hash_B2, self.hash_K).any(axis=1))


def tested_indices(dataset: Shards, task: str) -> np.ndarray:
    """Return the sorted indices of the images that a task of the dataset is tested on.

    Those are the labelled images of the published test split, and of each task that of
    splits/TASK.csv, or where it is missing that of the rule by which an evaluation would divide.
    Other split files are not asked.

    Args:
        task: the one that is asked for, "" for all of them.
    """
    facts = image_facts(dataset)
    tasks = [task] if task else facts.tasks
    found = set(facts.published.tolist())
    if tasks:
        index_of = {dataset.key(index): index for index in range(len(dataset))}
        keys = {key for each in tasks for key in _tested_keys(dataset, each)}
        found |= {index_of[key] for key in keys if key in index_of}
    return np.array(sorted(found), np.int64)


def _tested_keys(dataset: Shards, task: str) -> set[str]:
    file = split_file(dataset.directory, task)
    if file.is_file():
        return {row[0] for row in split_rows(file) if row[2] == "test"}
    try:
        parts = division_of(dataset, labelled(dataset, task)).parts
    except ValueError:  # too few samples or classes: nothing can be tested on them
        return set()
    return {sample.key for sample in parts["test"]}


def tested_images(datasets: Iterable[Shards]) -> ImageSet:
    """Return the images that tasks of the datasets are tested on."""
    return ImageSet(hashes_of(dataset, tested_indices(dataset, "")) for dataset in datasets)
