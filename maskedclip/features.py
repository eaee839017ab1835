"""Features of a frozen network, computed once and kept in a file.

A file belongs to (sha256 of the weights, of the dataset, image size, preparation, arithmetic), and
every frozen protocol, seed and label fraction reads it. It is safetensors with a JSON header; what
is not whole, or is of something else, is computed again.
"""

import hashlib
import json
import logging
import os
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import safetensors.numpy
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from tqdm import tqdm

from maskedclip.data.downstream import Sample
from maskedclip.data.storage.opening import dataset_sha256
from maskedclip.data.storage.shards import DamagedSample, Shards
from maskedclip.data.transforms import MEAN, STD
from maskedclip.data.views import RESIZE, Views, prepared_batches
from maskedclip.engine.distributed import compute_type
from maskedclip.inference import Model, load, name_of, read_header
from maskedclip.models.classifier import FINETUNED
from maskedclip.models.maskedclip import MaskedCLIP
from maskedclip.models.pretrained import ENCODER, MODEL, RANDOM, load_encoder

logger = logging.getLogger(__name__)
FOLDER = "features"
PATCHES, JOINT = "patches", "joint"  # mean of the patch tokens; unit rows of the joint space
_VERSION = 1  # raise it where the same weights and images would give other features
_BATCH = 64
_SAVE_EVERY = 60.0  # seconds: what a killed run computes again
_RANDOM_SIZE = 224  # pixels


class Frozen:
    """Weights that are not trained further; the network is only built when it is first needed."""

    def __init__(self, weights: str | Path, size: str = "large") -> None:
        """`size` is of the untrained encoder where weights is "random", else ignored.

        Raises ValueError where there are no such weights.
        """
        self.weights, self._size = str(weights), size
        self.is_random = self.weights == RANDOM
        self.name = f"{RANDOM}_{size}" if self.is_random else name_of(weights)
        if self.is_random:
            self.image_size, self.reads_text, self._is_own = _RANDOM_SIZE, False, False
            return
        self.file = _file_of(Path(weights))
        header, names = read_header(self.file)
        self.image_size = int(header.get("image_size", 224))
        self.reads_text = "temperature.logit_scale" in names
        self._is_own = self.reads_text or "classes" in header  # more than a bare encoder

    @cached_property
    def sha256(self) -> str:
        """The hash of the weights: of their file, or of an untrained encoder's values."""
        if not self.is_random:
            with self.file.open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        digest = hashlib.sha256()
        for name, tensor in self.model.network.state_dict().items():
            digest.update(name.encode() + tensor.cpu().numpy().tobytes())
        return digest.hexdigest()

    @cached_property
    def model(self) -> Model:
        """The network, on the GPU where there is one."""
        if self._is_own:
            return load(self.file)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # an untrained encoder is always the same
            encoder, report = load_encoder(
                RANDOM if self.is_random else self.file,
                image_size=self.image_size,
                global_pool="token",
                size=self._size,
            )
        logger.info("%s", report)
        return Model(encoder, None, self.image_size, (), self.weights)

    @cached_property
    def arithmetic(self) -> torch.dtype:
        """bf16 where the processor multiplies it fast, as in training; features differ by 0.3 %."""
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        return compute_type("auto", device)

    def facts(self, dataset: Shards) -> dict[str, Any]:
        """Return all that decides the features of a dataset's images."""
        return {
            "version": _VERSION,
            "weights_sha256": self.sha256,
            "dataset_sha256": dataset_sha256(dataset.directory),
            "image_size": self.image_size,
            "preparation": {"resize": RESIZE, "filter": "bicubic", "mean": MEAN, "std": STD},
            "arithmetic": str(self.arithmetic).removeprefix("torch."),
        }

    @torch.no_grad()
    def encode(self, image_BCHW: Tensor) -> dict[str, np.ndarray]:
        """Return the features of normalised images by kind, float32, in one pass."""
        network, device = self.model.network, self.model.device
        image_BCHW = image_BCHW.to(device, non_blocking=True)
        on = self.arithmetic != torch.float32
        with torch.autocast(device.type, self.arithmetic, enabled=on):
            if isinstance(network, MaskedCLIP):
                patches_BD, joint_BD = network.encode_both(image_BCHW)
                rows = {PATCHES: patches_BD, JOINT: joint_BD}
            elif self.model.classes:
                token_BND = network.forward_features(image_BCHW)
                rows = {PATCHES: network.forward_head(token_BND, pre_logits=True)}
            else:
                token_BND = network.forward_features(image_BCHW)
                rows = {PATCHES: token_BND[:, network.num_prefix_tokens :].float().mean(dim=1)}
        return {kind: row_BD.float().cpu().numpy() for kind, row_BD in rows.items()}


