"""On a card: `pytest -m gpu tests/gpu`. No GPU has run these yet; what they call runs in
test_without_a_card.py on the processor."""

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch._dynamo.utils import counters

from maskedclip.config import Config, override
from maskedclip.engine.distributed import process_group
from maskedclip.engine.visible_gpus import compute_device
from maskedclip.finetune.loop import finetune
from maskedclip.metrics.results import read_rows
from maskedclip.plan.cost import plan
from maskedclip.pretrain.loop import pretrain
from maskedclip.pretrain.methods import method_of
from maskedclip.recipes import maskedclip_vits
from tests.colours import config_of, two_colours
from tests.gpu.on_a_device import differences, encoded, losses_of, saved_and_restored, stepped
from tests.pretrain import test_dinov2, test_methods, test_simmim
from tests.ranks.processes import on_ranks

pytestmark = pytest.mark.gpu
CPU = torch.device("cpu")
ALL_BITS = {"engine.precision": "fp32", "engine.tf32": False}


@pytest.fixture
def card() -> torch.device:
    if not torch.cuda.is_available():
        pytest.skip("torch sees no GPU")
    return compute_device()


@pytest.fixture
def newer(card: torch.device) -> tuple[int, int]:
    capability = torch.cuda.get_device_capability(card)
    if capability < (8, 0):
        pytest.skip(f"a card of capability {capability}: these kernels need 8.0")
    return capability


def needs(cards: int) -> None:
    if torch.cuda.device_count() < cards:
        pytest.skip(f"torch sees {torch.cuda.device_count()} GPUs, and {cards} are needed")


def maskedclip(small: Config) -> Config:
    return small


def mae(small: Config) -> Config:
    return test_methods.shrunk(small, "mae")


@pytest.mark.parametrize("shrunk", [maskedclip, mae, test_dinov2.shrunk, test_simmim.shrunk])
def test_steps_are_those_of_a_processor_and_wait_for_nothing(small, card, shrunk):
    config = override(shrunk(small), ALL_BITS)
    assert differences(losses_of(config, card, 4), losses_of(config, CPU, 4)) < 1e-2


def test_a_step_in_parts_is_that_of_a_processor_and_waits_for_nothing(small, card):
    config = override(small, ALL_BITS | {"optim.accumulate": 2})
    assert differences(losses_of(config, card, 4), losses_of(config, CPU, 4)) < 1e-2


@pytest.mark.parametrize("kernel", ["varlen", "cudnn"])
def test_each_kernel_of_attention_gives_the_same(kernel, card, newer):
    found, expected = (encoded(name, card, newer) for name in (kernel, "sdpa"))
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=0.05, atol=0.02 * float(b.abs().max()))


@pytest.mark.usefixtures("newer")
@pytest.mark.parametrize("attention", ["sdpa", "varlen", "cudnn"])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_compiled_blocks_give_the_same_without_a_break(small, card, attention, accumulate):
    changes = {"engine.precision": "bf16", "optim.accumulate": accumulate}
    plain = override(small, changes)
    compiled = override(plain, {"engine.compile": True, "engine.attention": attention})
    torch._dynamo.reset()
    counters.clear()
    assert differences(losses_of(compiled, card, 3), losses_of(plain, card, 3)) < 0.05
    assert not counters["graph_break"]


@pytest.mark.usefixtures("card")
@pytest.mark.parametrize("recompute", [False, True])
def test_memory_is_what_was_planned(small, recompute):
    changes = {
        "data.paired": small.data.paired, "data.unpaired": small.data.unpaired,
        "data.paired_batch": 24, "data.unpaired_batch": 24, "model.text": "builtin",
        "engine.precision": "bf16", "engine.activation_checkpointing": recompute,
        "optim.steps": 3, "out": small.out,
    }  # fmt: skip
    config = override(maskedclip_vits(), changes)
    with process_group() as device:
        method = method_of(config)(config, device)
        for _ in stepped(method, config, device):
            pass
        peak = torch.cuda.max_memory_allocated(device)
    planned = plan(config, nodes=1, gpus=1, gpu="a100-80", images=(1000, 1000))
    assert peak == pytest.approx(planned.memory.total, rel=0.15)


def test_what_is_saved_is_restored(small, card, tmp_path):
    assert all(saved_and_restored(small, card, tmp_path))


@pytest.mark.usefixtures("card")
def test_a_run_goes_from_its_first_step_to_its_export(small):
    run = pretrain(override(small, {"engine.precision": "auto"}))
    assert (run / "encoder.safetensors").is_file()


@pytest.mark.usefixtures("card")
def test_fine_tuning_learns(tmp_path):
    two_colours(tmp_path / "colours")
    config = config_of(tmp_path)
    run = finetune(config)
    (row,) = [row for row in read_rows(run) if row["metric"] == "auroc"]
    assert row["value"] > 0.9


def log_losses(rank: int, config: Config, out: Path) -> None:
    found = losses_of(config, torch.device("cuda", rank), 3)
    assert not dist.is_initialized()
    if rank == 0:
        torch.save(found, out)


@pytest.mark.parametrize(
    ("sharding", "ranks"), [("replicate", 2), ("shard", 2), ("shard", 4), ("hybrid", 4)]
)
def test_cards_together_take_the_steps_of_one(small, card, tmp_path, monkeypatch, sharding, ranks):
    needs(ranks)
    alone = losses_of(override(small, ALL_BITS), card, 3)
    if sharding == "hybrid":
        monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")  # as if on two nodes
    config = override(small, ALL_BITS | {"engine.sharding": sharding})
    on_ranks(ranks, log_losses, config, tmp_path / "losses.pt")
    together = torch.load(tmp_path / "losses.pt")
    assert differences(together, alone) < 1e-2


def fail_in_a_step(rank: int, config: Config) -> None:
    with process_group() as device:
        method = method_of(config)(config, device)
        for step, _ in enumerate(stepped(method, config, device)):
            if (rank, step) == (1, 2):
                raise RuntimeError("this rank's card has fallen off the bus")
        dist.all_reduce(torch.ones(1))  # of gloo: rank 1 never comes


def train_and_fail(rank: int, config: Config) -> None:
    with pytest.raises(RuntimeError, match="off the bus"):
        fail_in_a_step(rank, config)


@pytest.mark.usefixtures("card")
def test_an_error_on_one_card_ends_the_other_in_its_words(small):
    needs(2)
    on_ranks(2, train_and_fail, override(small, {"engine.sharding": "shard"}))
