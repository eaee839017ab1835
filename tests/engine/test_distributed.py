import pytest
import torch
from torch import nn

from maskedclip.engine.distributed import process_group, shard, whole
from maskedclip.engine.sharding import Sharding

SHARDS = Sharding("shard", 1, reshard_after_forward=True, reduce=torch.float32)


@pytest.fixture(autouse=True)
def _group():
    with process_group():
        yield


class Network(nn.Module):
    """Two units, a layer of the root's own, and a scale that stays in fp32."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(6), nn.Linear(6, 6), nn.GELU()) for _ in range(2)
        )
        self.head, self.scale = nn.Linear(6, 3), Scale()

    def forward(self, image_BD: torch.Tensor) -> torch.Tensor:
        return self.features(image_BD) * self.scale()

    def features(self, image_BD: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            image_BD = image_BD + block(image_BD)
        return self.head(image_BD)


class Scale(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.full((1,), 1.3))

    def forward(self) -> torch.Tensor:
        return self.value.exp()


def network(compute: torch.dtype, sharding: Sharding | None, **ways: bool) -> Network:
    model = Network()
    shard(
        model, model.blocks, compute, exact=[model.scale], methods=["features"],
        sharding=sharding, **ways,
    )  # fmt: skip
    return model


def backward(model: nn.Module, seed: int) -> None:
    image_BD = torch.randn(7, 6, generator=torch.Generator().manual_seed(seed))
    model(image_BD).float().square().sum().backward()


def gradients(model: nn.Module) -> list[torch.Tensor]:
    return [whole(parameter.grad) for parameter in model.parameters()]


@pytest.mark.parametrize("compute", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("again", [False, True])
def test_plain_modules_of_one_rank_have_the_bits_of_fsdp(compute, again):
    plain = network(compute, None, activation_checkpointing=again)
    sharded = network(compute, SHARDS, activation_checkpointing=again)
    assert list(plain.state_dict()) == list(sharded.state_dict())
    assert not any(hasattr(parameter, "to_local") for parameter in plain.parameters())
    for seed in range(3):
        for model in (plain, sharded):
            model.zero_grad()
            backward(model, seed)
        for mine, theirs in zip(gradients(plain), gradients(sharded), strict=True):
            assert mine.dtype == torch.float32
            assert mine.equal(theirs)
    image_BD = torch.randn(7, 6)
    assert plain.features(image_BD).dtype == compute
    assert plain.features(image_BD).equal(sharded.features(image_BD))
    assert all(parameter.dtype == torch.float32 for parameter in plain.parameters())


def test_plain_fp32_modules_are_left_as_they_are():
    ours, untouched = network(torch.float32, None), Network()
    for model in (ours, untouched):
        backward(model, 0)
    for mine, theirs in zip(gradients(ours), gradients(untouched), strict=True):
        assert mine.equal(theirs)
    assert "forward" not in vars(ours)


def test_a_second_backward_pass_adds_to_the_first_in_fp32():
    ours, single = network(torch.bfloat16, None), network(torch.bfloat16, None)
    sums: list[torch.Tensor] = []
    for seed in range(3):
        backward(ours, seed)
        single.zero_grad()
        backward(single, seed)
        found = [gradient.clone() for gradient in gradients(single)]
        sums = [a + b for a, b in zip(sums, found, strict=True)] if sums else found
    for mine, theirs in zip(gradients(ours), sums, strict=True):
        assert mine.equal(theirs)
