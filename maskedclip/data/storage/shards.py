"""A dataset on disk: plain tars, an index beside each, and a manifest that is written last.

Samples are read by position with `os.pread`, not streamed, so that the order of an epoch is a pure
function of the step. Each member has a checksum, so damage costs only the samples that it hit: the
dataset keeps its length, and each of them is named when it is read.
"""

import logging
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
from isal.isal_zlib import crc32

from maskedclip.data.storage.exclusions import read_exclusions
from maskedclip.data.storage.manifest import read_manifest
from maskedclip.data.storage.open_dataset import open_dataset
from maskedclip.data.storage.retrying_files import RetryingFiles, Storage
from maskedclip.data.storage.sample_metadata import own_metadata, third_party_metadata
from maskedclip.data.storage.shard_index import COLUMNS, SampleTable, file_sha256
from maskedclip.data.storage.shard_writer import ShardWriter
from maskedclip.data.storage.tar import quoted
from maskedclip.data.storage.third_party_tars import COLUMNS as THIRD_PARTY_COLUMNS
from maskedclip.data.storage.third_party_tars import index_sha256

__all__ = ["DamagedSample", "ShardWriter", "Shards", "read_manifest"]
logger = logging.getLogger(__name__)
_CHUNK = 8 << 20  # bytes of one read of many samples
_MEMBERS = (("image", "jpg"), ("metadata", "json"), ("txt", "txt"), ("cls", "cls"))


class DamagedSample(RuntimeError):  # noqa: N818 - the contract's name
    """One sample whose bytes are not those that were written."""

    def __init__(self, shard: str, key: str, reason: str) -> None:
        super().__init__(shard, key, reason)  # all three, so that it survives pickling in a worker
        self.shard, self.key, self.reason = shard, key, reason

    def __str__(self) -> str:
        return f"{self.shard}: sample {self.key}: {self.reason}"


