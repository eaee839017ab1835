"""Patch tokens of a frozen encoder on disk, for probes that look at each of them.

A store is a folder of chunks, safetensors files of some hundred images each, in float16. A chunk is
written whole or not at all and carries its hash, so a killed run computes again what the chunk in
the making held, and a damaged chunk alone. No more than a chunk (256 MB) is in memory while tokens
are computed, and no more than the rows that are asked for while they are read.
"""

import json
import logging
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from maskedclip.data.pretraining_images import arrays_sha256
from maskedclip.engine.whole_file import write_whole

logger = logging.getLogger(__name__)
_CHUNK = 256 * 1024**2  # bytes: what is in memory while tokens are computed
_LARGEST = float(np.finfo(np.float16).max)


class TokenStore:
    """Token rows token_ND by the sample's index in its dataset."""

    def __init__(self, folder: Path, key: Mapping[str, Any]) -> None:
        """`key` is all that decides the tokens; chunks of another key, or damaged, are not used."""
        self.folder, self._key = folder, json.loads(json.dumps(key))
        self._place: dict[int, tuple[Any, int]] = {}  # of a sample: the tensor on disk, its row
        self._new: list[tuple[np.ndarray, np.ndarray]] = []
        for path in sorted(folder.glob("*.safetensors")):
            self._open(path)

    def __contains__(self, index: int) -> bool:
        return index in self._place

    def __len__(self) -> int:
        return len(self._place)

    def add(self, index_B: np.ndarray, token_BND: Tensor) -> None:
        """Take the tokens of some samples; they are on disk after `flush` at the latest.

        Raises ValueError where a token is above what float16 holds, or no finite number.
        """
        if not (token_BND.abs().max() <= _LARGEST):
            raise ValueError(
                f"{self.folder.name}: patch tokens beyond {_LARGEST:g}, which the protocol "
                f"attentive cannot keep; use --protocols=logistic,knn"
            )
        self._new.append((index_B, token_BND.to("cpu", torch.float16).numpy()))
        if sum(token_BND.nbytes for _, token_BND in self._new) >= _CHUNK:
            self.flush()

    def flush(self) -> None:
        """Write what was added."""
        if not self._new:
            return
        joined = (np.concatenate(arrays) for arrays in zip(*self._new, strict=True))
        # safetensors writes an array's memory as it lies, also that of a transposed one
        index_B, token_BND = map(np.ascontiguousarray, joined)
        self._new = []
        arrays = {"index": index_B, "tokens": token_BND}
        header = json.dumps({"facts": self._key, "sha256": arrays_sha256(arrays)})
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"{secrets.token_hex(4)}.safetensors"
        write_whole(path, safetensors.numpy.save(arrays, {"maskedclip": header}))
        self._open(path)

    def read(self, index_B: Sequence[int] | np.ndarray) -> Tensor:
        """Return token_BND of samples, in float32."""
        rows = [tensor[row : row + 1] for tensor, row in (self._place[int(i)] for i in index_B)]
        return torch.from_numpy(np.concatenate(rows)).float()

    def _open(self, path: Path) -> None:
        """Remember where a chunk's samples are; a damaged one is named, and left out."""
        try:
            file = safe_open(path, framework="np")
            header = json.loads((file.metadata() or {})["maskedclip"])
            if header["facts"] != self._key:
                return
            arrays = {name: file.get_tensor(name) for name in ("index", "tokens")}
            if header["sha256"] != arrays_sha256(arrays):
                raise ValueError("its content is not what its header says")
        except (SafetensorError, ValueError, KeyError, TypeError, OSError) as error:
            logger.warning("%s: is damaged (%s); its tokens are computed again", path, error)
            path.unlink(missing_ok=True)
            return
        tensor = file.get_slice("tokens")
        self._place |= {int(index): (tensor, row) for row, index in enumerate(arrays["index"])}
