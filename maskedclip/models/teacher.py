"""The momentum encoder of eq. 5: an exponential moving average of (E_I, B)."""

import copy

import torch
from torch import Tensor, nn

from maskedclip.models.bridge import Bridge
from maskedclip.models.encoder import Encoder
from maskedclip.models.maskedclip import MaskedCLIP
from maskedclip.models.patches import take


class Teacher(nn.Module):
    """A copy of the student's encoder and bridge that follows it without gradients."""

    def __init__(self, encoder: Encoder, bridge: Bridge) -> None:
        super().__init__()
        self.encoder = copy.deepcopy(encoder)
        self.bridge = copy.deepcopy(bridge)
        self.requires_grad_(False)

    def units(self) -> list[nn.Module]:
        """Return the blocks, in the order they run: what FSDP gathers one by one."""
        return [*self.encoder.blocks, *self.bridge.blocks]

    @torch.no_grad()
    def forward(self, image_BCHW: Tensor, wanted_BM: Tensor | None = None) -> Tensor:
        """Return target_BND: features of every patch of the whole image in CLIP space.

        Of the patches wanted_BM alone where they are given; the image is whole all the same.
        """
        _, token_BND = self.encoder(image_BCHW, None, len(image_BCHW))
        target_BND = self.bridge(token_BND)[:, 1:]
        return target_BND if wanted_BM is None else take(target_BND, wanted_BM)

    @torch.no_grad()
    def follow(self, student: MaskedCLIP, momentum: float, skip: Tensor) -> None:
        """Move every weight to momentum * itself + (1 - momentum) * the student's.

        Nothing changes where `skip`, a scalar on the device, is 1. Under FSDP both sides are
        sharded alike, so each rank updates its own shards and nothing is communicated.
        """
        weight = (1 - momentum) * (1 - skip)
        both = ((self.encoder, student.encoder), (self.bridge, student.bridge))
        # local shards where the parameters are DTensors, the parameters themselves elsewhere
        targets = [_local(parameter) for ours, _ in both for parameter in ours.parameters()]
        sources = [_local(parameter) for _, theirs in both for parameter in theirs.parameters()]
        torch._foreach_lerp_(targets, sources, [weight] * len(targets))


def _local(parameter: Tensor) -> Tensor:
    return parameter.to_local() if hasattr(parameter, "to_local") else parameter
