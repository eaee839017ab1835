"""Files of weights: located by path or hub name, and read without running what is in them.

No torch is imported before a file is read: command lines ask here whether weights are there.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any, NamedTuple

from maskedclip.models.checkpoints.archives import read_pickle
from maskedclip.models.checkpoints.file_kinds import SAFETENSORS, TORCH, check_kind
from maskedclip.models.checkpoints.formats import formats
from maskedclip.models.checkpoints.npz import read_npz
from maskedclip.models.checkpoints.sealed import (
    IMAGES_HEADER,
    OWN_HEADER,
    check_recorded,
    check_sealed,
    file_sha256,
    save_sealed,
)

if TYPE_CHECKING:
    from torch import Tensor

RANDOM = "random"
ENCODER, MODEL, FINETUNED = "encoder.safetensors", "model.safetensors", "finetuned.safetensors"
OWN = (MODEL, FINETUNED, ENCODER)  # of a run, the whole network first
SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".tar", ".ckpt", ".npz")
# where a checkpoint keeps its networks; the first that is there
_CONTAINERS = ("model", "state_dict", "model_state_dict", "teacher", "module", "student")
STATED = ".json"  # behind a file's name: what is stated of it, by whoever knows
_HASHES = "pretraining_images.safetensors"  # of a run, from its start on: no weights
_SIDECARS = ("open_clip_config.json", "preprocessor_config.json", "config.json")


class Weights(NamedTuple):
    """What a file holds."""

    name: str  # as it was given
    file: Path
    tensors: dict[str, "Tensor"]
    header: dict[str, Any]  # ours; empty for third-party files
    sidecar: dict[str, Any]  # configuration beside the file; empty where there is none


def export(
    weights: Mapping[str, "Tensor"],
    shape: Mapping[str, Any],
    run: Path,
    images: Mapping[str, Any] | None = None,
) -> None:
    """Write encoder.safetensors (timm's names) and model.safetensors (everything) into `run`.

    `shape` holds the model's configuration; both headers carry it as JSON under "maskedclip", and
    `images`, what the weights were trained on, under "maskedclip_images"; and the sha256 of all.
    """
    whole = dict(weights)
    prefix = "encoder."
    encoder = {k.removeprefix(prefix): v for k, v in whole.items() if k.startswith(prefix)}
    for name, tensors in ((ENCODER, encoder), (MODEL, whole)):
        save_sealed(tensors, run / name, shape, images)


def locate(
    weights: str | Path, own: Sequence[str] = (ENCODER,), *, or_random: bool = False
) -> Path:
    """Return the file of a run directory, a file, or a name that a hub's cache holds.

    A name is ORG/NAME of Hugging Face, or timm's name of a model. Nothing is fetched.

    Args:
        own: the files of a run that can serve, the best first.
        or_random: untrained weights would serve, too, which the error then offers.

    Raises ValueError where there is no such thing.
    """
    path, name = Path(weights), str(weights)
    if path.is_file():
        return path
    if path.is_dir():
        there = [path / file for file in own if (path / file).is_file()] or _whole(path)
        if there:
            return there[0]
        raise ValueError(
            f"{path}: a folder without weights (no {' or '.join(own)}); let the run end, or name a "
            f"run or a file of weights"
        )
    if name == RANDOM:
        raise ValueError(f"{name}: weights that were not trained cannot be used here; give others")
    repository = name if "/" in name else f"timm/{name}"
    is_path = path.suffix in SUFFIXES or path.is_absolute() or not _is_name(name)
    there = [] if is_path else _cached(repository)
    if there:
        return there[0]
    near = nearest_path(name, [RANDOM] if or_random else [])
    give = f"did you mean {near}? Else give" if near else "give"
    of_hub = not is_path and not ("/" in name and Path(path.parts[0]).is_dir())
    ways = ["one", *([RANDOM] if or_random else []), *([_of_hub(name, near)] if of_hub else [])]
    raise ValueError(
        f"{name}: no such run or file of weights; {give} {', '.join(ways[:-1])}"
        f"{', or ' if ways[1:] else ''}{ways[-1]}"
    )


def _of_hub(name: str, near: str) -> str:
    """Return in words which names of a hub serve in place of one that its cache does not hold.

    Of Hugging Face the name itself, as an owner is in it; of timm those that its registry has.

    Args:
        near: a path that is there and was probably meant; then timm is not asked.
    """
    fetched = "python tools/prefetch.py demo --init_from="
    if "/" in name:
        return f"this name of Hugging Face after: {fetched}{name}"
    known = [] if near else _of_timm(name.lower())
    if not known:
        return "a name of Hugging Face, ORG/NAME, or of timm, that tools/prefetch.py has fetched"
    more = f" (or {', '.join(known[1:3])}{', ...' if known[3:] else ''})" if known[1:] else ""
    return f"timm's {known[0]}{more} after: {fetched}{known[0]}"


def _of_timm(name: str) -> list[str]:
    """Return timm's plain ViTs of this name, else with it in theirs, that timm has on the hub."""
    from timm import get_pretrained_cfg, list_pretrained  # takes seconds

    there = [
        one
        for one in list_pretrained("vit_*")
        if name in one
        and str(getattr(get_pretrained_cfg(one), "hf_hub_id", "")).startswith("timm/")
    ]
    return [one for one in there if name in (one, one.partition(".")[0])] or there


def nearest_path(
    name: str, others: Sequence[str] = (), *, folders: Sequence[str] = ("runs",)
) -> str:
    """Return the existing file or folder whose path is nearest to a mistyped one, "" if none is.

    A name alone may be that of a run; each folder of a path may be mistyped.

    Args:
        others: words that serve where a name alone is mistyped.
        folders: where one of that name may lie.
    """
    path = Path(name)
    if len(path.parts) == 1:
        inside = (one for folder in folders for one in _listed(Path(folder)))
        known = [*others, *inside, *_listed(Path())]
        last_of = {Path(one).name: one for one in reversed(known)}
        near = get_close_matches(name, last_of, n=1)
        return last_of[near[0]] if near else ""
    found = Path(path.parts[0]) if path.is_absolute() else Path()
    for part in path.parts[path.is_absolute() :]:
        names = [Path(one).name for one in _listed(found)]
        near = [part] if (found / part).exists() else get_close_matches(part, names, n=1)
        if not near:
            return ""
        found /= near[0]
    return str(found)


def _listed(folder: Path) -> list[str]:
    try:
        return sorted(str(path) for path in folder.iterdir() if not path.name.startswith("."))
    except OSError:  # not there, a file, or not to be read
        return []


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
        near = nearest_path(str(run))
        meant = f"did you mean {near}? Else give" if near else "give"
        raise ValueError(f"{path}: no such run; {meant} a fine-tuned run, or its {FINETUNED}")
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
            f"python -m maskedclip.finetune {quote(str(path))} --dataset DIR"
        )
    raise ValueError(
        f"{path}: holds no {FINETUNED}; name a fine-tuned run, or let its fine-tuning end"
    )


