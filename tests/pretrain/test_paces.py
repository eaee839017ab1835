"""What learns slower, later or not at all."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from maskedclip.config import Config, load, override
from maskedclip.engine.distributed import process_group
from maskedclip.engine.optimizer import Pace, adamw, layer_scale, set_rates
from maskedclip.models.pretrained import read_weights
from maskedclip.pretrain.loop import pretrain
from maskedclip.pretrain.methods import method_of
from maskedclip.pretrain.methods.maskedclip import MaskedClipMethod
from maskedclip.recipes import dinov2, simmim


def parts(run: Path) -> dict[str, dict[str, torch.Tensor]]:
    weights, _ = read_weights(run / "model.safetensors")
    split: dict[str, dict[str, torch.Tensor]] = {}
    for name, tensor in weights.items():
        part = "text.bert" if name.startswith("text.bert.") else name.partition(".")[0]
        split.setdefault(part, {})[name] = tensor
    return split


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def test_a_frozen_tower_keeps_its_bits_while_the_rest_learns_and_learns_itself_afterwards(
    small: Config,
) -> None:
    whole = {"optim.epochs": 20.0, "optim.warmup_epochs": 2.0}
    changes: dict[str, dict[str, float]] = {
        "start": {"optim.lr": 0.0},
        "both": {"optim.freeze_encoder_epochs": 19.0, "optim.freeze_text_epochs": 19.0},
        "half": {"optim.freeze_encoder_epochs": 10.0},
    }
    start, both, half = (
        parts(pretrain(override(small, {"name": name} | whole | change)))
        for name, change in changes.items()
    )
    assert equal(both["encoder"], start["encoder"])
    assert equal(both["text.bert"], start["text.bert"])
    assert not equal(both["bridge"], start["bridge"])
    assert not equal(both["image_projection"], start["image_projection"])
    assert not equal(half["encoder"], start["encoder"])
    assert not equal(half["text.bert"], start["text.bert"])


def test_the_rate_of_a_thawed_group_rises_by_a_warm_up_of_its_own() -> None:
    model = nn.Linear(2, 2)
    paces = {"weight": Pace(0.5, 4.0), "bias": Pace()}
    optimizer = adamw(model, betas=(0.9, 0.95), weight_decay=0.1, pace_of=paces.__getitem__)
    rates = []
    for epoch in (0.0, 3.9, 4.0, 5.0, 6.0, 9.0):
        set_rates(optimizer, 1.0, epoch=epoch, warmup_epochs=2.0)
        rates.append({len(g["params"][0].shape): g["lr"] for g in optimizer.param_groups})
    assert [rate[1] for rate in rates] == [1.0] * 6
    assert [rate[2] for rate in rates] == [0.0, 0.0, 0.0, 0.25, 0.5, 0.5]


def test_layers_further_from_the_heads_learn_slower_in_both_towers() -> None:
    names = [
        "encoder.cls_token", "encoder.patch_embed.proj.weight", "encoder.norm.weight",
        *(f"encoder.blocks.{i}.mlp.fc1.weight" for i in range(12)),
        "text.bert.embeddings.word_embeddings.weight", "text.projection.weight",
        *(f"text.bert.encoder.layer.{i}.output.dense.weight" for i in range(2)),
        "bridge.blocks.0.norm1.weight", "pixel_decoder.mask_token",
    ]  # fmt: skip
    scale = layer_scale(names, 0.5)
    assert scale("encoder.blocks.11.mlp.fc1.weight") == 0.5
    assert scale("encoder.blocks.0.mlp.fc1.weight") == 0.5**12
    assert scale("encoder.patch_embed.proj.weight") == scale("encoder.cls_token") == 0.5**13
    assert scale("text.bert.encoder.layer.1.output.dense.weight") == 0.5
    assert scale("text.bert.embeddings.word_embeddings.weight") == 0.5**3
    for name in ("encoder.norm.weight", "text.projection.weight", "bridge.blocks.0.norm1.weight"):
        assert scale(name) == 1
    assert scale("pixel_decoder.mask_token") == 1


def test_every_parameter_of_the_towers_has_the_share_of_its_layer(small: Config) -> None:
    config = override(small, {"optim.layer_decay": 0.5, "optim.eps": 1e-10})
    with process_group() as device:
        method = MaskedClipMethod(config, device)
    groups = method.optimizer.param_groups
    assert {group["eps"] for group in groups} == {1e-10}
    names = {id(p): name for name, p in method.model.named_parameters()}
    scale = {names[id(p)]: group["lr_scale"] for group in groups for p in group["params"]}
    assert set(scale) == set(names.values())
    towers = {n: s for n, s in scale.items() if n.startswith(("encoder.", "text.bert."))}
    assert {name for name, share in towers.items() if share == 1} == {
        "encoder.norm.weight", "encoder.norm.bias",
    }  # fmt: skip
    assert {share for name, share in scale.items() if name not in towers} == {1.0}


def test_weights_to_begin_from_are_kept_by_a_slower_rate_unless_another_is_given() -> None:
    assert Config().layer_decay == 1
    assert Config(init_from="weights").layer_decay == 0.75
    given = override(Config(init_from="weights"), {"optim.layer_decay": 1.0})
    assert given.layer_decay == 1


def test_without_a_pace_the_groups_are_those_of_older_checkpoints(small: Config) -> None:
    with process_group() as device:
        groups = MaskedClipMethod(small, device).optimizer.state_dict()["param_groups"]
    assert len(groups) == 2
    assert not any({"lr_scale", "frozen_epochs"} & set(group) for group in groups)


@pytest.mark.parametrize(
    ("recipe", "changes", "message"),
    [
        (None, {"optim.freeze_encoder_epochs": 200.0}, "it would never learn; use fewer"),
        (simmim, {"optim.freeze_text_epochs": 1.0}, "no text tower; leave it out"),
        (dinov2, {"optim.freeze_encoder_epochs": 1.0}, "freezes its prototypes alone"),
    ],
)
def test_what_a_run_cannot_freeze_is_refused(small: Config, recipe, changes, message) -> None:
    config = override(recipe() if recipe else override(small, {"optim.epochs": 200.0}), changes)
    with pytest.raises(ValueError, match=message):
        method_of(config)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optim.layer_decay": 0.0}, "write a share"),
        ({"optim.layer_decay": 1.5}, "write a share"),
        ({"optim.eps": 0.0}, "use a number above 0"),
        ({"optim.freeze_text_epochs": -1.0}, "is negative"),
    ],
)
def test_values_out_of_range_are_refused(changes, message) -> None:
    with pytest.raises(ValueError, match=message):
        override(Config(), changes)


def test_a_configuration_of_an_older_dinov2_run_keeps_its_decay(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    for method, expected in (("dinov2", 0.8), ("maskedclip", None)):
        path.write_text(json.dumps({"method": method, "dino": {"layer_decay": 0.8}}))
        assert load(path, Config).optim.layer_decay == expected
