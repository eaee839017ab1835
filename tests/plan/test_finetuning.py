"""The planned memory of a fine-tuning, against the networks and against torch's own tracker."""

import pytest
import torch
from torch.distributed._tools.mem_tracker import MemTracker

from maskedclip.models.adapters import train_only
from maskedclip.models.classifier import adamw_by_layer, build_classifier
from maskedclip.models.pretrained import random_info
from maskedclip.plan.finetuning import FinetuneMemory, finetune_memory
from maskedclip.plan.units import in_bytes

LORA = {"rank": 4, "alpha": 8.0}


def planned(encoder: str) -> FinetuneMemory:
    return finetune_memory(random_info("micro"), image_size=64, batch=8, encoder=encoder, **LORA)


def test_of_a_whole_network_it_is_a_bound_on_what_torch_counts_and_no_idle_one():
    network, _ = build_classifier(
        "random", image_size=64, num_classes=5, drop_path=0.0, size="micro"
    )
    optimizer = adamw_by_layer(network, layer_decay=1.0, weight_decay=0.0)
    for weight in network.parameters():
        weight.grad = torch.zeros_like(weight)
    optimizer.step()  # the moments come with it
    optimizer.zero_grad()
    tracker = MemTracker()
    tracker.track_external(network, optimizer)
    with tracker:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = network(torch.zeros(8, 3, 64, 64)).float().square().sum()
        loss.backward()
        optimizer.step()
    (peak,) = tracker.get_tracker_snapshot("peak").values()
    found = planned("trained")
    without_copy = found.total - found.weights // 2  # of the best, which no step has
    assert peak["Total"] < without_copy < 1.5 * peak["Total"]


@pytest.mark.parametrize("encoder", ["trained", "frozen", "lora"])
def test_the_parameters_are_those_of_the_network(encoder: str):
    network, _ = build_classifier(
        "random", image_size=64, num_classes=5, drop_path=0.0, size="micro"
    )
    train_only(network, encoder, **LORA)
    sizes = [(weight.numel(), weight.requires_grad) for weight in network.parameters()]
    found = planned(encoder)
    assert found.parameters == sum(size for size, _ in sizes)
    assert found.trained == sum(size for size, trains in sizes if trains)
    assert (found.gradients, found.moments) == (4 * found.trained, 8 * found.trained)


def test_what_is_trained_decides_the_memory():
    whole, frozen, lora = (planned(name) for name in ("trained", "frozen", "lora"))
    assert frozen.kept < 0.05 * whole.kept
    assert frozen.trained < lora.trained < 0.2 * whole.trained
    assert frozen.total < lora.total < whole.total
    assert f"{in_bytes(lora.total)} at most" in str(lora)
