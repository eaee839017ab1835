"""Our safetensors: written with a sha256 of all they hold, and compared with it when they are read.

A safetensors file has no checksum of its own: one flipped bit loads as another value.
"""

import errno
import hashlib
import json
import logging
import os
import re
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, BinaryIO

if TYPE_CHECKING:
    from torch import Tensor

logger = logging.getLogger(__name__)
OWN_HEADER, SHA256 = "maskedclip", "maskedclip_sha256"  # keys of a safetensors header
IMAGES_HEADER = "maskedclip_images"  # another: what the weights were trained on
_DTYPES = {  # as a header has them, and torch
    "F64": "torch.float64", "F32": "torch.float32", "F16": "torch.float16",
    "BF16": "torch.bfloat16", "I64": "torch.int64", "I32": "torch.int32", "I16": "torch.int16",
    "I8": "torch.int8", "U8": "torch.uint8", "BOOL": "torch.bool",
}  # fmt: skip
_PIECE = 1 << 24  # bytes hashed at a time
RECORD = "export.json"  # beside exported files: what they are, and the sha256 of each


def save_sealed(
    tensors: Mapping[str, "Tensor"],
    path: Path,
    header: Mapping[str, Any] | None = None,
    images: Any = None,
) -> None:
    """Write a safetensors file, whole or not at all, its header with these and the sha256."""
    whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    metadata = {"format": "pt"}
    if header is not None:
        metadata[OWN_HEADER] = json.dumps(dict(header), sort_keys=True)
    metadata |= {IMAGES_HEADER: json.dumps(images)} if images else {}
    metadata[SHA256] = content_sha256(whole, metadata)
    try:
        with TemporaryDirectory(
            ".tmp", f".{path.name}.", path.parent, ignore_cleanup_errors=True
        ) as folder:
            written = Path(folder) / path.name
            _write(whole, written, metadata)
            written.replace(path)
    except OSError as error:
        error.filename = str(path)  # a full disk does not say which file
        raise


def _write(tensors: Mapping[str, "Tensor"], written: Path, metadata: dict[str, str]) -> None:
    """Write a safetensors file, readable for whom the umask says."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    written.touch()
    mode = written.stat().st_mode  # safetensors makes its file for the user alone
    try:
        save_file(dict(tensors), written, metadata=metadata)
    except SafetensorError as error:
        number = re.search(r"os error (\d+)", str(error))
        code = int(number[1]) if number else errno.EIO
        raise OSError(code, os.strerror(code)) from error
    with written.open("r+b") as file:
        _sort_metadata(file)
        file.flush()
        os.fsync(file.fileno())
    written.chmod(mode)


def _sort_metadata(file: BinaryIO) -> None:
    """Put the keys of the header in order: safetensors writes them in a random one each time."""
    length = int.from_bytes(file.read(8), "little")
    header = json.loads(file.read(length))
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    ordered = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    assert len(ordered) <= length, "a header in another order is no longer"
    file.seek(8)
    file.write(ordered.ljust(length))


def content_sha256(tensors: Mapping[str, "Tensor"], metadata: Mapping[str, str]) -> str:
    """Return the sha256 of names, types, shapes, values, and the header but for itself."""
    import torch

    others = {key: value for key, value in metadata.items() if key != SHA256}
    digest = hashlib.sha256(json.dumps(others, sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"\n{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def check_sealed(path: Path, tensors: Mapping[str, "Tensor"], metadata: Mapping[str, str]) -> None:
    """Raise ValueError where a file of ours is not what its sha256 says; others have none."""
    recorded = metadata.get(SHA256)
    if recorded is None:
        if OWN_HEADER in metadata:
            logger.warning("%s: of an older version, without a sha256: not checked", path)
        return
    if recorded != content_sha256(tensors, metadata):
        raise ValueError(
            f"{path}: damaged: its content is not what its sha256 says; copy it again, or export "
            f"it anew"
        )


def is_whole(path: Path) -> bool | None:
    """Return whether a file of ours is what its sha256 says, without torch; None: it has none.

    What is no safetensors file, cut short or empty is not whole.
    """
    try:
        with path.open("rb") as file:
            length, size = int.from_bytes(file.read(8), "little"), path.stat().st_size
            if not 0 < length <= size - 8:
                return False
            header = json.loads(file.read(length))
            metadata = header.pop("__metadata__", {})
            ends = [entry["data_offsets"][1] for entry in header.values()]
            if not ends or max(ends) != size - 8 - length:
                return False
            if SHA256 not in metadata:
                return None
            return bool(metadata[SHA256] == _sha256_of(file, 8 + length, header, metadata))
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError):
        return False  # a header with other bytes in it


def _sha256_of(
    file: BinaryIO, start: int, header: Mapping[str, Any], metadata: Mapping[str, str]
) -> str:
    """Return what `content_sha256` does, by the bytes of a file whose tensors begin at `start`."""
    others = {key: value for key, value in metadata.items() if key != SHA256}
    digest = hashlib.sha256(json.dumps(others, sort_keys=True).encode())
    for name in sorted(header):
        entry = header[name]
        first, end = entry["data_offsets"]
        digest.update(f"\n{name} {_DTYPES[entry['dtype']]} {tuple(entry['shape'])}\n".encode())
        file.seek(start + first)
        for at in range(first, end, _PIECE):
            digest.update(file.read(min(_PIECE, end - at)))
    return digest.hexdigest()


def file_sha256(path: Path) -> str:
    """Return the sha256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_recorded(path: Path) -> None:
    """Raise ValueError where an export's record lies beside a file and has another sha256 of it."""
    try:
        recorded = json.loads((path.parent / RECORD).read_text())["sha256"][path.name]
    except (OSError, ValueError, KeyError, TypeError):
        return  # no export of ours, or one of an older version
    if recorded != file_sha256(path):
        raise ValueError(
            f"{path}: damaged: it is not what {RECORD} beside it says; copy it again, or export it "
            f"anew"
        )
