"""SimMIM on the same loop: its masks, its loss, and short runs of it."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from maskedclip.config import Config, override
from maskedclip.data.transforms import hidden_patches
from maskedclip.engine.distributed import process_group
from maskedclip.models.pretrained import load_encoder, read_weights
from maskedclip.models.shapes import BatchShape
from maskedclip.plan import footprint
from maskedclip.plan.cost import plan, report
from maskedclip.pretrain.loop import pretrain
from maskedclip.pretrain.methods import method_of
from maskedclip.pretrain.methods.simmim import SimMimMethod, network_shape, objective, visible_count
from maskedclip.recipes import simmim
from tests.plan.test_plan import loaded, traced_and_planned

OWN = {
    "name": "simmim", "method": "simmim", "data.paired_batch": 4, "data.unpaired_batch": 4,
    "loss.clip": 0.0, "loss.mfd": 0.0, "loss.normalise_pixels": False, "model.bridge_depth": 0,
    "model.image_size": 64, "model.mask_ratio": 0.5, "model.mask_unit": 2,
}  # fmt: skip


def shrunk(small: Config, **changes: Any) -> Config:
    return override(small, OWN | changes)


def rows(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def drawn(config: Config, images: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    """Return normalised images and their masks."""
    size = config.model.image_size
    generator = torch.Generator().manual_seed(0)
    draw_BN = torch.rand(images, (size // 16) ** 2, generator=generator).numpy()
    hidden_BN = hidden_patches(draw_BN, config.model.mask_ratio, config.model.mask_unit)
    image_BCHW = torch.randn(images, 3, size, size, generator=generator)
    return image_BCHW, torch.from_numpy(hidden_BN)


def test_squares_of_patches_are_hidden_as_one_and_as_many_as_the_ratio_says():
    draw_BN = np.random.default_rng(0).random((50, 14 * 14))
    hidden_BN = hidden_patches(draw_BN, 0.6, 2)
    square = hidden_BN.reshape(50, 7, 2, 7, 2)
    assert (square == square[:, :, :1, :, :1]).all()
    assert (hidden_BN.sum(axis=1) == 4 * round(0.6 * 49)).all()
    assert len(np.unique(hidden_BN, axis=0)) == 50
    assert (hidden_patches(draw_BN, 0.6, 1) == hidden_patches(draw_BN, 0.6)).all()


def test_the_loss_is_the_mean_absolute_error_of_hidden_pixels(small):
    """Against the formula of the authors' models/simmim.py, on images in place of patches."""
    config = shrunk(small)
    image_BCHW, hidden_BN = drawn(config)
    with process_group() as device:
        model = SimMimMethod(config, device).model
        loss, pixel_BMP, hidden_BM = objective(model, image_BCHW, hidden_BN, config)
    patch_BNP = torch.zeros(3, 16, 768).scatter(
        1, hidden_BM[:, :, None].expand(-1, -1, 768), pixel_BMP.float()
    )
    # rows, columns, then a patch's rows, columns, colours
    predicted = patch_BNP.view(3, 4, 4, 16, 16, 3).permute(0, 5, 1, 3, 2, 4).reshape(3, 3, 64, 64)
    mask = hidden_BN.view(3, 1, 4, 4).repeat_interleave(16, 2).repeat_interleave(16, 3)
    error = F.l1_loss(image_BCHW, predicted, reduction="none")
    expected = (error * mask).sum() / mask.sum() / 3
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=0)


def test_the_encoder_sees_nothing_of_hidden_patches_and_everything_of_the_others(small):
    config = shrunk(small)
    image_BCHW, hidden_BN = drawn(config)
    mask = hidden_BN.view(3, 1, 4, 4).repeat_interleave(16, 2).repeat_interleave(16, 3)
    with process_group() as device:
        model = SimMimMethod(config, device).model

        def predicted(images: torch.Tensor) -> torch.Tensor:
            return objective(model, images, hidden_BN, config)[1]

        before = predicted(image_BCHW)
        assert predicted(torch.where(mask, torch.zeros(()), image_BCHW)).equal(before)
        assert not predicted(torch.where(mask, image_BCHW, torch.zeros(()))).equal(before)


