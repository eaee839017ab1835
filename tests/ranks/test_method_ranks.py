"""Each method on two gloo processes is that of one."""

import json
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional as F

from maskedclip.config import override
from maskedclip.losses import sigmoid_clip_loss
from maskedclip.pretrain.loop import pretrain
from tests.pretrain import test_simmim
from tests.pretrain.test_methods import shrunk
from tests.ranks.processes import on_ranks
from tests.ranks.test_ranks import LABELS, pretrain_on_a_rank


def leaves() -> list[Tensor]:
    """Return images, texts, scale and bias."""
    generator = torch.Generator().manual_seed(0)
    rows = [F.normalize(torch.randn(6, 8, generator=generator), dim=-1) for _ in range(2)]
    return [x.requires_grad_() for x in (*rows, torch.tensor([9.0]), torch.tensor([-3.0]))]


def sigmoid_on_a_rank(rank: int, out: Path) -> None:
    dist.init_process_group("gloo")
    (image_BD, text_BD, *numbers), mine = (found := leaves()), slice(3 * rank, 3 * rank + 3)
    labels_B = torch.tensor(LABELS)[mine]
    loss = sigmoid_clip_loss(image_BD[mine], text_BD[mine], labels_B, *numbers)
    loss.backward()
    tensors = [loss.detach().view(1), *(leaf.grad for leaf in found)]
    for tensor in tensors:  # what FSDP does with gradients: the mean over ranks
        dist.all_reduce(tensor)
        tensor /= 2
    if rank == 0:
        torch.save(tensors, out)
    dist.destroy_process_group()


def test_the_sigmoid_contrast_of_two_ranks_with_shared_labels_is_that_of_one(tmp_path):
    on_ranks(2, sigmoid_on_a_rank, tmp_path / "found")
    image_BD, text_BD, *numbers = found = leaves()
    loss = sigmoid_clip_loss(image_BD, text_BD, torch.tensor(LABELS), *numbers)
    loss.backward()
    expected = [loss.detach().view(1), *(leaf.grad for leaf in found)]
    for ours, alone in zip(torch.load(tmp_path / "found"), expected, strict=True):
        torch.testing.assert_close(ours, alone, rtol=1e-5, atol=1e-6)


def rows(run: Path) -> list[dict[str, float]]:
    found = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    names = ("loss", "logit", "grad_norm")
    return [{k: v for k, v in row.items() if k.startswith(names)} for row in found]


@pytest.mark.parametrize(
    ("method", "changes"),
    [
        ("mae", {}),
        ("clip", {}),
        (
            "maskedclip",
            {
                "loss.contrast": "sigmoid",
                "model.bridge_shared": True,
                "model.feature_patches": "hidden",
                "model.pooling": "cls",
            },
        ),
    ],
)
def test_a_method_on_two_ranks_is_the_method_on_one(small, method, changes):
    config = shrunk(small, method, **{"optim.steps": 4} | changes)
    on_ranks(2, pretrain_on_a_rank, config)
    alone = rows(pretrain(override(config, {"name": "alone"})))
    assert len(alone) == 4
    for ours, theirs in zip(rows(config.directory), alone, strict=True):
        assert ours == pytest.approx(theirs, rel=2e-5, abs=1e-6)


def test_simmim_on_two_ranks_is_simmim_on_one(small):
    config = test_simmim.shrunk(small, **{"optim.steps": 4})
    on_ranks(2, pretrain_on_a_rank, config)
    alone = rows(pretrain(override(config, {"name": "alone"})))
    assert len(alone) == 4
    for ours, theirs in zip(rows(config.directory), alone, strict=True):
        assert ours == pytest.approx(theirs, rel=2e-5, abs=1e-6)