def read_checkpoint(weights: str | Path, own: Sequence[str] = (ENCODER,)) -> Weights:
    """Return the tensors of a file that `locate` finds, as the file has them.

    Raises ValueError where it is not whole, or holds more than tensors and plain values.
    """
    file = locate(weights, own)
    header: dict[str, Any] = {}
    if file.suffix == ".safetensors":
        tensors, header = read_safetensors(file)
    else:
        with readable(file):
            check_kind(file, TORCH)
            check_recorded(file)
            npz = file.suffix == ".npz"
            tensors = read_npz(file) if npz else tensors_of(read_pickle(file), file)
    return Weights(str(weights), file, tensors, header, {} if header else _sidecar(file))


def _sidecar(file: Path) -> dict[str, Any]:
    """Return what the configurations beside a file hold; under STATED that of the file itself."""
    sidecar: dict[str, Any] = {}
    for name in _SIDECARS:
        sidecar |= _read_object(file.parent / name)
    stated = _read_object(file.with_name(file.name + STATED))
    if stated:
        _check_stated(stated, file.with_name(file.name + STATED))
        sidecar |= {STATED: stated} | {k: v for k, v in stated.items() if k in ("mean", "std")}
    return sidecar


def _read_object(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path}: not whole JSON ({error})") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path}: no JSON object; write it as {{...}}, or remove it")
    return content


def _check_stated(stated: Mapping[str, Any], path: Path) -> None:
    """Raise ValueError where what is stated of a file of weights has no meaning."""

    def is_colour(value: Any, low: float) -> bool:
        if not isinstance(value, list) or {type(v) for v in value} - {int, float}:
            return False
        return len(value) == 3 and all(low <= v <= 1 for v in value)

    rules = {
        "mean": (lambda v: is_colour(v, 0.0), "three numbers from 0 to 1"),
        "std": (lambda v: is_colour(v, 1e-3), "three numbers above 0, of values from 0 to 1"),
        "image_size": (lambda v: type(v) is int and v > 0, "a number of pixels"),
        "depth": (lambda v: type(v) is int and v > 0, "a number of blocks"),
        "pool": (lambda v: v in ("mean", "cls"), '"mean" or "cls"'),
        "form": (lambda v: v in formats(), f"one of {', '.join(formats())}"),
    }
    for name, value in stated.items():
        if name not in rules:
            raise ValueError(f"{path}: unknown field {name}; it may have {', '.join(rules)}")
        if not rules[name][0](value):
            raise ValueError(f"{path}: {name} {value!r}: write {rules[name][1]}")
    if ("mean" in stated) != ("std" in stated):
        raise ValueError(f"{path}: give mean and std, or none of them")


