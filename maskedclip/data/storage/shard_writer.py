"""The bytes of a dataset: tar, index and manifest; the same samples give the same bytes."""

import hashlib
import json
import os
import secrets
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tarfile import BLOCKSIZE
from types import TracebackType
from typing import Any, BinaryIO

from isal.isal_zlib import crc32

from maskedclip.data.storage.shard_index import INDEX_HEADER, format_line

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
SELF_SHA256 = "manifest_sha256"
EMPTY_METADATA: dict[str, Any] = {
    "dataset": "",
    "source": "",
    "patient": None,
    "eye": None,
    "split": None,
    "labels": {},
    "categories": [],
    "report": None,
    "width": 0,
    "height": 0,
    "sha256": "",
    "phash": "",
}


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Open a file that replaces `path` only once it is complete and on the disk."""
    # of this writer alone: two may write the same file at once
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        error.filename = error.filename or str(path)  # a full disk does not say which file
        raise
    finally:
        temporary.unlink(missing_ok=True)


def write_shard(
    directory: Path, stem: str, samples: Iterable[tuple[str, bytes, dict[str, Any]]]
) -> dict[str, Any]:
    """Write STEM.tar and STEM.idx; return the shard's entry of the manifest.

    Args:
        samples: (key, JPEG bytes, metadata); same samples, same bytes. Fields of the metadata that
            are not given are written empty, unknown ones raise ValueError.
    """
    from webdataset import TarWriter  # brings torch: a second of import

    lines = [INDEX_HEADER]
    tar_path, index_path = directory / f"{stem}.tar", directory / f"{stem}.idx"
    owner = {"user": "", "group": "", "mode": 0o644, "mtime": 0}  # same samples, same bytes
    with replacing(tar_path) as file, TarWriter(file, encoder=False, **owner) as writer:
        tar = writer.tarstream
        tar.format = tarfile.USTAR_FORMAT  # webdataset 1.0.2 does not pass its own `format` on
        for key, jpeg, metadata in samples:
            content = encode_metadata(metadata)
            image_offset = tar.offset + BLOCKSIZE
            writer.write({"__key__": key, "jpg": jpeg, "json": content})
            metadata_offset = image_offset + -(-len(jpeg) // BLOCKSIZE) * BLOCKSIZE + BLOCKSIZE
            image = image_offset, len(jpeg), crc32(jpeg)
            lines.append(format_line(key, [*image, metadata_offset, len(content), crc32(content)]))
    index = ("\n".join(lines) + "\n").encode()
    with replacing(index_path) as file:
        file.write(index)
    with tar_path.open("rb") as written:
        digest = hashlib.file_digest(written, "sha256").hexdigest()
    return {
        "file": tar_path.name,
        "samples": len(lines) - 1,
        "bytes": tar_path.stat().st_size,
        "sha256": digest,
        "index": index_path.name,
        "index_sha256": hashlib.sha256(index).hexdigest(),
    }


def encode_metadata(metadata: dict[str, Any]) -> bytes:
    """Return the JSON member: every field of the contract, always in the same order."""
    unknown = sorted(metadata.keys() - EMPTY_METADATA.keys())
    if unknown:
        raise ValueError(f"metadata has unknown fields {', '.join(unknown)}; the format has none")
    return json.dumps(EMPTY_METADATA | metadata).encode()


def write_manifest(directory: Path, name: str, shards: list[dict[str, Any]], **facts: Any) -> None:
    """Write manifest.json, which completes the dataset: call it last."""
    samples = sum(entry["samples"] for entry in shards)
    manifest = {"format": FORMAT_VERSION, "name": name, "samples": samples, **facts}
    manifest |= {"shards": shards}
    manifest[SELF_SHA256] = manifest_sha256(manifest)
    with replacing(directory / MANIFEST) as file:
        file.write((json.dumps(manifest, indent=1) + "\n").encode())


def manifest_sha256(manifest: Mapping[str, Any]) -> str:
    """Return the hash of a manifest's content, whatever its layout, without the hash itself."""
    content = {name: value for name, value in manifest.items() if name != SELF_SHA256}
    as_read = json.loads(json.dumps(content))  # tuples are lists, keys are texts
    return hashlib.sha256(json.dumps(as_read, sort_keys=True).encode()).hexdigest()


class ShardWriter:
    """Write a dataset sample by sample; the manifest comes when the `with` block ends well."""

    def __init__(
        self, directory: Path, name: str, *, samples_per_shard: int = 1000, **facts: Any
    ) -> None:
        self.directory, self.name, self.facts = Path(directory), name, facts
        self.samples_per_shard = samples_per_shard
        self._pending: list[tuple[str, bytes, dict[str, Any]]] = []
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
        self._pending.append((key, jpeg, metadata))
        if len(self._pending) == self.samples_per_shard:
            self._flush()

    def _flush(self) -> None:
        stem = f"{self.name}-{len(self._shards):06d}"
        self._shards.append(write_shard(self.directory, stem, self._pending))
        self._pending = []

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            if self._pending:
                self._flush()
            write_manifest(self.directory, self.name, self._shards, **self.facts)
