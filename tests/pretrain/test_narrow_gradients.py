"""Gradients kept in bf16 until AdamW's step, on a processor that has all of the model."""

import pytest
import torch
from torch import Tensor

from maskedclip.config import Config, override
from maskedclip.engine import optimizer
from maskedclip.engine.distributed import process_group, total_norm
from maskedclip.engine.step_guard import StepGuard
from maskedclip.pretrain.methods.maskedclip import MaskedClipMethod, gradients, train_step
from maskedclip.pretrain.methods.protocol import At
from tests.pretrain.test_methods import batch_of, shrunk

OPTIONS = [
    {},
    {"model.bridge_shared": True, "model.feature_patches": "hidden"},
    {"loss.contrast": "sigmoid", "model.pooling": "cls"},
    {"engine.activation_checkpointing": True},
    {"loss.clip": 0.0, "loss.mfd": 0.0, "data.paired_batch": 0},
]


def three_steps(config: Config) -> tuple[list[dict[str, Tensor]], list[Tensor]]:
    """Return what is logged and all weights of both networks."""
    with process_group() as device:
        torch.manual_seed(0)
        networks = MaskedClipMethod(config, device).networks
        guard = StepGuard(networks.optimizer, device, spike=0.0)
        batch = batch_of(config)
        logged = [
            train_step(networks, guard, batch.image_BCHW, batch, At(step, 9, 1e-2), config)
            for step in range(3)
        ]
        both = [network for network in networks[:2] if network is not None]
        return logged, [x.detach() for network in both for x in network.parameters()]


@pytest.mark.parametrize("changes", OPTIONS)
def test_narrow_gradients_give_the_bits_of_wide_ones(small, changes):
    narrow = override(shrunk(small, "maskedclip"), {"engine.precision": "bf16"} | changes)
    # one rank's replica: plain modules with gradients in fp32
    wide = override(narrow, {"engine.sharding": "replicate"})
    (logged, weights), (others, expected) = three_steps(narrow), three_steps(wide)
    assert logged == others
    assert all(a.equal(b) for a, b in zip(weights, expected, strict=True))


def dtypes_of(config: Config) -> set[torch.dtype]:
    with process_group() as device:
        method, batch = MaskedClipMethod(config, device), batch_of(config)
        gradients(method.networks, batch.image_BCHW, batch, config)
        assert total_norm(method.model).dtype == torch.float32
        found = {p.grad.dtype for p in method.model.parameters() if p.grad is not None}
        method.optimizer.step()
        assert {p.grad_dtype for p in method.model.parameters()} == {torch.float32}
        return found


def test_gradients_are_narrow_where_they_are_neither_added_up_nor_clipped_nor_sent(small):
    bf16 = override(small, {"engine.precision": "bf16"})
    assert dtypes_of(bf16) == {torch.bfloat16, torch.float32}  # tau's
    for changes in ({"optim.accumulate": 2}, {"optim.clip_norm": 1.0},
                    {"engine.sharding": "shard"}, {"engine.precision": "fp32"}):  # fmt: skip
        assert dtypes_of(override(bf16, changes)) == {torch.float32}


def test_each_weight_is_moved_once_and_a_part_of_the_gradients_is_widened_at_a_time(monkeypatch):
    monkeypatch.setattr(optimizer, "_AT_ONCE", 30)
    torch.manual_seed(0)
    ours, theirs = (
        [torch.nn.Parameter(torch.ones(n)) for n in (10, 20, 1, 50, 7)] for _ in range(2)
    )
    for weight, other in zip(ours, theirs, strict=True):
        slope = torch.randn_like(weight).bfloat16()
        if weight.numel() > 1:  # as tau
            weight.grad_dtype = torch.bfloat16
        other.grad = slope.float()
        weight.grad = slope.to(weight.grad_dtype)
    assert [[w.numel() for w in part] for part in optimizer._parts(ours)] == [
        [10, 20], [1], [50], [7],
    ]  # fmt: skip
    optimizer.WideningAdamW(ours, lr=0.1, fused=True).step()
    torch.optim.AdamW(theirs, lr=0.1, fused=True).step()
    assert all(a.equal(b) for a, b in zip(ours, theirs, strict=True))
    assert all(weight.grad is None for weight in ours)
