"""What of an encoder is trained: all of it, none of it, or low-rank updates (LoRA).

LoRA: Hu et al., 2021. An adapted layer keeps the names and values of its own weights beside two
matrices more; `merged` adds these to the weights, so that a file of it is of a plain network.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm


class LoraLinear(nn.Linear):
    """A linear layer whose weights stay, plus (alpha / rank) * up @ down, which is trained.

    `up` begins with zeros: at first the outputs are those of the layer itself.
    """

    def __init__(self, layer: nn.Linear, rank: int, alpha: float) -> None:
        super().__init__(layer.in_features, layer.out_features, layer.bias is not None, "meta")
        self.weight, self.bias = layer.weight, layer.bias
        self.scale = alpha / rank
        self.lora_down = nn.Parameter(layer.weight.new_empty(rank, layer.in_features))
        self.lora_up = nn.Parameter(layer.weight.new_zeros(layer.out_features, rank))
        nn.init.kaiming_uniform_(self.lora_down, a=math.sqrt(5))

    def forward(self, input: Tensor) -> Tensor:
        low = F.linear(F.linear(input, self.lora_down), self.lora_up)
        return super().forward(input) + self.scale * low

    @torch.no_grad()
    def plain(self) -> nn.Linear:
        """Return the layer with the update in its weights."""
        layer = nn.Linear(self.in_features, self.out_features, self.bias is not None, "meta")
        layer.weight = nn.Parameter(self.weight + self.scale * self.lora_up @ self.lora_down)
        layer.bias = self.bias
        return layer


def train_only(network: nn.Module, encoder: str, *, rank: int, alpha: float) -> None:
    """Freeze a classifier's encoder, or adapt the linear layers of its blocks; in place.

    The head is trained in any case, with the norm in front of it. Raises ValueError where LoRA
    finds no layers, as in a ResNet.

    Args:
        encoder: trained, frozen or lora.
    """
    if encoder == "trained":
        return
    head = network.get_classifier()  # type: ignore[operator]
    own = {id(weight) for weight in head.parameters()}
    for name, weight in network.named_parameters():
        trains = id(weight) in own or name.startswith(("fc_norm.", "norm."))
        weight.requires_grad_(trains)
    if encoder == "frozen":
        return
    blocks = getattr(network, "blocks", None)
    if not isinstance(blocks, nn.Module):
        raise ValueError(
            f"encoder lora: a {type(network).__name__} has no blocks of linear layers; use "
            f"--encoder=frozen or trained"
        )
    for module in list(blocks.modules()):
        if hasattr(module, "qkv_bias_separate"):  # else timm's DINOv3 calls no layer, but F.linear
            setattr(module, "qkv_bias_separate", True)  # noqa: B010 (a Module's attribute has no type)
        for name, layer in list(module.named_children()):
            if type(layer) is nn.Linear:
                setattr(module, name, LoraLinear(layer, rank, alpha))


def merged(network: nn.Module) -> nn.Module:
    """Return the network, changed in place, with plain layers in place of adapted ones."""
    for module in list(network.modules()):
        for name, layer in list(module.named_children()):
            if isinstance(layer, LoraLinear):
                setattr(module, name, layer.plain())
    return network


def training_mode(network: nn.Module) -> None:
    """Do what `network.train()` does, but leave batch norms as they are that are frozen."""
    network.train()
    for module in network.modules():
        if isinstance(module, _BatchNorm) and not any(w.requires_grad for w in module.parameters()):
            module.eval()
