"""Backward passes of the MLP and of attention against autograd's, and what an MLP keeps."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from maskedclip.models import moving_average
from maskedclip.models.blocks import Attention, Group, Mlp, attend
from maskedclip.models.moving_average import _parts, follow


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradients_of_the_mlp_are_the_bits_of_autograd_s(dtype):
    torch.manual_seed(0)
    ours, plain = (Mlp(width=24, hidden=96).to(dtype) for _ in range(2))
    plain.load_state_dict(ours.state_dict())
    x_TD = torch.randn(50, 24, dtype=dtype)
    slope_TD = torch.randn(50, 24, dtype=dtype)
    found = []
    for mlp, run in ((ours, ours), (plain, lambda x: plain.fc2(F.gelu(plain.fc1(x))))):
        leaf_TD = x_TD.clone().requires_grad_()
        out_TD = run(leaf_TD)
        out_TD.backward(slope_TD)
        found.append([out_TD, leaf_TD.grad, *(parameter.grad for parameter in mlp.parameters())])
    assert all(a.equal(b) for a, b in zip(*found, strict=True))


def test_the_mlp_keeps_its_input_and_the_gelu_s_input_alone():
    mlp = Mlp(width=8, hidden=32)
    kept = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        mlp(torch.randn(5, 8, requires_grad=True))
    weights = {id(parameter) for parameter in mlp.parameters()}
    shapes = [tuple(x.shape) for x in kept if x.shape[0] == 5 and id(x) not in weights]
    assert sorted(shapes) == [(5, 8), (5, 32)]


def attended(layer: Attention, x_TD: torch.Tensor, groups: tuple[Group, ...]) -> torch.Tensor:
    """Return what `layer` does, written down with autograd's views alone."""
    mixed = []
    for group, part_TE in zip(
        groups, layer.qkv(x_TD).split([g.tokens for g in groups]), strict=True
    ):
        heads_TD = part_TE.view(group.images, group.length, 3, layer.heads, -1)
        q, k, v = heads_TD.permute(2, 0, 3, 1, 4).unbind()
        mixed.append(attend(q, k, v).transpose(1, 2).reshape(group.tokens, -1))
    return layer.proj(torch.cat(mixed))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradients_of_attention_are_the_bits_of_autograd_s_in_one_tensor(dtype):
    torch.manual_seed(0)
    layer, groups = Attention(width=24, heads=3).to(dtype), (Group(3, 5), Group(2, 7))
    x_TD, slope_TD = torch.randn(29, 24, dtype=dtype), torch.randn(29, 24, dtype=dtype)
    found = []
    for run in (layer, lambda x, groups: attended(layer, x, groups)):
        layer.zero_grad()
        leaf_TD = x_TD.clone().requires_grad_()
        out_TD = run(leaf_TD, groups)
        out_TD.backward(slope_TD)
        found.append([out_TD, leaf_TD.grad, *(parameter.grad for parameter in layer.parameters())])
    assert all(a.equal(b) for a, b in zip(*found, strict=True))


def test_an_average_follows_by_its_momentum_and_not_where_a_step_is_skipped():
    ours, theirs = nn.Linear(3, 2), nn.Linear(3, 2)
    before = [parameter.clone() for parameter in ours.parameters()]
    follow([(ours, theirs)], 0.75, torch.ones(()))
    assert all(a.equal(b) for a, b in zip(ours.parameters(), before, strict=True))
    follow([(ours, theirs)], 0.75, torch.zeros(()))
    for parameter, old, new in zip(ours.parameters(), before, theirs.parameters(), strict=True):
        torch.testing.assert_close(parameter, 0.75 * old + 0.25 * new)


def test_an_average_takes_new_memory_for_parts_of_its_weights_and_each_weight_comes_once():
    many = 1 << 22
    numbers = [many, 3 * many, 1, many, 9 * many, 7, 7, 7]
    parts = [numbers[part] for part in _parts(numbers)]
    assert parts == [[many, 3 * many], [1, many], [9 * many], [7, 7, 7]]
    assert [*_parts([])] == [slice(0, 0)]


def test_an_average_has_the_same_bits_in_parts(monkeypatch):
    torch.manual_seed(0)
    theirs, *both = (nn.ModuleList(nn.Linear(n, 9) for n in (3, 40, 5)) for _ in range(3))
    both[1].load_state_dict(both[0].state_dict())
    for ours, at_once in zip(both, (1 << 24, 50), strict=True):
        monkeypatch.setattr(moving_average, "_AT_ONCE", at_once)
        follow([(ours, theirs)], 0.75, torch.zeros(()))
    assert all(a.equal(b) for a, b in zip(*(x.parameters() for x in both), strict=True))
