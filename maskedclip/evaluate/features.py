"""Features of a frozen encoder, computed once and kept in a file.

A file belongs to (sha256 of the weights, of the dataset, image size, preprocessing, dtype), and
every protocol, seed and label fraction reads it. It is safetensors with a JSON header; a damaged
file is computed again. Patch tokens, where a protocol asks for them, lie in a folder beside it.
"""

import hashlib
import json
import logging
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import safetensors.numpy
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from tqdm import tqdm

from maskedclip.data.labelled import LabelledSample
from maskedclip.data.labelled_views import LabelledBatch, preparation, prepared_batches
from maskedclip.data.pretraining_images import PretrainingImages, arrays_sha256
from maskedclip.data.storage.open_dataset import dataset_sha256
from maskedclip.data.storage.shards import DamagedSample, Shards
from maskedclip.engine.distributed import autocast, compute_type
from maskedclip.engine.visible_gpus import inference_device
from maskedclip.engine.whole_file import refuse_unwritable
from maskedclip.evaluate.token_store import TokenStore
from maskedclip.inference import Model, joint_space_of, load, stated_template
from maskedclip.models.checkpoints.architectures import (
    check_image_size,
    patch_tokens,
    pooled_of,
)
from maskedclip.models.checkpoints.files import (
    OWN,
    locate,
    name_of,
    read_checkpoint,
    read_header,
    weights_sha256,
)
from maskedclip.models.maskedclip import MaskedCLIP
from maskedclip.models.pretrained import (
    RANDOM,
    EncoderInfo,
    LoadReport,
    encoder_info,
    load_encoder,
    random_info,
    recognise,
)
from maskedclip.pretrain.trained_images import images_behind

logger = logging.getLogger(__name__)
FOLDER = "features"
PATCHES, JOINT = "patches", "joint"  # mean of the patch tokens; unit rows of the joint space
_VERSION = 3  # raise it where the same weights and images would give other features
_BATCH = 64
_SAVE_EVERY = 60.0  # seconds: what a killed run computes again


