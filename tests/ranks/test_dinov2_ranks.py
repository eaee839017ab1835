"""DINOv2 on two gloo processes is that of one."""

from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from maskedclip.config import override
from maskedclip.losses import koleo_loss, mean_logits, sinkhorn
from maskedclip.pretrain.loop import pretrain
from tests.pretrain.test_dinov2 import shrunk
from tests.ranks.processes import on_ranks
from tests.ranks.test_method_ranks import rows
from tests.ranks.test_ranks import pretrain_on_a_rank


def numbers() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    row_GBD = torch.randn(2, 6, 4, generator=generator).requires_grad_()
    return row_GBD, torch.rand(6, 5, generator=generator)


def losses_on_a_rank(rank: int, out: Path) -> None:
    dist.init_process_group("gloo")
    row_GBD, logit_BK = numbers()
    loss = koleo_loss(row_GBD[:, 3 * rank : 3 * rank + 3])
    loss.backward()
    found = [loss.detach().view(1), row_GBD.grad]
    for tensor in found:  # what FSDP does with gradients: the mean over ranks
        dist.all_reduce(tensor)
        tensor /= 2
    mine_BK = logit_BK[:2] if rank == 0 else logit_BK[2:]  # of unequal numbers of rows
    torch.save([*found, sinkhorn(mine_BK, 0.1), mean_logits(mine_BK)], out / str(rank))
    dist.destroy_process_group()


def test_the_losses_of_two_ranks_are_those_of_one(tmp_path):
    on_ranks(2, losses_on_a_rank, tmp_path)
    first, second = (torch.load(tmp_path / str(rank)) for rank in range(2))
    row_GBD, logit_BK = numbers()
    loss = koleo_loss(row_GBD)
    loss.backward()
    torch.testing.assert_close(first[0], loss.detach().view(1))
    torch.testing.assert_close(first[1], row_GBD.grad)
    torch.testing.assert_close(torch.cat([first[2], second[2]]), sinkhorn(logit_BK, 0.1))
    torch.testing.assert_close(first[3], logit_BK.mean(dim=0))
    assert second[3].equal(first[3])


@pytest.mark.parametrize("targets", ["centre", pytest.param("sinkhorn", marks=pytest.mark.slow)])
def test_a_run_on_two_ranks_is_that_of_one(small, targets):
    config = shrunk(small, **{"optim.steps": 4, "dino.targets": targets})
    on_ranks(2, pretrain_on_a_rank, config)
    alone = rows(pretrain(override(config, {"name": "alone"})))
    assert len(alone) == 4
    for ours, theirs in zip(rows(config.directory), alone, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-3, abs=1e-4)
