"""The process that reads an untrusted checkpoint; `convert.py` starts it.

python -m maskedclip.weights.convert_child FILE OUT
"""

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


class Unpickler(pickle.Unpickler):
    """An unpickler that makes tensors and containers, and stand-ins of all else."""

    def find_class(self, module: str, name: str) -> Any:
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
        module = torch.jit.load(path, map_location="cpu")  # type: ignore[no-untyped-call]
        return dict(module.state_dict())
    reader = types.ModuleType("reader")
    vars(reader).update(
        Unpickler=Unpickler, load=lambda file, **options: Unpickler(file, **options).load()
    )
    content = torch.load(path, map_location="cpu", pickle_module=reader, weights_only=False)
    return tensors_of(content, path)


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
