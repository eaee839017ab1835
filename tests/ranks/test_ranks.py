"""Two gloo processes are one process: the loss, its gradients, a run, and its checkpoint."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch.nn import functional as F

from maskedclip.config import Config, override
from maskedclip.data.storage.shards import Shards
from maskedclip.losses import centred_features, label_guided_clip_loss
from maskedclip.losses.gathering import of_all_ranks, of_all_ranks_with_gradient
from maskedclip.models.pretrained import read_weights
from maskedclip.pretrain.loop import pretrain
from tests.conftest import a_small_run
from tests.ranks.processes import on_ranks

LABELS = [4, 9, 4, -1, 9, 4]  # shared within and between the ranks


def features() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    image_BD, text_BD = (
        F.normalize(torch.randn(6, 8, generator=generator), dim=-1).requires_grad_()
        for _ in range(2)
    )
    return image_BD, text_BD, torch.tensor([9.0], requires_grad=True)


def contrast_on_a_rank(rank: int, out: Path) -> None:
    dist.init_process_group("gloo")
    image_BD, text_BD, scale = features()
    mine = slice(3 * rank, 3 * rank + 3)
    loss = label_guided_clip_loss(image_BD[mine], text_BD[mine], torch.tensor(LABELS)[mine], scale)
    loss.backward()
    found = [loss.detach().view(1), image_BD.grad, text_BD.grad, scale.grad]
    centred = centred_features(image_BD.detach()[mine, None])[:, 0]
    torch.testing.assert_close(centred, image_BD.detach()[mine] - image_BD.detach().mean(dim=0))
    for tensor in found:  # what FSDP does with gradients: the mean over ranks
        dist.all_reduce(tensor)
        tensor /= 2
    if rank == 0:
        torch.save(found, out)
    dist.destroy_process_group()


def test_the_contrast_of_two_ranks_with_shared_labels_is_that_of_one(tmp_path):
    on_ranks(2, contrast_on_a_rank, tmp_path / "found")
    image_BD, text_BD, scale = features()
    loss = label_guided_clip_loss(image_BD, text_BD, torch.tensor(LABELS), scale)
    loss.backward()
    expected = [loss.detach().view(1), image_BD.grad, text_BD.grad, scale.grad]
    for ours, alone in zip(torch.load(tmp_path / "found"), expected, strict=True):
        torch.testing.assert_close(ours, alone, rtol=1e-5, atol=1e-7)


def pretrain_on_a_rank(_rank: int, config: Config) -> None:
    pretrain(config)


def stop_on_a_rank(rank: int, config: Config, out: Path) -> None:
    with pytest.raises(RuntimeError) as error:
        pretrain(config)
    (out / str(rank)).write_text(str(error.value))


def test_a_budget_of_lost_samples_stops_all_ranks_with_the_same_words(small, phantoms, tmp_path):
    copy = shutil.copytree(phantoms["unpaired"], tmp_path / "unpaired")
    shards = Shards(copy)
    jpeg, _ = shards.read(4)
    tar = copy / shards.shard(4)
    tar.write_bytes(tar.read_bytes().replace(jpeg, bytes(len(jpeg))))
    changes = {"data.unpaired": (str(copy),), "data.paired_batch": 250, "data.unpaired_batch": 250}
    config = override(small, changes)
    on_ranks(2, stop_on_a_rank, config, tmp_path)
    ours, theirs = ((tmp_path / str(rank)).read_text() for rank in range(2))
    assert "of the first 1000 samples are lost" in ours
    assert ours == theirs
    lines = (config.directory / "lost_samples.jsonl").read_text().splitlines()
    slots = [(entry["step"], entry["row"]) for entry in map(json.loads, lines)]
    assert slots == sorted(set(slots))
    assert {row < 125 for _, row in slots} == {True, False}  # of both ranks, written by one


def losses(run: Path) -> list[list[float]]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    terms = ("loss", "loss_mim", "loss_clip", "loss_mfd", "grad_norm", "logit_scale")
    return [[row[term] for term in terms] for row in rows]


@pytest.fixture(scope="module")
def alone(phantoms, tmp_path_factory) -> Path:
    return pretrain(a_small_run(phantoms, tmp_path_factory.mktemp("alone")))


@pytest.fixture(scope="module")
def together(phantoms, tmp_path_factory) -> Path:
    """Return the run of two ranks, for tests that do not write to it."""
    config = a_small_run(phantoms, tmp_path_factory.mktemp("together"))
    on_ranks(2, pretrain_on_a_rank, config)
    return config.directory


def test_a_run_on_two_ranks_is_the_run_of_one(together, alone):
    ours, theirs = losses(together), losses(alone)
    assert len(ours) == len(theirs) == 6
    for row, expected in zip(ours, theirs, strict=True):
        assert row == pytest.approx(expected, rel=1e-5, abs=1e-6)
    trained, reference = (read_weights(run / "model.safetensors")[0] for run in (together, alone))
    for name, tensor in reference.items():
        torch.testing.assert_close(trained[name], tensor, rtol=1e-3, atol=1e-5)


def test_registers_and_rotary_positions_on_two_ranks_are_those_of_one(small):
    kind = {"model.registers": 3, "model.positions": "rotary", "engine.sharding": "shard"}
    config = override(small, kind)
    reference = pretrain(override(config, {"name": "alone"}))
    on_ranks(2, pretrain_on_a_rank, config)
    for row, expected in zip(losses(config.directory), losses(reference), strict=True):
        assert row == pytest.approx(expected, rel=1e-5, abs=1e-6)


def test_two_ranks_of_two_parts_each_are_the_run_of_one(small, alone):
    on_ranks(2, pretrain_on_a_rank, override(small, {"optim.accumulate": 2}))
    for row, expected in zip(losses(small.directory), losses(alone), strict=True):
        assert row == pytest.approx(expected, rel=1e-5, abs=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("world", [2, 4])
def test_over_fifty_steps_the_losses_of_any_number_of_ranks_are_those_of_one(small, world):
    config = override(small, {"optim.steps": 50, "engine.save_every": 50})
    whole = pretrain(override(config, {"name": "whole"}))
    on_ranks(world, pretrain_on_a_rank, config)
    for row, expected in zip(losses(config.directory), losses(whole), strict=True):
        assert row[:4] == pytest.approx(expected[:4], rel=1e-5)


def test_a_checkpoint_of_two_ranks_is_resumed_by_one(small, together, alone):
    shutil.copytree(together, small.directory)
    shutil.rmtree(small.directory / "checkpoints" / "step-00000006")
    pretrain(small)
    for row, expected in zip(losses(small.directory), losses(alone), strict=True):
        assert row == pytest.approx(expected, rel=1e-5, abs=1e-6)


def gather_on_a_rank(rank: int) -> None:
    dist.init_process_group("gloo")
    for turn in range(30_000):
        size = (1, 2, 6, 64, 512)[turn % 5]
        row_BD = torch.full((4, size), float(rank), requires_grad=True)
        first_AD = of_all_ranks_with_gradient(row_BD, None)
        second_AD = of_all_ranks_with_gradient(2 * row_BD, None)
        (first_AD.sum() + second_AD.sum()).backward()
        assert row_BD.grad.eq(6).all()
        assert of_all_ranks(torch.tensor([rank]), None).tolist() == [0, 1]
    dist.destroy_process_group()


@pytest.mark.slow  # torch's own functional collectives died of a corrupt heap here
def test_rows_are_gathered_with_their_gradients_as_often_as_a_long_run_does():
    on_ranks(2, gather_on_a_rank)
