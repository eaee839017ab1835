"""The index of a DCP checkpoint, which is a pickle, read without calling anything that it names.

Only the opcodes and names that DCP writes are read. Names become inert stand-ins, made anew for
each file, and of what they were given the index is put together here, each value by its type.
"""

import io
import pickle
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any, ClassVar

import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint import filesystem, metadata
from torch.distributed.checkpoint.planner import ReadItem

METADATA = ".metadata"
_DCP = "torch.distributed.checkpoint"
_NAMES = {  # what DCP's index names, beside the types of tensors
    *((f"{_DCP}.metadata", name) for name in (
        "BytesStorageMetadata", "ChunkStorageMetadata", "Metadata", "MetadataIndex", "StorageMeta",
        "TensorProperties", "TensorStorageMetadata", "_MEM_FORMAT_ENCODING",
    )),
    (f"{_DCP}.filesystem", "_StorageInfo"), ("torch.serialization", "_get_layout"),
    ("torch", "Size"), ("pathlib", "PosixPath"), ("pathlib._local", "PosixPath"),
    ("pathlib", "PurePosixPath"),
}  # fmt: skip
_OPCODES = (  # those that pickle writes for such an index, of protocols 2 to 5
    b"\x80", b"\x95", b".", b"(", b"0", b"1", b"2", b")", b"]", b"}", b"N", b"K", b"M", b"J",
    b"\x8a", b"\x88", b"\x89", b"G", b"X", b"\x8c", b"\x85", b"\x86", b"\x87", b"t", b"a", b"e",
    b"s", b"u", b"q", b"r", b"h", b"j", b"\x94", b"c", b"\x93", b"R", b"\x81", b"b",
)  # fmt: skip


class _StandIn:
    """In place of every object that a file names: it keeps what it is given, and does nothing."""

    given: tuple[Any, ...] = ()
    state: Any = None

    def __new__(cls, *given: Any) -> "_StandIn":
        made = super().__new__(cls)
        made.given = given
        return made

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Unpickler(pickle._Unpickler):  # in Python, so that opcodes can be chosen
    """Reads an index; pickle.UnpicklingError for any other opcode or name."""

    dispatch: ClassVar[dict[int, Any]] = {
        code[0]: pickle._Unpickler.dispatch[code[0]] for code in _OPCODES
    }

    def __init__(self, content: bytes) -> None:
        super().__init__(io.BytesIO(content))
        self._made: dict[tuple[str, str], type[_StandIn]] = {}

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and isinstance(vars(torch).get(name), torch.dtype):
            return vars(torch)[name]
        if (module, name) not in _NAMES:
            raise pickle.UnpicklingError(f"it names {module}.{name}"[:200])
        key = module, name
        return self._made.setdefault(key, type(name, (_StandIn,), {}))


def read_metadata(directory: Path) -> metadata.Metadata:
    """Return the index of a checkpoint; ValueError where it holds anything that is none."""
    path = directory / METADATA
    try:
        return _metadata(_Unpickler(path.read_bytes()).load())
    except Exception as error:  # what a damaged pickle raises is not a closed list
        why = " ".join(str(error).split())[:200] or type(error).__name__
        if isinstance(error, KeyError) and isinstance(error.args[0], int):  # of the unpickler
            why = "an instruction that DCP does not write"
        raise ValueError(
            f"{path}: no index of DCP ({why}); it is not read. Remove {directory} if it is not of "
            f"this run"
        ) from None


class Reader(dcp.FileSystemReader):
    """Reads a checkpoint's files by an index that was read before."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self._index = read_metadata(directory)

    def read_metadata(self, *_given: Any, **_named: Any) -> metadata.Metadata:
        self._index.storage_meta = metadata.StorageMeta(load_id=self.load_id)
        return self._index


class Planner(dcp.DefaultLoadPlanner):
    """Takes tensors and plain values alone: DCP's own unpickles whatever is no tensor."""

    def load_bytes(self, read_item: ReadItem, value: io.BytesIO) -> None:
        plain = torch.load(value, weights_only=True)
        again = io.BytesIO()
        torch.save(plain, again)  # of what is known to be plain, for the reader of DCP's own
        again.seek(0)
        super().load_bytes(read_item, again)


def _stands(stand_in: Any, name: str) -> _StandIn:
    if not isinstance(stand_in, _StandIn) or type(stand_in).__name__ != name:
        raise TypeError(f"no {name} where one stands")
    return stand_in


def _fields(stand_in: Any, name: str) -> Mapping[str, Any]:
    fields: Mapping[str, Any] = _typed(_stands(stand_in, name).state, dict)
    return fields


def _typed(value: Any, kind: type) -> Any:
    if type(value) is not kind:
        raise TypeError(f"{type(value).__name__} in place of {kind.__name__}")
    return value


def _size(stand_in: Any) -> torch.Size:
    (numbers,) = _stands(stand_in, "Size").given
    return torch.Size([_typed(number, int) for number in _typed(numbers, tuple)])


def _metadata(stand_in: Any) -> metadata.Metadata:
    found = _fields(stand_in, "Metadata")
    entries = _typed(found["state_dict_metadata"], dict)
    places = _typed(found["storage_data"], dict)
    return metadata.Metadata(
        state_dict_metadata={_typed(name, str): _entry(entry) for name, entry in entries.items()},
        storage_data={_index(index): _place(place) for index, place in places.items()},
        version=found.get("version") and _typed(found["version"], str),
    )


def _entry(stand_in: Any) -> metadata.TensorStorageMetadata | metadata.BytesStorageMetadata:
    if type(stand_in).__name__ == "BytesStorageMetadata":
        return metadata.BytesStorageMetadata()
    found = _fields(stand_in, "TensorStorageMetadata")
    properties = _typed(_stands(found["properties"], "TensorProperties").state, tuple)
    chunks = [_fields(c, "ChunkStorageMetadata") for c in _typed(found["chunks"], list)]
    return metadata.TensorStorageMetadata(
        metadata.TensorProperties(dtype=_typed(properties[0], torch.dtype)),
        _size(found["size"]),
        [metadata.ChunkStorageMetadata(_size(c["offsets"]), _size(c["sizes"])) for c in chunks],
    )


def _index(stand_in: Any) -> metadata.MetadataIndex:
    found = _fields(stand_in, "MetadataIndex")
    offset, index = (found.get(field) for field in ("offset", "index"))
    return metadata.MetadataIndex(
        _typed(found["fqn"], str),
        None if offset is None else _size(offset),
        None if index is None else _typed(index, int),
    )


def _place(stand_in: Any) -> Any:
    found = _fields(stand_in, "_StorageInfo")
    file, first, length = found["relative_path"], found["offset"], found["length"]
    if PurePath(_typed(file, str)).name != file or file == "..":
        raise ValueError(f"a file elsewhere, {file!r}")
    if found.get("transform_descriptors"):
        raise ValueError("packed values, which are not written here")
    return filesystem._StorageInfo(file, _typed(first, int), _typed(length, int))
