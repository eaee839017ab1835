"""Files of weights: located by path or hub name, and read without running what is in them.

No torch is imported before a file is read: command lines ask here whether weights are there.
"""

import json
import pickle
import re
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor

RANDOM = "random"
ENCODER, MODEL, FINETUNED = "encoder.safetensors", "model.safetensors", "finetuned.safetensors"
IMAGES_HEADER = "maskedclip_images"  # in the metadata of our files
OWN = (MODEL, FINETUNED, ENCODER)  # of a run, the whole network first
SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".tar", ".ckpt")
# where a checkpoint keeps its networks; the first that is there
_CONTAINERS = ("model", "state_dict", "teacher", "module", "student")
_SIDECARS = ("open_clip_config.json", "preprocessor_config.json", "config.json")


class Weights(NamedTuple):
    """What a file holds."""

    name: str  # as it was given
    file: Path
    tensors: dict[str, "Tensor"]
    header: dict[str, Any]  # ours; empty for third-party files
    sidecar: dict[str, Any]  # configuration beside the file; empty where there is none


def locate(weights: str | Path, own: Sequence[str] = (ENCODER,)) -> Path:
    """Return the file of a run directory, a file, or a name that a hub's cache holds.

    A name is ORG/NAME of Hugging Face, or timm's name of a model. Nothing is fetched.

    Args:
        own: the files of a run that can serve, the best first.

    Raises ValueError where there is no such thing.
    """
    path, name = Path(weights), str(weights)
    if path.is_file():
        return path
    if path.is_dir():
        there = [path / file for file in own if (path / file).is_file()] or _whole(path)
        if there:
            return there[0]
        raise ValueError(f"{path / own[-1]}: no such file; let the run end, or name weights")
    if path.suffix in SUFFIXES or path.is_absolute() or not _is_name(name):
        raise ValueError(f"{name}: no such run or file of weights; give one, or {RANDOM}")
    there = _cached(name if "/" in name else f"timm/{name}")
    if there:
        return there[0]
    repository = name if "/" in name else f"timm/{name}"
    raise ValueError(
        f"{name}: no such run or file of weights; give one, {RANDOM}, or a name of Hugging Face or "
        f"timm after: python tools/prefetch.py demo --init_from={repository}"
    )


def locate_classifier(run: str | Path) -> Path:
    """Return the fine-tuned network of a run, or the file itself.

    Raises ValueError, naming what is there, for anything else: a pre-training run, a folder of
    several fine-tunings, other weights.
    """
    path = Path(run)
    if path.is_file():
        if path.suffix != ".safetensors":
            raise ValueError(
                f"{path}: no fine-tuned network of ours; give a run, or its {FINETUNED}"
            )
        return path
    if not path.is_dir():
        raise ValueError(f"{path}: no such run; give a fine-tuned run, or its {FINETUNED}")
    if (path / FINETUNED).is_file():
        return path / FINETUNED
    below = sorted(
        {file.parent for depth in ("*", "*/*") for file in path.glob(f"{depth}/{FINETUNED}")}
    )
    if below:
        names = ", ".join(map(str, below[:6])) + (", ..." if len(below) > 6 else "")
        runs = "one fine-tuned run" if len(below) == 1 else f"{len(below)} fine-tuned runs"
        raise ValueError(f"{path}: holds {runs}; give one of them: {names}")
    if (path / ENCODER).is_file() or (path / MODEL).is_file():
        raise ValueError(
            f"{path}: a pre-training run, which has no classes; fine-tune it first: "
            f"python -m maskedclip.finetune {path} --dataset DIR"
        )
    raise ValueError(
        f"{path / FINETUNED}: no such file; let the fine-tuning end, or name another run"
    )


def read_checkpoint(weights: str | Path, own: Sequence[str] = (ENCODER,)) -> Weights:
    """Return the tensors of a file that `locate` finds, as the file has them.

    Raises ValueError where it is not whole, or holds more than tensors and plain values.
    """
    file = locate(weights, own)
    if file.suffix == ".safetensors":
        tensors, header = read_safetensors(file)
    else:
        tensors, header = tensors_of(_unpickled(file), file), {}
    sidecar: dict[str, Any] = {}
    for name in () if header else _SIDECARS:
        if (file.parent / name).is_file():
            try:
                sidecar |= json.loads((file.parent / name).read_text())
            except ValueError as error:
                raise ValueError(f"{file.parent / name}: not whole JSON ({error})") from None
    return Weights(str(weights), file, tensors, header, sidecar)


def read_safetensors(path: Path) -> tuple[dict[str, "Tensor"], dict[str, Any]]:
    """Return the tensors of a safetensors file, and our header, empty for third-party files."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path}: not a whole safetensors file ({error})") from error
    return tensors, json.loads(header.get("maskedclip", "{}"))


def read_facts(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return our header of a file, and what it states of the images of training.

    Both are empty for third-party files; no tensor is read.
    """
    from safetensors import SafetensorError, safe_open

    if path.suffix != ".safetensors":
        return {}, {}
    try:
        with safe_open(path, framework="np") as file:
            header = file.metadata() or {}
    except SafetensorError as error:
        raise ValueError(f"{path}: not a whole safetensors file ({error})") from error
    return json.loads(header.get("maskedclip", "{}")), json.loads(header.get(IMAGES_HEADER, "{}"))


def name_of(weights: str | Path) -> str:
    """Return the name of weights in results: that of a run's directory, of a file or of a hub."""
    path = Path(weights)
    if path.name in (ENCODER, MODEL, FINETUNED) and path.is_file():
        return path.parent.resolve().name
    name = path.name
    for _ in range(2):  # such as .pth.tar
        if Path(name).suffix in SUFFIXES:
            name = Path(name).stem
    return name


def _is_name(name: str) -> bool:
    return bool(re.fullmatch(r"([\w-][\w.-]*/)?[\w-][\w.-]*", name))


def _cached(repository: str) -> list[Path]:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return _whole(Path(snapshot_download(repository, local_files_only=True)))
    except LocalEntryNotFoundError:
        return []


def _whole(folder: Path) -> list[Path]:
    """Return the files of weights in a folder, the safest and plainest first."""
    there = [file for file in folder.iterdir() if file.suffix in SUFFIXES and file.is_file()]
    return sorted(
        there, key=lambda file: (SUFFIXES.index(file.suffix), file.name != MODEL, file.name)
    )


def _unpickled(path: Path) -> Any:
    """Return what a .pth holds, where that is tensors, plain values and argparse's arguments."""
    import argparse

    import torch

    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(
                path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path)
            )
    except (pickle.UnpicklingError, RuntimeError, EOFError, AttributeError) as error:
        raise ValueError(
            f"{path}: holds more than tensors, or is damaged; if you trust whoever made it: "
            f"python tools/convert_weights.py {path}"
        ) from error


def tensors_of(content: Any, path: Path) -> dict[str, "Tensor"]:
    """Return the tensors of a checkpoint's network by name."""
    from torch import is_tensor

    for _ in range(3):  # a network in a container, and that in another
        if not isinstance(content, Mapping):
            break
        inner = [content[name] for name in _CONTAINERS if isinstance(content.get(name), Mapping)]
        if not inner:
            break
        content = inner[0]
    tensors = (
        {name: value for name, value in content.items() if is_tensor(value)}
        if isinstance(content, Mapping)
        else {}
    )
    if not tensors:
        raise ValueError(f"{path}: no tensors by name; give a state dict, or a checkpoint of one")
    return tensors
