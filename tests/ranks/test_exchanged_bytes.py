"""What the plan says that ranks exchange against what their sockets receive, over gloo."""

import json
import os
import socket
import struct
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from maskedclip.config import Config, override
from maskedclip.engine.distributed import process_group
from maskedclip.engine.step_guard import StepGuard
from maskedclip.plan import footprint
from maskedclip.plan.footprint import Ways
from maskedclip.pretrain.methods.maskedclip import MaskedClipMethod, network_shape, train_step
from maskedclip.pretrain.methods.protocol import At
from tests.pretrain.test_methods import batch_of
from tests.ranks.processes import on_ranks

_RECEIVED = 128  # where Linux's struct tcp_info has tcpi_bytes_received


def received() -> int:
    """Return the bytes that this process has received by TCP."""
    total = 0
    for path in Path("/proc/self/fd").iterdir():
        if not path.is_socket():  # what it points to; the listing's own is gone
            continue
        with socket.socket(fileno=os.dup(int(path.name))) as one:
            tcp = one.type == socket.SOCK_STREAM and one.family != socket.AF_UNIX
            if tcp and not one.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                info = one.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
                total += struct.unpack_from("Q", info, _RECEIVED)[0]
    return total


def steps(rank: int, config: Config, per_node: int, folder: Path) -> None:
    os.environ["LOCAL_WORLD_SIZE"] = str(per_node)
    found = []
    with process_group() as device:
        networks = MaskedClipMethod(config, device).networks
        guard = StepGuard(networks.optimizer, device, spike=0.0)
        batch = batch_of(config)
        for number in range(4):  # DDP sends its weights in the first and orders buckets after it
            dist.all_reduce(torch.zeros(1))
            before = received()
            train_step(networks, guard, batch.image_BCHW, batch, At(number, 9, 1e-4), config)
            dist.all_reduce(torch.zeros(1))
            found.append(received() - before)
    (folder / f"{rank}.json").write_text(json.dumps(found))


@pytest.mark.parametrize(
    ("kind", "world", "changes"),
    [
        ("replicate", 2, {}),
        pytest.param("replicate", 3, {}, marks=pytest.mark.slow),
        pytest.param("replicate", 4, {"optim.accumulate": 2}, marks=pytest.mark.slow),
        pytest.param("replicate", 2, {"engine.reduce_dtype": "bf16"}, marks=pytest.mark.slow),
        pytest.param("shard", 2, {}, marks=pytest.mark.slow),
        pytest.param("shard", 4, {"engine.reshard_after_forward": False}, marks=pytest.mark.slow),
        pytest.param("hybrid", 4, {}, marks=pytest.mark.slow),
    ],
)
def test_ranks_receive_the_bytes_that_are_planned(small, tmp_path, kind, world, changes):
    config = override(small, {"engine.sharding": kind} | changes)
    nodes = 2 if kind == "hybrid" else 1
    on_ranks(world, steps, config, world // nodes, tmp_path)
    network, _ = network_shape(config)
    engine = config.engine
    ways = Ways(
        world, 4, config.optim.accumulate, sharding=kind, nodes=nodes,
        reduced=2 if engine.reduce_dtype == "bf16" else 4, reshard=engine.reshard_after_forward,
    )  # fmt: skip
    planned = sum(footprint.traffic(network, ways).values())
    # gloo scatters sums by an all-reduce: what NCCL sends once goes there and back
    planned += (ways.shards - 1) / ways.shards * ways.reduced * network.parameters
    for rank in range(world):
        found = json.loads((tmp_path / f"{rank}.json").read_text())
        assert found[2:] == pytest.approx([planned] * 2, rel=0.02)
