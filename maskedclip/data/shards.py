"""A dataset on disk: plain tars, an index beside each, and a manifest that is written last.

Samples are read by position with `os.pread`, not streamed: the place of a sample in an epoch is
then a pure function of the step. Each member has a checksum, so a flipped bit costs one sample.
"""

import hashlib
import json
import os
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from maskedclip.data.exclusions import read_exclusions
from maskedclip.data.shard_writer import (
    FORMAT_VERSION,
    INDEX_HEADER,
    MANIFEST,
    write_manifest,
    write_shard,
)

_PIECE = 8 << 20  # bytes of one read of many samples


class DamagedSample(RuntimeError):  # noqa: N818 - the contract's name
    """One sample whose bytes are not those that were written."""

    def __init__(self, shard: str, key: str, reason: str) -> None:
        super().__init__(shard, key, reason)  # all three, so that it survives pickling in a worker
        self.shard, self.key, self.reason = shard, key, reason

    def __str__(self) -> str:
        return f"{self.shard}: sample {self.key}: {self.reason}"


class Shards:
    """One finished dataset directory, opened for reading; safe in threads and in forked workers.

    `excluded` are the places of the samples that exclude.csv names: they can be read, but take no
    part in training or testing. Raises ValueError, in one line, where the directory is missing,
    empty, unfinished or not whole, or its exclude.csv is not of this dataset.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = Path(directory)
        self.manifest = read_manifest(self.directory)
        self.name = str(self.manifest["name"])
        self._files = [str(entry["file"]) for entry in self.manifest["shards"]]
        self._descriptors: dict[int, int] = {}
        keys: list[str] = []
        places: list[list[int]] = []
        starts = [0]
        for entry in self.manifest["shards"]:
            for key, *place in self._read_index(entry):
                keys.append(key)
                places.append([int(value) for value in place])
            starts.append(len(keys))
        # Arrays and not lists of tuples: a forked worker would copy every page of those.
        self._keys = np.array(keys, dtype=np.str_)
        self._places = np.array(places, dtype=np.int64).reshape(-1, 6)
        self._starts = np.array(starts, dtype=np.int64)
        left_out = {entry.key for entry in read_exclusions(self.directory, keys)}
        self.excluded = frozenset(i for i, key in enumerate(keys) if key in left_out)

    def _read_index(self, entry: dict[str, Any]) -> Iterator[list[str]]:
        for file in (entry["file"], entry["index"]):
            if not (self.directory / file).is_file():
                raise ValueError(f"{self.directory / file}: missing; build the dataset again")
        path = self.directory / entry["index"]
        content = path.read_bytes()
        if hashlib.sha256(content).hexdigest() != entry["index_sha256"]:
            raise ValueError(f"{path}: not the index named by {MANIFEST}; build the dataset again")
        lines = content.decode().splitlines()
        if lines[0] != INDEX_HEADER:
            raise ValueError(f"{path}: begins with {lines[0]!r}, not {INDEX_HEADER!r}; build again")
        yield from (line.split("\t") for line in lines[1:])

    def __len__(self) -> int:
        return len(self._keys)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_descriptors": {}}  # open files do not travel to another process

    def __del__(self) -> None:
        for descriptor in getattr(self, "_descriptors", {}).values():
            with suppress(OSError):
                os.close(descriptor)

    def key(self, index: int) -> str:
        """Return the sample's key, unique in the dataset."""
        return str(self._keys[index])

    def shard(self, index: int) -> str:
        """Return the file name of the shard that holds the sample."""
        return self._files[self._shard_number(index)]

    def read(self, index: int) -> tuple[bytes, dict[str, Any]]:
        """Return the JPEG bytes and the metadata of a sample; DamagedSample if either is bad."""
        return self._member(index, 0), self.metadata(index)

    def metadata(self, index: int) -> dict[str, Any]:
        """Return the metadata alone; DamagedSample if its bytes are not those written."""
        content = self._member(index, 3)
        try:
            metadata = json.loads(content)
        except ValueError as error:
            reason = f"metadata is not JSON ({error})"
            raise DamagedSample(self.shard(index), self.key(index), reason) from None
        if not isinstance(metadata, dict):
            reason = "metadata is not a JSON object"
            raise DamagedSample(self.shard(index), self.key(index), reason)
        return metadata

    def warm(self, start: int, stop: int) -> Iterator[int]:
        """Read samples start..stop-1 into the system's cache, in order; yields bytes as they come.

        What cannot be read is left to the reads of its samples, which name it.
        """
        # posix_fadvise(WILLNEED) stops after one readahead: 8 of 256 MB where it was measured
        for number in range(self._shard_number(start), self._shard_number(stop - 1) + 1):
            first, last = max(start, self._starts[number]), min(stop, self._starts[number + 1])
            offset_SM, size_SM = self._places[first:last, 0::3], self._places[first:last, 1::3]
            if not len(offset_SM):
                continue
            end = int((offset_SM + size_SM).max())
            for offset in range(int(offset_SM.min()), end, _PIECE):
                try:
                    yield len(os.pread(self._descriptor(number), min(_PIECE, end - offset), offset))
                except OSError:
                    break

    def _shard_number(self, index: int) -> int:
        if not 0 <= index < len(self):
            raise IndexError(f"sample {index} of {self.name}, which has {len(self)}")
        return int(np.searchsorted(self._starts, index, side="right")) - 1

    def _member(self, index: int, column: int) -> bytes:
        number = self._shard_number(index)
        offset, size, checksum = (int(v) for v in self._places[index, column : column + 3])
        member = "image" if column == 0 else "metadata"
        try:
            content = os.pread(self._descriptor(number), size, offset)
        except OSError as error:
            reason = f"{member} cannot be read ({error.strerror})"
            raise DamagedSample(self._files[number], self.key(index), reason) from error
        if len(content) < size:
            reason = f"{member} has {len(content)} of {size} bytes: the shard is cut short"
        elif zlib.crc32(content) != checksum:
            reason = f"{member} has another checksum than when it was written"
        else:
            return content
        raise DamagedSample(self._files[number], self.key(index), reason)

    def _descriptor(self, number: int) -> int:
        if number not in self._descriptors:
            opened = os.open(self.directory / self._files[number], os.O_RDONLY | os.O_CLOEXEC)
            if self._descriptors.setdefault(number, opened) != opened:  # another thread was first
                os.close(opened)
        return self._descriptors[number]


