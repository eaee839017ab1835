"""Google's ViTs (AugReg, ImageNet-21K) as JAX saves them, an .npz, under timm's names."""

import re
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

from maskedclip.models.checkpoints.archives import check_members

if TYPE_CHECKING:
    from torch import Tensor

_NAMES = (
    (r"^(opt/target/|params/(img/)?)", ""),
    (r"^cls$", "cls_token"),
    (r"^Transformer/posembed_input/pos_embedding$", "pos_embed"),
    (r"^embedding/", "patch_embed.proj/"),
    (r"^Transformer/encoder_norm/", "norm/"),
    (r"^Transformer/encoderblock_(\d+)/", r"blocks.\1."),
    (r"\.LayerNorm_0/", ".norm1/"),
    (r"\.LayerNorm_2/", ".norm2/"),
    (r"\.MultiHeadDotProductAttention_1/(q|k|v)(uery|ey|alue)/", r".attn.\1/"),
    (r"\.MultiHeadDotProductAttention_1/out/", ".attn.proj/"),
    (r"\.MlpBlock_3/Dense_0/", ".mlp.fc1/"),
    (r"\.MlpBlock_3/Dense_1/", ".mlp.fc2/"),
    (r"/(kernel|scale)$", ".weight"),
    (r"/", "."),
)
_HEAD = (64, 80)  # channels of a head, of ViT-H the latter: as they are counted by the width


def read_npz(path: Path) -> dict[str, "Tensor"]:
    """Return a ViT's tensors by timm's names, queries, keys and values apart.

    Raises ValueError where the file is damaged, or no such ViT.
    """
    import numpy as np  # for which --help does not wait
    import torch

    try:
        with zipfile.ZipFile(path) as archive:
            check_members(path, archive, archive.infolist())
        with np.load(path, allow_pickle=False) as content:
            arrays = {name: content[name] for name in content.files}
    except Exception as error:  # numpy, zipfile, struct, by the byte that is damaged
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{path}: not a whole .npz of arrays ({reason[:120]})") from error
    if not any(name.endswith("embedding/kernel") for name in arrays):
        raise ValueError(f"{path}: no embedding/kernel among its arrays, so no ViT of Google's")
    tensors: dict[str, Tensor] = {}
    for name, array in arrays.items():
        found = name
        for pattern, replacement in _NAMES:
            found = re.sub(pattern, replacement, found)
        value = torch.from_numpy(np.ascontiguousarray(array)).float()
        tensors[found] = _as_torch(found, value, path)
    return tensors


def _as_torch(name: str, value: "Tensor", path: Path) -> "Tensor":
    """Return an array with its axes in torch's order."""
    if re.search(r"\.attn\.[qkv]\.", name):
        if value.shape[-1] not in _HEAD:
            raise ValueError(
                f"{path}: {name} has heads of {value.shape[-1]} channels, and only those of 64 (or "
                f"80) are read"
            )
        # (D, heads, channels) to (heads and channels, D); a bias has no D
        return value.flatten(1).T if value.ndim == 3 else value.flatten()
    if name.endswith(".attn.proj.weight"):  # (heads, channels, D)
        return value.flatten(0, 1).T
    if value.ndim == 4:  # HWIO
        return value.permute(3, 2, 0, 1)
    return value.T if value.ndim == 2 and name.endswith(".weight") else value
