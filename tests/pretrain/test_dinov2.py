"""DINOv2 on the same trainer: its networks, its step, and short runs of it."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from maskedclip.config import Config, override
from maskedclip.data.multi_crop import Crops
from maskedclip.engine.checkpoint import full_weights, restore
from maskedclip.engine.distributed import process_group
from maskedclip.engine.step_guard import StepGuard
from maskedclip.models.blocks import rotary_angles, sincos_positions
from maskedclip.models.dinov2 import HeadShape, Student
from maskedclip.models.encoder import Encoder
from maskedclip.models.pretrained import load_encoder, read_weights
from maskedclip.pretrain.loop import pretrain
from maskedclip.pretrain.methods import method_of
from maskedclip.pretrain.methods.dinov2 import (
    DinoV2Method,
    objective,
    step_flops,
    train_step,
)
from maskedclip.pretrain.methods.protocol import At
from maskedclip.recipes import RECIPES, dinov2

TINY = {
    "name": "dinov2", "data.crop_area": (0.32, 1.0), "model.bridge_depth": 0, "optim.lr": 5e-4,
    "optim.betas": (0.9, 0.999), "optim.weight_decay": 0.04, "optim.clip_norm": 3.0,
    "optim.layer_decay": 0.9,
    "dino.local_crops": 2, "dino.local_size": 16, "dino.head_width": 64, "dino.bottleneck": 32,
    "dino.prototypes": 64,
}  # fmt: skip


def shrunk(small: Config, **changes: Any) -> Config:
    """Return the short run of the tests with all that makes this method what it is."""
    recipe = dinov2()
    parts = {"method": recipe.method, "dino": recipe.dino, "loss": recipe.loss}
    return override(replace(small, **parts), TINY | changes)


def rows(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def crops_of(config: Config, images: int = 4) -> Crops:
    generator = torch.Generator().manual_seed(0)
    dino, size = config.dino, config.model.image_size
    crops, patches = 2 + dino.local_crops, (size // 16) ** 2
    hidden_BGN = torch.zeros(images, 2, patches, dtype=torch.bool)
    hidden_BGN[:, 1, : patches // 2] = True

    pixels = 2 * size**2 + dino.local_crops * dino.local_size**2
    return Crops(
        image_BL=torch.randint(
            0, 256, (images, 3 * pixels), generator=generator, dtype=torch.uint8
        ),
        flip_BX=torch.rand(images, crops, generator=generator) < 0.5,
        colour_BXF=torch.rand(images, crops, 9, generator=generator),
        drop_BXF=torch.rand(images, crops, 8, generator=generator),
        hidden_BGN=hidden_BGN,
        masked_M=hidden_BGN.transpose(0, 1).flatten().nonzero().flatten(),
        sizes=(size, dino.local_size),
    )


def test_the_teacher_s_encoder_is_exported_and_read_by_all_that_read_encoders(small):
    config = shrunk(small, **{"optim.steps": 3})
    run = pretrain(config)
    for row in rows(run):
        assert {n for n in row if n.startswith("loss")} == {
            "loss", "loss_dino", "loss_ibot", "loss_koleo",
        }  # fmt: skip
    encoder, report = load_encoder(run, image_size=32)
    assert report.share == 1.0
    assert encoder(torch.zeros(1, 3, 32, 32)).shape == (1, 128)
    with process_group() as device:
        networks = DinoV2Method(config, device).networks
        assert restore(run / "checkpoints", *networks) == 3
        teacher, student = full_weights(networks.teacher), full_weights(networks.model)
    found, _ = read_weights(run / "encoder.safetensors")
    assert all(found[name].equal(teacher[f"encoder.{name}"]) for name in found)
    assert not all(found[name].equal(student[f"encoder.{name}"]) for name in found)
    assert teacher["cls_centre"].abs().sum() > 0
    assert teacher["patch_centre"].abs().sum() > 0


@pytest.mark.parametrize("targets", ["centre", pytest.param("sinkhorn", marks=pytest.mark.slow)])
def test_it_resumes_bit_for_bit(small, targets):
    config = shrunk(small, **{"dino.targets": targets, "optim.steps": 4, "engine.save_every": 2})
    whole, weights = pretrain(override(config, {"name": "whole"})), {}
    resumed = pretrain(config)
    shutil.rmtree(resumed / "checkpoints" / "step-00000004")
    pretrain(config)
    for run in (whole, resumed):
        weights[run] = read_weights(run / "model.safetensors")[0]
    assert all(weights[whole][name].equal(weights[resumed][name]) for name in weights[whole])
    ours, theirs = rows(whole)[-1], rows(resumed)[-1]
    assert (ours["loss"], ours["grad_norm"]) == (theirs["loss"], theirs["grad_norm"])


def quick(small: Config, **changes: Any) -> list[dict[str, float]]:
    """Run 40 steps in which a network of four blocks can learn something."""
    all_alike = {"dino.drop_path": 0.0, "optim.layer_decay": 1.0, "dino.patch_lr": 1.0}
    long = {"optim.steps": 40, "engine.save_every": 40, "optim.lr": 1e-3, "dino.momentum": 0.999}
    more = {"data.paired_batch": 8, "data.unpaired_batch": 8, "dino.freeze_epochs": 0.0}
    return rows(pretrain(shrunk(small, **all_alike | long | more | changes)))


@pytest.mark.slow
def test_the_loss_falls_and_images_do_not_fall_together(small):
    found = quick(small, **{"dino.targets": "sinkhorn"})
    for name in ("loss_dino", "loss_ibot", "loss_koleo"):
        values = [row[name] for row in found]
        assert sum(values[-10:]) < 0.97 * sum(values[:10]), name
    assert min(row["cls_std"] for row in found) > 0.1
    assert found[-1]["cls_std"] > found[0]["cls_std"]


@pytest.mark.slow
def test_with_centres_the_loss_rises_by_the_targets_entropy_while_the_student_learns_them(small):
    found = quick(small)

    def change(name: str) -> float:
        values = [row[name] for row in found]
        return sum(values[-10:]) / sum(values[:10])

    assert change("loss_dino") > 1
    assert change("entropy_dino") > 1
    assert change("kl_dino") < 0.7
    for row in found:
        assert row["loss_dino"] == pytest.approx(row["entropy_dino"] + row["kl_dino"], rel=1e-5)
    assert found[-1]["cls_std"] > found[0]["cls_std"]
    assert found[-1]["loss_koleo"] < found[0]["loss_koleo"]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"dino.separate_heads": False},
        {"dino.ibot": 0.0, "dino.drop_path": 0.0},
        {"model.registers": 4},
        {"model.positions": "rotary"},
    ],
    ids=["as it is", "one head", "nothing masked", "registers", "rotary"],
)
def test_every_weight_of_dinov2_learns_and_the_operations_are_those_that_torch_counts(
    small, changes
):
    config = shrunk(small, **{"model.image_size": 64, "dino.mask_ratio": (0.5, 0.5)} | changes)
    crops = crops_of(config)
    if not config.dino.ibot:
        crops = crops._replace(
            hidden_BGN=torch.zeros_like(crops.hidden_BGN), masked_M=crops.masked_M[:0]
        )
    with process_group() as device:
        networks = DinoV2Method(config, device).networks
        heads = {name.split(".")[0] for name, _ in networks.model.named_parameters()}
        assert ("patch_head" in heads) == bool(config.dino.separate_heads and config.dino.ibot)
        with FlopCounterMode(display=False) as counter:
            losses, _ = objective(networks, crops, 0.05, config)
            losses["loss"].backward()
        without = [name for name, p in networks.model.named_parameters() if p.grad is None]
        assert without == []
        assert all(p.grad is None for p in networks.teacher.parameters())
        planned = step_flops(networks.model, 4, config)
        assert planned == pytest.approx(counter.get_total_flops(), rel=0.06)


def test_local_crops_have_learnt_positions_where_the_global_ones_have():
    torch.manual_seed(0)
    encoder = Encoder(image_size=64, patch_size=16, width=32, depth=1, heads=2, registers=2)
    heads = HeadShape(8, 8, 16, separate=True)
    between_1ND = sincos_positions(32, 2, of=4)[:, 1:]
    assert Student(encoder, heads, local_grid=2).local_position.equal(between_1ND)
    encoder.pos_embed += 1.0  # as of weights that others trained
    learnt_1ND = Student(encoder, heads, local_grid=2).local_position
    assert learnt_1ND.shape == (1, 4, 32)
    torch.testing.assert_close(learnt_1ND.mean(), encoder.pos_embed.mean(), rtol=0, atol=0.1)
    assert Student(encoder, heads, local_grid=4).local_position.equal(encoder.pos_embed)
    rotary = Encoder(image_size=64, patch_size=16, width=32, depth=1, heads=2, positions="rotary")
    assert Student(rotary, heads, local_grid=2).local_position.equal(rotary_angles(2, 16))


def test_rates_follow_the_layers_and_the_step(small):
    config = shrunk(small, **{"optim.epochs": 20, "optim.warmup_epochs": 2, "model.registers": 2})
    with process_group() as device:
        networks = DinoV2Method(config, device).networks
        names = {id(p): name for name, p in networks.model.named_parameters()}
        groups = networks.optimizer.param_groups
        scale = {names[id(p)]: group["lr_scale"] for group in groups for p in group["params"]}
        assert scale["cls_head.prototypes"] == scale["encoder.norm.weight"] == 1
        assert scale["encoder.blocks.3.mlp.fc1.weight"] == pytest.approx(0.9)
        assert scale["encoder.cls_token"] == scale["mask_token"] == pytest.approx(0.9**5)
        assert scale["encoder.reg_token"] == scale["mask_token"]
        assert scale["encoder.patch_embed.proj.weight"] == pytest.approx(0.2 * 0.9**5)
        guard = StepGuard(networks.optimizer, device, spike=0.0)
        before = full_weights(networks.model)["cls_head.prototypes"].clone()
        for step, rate, decay in ((0, 0.0, 0.04), (10, 1e-3, 0.22), (20, 1e-3, 0.4)):
            train_step(networks, guard, crops_of(config), At(step, 20, 1e-3), config)
            for group in networks.optimizer.param_groups:
                wanted = rate if group["prototypes"] else 1e-3 * group["lr_scale"]
                assert group["lr"] == pytest.approx(wanted)
                assert group["weight_decay"] == pytest.approx(decay * group["decays"])
            now = full_weights(networks.model)["cls_head.prototypes"]
            assert now.equal(before) == (step == 0)


def test_a_step_that_is_held_back_moves_neither_weights_nor_centres(small):
    config = shrunk(small)
    with process_group() as device:
        networks = DinoV2Method(config, device).networks
        guard = StepGuard(networks.optimizer, device, spike=0.0)
        guard.skip.fill_(1.0)
        before = [full_weights(part) for part in networks[:2]]
        before = [{k: v.clone() for k, v in part.items()} for part in before]
        train_step(networks, guard, crops_of(config), At(5, 10, 1e-3), config)
        for part, old in zip(networks[:2], before, strict=True):
            now = full_weights(part)
            assert all(now[name].equal(old[name]) for name in old)


def test_patches_of_small_crops_stand_where_they_are_on_the_large_grid():
    whole, half = sincos_positions(16, 4), sincos_positions(16, 2, of=4)
    assert sincos_positions(16, 4, of=4).equal(whole)
    # its patches' middles lie between two of the large grid's, at 0.5 and 2.5
    between = sincos_positions(16, 8, of=4)[0, 1:].view(8, 8, 16)[[2, 5]][:, [2, 5]]
    assert half.shape == (1, 5, 16)
    assert not half[0, 1:].view(2, 2, 16).equal(between)
    fine = torch.tensor([0.5, 2.5], dtype=torch.float64)
    torch.testing.assert_close(half[0, [1, 2], 0].double(), fine.sin(), rtol=0, atol=1e-6)


def test_what_is_off_is_not_there(small):
    assert method_of(small).view(small).crops is None
    config = shrunk(small)
    assert method_of(config).view(config).crops is not None
    assert RECIPES["demo"]().method == "maskedclip"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"loss.mim": 1.0}, "losses of its own"),
        ({"optim.accumulate": 2}, "engine.activation_checkpointing"),
        ({"data.paired_batch": 0, "data.unpaired_batch": 1}, "2 or more"),
        ({"dino.local_size": 90}, "not a multiple"),
        ({"dino.local_crops": 0}, "1 or more"),
        ({"dino.mask_ratio": (0.5, 0.1)}, "two shares"),
        ({"dino.koleo": -1.0}, "0 or more"),
        ({"dino.teacher_temperature": (0.0, 0.07)}, "below 0.02"),
        ({"dino.drop_path": 1.0}, "0 <= x < 1"),
    ],
)
def test_what_could_not_learn_is_refused_in_one_line(changes, words):
    with pytest.raises(ValueError, match=words) as error:
        method_of(override(dinov2(), changes))
    assert "\n" not in str(error.value)
