"""A bit that differs between two copies of the weights is found, and its rank named."""

from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from maskedclip.engine.distributed import local, process_group
from maskedclip.engine.replicas import check_replicas
from tests.ranks.processes import on_ranks
from tests.ranks.test_sharding_ranks import state

RANKS, VICTIM = 4, 2
WHERE = {
    "0.weight": lambda ours: next(ours[0].parameters()),
    "exp_avg of 1.bias": lambda ours: ours[2].state[list(ours[0].parameters())[-1]]["exp_avg"],
    "teacher's weight": lambda ours: next(ours[1].parameters()),
}


def flip(values: torch.Tensor, bit: int) -> None:
    flat = local(values.detach()).view(-1).view(torch.int32)
    flat[0] ^= 1 << bit


def find_flips(rank: int, out: Path) -> None:
    with process_group():
        for kind in ("replicate", "hybrid", "shard"):
            ours = state(0, kind)
            check_replicas(7, *ours)
            if kind == "shard":  # no rank has a copy of what another has
                continue
            for bit, (name, tensor) in enumerate(WHERE.items()):
                if rank == VICTIM:
                    flip(tensor(ours), bit)
                with pytest.raises(RuntimeError) as error:
                    check_replicas(7, *ours)
                assert f"step 7: {name} is another on rank " in str(error.value)
                (out / f"{kind} {name} {rank}").write_text(str(error.value))
                if rank == VICTIM:
                    flip(tensor(ours), bit)
                check_replicas(7, *ours)
            dist.barrier()


def test_a_flipped_bit_of_one_copy_is_found_on_every_rank_and_its_rank_is_named(
    tmp_path: Path,
) -> None:
    on_ranks(RANKS, find_flips, tmp_path)
    for name in WHERE:
        said = {(tmp_path / f"replicate {name} {rank}").read_text() for rank in range(RANKS)}
        (line,) = said
        assert f"another on rank {VICTIM} than on rank 0, 1, 3: " in line
        assert "\n" not in line
        # of a node's two ranks each has another part, and one copy on the other node
        (line,) = {(tmp_path / f"hybrid {name} {rank}").read_text() for rank in range(RANKS)}
        assert "another on rank 0 than on rank 2: " in line
