"""What a training step says to other ranks, counted where FSDP2 and torch.distributed say it."""

import json
from collections import Counter
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.distributed.fsdp._fully_shard._fsdp_collectives import (
    DefaultAllGather,
    DefaultReduceScatter,
)
from torch.utils._python_dispatch import TorchDispatchMode

from maskedclip.config import Config, override
from maskedclip.data.stream import Batch
from maskedclip.engine.distributed import process_group
from maskedclip.engine.step_guard import StepGuard
from maskedclip.pretrain.methods.maskedclip import (
    MaskedClipMethod,
    MaskedClipNetworks,
    train_step,
)
from maskedclip.pretrain.methods.protocol import At
from maskedclip.recipes import demo
from tests.ranks.processes import on_ranks

IMAGES, PAIRED, PATCHES = 4, 2, 4
# what makes the host wait for a value or a shape that only the device knows
WAITS = {
    "aten._local_scalar_dense.default",
    "aten.equal.default",
    "aten.is_nonzero.default",
    "aten.masked_select.default",
    "aten.nonzero.default",
    "aten._unique2.default",
}


class Calls(TorchDispatchMode):
    """Names the operators that are called, and of collectives the shapes."""

    def __init__(self) -> None:
        super().__init__()
        self.collectives: list[str] = []
        self.waits: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = str(func)
        if func.namespace in ("c10d", "_c10d_functional", "_c10d_functional_autograd"):
            shapes = [list(x.shape) for x in args if isinstance(x, Tensor)]
            self.collectives.append(f"{name} {shapes}")
        boolean = name.startswith("aten.index.") and any(
            x is not None and x.dtype == torch.bool for x in args[1]
        )
        if name in WAITS or boolean:
            self.waits.append(name)
        return func(*args, **(kwargs or {}))


def configuration(accumulate: int = 1) -> Config:
    changes = {
        "optim.accumulate": accumulate,
        "data.paired_batch": PAIRED,
        "data.unpaired_batch": IMAGES - PAIRED,
        "model.image_size": 32,
        "model.bridge_depth": 2,
        "model.feature_decoder_depth": 2,
        "optim.clip_norm": 1.0,
        "engine.precision": "fp32",
    }
    return override(demo(), changes)


def batch(labels: list[int]) -> tuple[Tensor, Batch]:
    generator = torch.Generator().manual_seed(0)
    hidden_BN = torch.rand(IMAGES, PATCHES, generator=generator).argsort(dim=1) < 3
    token_AL = torch.randint(5, 90, (PAIRED, 6), generator=generator)
    mask_AL = torch.tensor([[1] * 6, [1] * 4 + [0] * 2])
    nothing = torch.zeros(0)
    found = Batch(nothing, nothing, hidden_BN, token_AL, mask_AL, torch.tensor(labels), [], [], [])
    return torch.randn(IMAGES, 3, 32, 32, generator=generator), found


def some_steps(
    networks: MaskedClipNetworks,
    device: torch.device,
    labels: list[int],
    count: int,
    accumulate: int = 1,
) -> None:
    config, (image_BCHW, found) = configuration(accumulate), batch(labels)
    guard = StepGuard(networks.optimizer, device, spike=0.0)
    for step in range(count):
        train_step(networks, guard, image_BCHW, found, At(step, count, 1e-4), config)


class CountedGather(DefaultAllGather):
    def __init__(self, name: str, counts: Counter) -> None:
        self.name, self.counts = name, counts

    def __call__(self, *arguments, **keywords):
        when = "backward" if torch._C._current_graph_task_id() >= 0 else "forward"
        self.counts[f"{self.name} gathered in {when}"] += 1
        return super().__call__(*arguments, **keywords)


class CountedReduce(DefaultReduceScatter):
    def __init__(self, name: str, counts: Counter) -> None:
        self.name, self.counts = name, counts

    def __call__(self, *arguments, **keywords):
        self.counts[f"{self.name} reduced"] += 1
        return super().__call__(*arguments, **keywords)


def count_on_a_rank(rank: int, out: Path, accumulate: int) -> None:
    counts: Counter = Counter()
    with process_group() as device:
        networks = MaskedClipMethod(configuration(accumulate), device).networks
        some_steps(networks, device, [0, 1], 1, accumulate)  # the first step alone sets FSDP2 up
        for side, network in (("student", networks.model), ("teacher", networks.teacher)):
            for number, unit in enumerate(network.units()):
                unit.set_custom_all_gather(CountedGather(f"{side} {number}", counts))
                unit.set_custom_reduce_scatter(CountedReduce(f"{side} {number}", counts))
        some_steps(networks, device, [0, 1], 3, accumulate)
        expected = {}
        for number, _ in enumerate(networks.model.units()):
            expected[f"student {number} gathered in forward"] = 3
            if accumulate == 1:
                expected[f"student {number} gathered in backward"] = 3
            expected[f"student {number} reduced"] = 3
        for number, _ in enumerate(networks.teacher.units()):
            expected[f"teacher {number} gathered in forward"] = 3
    (out / str(rank)).write_text(json.dumps([counts, expected]))


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_step_gathers_a_students_block_twice_and_reduces_it_once_a_teachers_once(
    tmp_path, accumulate
):
    """In parts a student's block is gathered once: what is gathered stays until the last."""
    on_ranks(2, count_on_a_rank, tmp_path, accumulate)
    for rank in range(2):
        counts, expected = json.loads((tmp_path / str(rank)).read_text())
        assert counts == expected


def order_on_a_rank(rank: int, out: Path) -> None:
    found = {}
    with process_group() as device:
        networks = MaskedClipMethod(configuration(), device).networks
        # rank 0 has no positive but each pair itself, then none has, then all are one another's
        for name, labels in {"one": [[-1, -2], [7, 7]], "none": [[-1, -2], [-3, -4]]}.items():
            with Calls() as calls:
                some_steps(networks, device, labels[rank], 2)
            found[name] = calls.collectives
        with Calls() as calls:
            some_steps(networks, device, [7, 7], 2)
        found["all"] = calls.collectives
    (out / str(rank)).write_text(json.dumps(found))


def test_collectives_come_in_one_order_on_all_ranks_whatever_the_labels(tmp_path):
    on_ranks(2, order_on_a_rank, tmp_path)
    ours, theirs = (json.loads((tmp_path / str(rank)).read_text()) for rank in range(2))
    assert ours == theirs
    assert any("gather" in call for call in ours["one"])
    assert any("reduce" in call for call in ours["one"])
    assert ours["none"] == ours["all"]


def test_nothing_waits_for_the_device_between_log_steps():
    with process_group() as device:
        networks = MaskedClipMethod(configuration(), device).networks
        with Calls() as calls:
            some_steps(networks, device, [0, 1], 3)
    assert calls.waits == []


def test_the_count_of_waits_sees_them():
    numbers = torch.tensor([1.0, 2.0])
    with Calls() as calls:
        numbers.sum().item()
        numbers[numbers > 1]
        torch.equal(numbers, numbers)
    assert [name.split(".")[1] for name in calls.waits][:1] == ["_local_scalar_dense"]
    assert "aten.index.Tensor" in calls.waits
    assert "aten.equal.default" in calls.waits
