"""A path to a dataset: a directory of ours, a directory of tars of others, or one such tar."""

import hashlib
import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from maskedclip.data.storage.index_file import Table
from maskedclip.data.storage.index_recovery import read_own
from maskedclip.data.storage.manifest import verified_manifest
from maskedclip.data.storage.retrying_files import Storage
from maskedclip.data.storage.shard_writer import MANIFEST
from maskedclip.data.storage.third_party_tars import foreign_manifest, foreign_tars, read_foreign

logger = logging.getLogger(__name__)


class Opened(NamedTuple):
    """What is known of a dataset before any sample is read."""

    manifest: dict[str, Any]
    tars: Sequence[Path]
    tables: Sequence[Table]
    foreign: bool


def open_dataset(path: Path, storage: Storage) -> Opened:
    """Return the samples of a dataset; ValueError, in one line, where it cannot be trusted."""
    tars = foreign_tars(path)
    if tars:
        read = [read_foreign(tar, storage) for tar in tars]
        tables = [indexed.found.table for indexed in read]
        return Opened(foreign_manifest(path, tars, read), tars, tables, foreign=True)
    manifest = verified_manifest(path, storage)
    entries = manifest["shards"]
    there = set(os.listdir(path))  # noqa: PTH208 - one call, and names are all that is asked for
    missing = [entry["file"] for entry in entries if entry["file"] not in there]
    if missing:
        logger.warning(
            "%s: %d of %d shards are missing: %s ...", path, len(missing), len(entries), missing[0]
        )
    tables = [read_own(path, entry, storage) for entry in entries]
    return Opened(manifest, [path / entry["file"] for entry in entries], tables, foreign=False)


def describe(path: Path) -> dict[str, Any]:
    """Return the manifest of a dataset, or of foreign tars their names; no tar is read.

    Raises ValueError, in one line, where there is no dataset.
    """
    tars = foreign_tars(path)
    if not tars:
        return verified_manifest(path)
    return {"classes": {}, "shards": [{"file": tar.name} for tar in tars]}


def dataset_sha256(path: Path) -> str:
    """Return the hash of a manifest, or of what foreign tars hold: they are indexed for it."""
    tars = foreign_tars(path)
    if not tars:
        return hashlib.sha256((path / MANIFEST).read_bytes()).hexdigest()
    parts = [(tar.name, read_foreign(tar, Storage()).sha256) for tar in tars]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
