"""A path to a dataset: a directory of ours, a directory of third-party tars, or one such tar."""

import hashlib
import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from maskedclip.data.storage.manifest import verified_manifest
from maskedclip.data.storage.retrying_files import Storage
from maskedclip.data.storage.shard_index import SampleTable, read_index
from maskedclip.data.storage.shard_writer import MANIFEST
from maskedclip.data.storage.third_party_tars import (
    index_tar,
    stand_in_manifest,
    third_party_tars,
)

logger = logging.getLogger(__name__)


class DatasetIndex(NamedTuple):
    """What is known of a dataset before any sample is read."""

    manifest: dict[str, Any]
    tars: Sequence[Path]
    tables: Sequence[SampleTable]
    third_party: bool


def open_dataset(path: Path, storage: Storage) -> DatasetIndex:
    """Return the samples of a dataset; ValueError, in one line, where it cannot be trusted."""
    tars = third_party_tars(path)
    if tars:
        read = [index_tar(tar, storage) for tar in tars]
        tables = [index.table for index in read]
        return DatasetIndex(stand_in_manifest(path, tars, read), tars, tables, third_party=True)
    manifest = verified_manifest(path, storage)
    entries = manifest["shards"]
    present = set(os.listdir(path))  # noqa: PTH208 - one call, and only names are asked for
    missing = [entry["file"] for entry in entries if entry["file"] not in present]
    if missing:
        logger.warning(
            "%s: %d of %d shards are missing: %s ...", path, len(missing), len(entries), missing[0]
        )
    tables = [read_index(path, entry, storage) for entry in entries]
    tars = [path / entry["file"] for entry in entries]
    return DatasetIndex(manifest, tars, tables, third_party=False)


def describe(path: Path) -> dict[str, Any]:
    """Return the manifest of a dataset, or of third-party tars their names; no tar is read.

    Raises ValueError, in one line, where there is no dataset.
    """
    tars = third_party_tars(path)
    if not tars:
        return verified_manifest(path)
    return {"classes": {}, "shards": [{"file": tar.name} for tar in tars]}


def dataset_sha256(path: Path) -> str:
    """Return the hash of a manifest, or of the content of third-party tars, indexed for it."""
    tars = third_party_tars(path)
    if not tars:
        return hashlib.sha256((path / MANIFEST).read_bytes()).hexdigest()
    hashes = [(tar.name, index_tar(tar, Storage()).sha256) for tar in tars]
    return hashlib.sha256(json.dumps(hashes).encode()).hexdigest()