def weights_sha256(file: Path) -> str:
    """Return the sha256 of a file of weights and of what is stated of it, if anything is."""
    stated = file.with_name(file.name + STATED)
    if not stated.is_file():
        return file_sha256(file)
    return hashlib.sha256(f"{file_sha256(file)} {file_sha256(stated)}".encode()).hexdigest()


def read_safetensors(path: Path) -> tuple[dict[str, "Tensor"], dict[str, Any]]:
    """Return the tensors of a safetensors file, and our header, empty for third-party files.

    Raises ValueError where it is damaged: where we wrote it, by one bit.
    """
    from safetensors import SafetensorError, safe_open

    with readable(path):
        check_kind(path, SAFETENSORS)
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, RuntimeError, MemoryError, OverflowError) as error:
            raise _not_whole(path, error) from error
        check_sealed(path, tensors, metadata)
        return tensors, _own_header(path, metadata)


def read_header(path: Path) -> tuple[dict[str, Any], set[str]]:
    """Return a safetensors file's header of ours and its tensors' names, both empty for others.

    Its sha256 is not compared: whoever takes the tensors does.
    """
    if path.suffix != ".safetensors" or not path.is_file():
        return {}, set()  # a third-party or missing file: load_encoder says which
    metadata, names = _metadata(path)
    return _own_header(path, metadata), names


def read_facts(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return our header of a file, and what it states of the images of training.

    Both are empty for third-party files; no tensor is read.
    """
    if path.suffix != ".safetensors":
        return {}, {}
    metadata, _ = _metadata(path)
    return _own_header(path, metadata), _own_header(path, metadata, IMAGES_HEADER)


def _metadata(path: Path) -> tuple[dict[str, str], set[str]]:
    from safetensors import SafetensorError, safe_open

    with readable(path):
        check_kind(path, SAFETENSORS)
        try:
            with safe_open(path, framework="np") as file:
                return file.metadata() or {}, set(file.keys())
        except SafetensorError as error:
            raise _not_whole(path, error) from error


def _own_header(path: Path, metadata: Mapping[str, str], key: str = OWN_HEADER) -> dict[str, Any]:
    try:
        header = json.loads(metadata.get(key, "{}"))
        if isinstance(header, dict):
            return header
    except ValueError:
        pass
    raise ValueError(
        f"{path}: damaged: its header is no JSON object; copy it again, or export it anew"
    )


def _not_whole(path: Path, error: Exception) -> ValueError:
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return ValueError(
        f"{path}: not a whole safetensors file ({reason[:120]}); its copy or download broke off, "
        f"or it is damaged; make it again"
    )


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Say in words what the system says of a file that cannot be read."""
    try:
        yield
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror or error})") from error


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
    there = [
        file
        for file in folder.iterdir()
        if file.suffix in SUFFIXES and file.is_file() and file.name != _HASHES
        if file.suffix != ".tar" or Path(file.stem).suffix in SUFFIXES  # not those of shards
    ]
    return sorted(
        there, key=lambda file: (SUFFIXES.index(file.suffix), file.name != MODEL, file.name)
    )


def tensors_of(content: Any, path: Path) -> dict[str, "Tensor"]:
    """Return the tensors of a checkpoint's network by name."""
    from torch import is_tensor, strided

    for _ in range(3):  # a network in a container, and that in another
        if not isinstance(content, Mapping):
            break
        inner = [content[name] for name in _CONTAINERS if isinstance(content.get(name), Mapping)]
        if not inner:
            break
        content = inner[0]
    tensors = {
        name: value
        for name, value in (content.items() if isinstance(content, Mapping) else ())
        if isinstance(name, str) and is_tensor(value)
    }
    if not tensors:
        raise ValueError(f"{path}: no tensors by name; give a state dict, or a checkpoint of one")
    for name, tensor in tensors.items():
        if tensor.layout != strided or tensor.is_quantized or tensor.is_meta:
            raise ValueError(f"{path}: {name} is sparse, quantised or empty; give plain tensors")
        # a view that repeats its values would take any memory when it is copied
        if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise ValueError(f"{path}: {name} claims more values than the file has; not read")
    return tensors
