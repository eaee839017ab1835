"""The bytes of a dataset: tar, index and manifest; the same samples give the same bytes."""

import hashlib
import io
import json
import os
import tarfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
INDEX_HEADER = "#maskedclip-index 1"
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
    """Open a file that takes the place of `path` only once it is whole and on the disk."""
    temporary = path.with_name(path.name + ".tmp")
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
    lines = [INDEX_HEADER]
    tar_path, index_path = directory / f"{stem}.tar", directory / f"{stem}.idx"
    with (
        replacing(tar_path) as file,
        tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar,
    ):
        for key, jpeg, metadata in samples:
            members = {"jpg": jpeg, "json": encode_metadata(metadata)}
            places = [_add(tar, f"{key}.{end}", content) for end, content in members.items()]
            lines.append("\t".join([key, *places]))
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


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> str:
    member = tarfile.TarInfo(name)  # time, owner and group stay 0: same samples, same bytes
    member.size, member.mode = len(content), 0o644
    offset = tar.offset + tarfile.BLOCKSIZE
    tar.addfile(member, io.BytesIO(content))
    return f"{offset}\t{len(content)}\t{zlib.crc32(content)}"


def encode_metadata(metadata: dict[str, Any]) -> bytes:
    """Return the JSON member: every field of the contract, always in the same order."""
    unknown = sorted(metadata.keys() - EMPTY_METADATA.keys())
    if unknown:
        raise ValueError(f"metadata has unknown fields {', '.join(unknown)}; the format has none")
    return json.dumps(EMPTY_METADATA | metadata).encode()


def write_manifest(directory: Path, name: str, shards: list[dict[str, Any]], **facts: Any) -> None:
    """Write manifest.json, which makes the directory a dataset: call it last."""
    samples = sum(entry["samples"] for entry in shards)
    manifest = {"format": FORMAT_VERSION, "name": name, "samples": samples, **facts}
    with replacing(directory / MANIFEST) as file:
        file.write((json.dumps(manifest | {"shards": shards}, indent=1) + "\n").encode())
