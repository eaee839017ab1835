"""Shards within two nodes of two ranks, and replicas: the run of one rank, for any other world."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from torch import nn

from maskedclip.config import Config, override
from maskedclip.engine.checkpoint import Checkpoints, restore
from maskedclip.engine.distributed import process_group, shard
from maskedclip.engine.optimizer import adamw
from maskedclip.engine.sharding import Sharding
from maskedclip.pretrain.loop import pretrain
from tests.conftest import a_small_run
from tests.engine.test_checkpoint import numbers, train
from tests.ranks.processes import on_ranks

SHARDINGS = {
    kind: Sharding(kind, 2, reshard_after_forward=True, reduce=torch.float32)
    for kind in ("hybrid", "replicate", "shard")
}


def state(seed: int, kind: str | None) -> tuple[nn.Module, nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(seed)
    model, teacher = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2)), nn.Linear(4, 4)
    sharding = SHARDINGS[kind] if kind else None
    shard(model, list(model), torch.float32, sharding=sharding)
    shard(teacher, [], torch.float32, trains=False, sharding=sharding)
    optimizer = adamw(model, betas=(0.9, 0.95), weight_decay=0.05)
    for group in optimizer.param_groups:
        group["lr"] = 1e-2
    train(model, optimizer)
    return model, teacher, optimizer


def save(rank: int, kind: str | None, folder: Path) -> None:
    with process_group(), Checkpoints(folder / "kept", 3, asynchronous=True) as checkpoints:
        ours = state(0, kind)
        if kind == "hybrid":
            placed = next(ours[0].parameters())
            assert placed.device_mesh.shape == (2, 2)
            assert [p.is_replicate() for p in placed.placements] == [True, False]
        checkpoints.save(5, *ours)
        found = numbers(*ours)
        if rank == 0:
            torch.save(found, folder / "expected")


def resume(_rank: int, kind: str | None, folder: Path) -> None:
    with process_group():
        ours = state(1, kind)
        assert restore(folder / "kept", *ours) == 5
        for x, y in zip(numbers(*ours), torch.load(folder / "expected"), strict=True):
            assert x.equal(y)


def test_a_checkpoint_of_two_nodes_of_two_is_read_by_one_rank(tmp_path):
    on_ranks(4, save, "hybrid", tmp_path)
    resume(0, None, tmp_path)


@pytest.mark.slow
def test_a_checkpoint_of_two_nodes_of_two_is_read_by_two_ranks_and_by_four(tmp_path):
    on_ranks(4, save, "hybrid", tmp_path)
    for world, kind in ((2, "replicate"), (2, "shard"), (4, "shard"), (4, "hybrid")):
        on_ranks(world, resume, kind, tmp_path)


def test_a_checkpoint_of_plain_modules_is_read_in_shards_and_the_reverse(tmp_path):
    save(0, None, tmp_path)
    on_ranks(2, resume, "shard", tmp_path)
    shutil.rmtree(tmp_path / "kept")
    on_ranks(2, save, "shard", tmp_path)
    resume(0, None, tmp_path)


def losses(run: Path) -> list[list[float]]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [[row[term] for term in ("loss", "grad_norm", "logit_scale")] for row in rows]


def pretrain_on_nodes(_rank: int, config: Config, per_node: int) -> None:
    os.environ["LOCAL_WORLD_SIZE"] = str(per_node)
    pretrain(config)


def assert_alike(run: Path, other: Path, rel: float = 1e-5) -> None:
    ours, theirs = losses(run), losses(other)
    assert len(ours) == len(theirs) == 6
    for row, expected in zip(ours, theirs, strict=True):
        assert row == pytest.approx(expected, rel=rel, abs=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("world", [1, 2, 4])
def test_a_run_of_two_nodes_of_two_is_the_run_of_one_and_goes_on_with_any_number(
    small, alone, world
):
    nodes = override(small, {"engine.sharding": "hybrid"})
    on_ranks(4, pretrain_on_nodes, nodes, 2)
    assert_alike(nodes.directory, alone)
    shutil.rmtree(nodes.directory / "checkpoints" / "step-00000006")
    on_ranks(world, pretrain_on_nodes, small, world)
    assert_alike(nodes.directory, alone)


@pytest.fixture(scope="module")
def alone(phantoms, tmp_path_factory) -> Path:
    return pretrain(a_small_run(phantoms, tmp_path_factory.mktemp("alone")))


@pytest.mark.parametrize("accumulate", [1, 2])
def test_replicas_are_the_run_of_one_rank(small, alone, accumulate):
    changes = {"engine.sharding": "replicate", "optim.accumulate": accumulate}
    on_ranks(2, pretrain_on_nodes, override(small, changes), 2)
    assert_alike(small.directory, alone)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "rel"),
    [
        ({"engine.reshard_after_forward": False}, 1e-5),
        ({"engine.reduce_dtype": "bf16"}, 2e-2),
        ({"engine.reduce_dtype": "bf16", "engine.sharding": "replicate"}, 2e-2),
        ({"engine.sharding": "replicate", "engine.activation_checkpointing": True}, 1e-5),
    ],
)
def test_ways_to_shard_change_no_more_than_rounding(small, alone, changes, rel):
    on_ranks(2, pretrain_on_nodes, override(small, changes), 2)
    assert_alike(small.directory, alone, rel)