class FrozenEncoder:
    """Weights that are not trained further; the network is only built when it is first needed."""

    has_tokens = True  # of patches, or the places of a feature map

    def __init__(self, weights: str | Path, size: str = "large", image_size: int = 0) -> None:
        """`size` is of the untrained encoder where weights is "random", else ignored.

        image_size 0 is the weights' own. Raises ValueError where there are no such weights.
        """
        self.weights, self._size, self._image_size = str(weights), size, image_size
        self.report: LoadReport | None = None  # of third-party weights, once the network is built
        self.is_random = self.weights == RANDOM
        self.name = f"{RANDOM}_{size}" if self.is_random else name_of(weights)
        if self.is_random:
            self.header: dict[str, Any] = {}  # ours; empty for third-party weights
            self._is_own = False
            return
        self.file = locate(weights, OWN, or_random=True)
        self.header, names = read_header(self.file)
        # more than a bare encoder
        self._is_own = "temperature.logit_scale" in names or "classes" in self.header

    @cached_property
    def reads_text(self) -> bool:
        """Whether it can be asked for a dataset's classes, if it reads their language."""
        if self.is_random or self.header:
            return self._is_own and "classes" not in self.header
        return self.model.joint is not None

    def check_language(self, captions: Sequence[Sequence[str]]) -> None:
        """Raise ValueError where its text tower does not read a caption of a class."""
        joint = None if self.is_random or self.header else self.model.joint
        if joint is not None:
            joint.card.check_language([caption for each in captions for caption in each])

    @property
    def prompts(self) -> Callable[[str], list[str]] | None:
        """What a third-party text tower is asked for a class; None: a dataset's own captions."""
        return None if self.header else self.model.prompts

    @property
    def template(self) -> str:
        """The caption template that a run of ours was given; "": each dataset's own."""
        return stated_template(self.file.parent) if self.header else ""

    @cached_property
    def _own_info(self) -> EncoderInfo:
        if self.is_random:
            return random_info(self._size)
        return recognise(read_checkpoint(self.weights, OWN)).info

    @cached_property
    def info(self) -> EncoderInfo:
        """The preprocessing, at the size asked for, and the datasets that it was trained on.

        Raises ValueError where the patch does not divide that size.
        """
        own = self._own_info
        if not self._image_size:
            return own
        try:
            check_image_size(self._image_size, own.architecture)
        except ValueError as error:
            raise ValueError(f"{self.weights}: {error}") from None
        preparation = own.preparation._replace(image_size=self._image_size)
        return own._replace(preparation=preparation)

    def check(self) -> None:
        """Raise ValueError where the patch does not divide the size asked for."""
        if self._image_size:
            _ = self.info

    @property
    def own_sizes(self) -> list[tuple[str, int, int]]:
        """Name, image size as it was trained and patch (1 without one), of each member."""
        own = self._own_info
        return [(
            self.name, own.preparation.image_size, int(own.architecture.get("patch_size", 1)),
        )]  # fmt: skip

    @property
    def resized(self) -> bool:
        """Whether images have another size than the weights' own."""
        return self.info.preparation.image_size != self._own_info.preparation.image_size

    @cached_property
    def images(self) -> PretrainingImages:
        """The images that the weights were trained on, as far as that is known."""
        return images_behind(self.weights, self.info)

    @cached_property
    def sha256(self) -> str:
        """The hash of the weights: of their file, or of an untrained encoder's values."""
        if not self.is_random:
            return weights_sha256(self.file)
        digest = hashlib.sha256()
        for name, tensor in self.model.network.state_dict().items():
            digest.update(name.encode() + tensor.cpu().numpy().tobytes())
        return digest.hexdigest()

    @cached_property
    def model(self) -> Model:
        """The network, on the GPU where there is one."""
        if self._is_own:
            return load(self.file, image_size=self._image_size)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # an untrained encoder is always the same
            encoder, self.report = load_encoder(
                self.weights, image_size=self._image_size, global_pool="token", size=self._size
            )
        logger.info("%s", self.report)
        info = encoder_info(encoder)
        joint = None if self.is_random or self.header else joint_space_of(self.weights, info)
        return Model(encoder, None, info.preparation, (), self.weights, joint=joint)

    @cached_property
    def dtype(self) -> torch.dtype:
        """bf16 where the hardware multiplies it fast, as in training; features differ by 0.3 %."""
        return compute_type("auto", inference_device())

    def shown(self) -> dict[str, Any]:
        """Return the fields of a row that say how the images are shown to the encoder."""
        preparation = self.info.preparation
        facts = {"image_size": preparation.image_size, "colours": preparation.colours}
        return facts | ({"resized": True} if self.resized else {})

    def cache_key(self, dataset: Shards) -> dict[str, Any]:
        """Return all that decides the features of a dataset's images."""
        return {
            "version": _VERSION,
            "weights_sha256": self.sha256,
            "dataset_sha256": dataset_sha256(dataset.directory),
            "preparation": self.info.preparation._asdict(),
            "arithmetic": str(self.dtype).removeprefix("torch."),
        }

    @torch.no_grad()
    def encode(self, image_BCHW: Tensor) -> tuple[dict[str, np.ndarray], Tensor]:
        """Return the features of normalised images by kind, float32, and their patch tokens."""
        network, device, joint = self.model.network, self.model.device, self.model.joint
        image_BCHW = image_BCHW.to(device, non_blocking=True)
        with autocast(device):
            if isinstance(network, MaskedCLIP):
                token_BND, joint_BD = network.encode_both(image_BCHW)
                rows = {PATCHES: token_BND.mean(dim=1), JOINT: joint_BD}
            else:
                last = network.forward_features(image_BCHW)
                token_BND = patch_tokens(network, last)
                rows = {PATCHES: pooled_of(network, last)}
                if joint is not None:
                    rows[JOINT] = joint.image_rows(rows[PATCHES])
        return {kind: row_BD.float().cpu().numpy() for kind, row_BD in rows.items()}, token_BND


