"""The momentum encoder of eq. 5: an exponential moving average of (E_I, B)."""

import copy

import torch
from torch import Tensor, nn

from maskedclip.models.bridge import Bridge
from maskedclip.models.encoder import Encoder
from maskedclip.models.maskedclip import MaskedCLIP
from maskedclip.models.moving_average import follow


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
    def forward(self, image_BCHW: Tensor) -> Tensor:
        """Return target_BND: features of every patch of the whole image in CLIP space."""
        _, token_BND = self.encoder(image_BCHW, None, len(image_BCHW))
        target_BND: Tensor = self.bridge(token_BND)[:, 1:]
        return target_BND

    def follow(self, student: MaskedCLIP, momentum: float, skip: Tensor) -> None:
        """Move towards the student's encoder and bridge, but where `skip` is 1."""
        pairs = ((self.encoder, student.encoder), (self.bridge, student.bridge))
        follow(pairs, momentum, skip)
