"""Attention rollout, [CLS] attention, relevance (gradient x attention) and patch-text similarity.

The network is not changed. Attention is recomputed from a layer's queries and keys, and its
gradient from that of the layer's mixed values, so fused kernels stay in use. Layers are timm's
attention or ours: `qkv`, heads that mix values, `proj`. Axes: B images, H heads, L tokens ([CLS],
registers, patches; our encoder hands no registers on to the bridge), N patches, D features,
Y classes.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class LayerRecord(NamedTuple):
    """Queries, keys and values of one attention layer in a forward pass."""

    query_BHLD: Tensor
    key_BHLD: Tensor
    value_BHLD: Tensor
    mixed_BLD: Tensor  # attention times values, heads side by side; still in the autograd graph

    def attention(self) -> Tensor:
        """Return attention_BHLL; each row, of a query token, sums to 1."""
        score_BHLL = self.query_BHLD @ self.key_BHLD.transpose(-1, -2)
        return (score_BHLL / math.sqrt(self.key_BHLD.shape[-1])).softmax(dim=-1)

    def attention_gradient(self, gradient_BLD: Tensor) -> Tensor:
        """Return the gradient of a score by attention_BHLL, from that by `mixed_BLD`."""
        images, heads, length, _ = self.value_BHLD.shape
        gradient_BHLD = gradient_BLD.reshape(images, length, heads, -1).transpose(1, 2)
        return gradient_BHLD @ self.value_BHLD.transpose(-1, -2)


@contextmanager
def recorded(
    layers: Sequence[nn.Module], *, images: int, heads: int
) -> Iterator[list[LayerRecord]]:
    """Yield a list that one forward pass of `images` through the layers fills, in their order."""
    records: list[LayerRecord] = []
    pending: list[Tensor] = []

    def keep(_: nn.Module, __: Any, qkv: Tensor) -> None:
        pending.append(qkv)

    def mix(_: nn.Module, given: tuple[Tensor, ...]) -> None:
        heads_BL3HD = pending.pop().reshape(images, -1, 3, heads, given[0].shape[-1] // heads)
        query, key, value = heads_BL3HD.detach().permute(2, 0, 3, 1, 4).unbind()
        records.append(LayerRecord(query, key, value, given[0]))

    # rotary positions turn what `qkv` gives
    last = ["qkv" if getattr(layer, "rotary", None) is None else "rotary" for layer in layers]
    hooks = [
        layer.get_submodule(name).register_forward_hook(keep)
        for layer, name in zip(layers, last, strict=True)
    ]
    hooks += [layer.get_submodule("proj").register_forward_pre_hook(mix) for layer in layers]
    try:
        yield records
    finally:
        for hook in hooks:
            hook.remove()


def rollout(attentions: Sequence[Tensor]) -> Tensor:
    """Return mixing_BLL, the product of the layers' mixing; each row sums to 1.

    A layer mixes tokens by half its attention, the mean over heads, and keeps each by half: the
    residual path (Abnar and Zuidema, 2020).

    Args:
        attentions: an attention_BHLL a layer, the first layer first.
    """
    length = attentions[0].shape[-1]
    identity_LL = torch.eye(length, dtype=torch.float64, device=attentions[0].device)
    mixing_BLL = identity_LL.expand(len(attentions[0]), -1, -1)
    for attention_BHLL in attentions:
        mixing_BLL = _handed_on(mixing_BLL, attention_BHLL.shape[-1])
        mixing_BLL = (attention_BHLL.double().mean(dim=1) @ mixing_BLL + mixing_BLL) / 2
    return mixing_BLL


def _handed_on(pair_BLL: Tensor, length: int) -> Tensor:
    """Return the rows of the tokens that reach a layer of `length` tokens: registers do not."""
    dropped = pair_BLL.shape[1] - length
    return torch.cat([pair_BLL[:, :1], pair_BLL[:, 1 + dropped :]], dim=1)


def relevance(score_B: Tensor, records: Sequence[LayerRecord]) -> Tensor:
    """Return relevance_BLL: how much the score owes to what each token took from each other one.

    Gradient times attention (Chefer et al., 2021, eqs. 5-6): R starts as the identity, and a layer
    adds E_h[(gradient * attention)^+] R. The identity, in which no token took anything, is
    subtracted again. The caller reads the rows of the tokens that the score was computed from.
    """
    gradients = torch.autograd.grad(
        score_B.sum(), [layer.mixed_BLD for layer in records], retain_graph=True
    )
    images, _, length, _ = records[0].value_BHLD.shape
    # the layers add a millionth to the identity: too little for float32
    identity_LL = torch.eye(length, dtype=torch.float64, device=score_B.device)
    relevance_BLL = identity_LL.expand(images, -1, -1)
    for layer, gradient_BLD in zip(records, gradients, strict=True):
        relevance_BLL = _handed_on(relevance_BLL, layer.value_BHLD.shape[2])
        owed_BHLL = (layer.attention_gradient(gradient_BLD) * layer.attention()).clamp(min=0)
        relevance_BLL = relevance_BLL + owed_BHLL.double().mean(dim=1) @ relevance_BLL
    return relevance_BLL - _handed_on(identity_LL[None], relevance_BLL.shape[1])


def mean_over_patches(pair_BLL: Tensor, patches: int) -> Tensor:
    """Return map_BN for a score that pools the patch tokens, the last: the mean of their rows."""
    return pair_BLL[:, -patches:, -patches:].mean(dim=1)


def cls_row(attention_BHLL: Tensor, patches: int) -> Tensor:
    """Return map_BHN: what [CLS] takes from each patch, a head."""
    return attention_BHLL[:, :, 0, -patches:]


def similarity(patch_BND: Tensor, class_YD: Tensor) -> Tensor:
    """Return cosine_BYN of each patch with each class."""
    unit_BND = F.normalize(patch_BND.double(), dim=-1)
    return F.normalize(class_YD.double(), dim=-1) @ unit_BND.transpose(-1, -2)


def as_grid(map_N: Tensor) -> Tensor:
    """Return the values of the patches in the rows and columns of the image."""
    side = math.isqrt(map_N.shape[-1])
    return map_N.reshape(*map_N.shape[:-1], side, side)
