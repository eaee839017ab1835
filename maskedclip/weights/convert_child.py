"""The process that reads an untrusted checkpoint; `convert.py` starts it.

python -m maskedclip.weights.convert_child FILE OUT
"""

import io
import pickle
import sys
import types
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from maskedclip.models.checkpoints.files import tensors_of
from maskedclip.models.checkpoints.sealed import save_sealed

# what a file may name: how torch puts tensors together, and containers
_TORCH = {
    ("torch._utils", "_rebuild_tensor"),
    ("torch._utils", "_rebuild_tensor_v2"),
    ("torch._utils", "_rebuild_parameter"),
    ("torch", "Size"),
    ("torch", "device"),
}


class StandIn:
    """In place of every object that is neither a tensor nor a container: it does nothing."""

    def __new__(cls, *_given: Any, **_named: Any) -> "StandIn":
        return super().__new__(cls)

    def __init__(self, *_given: Any, **_named: Any) -> None:
        pass

    def __setstate__(self, _state: Any) -> None:
        pass

    def __setitem__(self, _key: Any, _value: Any) -> None:
        pass

    def append(self, _value: Any) -> None:
        pass

    def extend(self, _values: Any) -> None:
        pass


class Module(StandIn):
    """In place of a module of TorchScript: it keeps the attributes that it is given."""

    state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state


class Unpickler(pickle.Unpickler):
    """An unpickler that makes tensors and containers, and stand-ins of all else."""

    def find_class(self, module: str, name: str) -> Any:
        if module.split(".")[0] == "__torch__":
            return type(name, (Module,), {})  # anew: what a file does to it ends with it
        if (module, name) in _TORCH or (module == "torch" and name.endswith(("Storage", "Tensor"))):
            return super().find_class(module, name)
        if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
            return getattr(torch, name)
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        return StandIn


def read(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a checkpoint by name."""
    if _is_torchscript(path):
        return _of_torchscript(path)
    reader = types.ModuleType("reader")
    vars(reader).update(
        Unpickler=Unpickler, load=lambda file, **options: Unpickler(file, **options).load()
    )
    content = torch.load(path, map_location="cpu", pickle_module=reader, weights_only=False)
    return tensors_of(content, path)


class _OfTorchScript(Unpickler):
    """Reads the attributes of TorchScript's modules; their code is not looked at."""

    def __init__(self, archive: zipfile.ZipFile, folder: str) -> None:
        super().__init__(io.BytesIO(archive.read(f"{folder}/data.pkl")))
        self._archive, self._folder = archive, folder
        self._storages: dict[str, torch.TypedStorage] = {}

    def persistent_load(self, pid: Any) -> torch.TypedStorage:
        _, kind, key, *_ = pid
        if key not in self._storages:
            content = bytearray(self._archive.read(f"{self._folder}/data/{key}"))  # checks the CRC
            values = torch.frombuffer(content, dtype=kind._dtype) if content else torch.empty(0)
            self._storages[key] = torch.TypedStorage(
                wrap_storage=values.untyped_storage(), dtype=kind._dtype, _internal=True
            )
        return self._storages[key]


def _of_torchscript(path: Path) -> dict[str, Tensor]:
    """Return the tensors of an archive by the names of its modules' attributes; nothing is run."""
    with zipfile.ZipFile(path) as archive:
        (folder,) = {name.partition("/")[0] for name in archive.namelist()}
        names = {name.partition("/")[2] for name in archive.namelist()}
        if "byteorder" in names and archive.read(f"{folder}/byteorder") != b"little":
            raise ValueError("written on a machine of the other byte order; not read")
        whole = _OfTorchScript(archive, folder).load()
    tensors: dict[str, Tensor] = {}

    def collect(module: Module, prefix: str) -> None:
        if not isinstance(module.state, Mapping):
            raise ValueError(f"{prefix or 'it'} packs its state by code of its own; not read")
        for name, value in module.state.items():
            if isinstance(value, Module):
                collect(value, f"{prefix}{name}.")
            elif isinstance(value, Tensor):
                tensors[f"{prefix}{name}"] = value

    collect(whole, "")
    return tensors_of(tensors, path)


def _is_torchscript(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def _main(source: Path, out: Path) -> None:
    tensors = read(source)
    assert isinstance(tensors, Mapping)
    # of their own memory, as safetensors wants it
    save_sealed({name: value.detach().clone() for name, value in tensors.items()}, out)


if __name__ == "__main__":
    try:
        _main(Path(sys.argv[1]), Path(sys.argv[2]))
    except Exception as error:  # what a damaged pickle raises is not a closed list
        sys.exit(" ".join(str(error).split()) or type(error).__name__)