class Ensemble(FrozenEncoder):
    """Several frozen encoders as one: their features, each of unit length, side by side.

    Each sees the images as it was trained to; the text towers are left out, and so are the tokens
    of patches, which are of other places in each.
    """

    has_tokens = False

    def __init__(self, members: Sequence[FrozenEncoder]) -> None:
        self.members = members
        self.weights, self.name = ("+".join(names) for names in (
            [one.weights for one in members], [one.name for one in members],
        ))  # fmt: skip
        self.header, self.report = {}, None

    @cached_property
    def reads_text(self) -> bool:
        return False

    def check(self) -> None:
        for one in self.members:
            one.check()

    @property
    def own_sizes(self) -> list[tuple[str, int, int]]:
        return [sizes for one in self.members for sizes in one.own_sizes]

    @property
    def resized(self) -> bool:
        return any(one.resized for one in self.members)

    @cached_property
    def images(self) -> PretrainingImages:
        return sum((one.images for one in self.members), PretrainingImages(()))

    def shown(self) -> dict[str, Any]:
        each = [one.shown() for one in self.members]
        sizes = {one["image_size"] for one in each}
        facts = {"image_size": sizes.pop() if len(sizes) == 1 else 0, "members": each}
        return facts | ({"resized": True} if self.resized else {})

    def cache_key(self, dataset: Shards) -> dict[str, Any]:
        return {"members": [one.cache_key(dataset) for one in self.members]}


class Features(NamedTuple):
    """A row of features a sample, by its index in the dataset; `lost` could not be read now."""

    index_N: np.ndarray
    rows: Mapping[str, np.ndarray]  # of each kind
    lost: Sequence[DamagedSample] = ()
    tokens: TokenStore | None = None  # of at least the same samples, where they were asked for

    def of(
        self, samples: Sequence[LabelledSample], kind: str
    ) -> tuple[list[LabelledSample], np.ndarray]:
        """Return the samples that could be read, and a row of features for each."""
        row_of = {int(index): row for row, index in enumerate(self.index_N)}
        kept = [sample for sample in samples if sample.index in row_of]
        return kept, self.rows[kind][[row_of[sample.index] for sample in kept]]


def features(
    encoder: FrozenEncoder,
    dataset: Shards,
    samples: Sequence[LabelledSample],
    folder: Path,
    threads: int,
    *,
    with_tokens: bool = False,
) -> Features:
    """Return the features of at least these samples: read from `folder`, the missing computed.

    Samples that cannot be read are tried again each time. Raises RuntimeError where none can be
    read.
    """
    if isinstance(encoder, Ensemble):
        each = [features(one, dataset, samples, folder, threads) for one in encoder.members]
        return _side_by_side(each, samples)
    key, path = _place(encoder, dataset, folder)
    chunks = _read(path, key)
    known = {int(index) for chunk in chunks for index in chunk.index_N}
    tokens = TokenStore(path.with_name(f"{path.stem}-tokens"), key) if with_tokens else None
    missing = [
        sample
        for sample in samples
        if sample.index not in known or (tokens is not None and sample.index not in tokens)
    ]
    lost: list[DamagedSample] = []
    if missing:
        refuse_unwritable("cache", folder)
        saved_s, saved_chunks = time.monotonic(), len(chunks)
        for views in _batches(encoder, dataset, missing, threads):
            lost += views.lost
            if views.samples:
                chunks += _encoded(encoder, views, known, tokens)
            if time.monotonic() - saved_s > _SAVE_EVERY:
                chunks, saved_chunks = [_joined(chunks)], 1
                _write(path, key, chunks[0])
                saved_s = time.monotonic()
        if not chunks:
            raise RuntimeError(f"{dataset.directory}: no image can be read; check the shards")
        if len(chunks) > saved_chunks:
            chunks = [_joined(chunks)]
            _write(path, key, chunks[0])
        if tokens is not None:
            tokens.flush()
    logger.info("%s: features of %d images in %s", dataset.name, len(chunks[0].index_N), path)
    return chunks[0]._replace(lost=lost, tokens=tokens)


