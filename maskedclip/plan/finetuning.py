"""The memory of a fine-tuning on a GPU before it runs: a forward pass on shapes alone, counted.

It is planned, an upper bound: all gradients beside all that is kept for them, which are never there
at once. What CUDA itself takes, and a kernel's own workspace, are not in it.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from maskedclip.models.adapters import train_only
from maskedclip.models.pretrained import EncoderInfo, untrained_network
from maskedclip.plan.units import in_bytes, in_count

_CLASSES = 5  # of a head whose size is next to nothing
_FP32, _MOMENTS = 4, 8  # bytes of a weight, and of AdamW's two numbers for it


class FinetuneMemory(NamedTuple):
    """Parameters, and bytes at most."""

    parameters: int
    trained: int
    weights: int  # those that train and the copy of the best
    gradients: int
    moments: int
    kept: int  # for the backward pass of one batch

    @property
    def total(self) -> int:
        return self.weights + self.gradients + self.moments + self.kept

    def __str__(self) -> str:
        parts = (
            f"{name} {in_bytes(value)}"
            for name, value in self._asdict().items()
            if name not in ("parameters", "trained")
        )
        return (
            f"{in_count(self.trained)} of {in_count(self.parameters)} parameters are trained; "
            f"planned memory of a GPU: {in_bytes(self.total)} at most ({', '.join(parts)})"
        )


def finetune_memory(
    info: EncoderInfo,
    *,
    image_size: int,
    batch: int,
    encoder: str,
    rank: int,
    alpha: float,
) -> FinetuneMemory:
    """Return the memory of a fine-tuning in bf16 compute, fp32 weights."""
    with torch.device("meta"):
        network = untrained_network(info, image_size=image_size, num_classes=_CLASSES)
        train_only(network, encoder, rank=rank, alpha=alpha)
    with FakeTensorMode(allow_non_fake_inputs=True):
        image_BCHW = torch.empty(batch, 3, image_size, image_size)
        kept = _kept(network.to_empty(device="cpu"), image_BCHW)
    sizes = [(weight.numel(), weight.requires_grad) for weight in network.parameters()]
    every = sum(size for size, _ in sizes)
    trained = sum(size for size, trains in sizes if trains)
    return FinetuneMemory(
        every, trained, 2 * _FP32 * every, _FP32 * trained, _MOMENTS * trained, kept
    )


def _kept(network: nn.Module, image_BCHW: Tensor) -> int:
    """Return the bytes that a forward pass keeps beside the weights, each storage once."""
    own = {weight.untyped_storage()._cdata for weight in network.parameters()}
    storages: dict[int, torch.UntypedStorage] = {}

    def remember(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            storages[storage._cdata] = storage  # held, so that no other takes its number
        return tensor

    with (
        torch.autograd.graph.saved_tensors_hooks(remember, lambda tensor: tensor),
        torch.autocast(image_BCHW.device.type, dtype=torch.bfloat16),
    ):
        network.train()(image_BCHW)
    return sum(storage.nbytes() for storage in storages.values())