@pytest.mark.parametrize("registers", [0, 3])
def test_every_weight_of_simmim_learns_and_its_operations_are_those_that_torch_counts(
    small, registers
):
    config = shrunk(small, **{"model.registers": registers})
    image_BCHW, hidden_BN = drawn(config)
    with process_group() as device:
        method = SimMimMethod(config, device)
        with FlopCounterMode(display=False) as counter:
            objective(method.model, image_BCHW, hidden_BN, config)[0].backward()
        assert [n for n, p in method.model.named_parameters() if p.grad is None] == []
        hidden = int(hidden_BN[0].sum())
        assert hidden == 16 - visible_count(config)
        counted = counter.get_total_flops()
        assert method.model.step_flops(3, hidden) == pytest.approx(counted, rel=0.06)


def test_its_loss_falls_and_its_encoder_is_read_by_all_that_read_encoders(small):
    long = {"optim.steps": 40, "engine.save_every": 40, "optim.lr": 1e-3, "optim.warmup_epochs": 1}
    run = pretrain(shrunk(small, **long))
    losses = [row["loss"] for row in rows(run)]
    assert sum(losses[-10:]) < 0.97 * sum(losses[:10])
    assert {n for row in rows(run) for n in row if n.startswith("loss")} == {"loss", "loss_mim"}
    encoder, report = load_encoder(run, image_size=64)
    assert report.share == 1.0
    assert encoder(torch.zeros(1, 3, 64, 64)).shape == (1, 128)


def test_it_resumes_bit_for_bit_and_micro_batches_change_nothing_but_rounding(small):
    config = shrunk(small, **{"optim.steps": 4, "engine.save_every": 2})
    whole, resumed = pretrain(override(config, {"name": "whole"})), pretrain(config)
    shutil.rmtree(resumed / "checkpoints" / "step-00000004")
    pretrain(config)
    weights = [read_weights(run / "encoder.safetensors")[0] for run in (whole, resumed)]
    assert all(weights[0][name].equal(weights[1][name]) for name in weights[0])
    micro = pretrain(override(config, {"name": "micro", "optim.accumulate": 2}))
    for ours, theirs in zip(rows(micro), rows(whole), strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-5)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"loss.clip": 0.01}, "its one term is loss.mim"),
        ({"loss.mim": 0.0}, "its one term is loss.mim"),
        ({"model.mask_unit": 3}, "use a divisor of 14"),
        ({"model.mask_ratio": 0.001}, "none or all would be hidden"),
        ({"method": "maskedclip"}, "only simmim hides units"),
    ],
)
def test_what_it_cannot_do_is_refused_in_one_line(changes, words):
    with pytest.raises(ValueError, match=words) as error:
        method_of(override(simmim(), changes))
    assert "\n" not in str(error.value)


def test_its_planned_memory_traffic_and_operations_are_those_of_a_traced_step(small):
    config = loaded(shrunk(small, **{"model.image_size": 96}), 2, 0, 16)
    measured, planned = traced_and_planned(config, 2, 12)
    assert planned == pytest.approx(measured, rel=0.1)
    network = network_shape(config)
    hidden = network.patches - network.visible
    operations = sum(footprint.flops(network, BatchShape(16, 0, 0)).values())
    with process_group() as device:
        student = SimMimMethod(config, device).model
        assert operations == pytest.approx(student.step_flops(16, hidden), rel=1e-12)
        assert network.parameters == sum(p.numel() for p in student.parameters())


def test_its_plan_shows_encoder_and_head_alone():
    planned = plan(simmim(), nodes=1, gpus=4, gpu="a100-80")
    shown = {line.split(" ")[0] for line in report(planned).splitlines()}
    assert {"E_I", "D_I"} <= shown
    assert not {"E_T", "B", "D_F", "teacher"} & shown