def _encoded(
    encoder: FrozenEncoder, views: LabelledBatch, known: set[int], tokens: TokenStore | None
) -> list[Features]:
    """Return the features of a batch that are not known, and put its tokens into their store."""
    index_B = np.array([sample.index for sample in views.samples])
    rows, token_BND = encoder.encode(views.image_BCHW)
    if tokens is not None:
        tokens.add(index_B, token_BND)
    new_B = np.array([int(index) not in known for index in index_B])
    if not new_B.any():
        return []
    return [Features(index_B[new_B], {kind: row_BD[new_B] for kind, row_BD in rows.items()})]


def _side_by_side(each: Sequence[Features], samples: Sequence[LabelledSample]) -> Features:
    """Return the features of the samples that all encoders could read."""
    read = [{sample.index for sample in own.of(samples, PATCHES)[0]} for own in each]
    unique = {sample.index: sample for sample in samples}
    kept = [sample for index, sample in unique.items() if all(index in own for own in read)]
    rows = [own.of(kept, PATCHES)[1] for own in each]
    units = [row_BD / np.linalg.norm(row_BD, axis=1, keepdims=True) for row_BD in rows]
    lost = {one.key: one for own in each for one in own.lost}
    index_N = np.array([sample.index for sample in kept])
    return Features(index_N, {PATCHES: np.concatenate(units, axis=1)}, tuple(lost.values()))


def known_features(encoder: FrozenEncoder, dataset: Shards, folder: Path) -> Features | None:
    """Return the features that are kept in `folder`, None where there are none."""
    key, path = _place(encoder, dataset, folder)
    return next(iter(_read(path, key)), None)


def known_indices(encoder: FrozenEncoder, dataset: Shards, folder: Path) -> set[int]:
    """Return the samples whose features are kept in `folder`, for all members of an ensemble."""
    members = encoder.members if isinstance(encoder, Ensemble) else [encoder]
    kept = (known_features(one, dataset, folder) for one in members)
    return set.intersection(*(set(one.index_N.tolist()) if one else set() for one in kept))


def _place(encoder: FrozenEncoder, dataset: Shards, folder: Path) -> tuple[dict[str, Any], Path]:
    """Return all that decides the features, and the file that they are kept in."""
    key = encoder.cache_key(dataset)
    return key, folder / f"{dataset.name}-{_digest(key)[:12]}.safetensors"


def _batches(
    encoder: FrozenEncoder, dataset: Shards, samples: Sequence[LabelledSample], threads: int
) -> Iterator[LabelledBatch]:
    """Yield the prepared images, with a progress bar."""
    prepare = preparation(**encoder.info.preparation._asdict())
    with tqdm(total=len(samples), desc=f"features of {dataset.name}", unit=" images") as bar:
        for views in prepared_batches(
            dataset, samples, prepare=prepare, batch=_BATCH, threads=threads
        ):
            yield views
            bar.update(len(views.samples) + len(views.lost))


def _joined(chunks: Sequence[Features]) -> Features:
    rows = {k: np.concatenate([chunk.rows[k] for chunk in chunks]) for k in chunks[0].rows}
    return Features(np.concatenate([chunk.index_N for chunk in chunks]), rows)


def _digest(key: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()


def _read(path: Path, key: Mapping[str, Any]) -> list[Features]:
    """Return the content of a file; nothing, with a warning, where it is damaged."""
    if not path.exists():
        return []
    try:
        with safe_open(path, framework="np") as file:
            header = json.loads((file.metadata() or {})["maskedclip"])
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if header["sha256"] != arrays_sha256(arrays) or header["facts"] != json.loads(
            json.dumps(key)
        ):
            raise ValueError("its content is not what its header says")
        return [Features(arrays.pop("index"), arrays)]
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        logger.warning("%s: is damaged (%s); its features are computed again", path, error)
        return []


def _write(path: Path, key: Mapping[str, Any], content: Features) -> None:
    """Write a file of a name of its own, then rename it: others may write the same."""
    arrays = {"index": content.index_N, **content.rows}
    header = json.dumps({"facts": key, "sha256": arrays_sha256(arrays)})
    path.parent.mkdir(parents=True, exist_ok=True)
    data = safetensors.numpy.save(arrays, {"maskedclip": header})
    descriptor, name = tempfile.mkstemp(prefix=path.stem, suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    finally:
        Path(name).unlink(missing_ok=True)
