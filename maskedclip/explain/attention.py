"""Where a transformer looks: attention rollout, the class token's row, relevance, nearest patches.

Nothing in the network is changed. Attention is taken again from the queries and keys that a layer
made, and its slope from the slope of what it mixed, so fused kernels stay as they are. Layers are
timm's attention or ours: `qkv`, heads that mix values, `proj`.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Seen(NamedTuple):
    """One layer of a forward pass; L tokens of an image, [CLS] first."""

    query_BHLD: Tensor
    key_BHLD: Tensor
    value_BHLD: Tensor
    mixed: Tensor  # of the heads side by side, as the layer holds it: a slope can be asked of it

    def attention(self) -> Tensor:
        """Return attention_BHLL; each row, of the token that looks, sums to 1."""
        score_BHLL = self.query_BHLD @ self.key_BHLD.transpose(-1, -2)
        return (score_BHLL / math.sqrt(self.key_BHLD.shape[-1])).softmax(dim=-1)

    def slope(self, mixed_slope: Tensor) -> Tensor:
        """Return the slope of a score by attention_BHLL, from that by `mixed`."""
        images, heads, length, _ = self.value_BHLD.shape
        slope_BHLD = mixed_slope.reshape(images, length, heads, -1).transpose(1, 2)
        return slope_BHLD @ self.value_BHLD.transpose(-1, -2)


@contextmanager
def watched(layers: Sequence[nn.Module], *, images: int, heads: int) -> Iterator[list[Seen]]:
    """Yield a list that one forward pass of `images` through the layers fills, in their order."""
    seen: list[Seen] = []
    made: list[Tensor] = []

    def keep(_: nn.Module, __: Any, qkv: Tensor) -> None:
        made.append(qkv)

    def mix(_: nn.Module, given: tuple[Tensor, ...]) -> None:
        heads_BL3HD = made.pop().reshape(images, -1, 3, heads, given[0].shape[-1] // heads)
        query, key, value = heads_BL3HD.detach().permute(2, 0, 3, 1, 4).unbind()
        seen.append(Seen(query, key, value, given[0]))

    hooks = [layer.get_submodule("qkv").register_forward_hook(keep) for layer in layers]
    hooks += [layer.get_submodule("proj").register_forward_pre_hook(mix) for layer in layers]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def rollout(attentions: Sequence[Tensor]) -> Tensor:
    """Return mixing_BLL, the product of the layers' mixing; each row sums to 1.

    A layer mixes by half its attention, the mean over heads, and by half keeps each token: the
    residual path (Abnar and Zuidema, 2020).

    Args:
        attentions: an attention_BHLL a layer, the first layer first.
    """
    length = attentions[0].shape[-1]
    same_LL = torch.eye(length, dtype=torch.float64, device=attentions[0].device)
    mixing_BLL = same_LL.expand(len(attentions[0]), -1, -1)
    for attention_BHLL in attentions:
        mixing_BLL = (attention_BHLL.double().mean(dim=1) + same_LL) / 2 @ mixing_BLL
    return mixing_BLL


def relevance(score_B: Tensor, seen: Sequence[Seen]) -> Tensor:
    """Return relevance_BLL: how much the score owes to what each token took from each other one.

    Gradient times attention (Chefer et al., 2021, eqs. 5-6): R starts as the identity, and a layer
    adds E_h[(slope * attention)^+] R. The identity, in which no token took anything, is taken off
    again. Which rows to read is for the caller to say: those of the tokens that the score read.
    """
    slopes = torch.autograd.grad(score_B.sum(), [layer.mixed for layer in seen], retain_graph=True)
    images, _, length, _ = seen[0].value_BHLD.shape
    # the layers add a millionth to the identity: too little for float32
    same_LL = torch.eye(length, dtype=torch.float64, device=score_B.device)
    relevance_BLL = same_LL.expand(images, -1, -1)
    for layer, mixed_slope in zip(seen, slopes, strict=True):
        owed_BHLL = (layer.slope(mixed_slope) * layer.attention()).clamp(min=0)
        relevance_BLL = relevance_BLL + owed_BHLL.double().mean(dim=1) @ relevance_BLL
    return relevance_BLL - same_LL


def patches_read(pair_BLL: Tensor) -> Tensor:
    """Return map_BN where the mean of the patch tokens is read: the mean of their rows."""
    return pair_BLL[:, 1:, 1:].mean(dim=1)


def class_read(attention_BHLL: Tensor) -> Tensor:
    """Return map_BHN: what [CLS] takes from each patch, a head."""
    return attention_BHLL[:, :, 0, 1:]


def similarity(patch_BND: Tensor, class_YD: Tensor) -> Tensor:
    """Return cosine_BYN of each patch with each class."""
    unit_BND = F.normalize(patch_BND.double(), dim=-1)
    return F.normalize(class_YD.double(), dim=-1) @ unit_BND.transpose(-1, -2)


def as_grid(map_N: Tensor) -> Tensor:
    """Return the values of the patches in rows and columns, as they lie in the image."""
    side = math.isqrt(map_N.shape[-1])
    return map_N.reshape(*map_N.shape[:-1], side, side)
