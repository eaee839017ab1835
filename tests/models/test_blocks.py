import pytest
import torch
from torch import nn
from torch.nn import functional as F

from maskedclip.models.blocks import Block, Group, Mlp


class PlainMlp(Mlp):
    def forward(self, x_TD):
        return self.fc2(F.gelu(self.fc1(x_TD)))


def mlps(kind: torch.dtype = torch.float64) -> tuple[Mlp, PlainMlp]:
    torch.manual_seed(0)
    ours, plain = Mlp(width=6, hidden=10).to(kind), PlainMlp(width=6, hidden=10).to(kind)
    plain.load_state_dict(ours.state_dict())
    return ours, plain


def slopes(mlp: nn.Module, x_TD: torch.Tensor) -> list[torch.Tensor]:
    x_TD = x_TD.clone().requires_grad_()
    mlp(x_TD).float().square().sum().backward()
    return [x_TD.grad, *(parameter.grad for parameter in mlp.parameters())]


def test_the_mlp_that_takes_its_gelu_again_has_the_gradients_of_one_that_keeps_it():
    x_TD = torch.randn(7, 6, dtype=torch.float64)
    for ours, theirs in zip(*(slopes(mlp, x_TD) for mlp in mlps()), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_the_mlp_has_the_same_gradients_under_autocast():
    x_TD = torch.randn(7, 6)
    with torch.autocast("cpu", torch.bfloat16):
        found = [slopes(mlp, x_TD) for mlp in mlps(torch.float32)]
    for ours, theirs in zip(*found, strict=True):
        assert ours.dtype == theirs.dtype == torch.float32
        torch.testing.assert_close(ours, theirs, rtol=0.02, atol=0.02)


@pytest.mark.parametrize("groups", [(Group(3, 5),), (Group(3, 2), Group(2, 9))])
def test_a_block_keeps_twelve_widths_of_a_token_for_its_backward_pass(groups):
    # attention's own means take the rest: probabilities on processors, two numbers a head on GPUs
    width, block, tokens = 64, Block(width=64, heads=2), sum(group.tokens for group in groups)
    weights = {parameter.data_ptr() for parameter in block.parameters()}
    kept: dict[int, int] = {}

    def keep(value: torch.Tensor) -> torch.Tensor:
        if value.data_ptr() not in weights:
            kept[value.untyped_storage().data_ptr()] = value.untyped_storage().nbytes() // 4
        return value

    x_TD = torch.randn(tokens, width, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
        output_TD = block(x_TD, groups)
    probabilities = 2 * sum(group.images * group.length**2 for group in groups)
    statistics = 4 * tokens
    assert sum(kept.values()) == 12 * tokens * width + probabilities + statistics
    assert output_TD.shape == x_TD.shape