class Shards:
    """One dataset, opened for reading; safe in threads and in forked workers.

    That is a finished dataset directory, or a directory of third-party WebDataset tars, or one such
    tar. `excluded` are the indices of the samples that exclude.csv names: they can be read, but
    take no part in training or testing. A lost sample keeps its index; where not even its key is
    known it is called SHARD#POSITION.

    Raises ValueError, in one line, where the directory is missing, empty or unfinished, its
    manifest is damaged, none of its samples can be read, or its exclude.csv is of another dataset.
    """

    def __init__(self, directory: Path, storage: Storage | None = None) -> None:
        self.directory, self._storage = Path(directory), storage or Storage()
        index = open_dataset(self.directory, self._storage)
        self.manifest, self.third_party = index.manifest, index.third_party
        self.name = str(self.manifest["name"])
        self._tars = [tar.name for tar in index.tars]
        self._paths = list(index.tars)
        self._files = RetryingFiles(index.tars, self._storage)
        self._set(index.tables)

    def _set(self, tables: Sequence[SampleTable]) -> None:
        self._starts = [0, *accumulate(len(table.keys) for table in tables)]
        self._reasons = {i: table.reason for i, table in enumerate(tables) if table.reason}
        self._lost: dict[int, str] = {}
        columns = THIRD_PARTY_COLUMNS if self.third_party else COLUMNS
        # One array and one text: a forked worker would copy every page of many small objects.
        self._extents = np.zeros((self._starts[-1], columns), dtype=np.int64)
        for start, table in zip(self._starts, tables, strict=False):
            self._lost |= {start + row: reason for row, reason in table.lost.items()}
            if not table.reason:
                self._extents[start : start + len(table.keys)] = table.extents
        self._extents[list(self._lost)] = 0
        keys = [key for table in tables for key in table.keys]
        self._refuse_repeated(keys)
        known = keys if all(keys) else None  # the list may name a sample whose key is not known
        left_out = {entry.key for entry in read_exclusions(self.directory, known)}
        self.excluded = frozenset(i for i, key in enumerate(keys) if key and key in left_out)
        self._text = "".join(keys)
        self._ends = np.fromiter(accumulate(map(len, keys)), dtype=np.int64, count=len(keys))
        if self.third_party and all(self._reason(i) for i in range(len(keys))):
            first = f": {self._reason(0)}" if keys else ": they hold no member"
            raise ValueError(f"{self.directory}: no sample of its tars can be had{first}")

    def _refuse_repeated(self, keys: list[str]) -> None:
        if len(set(keys)) == len(keys):
            return
        first: dict[str, int] = {}
        for index, key in enumerate(keys):
            if key and (before := first.setdefault(key, index)) != index:
                self._lost[index] = (
                    f"the key {quoted(key)} is there before, in {self.shard(before)}"
                )
                keys[index] = ""

    def __len__(self) -> int:
        return self._starts[-1]

    def key(self, index: int) -> str:
        """Return the sample's key, unique in the dataset."""
        number = self._shard_number(index)
        first = int(self._ends[index - 1]) if index else 0
        key = self._text[first : int(self._ends[index])]
        return key or f"{self._tars[number]}#{index - self._starts[number]}"

    def shard(self, index: int) -> str:
        """Return the file name of the shard that holds the sample."""
        return self._tars[self._shard_number(index)]

    def image_span(self, index: int) -> tuple[int, int, int]:
        """Return offset, size and crc32 of the sample's JPEG in its shard."""
        offset, size, checksum = self._extents[index, :3].tolist()
        return offset, size, checksum

    def read(self, index: int) -> tuple[bytes, dict[str, Any]]:
        """Return the JPEG bytes and the metadata of a sample; DamagedSample if either is bad."""
        return self.image(index), self.metadata(index)

    def image(self, index: int) -> bytes:
        """Return the JPEG bytes alone; DamagedSample if they are not those written."""
        return self._member(index, 0)

    def read_members(self, index: int) -> list[bytes]:
        """Return the bytes of a sample's members, each as written or empty where there is none.

        They are the JPEG and the JSON; of a third-party dataset also a txt and a cls. Raises
        DamagedSample.
        """
        return [self._member(index, which) for which in range(self._extents.shape[1] // 3)]

    def stored_images(self) -> tuple[np.ndarray, np.ndarray]:
        """Return size_N and crc32_N of all stored JPEGs by the index, 0 of those that are lost."""
        return self._extents[:, 1], self._extents[:, 2]

    def metadata(self, index: int) -> dict[str, Any]:
        """Return the metadata alone; DamagedSample if its bytes are not those written."""
        members = [self._member(index, which) for which in range(1, self._extents.shape[1] // 3)]
        try:
            if self.third_party:
                return third_party_metadata(self.name, self.key(index), members)
            return own_metadata(members[0])
        except ValueError as error:
            raise self._damage(index, str(error)) from None

    def warm(self, start: int, stop: int) -> Iterator[int]:
        """Read samples start..stop-1 into the system's cache, in order; yields bytes as they come.

        What cannot be read is left to the reads of its samples, which name it.
        """
        # posix_fadvise(WILLNEED) stops after one readahead: 8 of 256 MB where it was measured
        for number in range(self._shard_number(start), self._shard_number(stop - 1) + 1):
            first, last = max(start, self._starts[number]), min(stop, self._starts[number + 1])
            starts, sizes = self._extents[first:last, 0::3], self._extents[first:last, 1::3]
            if not starts.any():
                continue
            end = int((starts + sizes).max())
            for offset in range(int(starts[starts > 0].min()), end, _CHUNK):
                try:
                    content = self._files.read(number, min(_CHUNK, end - offset), offset)
                except OSError:
                    break
                if not content:
                    break
                yield len(content)

    def tars_of(self, index_N: np.ndarray) -> list[int]:
        """Return the numbers of the tars that hold these samples; not of those without any."""
        number_N = np.searchsorted(self._starts, index_N, side="right") - 1
        return [int(n) for n in np.unique(number_N) if n not in self._reasons]

    def tar_sha256(self, number: int) -> str:
        """Return what a tar's content is known by: its hash, of a third-party one its index's."""
        return str(self.manifest["shards"][number]["sha256"])

    def original(self, number: int) -> tuple[Path, RetryingFiles]:
        """Return where a tar itself is, and a reader of it as file 0; copies are not read."""
        return self._paths[number], RetryingFiles([self._paths[number]], self._storage)

    def is_tar(self, number: int, path: Path) -> bool:
        """Return whether a file has the content of a tar, by all of its bytes."""
        files = RetryingFiles([path], Storage(pauses=()))
        try:
            found = index_sha256(files) if self.third_party else file_sha256(files)
        except OSError:
            return False
        return found == self.tar_sha256(number)

    def read_copy(self, number: int, path: Path) -> None:
        """Read the samples of a tar from a copy of it, until that fails once."""
        self._files.use_copy(number, path)

    def _reason(self, index: int) -> str:
        """Return why a sample was lost before it is read, empty where it was not."""
        return self._lost.get(index) or self._reasons.get(self._shard_number(index), "")

    def _damage(self, index: int, reason: str) -> DamagedSample:
        return DamagedSample(self.shard(index), self.key(index), reason)

    def _shard_number(self, index: int) -> int:
        if not 0 <= index < len(self):
            raise IndexError(f"sample {index} of {self.name}, which has {len(self)}")
        return bisect_right(self._starts, index) - 1

    def _member(self, index: int, which: int) -> bytes:
        number = self._shard_number(index)
        if index in self._lost or number in self._reasons:
            raise self._damage(index, self._reason(index))
        offset, size, checksum = self._extents[index, 3 * which : 3 * which + 3].tolist()
        if not offset:  # a third-party sample need not have every member
            return b""
        try:
            content = self._files.read(number, size, offset)
            if crc32(content) == checksum and len(content) == size:
                return content
            content = self._read_again(content, number, size, offset, checksum)
        except FileNotFoundError:
            raise self._damage(
                index, f"{_MEMBERS[which][0]} cannot be read: the shard is missing"
            ) from None
        except OSError as error:
            reason = f"{_MEMBERS[which][0]} cannot be read ({error.strerror})"
            raise self._damage(index, reason) from error
        if len(content) < size:
            reason = f"has {len(content)} of {size} bytes: the shard is cut short"
        elif crc32(content) != checksum:
            reason = "has another checksum than when it was written"
        else:
            return content
        raise self._damage(index, f"{_MEMBERS[which][0]} {reason}")

    def _read_again(
        self, content: bytes, number: int, size: int, offset: int, checksum: int
    ) -> bytes:
        """Return bytes that were not as written from the tar itself, if they came from another."""
        if self._files.leave_copy(number, "has other bytes than its tar"):
            content = self._files.read(number, size, offset)
        if crc32(content) != checksum and self._files.was_replaced(number):
            content = self._files.read(number, size, offset)
        return content