def read_manifest(directory: Path) -> dict[str, Any]:
    """Return the manifest of a finished dataset; ValueError, in one line, where there is none."""
    path = directory / MANIFEST
    if not directory.is_dir():
        raise ValueError(f"{directory}: no such directory; build it with tools/make_shards.py")
    if not path.is_file():
        found = "is empty" if not any(directory.iterdir()) else f"has no {MANIFEST}: not finished"
        raise ValueError(f"{directory}: {found}; build it with tools/make_shards.py")
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: is not JSON ({error}); build the dataset again") from None
    if not isinstance(manifest, dict) or not {"format", "name", "shards"} <= manifest.keys():
        raise ValueError(f"{path}: is not a manifest of shards; build the dataset again")
    if manifest["format"] != FORMAT_VERSION:
        found = f"has format {manifest['format']}, this code reads {FORMAT_VERSION}"
        raise ValueError(f"{path}: {found}; build the dataset again")
    if not manifest["shards"]:
        raise ValueError(f"{path}: names no shard; build the dataset again")
    return manifest


class ShardWriter:
    """Write a dataset sample by sample; the manifest comes when the `with` block ends well."""

    def __init__(
        self, directory: Path, name: str, *, samples_per_shard: int = 1000, **facts: Any
    ) -> None:
        self.directory, self.name, self.facts = Path(directory), name, facts
        self.samples_per_shard = samples_per_shard
        self._waiting: list[tuple[str, bytes, dict[str, Any]]] = []
        self._keys: set[str] = set()
        self._shards: list[dict[str, Any]] = []

    def __enter__(self) -> "ShardWriter":
        self.directory.mkdir(parents=True, exist_ok=True)
        return self

    def add(self, key: str, jpeg: bytes, metadata: dict[str, Any]) -> None:
        """Append one sample; ValueError where the key is taken or has a dot or a slash."""
        if not key or "." in key or "/" in key or key in self._keys:
            raise ValueError(f"{self.directory}: key {key!r} is taken, empty or has a dot or slash")
        self._keys.add(key)
        self._waiting.append((key, jpeg, metadata))
        if len(self._waiting) == self.samples_per_shard:
            self._flush()

    def _flush(self) -> None:
        stem = f"{self.name}-{len(self._shards):06d}"
        self._shards.append(write_shard(self.directory, stem, self._waiting))
        self._waiting = []

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            if self._waiting:
                self._flush()
            write_manifest(self.directory, self.name, self._shards, **self.facts)
