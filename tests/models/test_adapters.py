"""LoRA and frozen encoders: what is trained, what is computed, and what a merged network has."""

from pathlib import Path

import pytest
import timm
import torch
from torch import nn

from maskedclip.models.adapters import LoraLinear, merged, train_only, training_mode
from maskedclip.models.classifier import (
    adamw_by_layer,
    build_classifier,
    read_classifier,
    write_classifier,
)

IMAGE_BCHW = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
SIZE = {"image_size": 32, "num_classes": 3, "drop_path": 0.0, "size": "micro"}


def classifier() -> nn.Module:
    torch.manual_seed(0)
    return build_classifier("random", **SIZE)[0]


def steps(network: nn.Module, count: int) -> None:
    optimizer = adamw_by_layer(network, layer_decay=1.0, weight_decay=0.05)
    training_mode(network)
    for group in optimizer.param_groups:
        group["lr"] = 0.01
    for _ in range(count):
        loss = nn.functional.cross_entropy(network(IMAGE_BCHW), torch.tensor([0, 2]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    network.eval()


def test_an_adapted_layer_is_the_layer_and_a_product_of_two_matrices():
    layer = nn.Linear(6, 4)
    adapted = LoraLinear(layer, rank=2, alpha=8.0)
    row = torch.randn(5, 6)
    assert torch.equal(adapted(row), layer(row))  # up begins with zeros
    with torch.no_grad():
        adapted.lora_up.normal_()
    by_hand = row @ (layer.weight + 8 / 2 * adapted.lora_up @ adapted.lora_down).T + layer.bias
    assert torch.allclose(adapted(row), by_hand, atol=1e-6)
    assert torch.allclose(adapted.plain()(row), by_hand, atol=1e-6)


@pytest.mark.parametrize("encoder", ["frozen", "lora"])
def test_the_encoders_own_weights_stay_to_the_bit_and_the_head_learns(encoder: str):
    network = classifier()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    train_only(network, encoder, rank=2, alpha=4.0)
    steps(network, 3)
    after = network.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"fc_norm.weight", "fc_norm.bias", "head.weight", "head.bias"}
    adapters = {name for name in after if ".lora_" in name}
    linear = {n for n, layer in classifier().blocks.named_modules() if type(layer) is nn.Linear}
    assert len(adapters) == (2 * len(linear) if encoder == "lora" else 0)
    trained = {name for name, weight in network.named_parameters() if weight.requires_grad}
    assert trained == changed | adapters


def test_a_merged_network_answers_alike_and_its_file_is_of_a_plain_one(tmp_path: Path):
    network = classifier()
    plain = classifier()
    train_only(network, "lora", rank=2, alpha=4.0)
    steps(network, 3)
    with torch.no_grad():
        adapted_BY, untrained_BY = network(IMAGE_BCHW), plain(IMAGE_BCHW)
    write_classifier(merged(network), tmp_path / "f.safetensors", "abc", {})
    read, _ = read_classifier(tmp_path / "f.safetensors")
    assert list(read.state_dict()) == list(plain.state_dict())
    with torch.no_grad():
        assert torch.allclose(read.eval()(IMAGE_BCHW), adapted_BY, atol=1e-5)
    assert not torch.allclose(untrained_BY, adapted_BY, atol=1e-3)


def test_every_adapted_layer_of_timms_dinov3_gets_a_gradient():
    torch.manual_seed(0)
    network = timm.create_model(
        "vit_small_patch16_dinov3_qkvb", img_size=32, embed_dim=96, depth=2, num_heads=2,
        num_classes=3, global_pool="avg",
    )  # fmt: skip
    with torch.no_grad():
        before_BY = network.eval()(IMAGE_BCHW)
    train_only(network, "lora", rank=2, alpha=4.0)
    with torch.no_grad():
        assert torch.allclose(network(IMAGE_BCHW), before_BY, atol=1e-6)
    network(IMAGE_BCHW).sum().backward()
    up = {name: weight.grad for name, weight in network.named_parameters() if "lora_up" in name}
    assert len(up) == 2 * 4
    assert [name for name, grad in up.items() if grad is None or not grad.any()] == []


def test_a_frozen_resnet_keeps_the_statistics_of_its_norms_and_has_no_lora():
    network = timm.create_model("resnet18", num_classes=3)
    train_only(network, "frozen", rank=2, alpha=4.0)
    before = network.bn1.running_mean.clone()
    training_mode(network)
    network(IMAGE_BCHW)
    assert torch.equal(network.bn1.running_mean, before)
    with pytest.raises(ValueError, match="a ResNet has no blocks of linear layers; use --encoder"):
        train_only(network, "lora", rank=2, alpha=4.0)
