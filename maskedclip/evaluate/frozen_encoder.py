"""Weights that are not trained further, and what the network of them gives for images."""

import hashlib
import logging
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from maskedclip.data.storage.open_dataset import dataset_sha256
from maskedclip.data.storage.shards import Shards
from maskedclip.engine.distributed import compute_type
from maskedclip.inference import Model, load, name_of, read_header
from maskedclip.models.checkpoints.architectures import pooled
from maskedclip.models.checkpoints.files import OWN, locate, read_checkpoint
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

logger = logging.getLogger(__name__)
PATCHES, JOINT = "patches", "joint"  # mean of the patch tokens; unit rows of the joint space
_VERSION = 2  # raise it where the same weights and images would give other features


class Frozen:
    """Weights that are not trained further; the network is only built when it is first needed."""

    def __init__(self, weights: str | Path, size: str = "large") -> None:
        """`size` is of the untrained encoder where weights is "random", else ignored.

        Raises ValueError where there are no such weights.
        """
        self.weights, self._size = str(weights), size
        self.report: LoadReport | None = None  # of third-party weights, once the network is built
        self.is_random = self.weights == RANDOM
        self.name = f"{RANDOM}_{size}" if self.is_random else name_of(weights)
        if self.is_random:
            self.reads_text, self._is_own = False, False
            return
        self.file = locate(weights, OWN)
        header, names = read_header(self.file)
        self.reads_text = "temperature.logit_scale" in names
        self._is_own = self.reads_text or "classes" in header  # more than a bare encoder

    @cached_property
    def info(self) -> EncoderInfo:
        """What is known of the weights: how images are prepared for them, what they have seen."""
        if self.is_random:
            return random_info(self._size)
        return recognise(read_checkpoint(self.weights, OWN)).info

    @property
    def image_size(self) -> int:
        return self.info.preparation.image_size

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
            encoder, self.report = load_encoder(self.weights, global_pool="token", size=self._size)
        logger.info("%s", self.report)
        return Model(encoder, None, encoder_info(encoder).preparation, (), self.weights)

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
            "preparation": self.info.preparation._asdict(),
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
            else:
                rows = {PATCHES: pooled(network, image_BCHW)}
        return {kind: row_BD.float().cpu().numpy() for kind, row_BD in rows.items()}
