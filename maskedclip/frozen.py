"""Weights that are not trained further, and what the network of them gives for images."""

import hashlib
import logging
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from maskedclip.data.storage.opening import dataset_sha256
from maskedclip.data.storage.shards import Shards
from maskedclip.data.transforms import MEAN, STD
from maskedclip.data.views import RESIZE
from maskedclip.engine.distributed import compute_type
from maskedclip.inference import Model, load, name_of, read_header
from maskedclip.models.classifier import FINETUNED
from maskedclip.models.maskedclip import MaskedCLIP
from maskedclip.models.pretrained import ENCODER, MODEL, RANDOM, load_encoder

logger = logging.getLogger(__name__)
PATCHES, JOINT = "patches", "joint"  # mean of the patch tokens; unit rows of the joint space
_VERSION = 1  # raise it where the same weights and images would give other features
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


def _file_of(path: Path) -> Path:
    """Return the file of weights of a run directory, as `maskedclip.load` takes it."""
    if path.is_dir():
        there = [name for name in (MODEL, FINETUNED) if (path / name).is_file()]
        path = path / [*there, ENCODER][0]
    if not path.is_file():
        raise ValueError(f"{path}: no such file; let the run end, or name weights")
    return path
