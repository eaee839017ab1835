import pytest
import torch
from torch import nn
from torch.distributed.tensor import DTensor

from maskedclip.engine.distributed import process_group, shard


@pytest.fixture(autouse=True)
def _group():
    with process_group():
        yield


def network(sharded: bool) -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(6, 5), nn.GELU(), nn.Sequential(nn.Linear(5, 4)), nn.Linear(4, 3)
    )
    if sharded:
        shard(model, [model[0], model[2]], torch.float32)  # model[3] is the root's own
    return model


def backward(model: nn.Module, seed: int) -> None:
    image_BD = torch.randn(7, 6, generator=torch.Generator().manual_seed(seed))
    model(image_BD).square().sum().backward()


def gradients(model: nn.Module) -> list[torch.Tensor]:
    grads = [parameter.grad for parameter in model.parameters()]
    return [x.to_local() if isinstance(x, DTensor) else x for x in grads]


def test_gradients_of_one_rank_are_those_without_fsdp_at_every_step():
    ours, plain = network(sharded=True), network(sharded=False)
    for seed in range(3):
        for model in (ours, plain):
            model.zero_grad()
            backward(model, seed)
        for mine, theirs in zip(gradients(ours), gradients(plain), strict=True):
            torch.testing.assert_close(mine, theirs, rtol=0, atol=0)


def test_a_second_backward_pass_adds_to_the_first():
    ours, plain = network(sharded=True), network(sharded=False)
    for seed in (0, 1, 2):
        for model in (ours, plain):
            backward(model, seed)
    for mine, theirs in zip(gradients(ours), gradients(plain), strict=True):
        torch.testing.assert_close(mine, theirs)


def test_the_gradients_of_the_next_step_lie_in_the_same_memory():
    model = network(sharded=True)
    addresses = []
    for seed in (0, 1):
        model.zero_grad()
        backward(model, seed)
        addresses.append([gradient.data_ptr() for gradient in gradients(model)])
    assert addresses[0] == addresses[1]