class Features(NamedTuple):
    """A row of features a sample, by its place in the dataset; `lost` are those just not read."""

    index_N: np.ndarray
    rows: Mapping[str, np.ndarray]  # of each kind
    lost: Sequence[DamagedSample] = ()

    def of(self, samples: Sequence[Sample], kind: str) -> tuple[list[Sample], np.ndarray]:
        """Return the samples that could be read, and a row of features for each."""
        place = {int(index): row for row, index in enumerate(self.index_N)}
        kept = [sample for sample in samples if sample.index in place]
        return kept, self.rows[kind][[place[sample.index] for sample in kept]]


def features(
    frozen: Frozen, dataset: Shards, samples: Sequence[Sample], folder: Path, threads: int
) -> Features:
    """Return the features of at least these samples: read from `folder`, the missing computed.

    Samples that cannot be read are tried anew each time. Raises RuntimeError where there is not
    one that can.
    """
    facts = frozen.facts(dataset)
    path = folder / f"{dataset.name}-{_digest(facts)[:12]}.safetensors"
    parts = _read(path, facts)
    known = {int(index) for part in parts for index in part.index_N}
    missing = [sample for sample in samples if sample.index not in known]
    lost: list[DamagedSample] = []
    if missing:
        saved, before = time.monotonic(), len(parts)
        for views in _batches(frozen, dataset, missing, threads):
            lost += views.lost
            if views.samples:
                index_B = np.array([sample.index for sample in views.samples])
                parts.append(Features(index_B, frozen.encode(views.image_BCHW)))
            if time.monotonic() - saved > _SAVE_EVERY:
                parts, before = [_joined(parts)], 1
                _write(path, facts, parts[0])
                saved = time.monotonic()
        if not parts:
            raise RuntimeError(f"{dataset.directory}: no image can be read; check the shards")
        if len(parts) > before:
            parts = [_joined(parts)]
            _write(path, facts, parts[0])
    logger.info("%s: features of %d images in %s", dataset.name, len(parts[0].index_N), path)
    return parts[0]._replace(lost=lost)


def _batches(
    frozen: Frozen, dataset: Shards, samples: Sequence[Sample], threads: int
) -> Iterator[Views]:
    """Yield the images, and show how far it is."""
    with tqdm(total=len(samples), desc=f"features of {dataset.name}", unit="image") as bar:
        for views in prepared_batches(
            dataset, samples, image_size=frozen.image_size, batch=_BATCH, threads=threads
        ):
            yield views
            bar.update(len(views.samples) + len(views.lost))


def _joined(parts: Sequence[Features]) -> Features:
    rows = {k: np.concatenate([part.rows[k] for part in parts]) for k in parts[0].rows}
    return Features(np.concatenate([part.index_N for part in parts]), rows)


def _digest(facts: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _read(path: Path, facts: Mapping[str, Any]) -> list[Features]:
    """Return what a file holds; nothing, and why, where it is damaged."""
    if not path.exists():
        return []
    try:
        with safe_open(path, framework="np") as file:
            header = json.loads((file.metadata() or {})["maskedclip"])
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if header["sha256"] != _sha256(arrays) or header["facts"] != json.loads(json.dumps(facts)):
            raise ValueError("its content is not what its header says")
        return [Features(arrays.pop("index"), arrays)]
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        logger.warning("%s: is damaged (%s); its features are computed again", path, error)
        return []


def _write(path: Path, facts: Mapping[str, Any], found: Features) -> None:
    """Write in one rename, under a name of its own until then: others may write the same."""
    arrays = {"index": found.index_N, **found.rows}
    header = json.dumps({"facts": facts, "sha256": _sha256(arrays)})
    path.parent.mkdir(parents=True, exist_ok=True)
    content = safetensors.numpy.save(arrays, {"maskedclip": header})
    descriptor, name = tempfile.mkstemp(prefix=path.stem, suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    finally:
        Path(name).unlink(missing_ok=True)


def _sha256(arrays: Mapping[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name} {array.dtype} {array.shape}".encode() + array.tobytes())
    return digest.hexdigest()


def _file_of(path: Path) -> Path:
    """Return the file of weights of a run directory, as `maskedclip.load` takes it."""
    if path.is_dir():
        there = [name for name in (MODEL, FINETUNED) if (path / name).is_file()]
        path = path / [*there, ENCODER][0]
    if not path.is_file():
        raise ValueError(f"{path}: no such file; let the run end, or name weights")
    return path
