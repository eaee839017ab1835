"""Every method of the tables, shrunk, on the trainer of the full one: what each builds and runs."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.flop_counter import FlopCounterMode

from maskedclip.config import Config, override
from maskedclip.data.stream import Batch
from maskedclip.engine.distributed import process_group
from maskedclip.evaluate.protocols import evaluate
from maskedclip.models.pretrained import load_encoder, read_weights
from maskedclip.plan.cost import plan, report
from maskedclip.pretrain.loop import pretrain
from maskedclip.pretrain.methods import method_of
from maskedclip.pretrain.methods.maskedclip import MaskedClipMethod, gradients, network_shape
from maskedclip.pretrain.monitor import PICTURES
from maskedclip.recipes import RECIPES, maskedclip_vitl
from tests.plan.test_plan import loaded, traced_and_planned

OWN = (
    "data.paired_batch", "data.unpaired_batch", "loss.mim", "loss.clip", "loss.mfd",
    "loss.label_guided", "model.bridge_depth", "after.protocols",
)  # fmt: skip
METHODS = {
    "mae": {"mim"},
    "clip": {"clip"},
    "clip_labels": {"clip"},
    "mae_clip": {"mim", "clip"},
    "mae_clip_bridge": {"mim", "clip"},
    "maskedclip": {"mim", "clip", "mfd"},
}
OPTIONS: dict[str, dict[str, Any]] = {
    "a shared bridge": {"model.bridge_shared": True},
    "hidden patches distilled": {"model.feature_patches": "hidden"},
    "the class token": {"model.pooling": "cls"},
    "sigmoid": {"loss.contrast": "sigmoid"},
    "no bridge": {"model.bridge_depth": 0},
    "no pixels": {"loss.mim": 0.0},
    "features alone": {"loss.mim": 0.0, "loss.clip": 0.0, "model.bridge_depth": 0},
    "two blocks of bridge": {"model.bridge_depth": 2},
    "fewer hidden": {"model.mask_ratio": 0.5},
    "registers": {"model.registers": 3},
    "rotary positions": {"model.positions": "rotary", "model.registers": 2},
}
ALL = [(name, {}) for name in METHODS] + [("maskedclip", changes) for changes in OPTIONS.values()]
NAMES = [*METHODS, *OPTIONS]
ONE = pytest.mark.parametrize("method", METHODS)
EACH = pytest.mark.parametrize(("method", "changes"), ALL, ids=NAMES)
# the methods in every run of the tests, the options with the slow ones
SOME = [(name, {}) for name in METHODS] + [
    pytest.param(*case, marks=pytest.mark.slow) for case in ALL[len(METHODS) :]
]
MOST = pytest.mark.parametrize(("method", "changes"), SOME, ids=NAMES)


def shrunk(small: Config, method: str, **changes: Any) -> Config:
    """Return the short run of the tests with all that makes this method what it is."""
    recipe = RECIPES[method]()
    flat: dict[str, Any] = {"name": method}
    for path in OWN:
        part, name = path.split(".")
        flat[path] = getattr(getattr(recipe, part), name)
    for name in ("data.paired_batch", "data.unpaired_batch"):
        flat[name] = 4 if flat[name] else 0
    flat["model.bridge_depth"] = min(1, flat["model.bridge_depth"])
    return override(small, flat | changes)


def rows(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def batch_of(config: Config) -> Batch:
    generator = torch.Generator().manual_seed(0)
    pairs, size = config.data.paired_batch, config.model.image_size
    images, patches = pairs + config.data.unpaired_batch, (size // 16) ** 2
    hidden = round(patches * config.model.mask_ratio)
    tensors = {
        "image_BCHW": torch.randn(images, 3, size, size, generator=generator),
        "hidden_BN": torch.rand(images, patches, generator=generator).argsort(dim=1) < hidden,
        "token_AL": torch.randint(5, 50, (pairs, 7), generator=generator),
        "token_mask_AL": torch.ones(pairs, 7, dtype=torch.int64),
        "label_A": torch.arange(pairs),
    }
    return Batch(**{name: tensors.get(name) for name in Batch._fields})


@ONE
def test_a_method_has_the_parts_that_its_losses_need_and_no_others(small, method):
    terms = METHODS[method]
    wanted = {"encoder"}
    wanted |= {"pixel_decoder"} if "mim" in terms else set()
    wanted |= {"feature_decoder"} if "mfd" in terms else set()
    wanted |= {"text", "image_projection", "temperature"} if "clip" in terms else set()
    wanted |= {"bridge"} if method in ("mae_clip_bridge", "maskedclip") else set()
    with process_group() as device:
        model, teacher, _ = MaskedClipMethod(shrunk(small, method), device).networks
        assert {name.split(".")[0] for name, _ in model.named_parameters()} == wanted
        assert (teacher is not None) == ("mfd" in terms)


@EACH
def test_every_weight_learns_and_the_operations_are_those_that_torch_counts(small, method, changes):
    config = shrunk(small, method, **{"model.image_size": 64} | changes)
    with process_group() as device:
        networks = MaskedClipMethod(config, device).networks
        batch = batch_of(config)
        with FlopCounterMode(display=False) as counter:
            gradients(networks, batch.image_BCHW, batch, config)
        without = [name for name, p in networks.model.named_parameters() if p.grad is None]
        assert set(without) <= {"text.bert.embeddings.token_type_embeddings.weight"}
        planned = networks.model.step_flops(len(batch.image_BCHW), len(batch.label_A), 7)
        # which counts a backward pass to the pixels, and no projections nor tiny attention
        assert planned == pytest.approx(counter.get_total_flops(), rel=0.06)


@MOST
def test_a_method_trains_exports_and_logs_the_terms_that_it_has(small, method, changes):
    config = shrunk(small, method, **{"optim.steps": 3, "log.images": True} | changes)
    run = pretrain(config)
    wanted = {f"loss_{name}" for name in config.loss.terms} | {"loss"}
    for row in rows(run):
        terms = {name for name in row if name.startswith("loss")} - {"loss_clip_excess"}
        assert terms == wanted
        assert ("logit_scale" in row) == bool(config.loss.clip)
        assert ("logit_bias" in row) == (config.loss.contrast == "sigmoid")
    tags = EventAccumulator(str(run)).Reload().Tags()
    assert {tag for tag in tags["tensors"] if tag.startswith("losses/")} == {
        f"losses/{name}" for name in wanted
    }
    assert tags["images"] == [PICTURES]
    encoder, loaded_report = load_encoder(run, image_size=32)
    assert loaded_report.share == 1.0
    assert encoder(torch.zeros(1, 3, 32, 32)).shape == (1, 128)


@pytest.mark.parametrize("method", ["mae", "mae_clip"])
def test_a_method_is_measured_by_all_protocols_zero_shot_where_it_reads_text(
    small, phantoms, method, caplog
):
    run = pretrain(shrunk(small, method, **{"optim.steps": 2}))
    found = evaluate(run, [(phantoms["heldout"], "")], ("logistic", "zeroshot"), run)
    protocols = {row["protocol"] for row in found}
    if method == "mae":
        assert protocols == {"logistic"}
        assert "no text tower" in caplog.text
    else:
        assert protocols == {"logistic", "zeroshot"}


@pytest.mark.parametrize(
    ("method", "changes"),
    [
        ("mae", {}),
        pytest.param("mae_clip", {}, marks=pytest.mark.slow),
        pytest.param("maskedclip", {"loss.contrast": "sigmoid"}, marks=pytest.mark.slow),
    ],
)
def test_the_loss_of_a_method_falls(small, method, changes):
    long = {"optim.steps": 40, "engine.save_every": 40, "optim.lr": 1e-3, "optim.warmup_epochs": 1}
    found = [row["loss"] for row in rows(pretrain(shrunk(small, method, **long | changes)))]
    assert sum(found[-10:]) < 0.97 * sum(found[:10])


@pytest.mark.slow
def test_the_contrast_alone_learns_to_tell_pairs_apart(small):
    changes = {"optim.lr": 2e-4, "optim.warmup_epochs": 2, "data.crop_area": (0.8, 1.0)}
    long = {"optim.steps": 60, "engine.save_every": 60, "data.paired_batch": 12}
    found = [row["loss"] for row in rows(pretrain(shrunk(small, "clip", **long | changes)))]
    by_chance = math.log(12)  # features that are all alike give that
    assert sum(found[-10:]) / 10 < 0.95 * by_chance


@pytest.mark.parametrize(
    ("method", "changes"),
    [
        ("mae", {}),
        ("clip", {"loss.contrast": "sigmoid"}),
        pytest.param("maskedclip", OPTIONS["a shared bridge"], marks=pytest.mark.slow),
    ],
)
def test_parts_change_nothing_but_rounding(small, method, changes):
    changes = changes | {"optim.steps": 3}
    whole = pretrain(shrunk(small, method, **changes))
    config = shrunk(small, method, **changes | {"optim.accumulate": 2})
    for ours, theirs in zip(
        rows(pretrain(override(config, {"name": "parts"}))), rows(whole), strict=True
    ):
        for name in (name for name in theirs if name.startswith(("loss", "logit"))):
            assert ours[name] == pytest.approx(theirs[name], rel=1e-5), name


@pytest.mark.slow
def test_a_method_without_teacher_resumes_bit_for_bit(small):
    config = shrunk(small, "mae")
    whole, weights = pretrain(override(config, {"name": "whole"})), {}
    resumed = pretrain(config)
    shutil.rmtree(resumed / "checkpoints" / "step-00000006")
    pretrain(config)
    for run in (whole, resumed):
        weights[run] = read_weights(run / "model.safetensors")[0]
    assert weights[whole].keys() == weights[resumed].keys()
    assert all(weights[whole][name].equal(weights[resumed][name]) for name in weights[whole])


def test_mae_learns_from_pictures_without_any_pairs(small):
    changes = {"data.paired_batch": 0, "data.paired": (), "optim.steps": 2}
    run = pretrain(shrunk(small, "mae", **changes))
    assert [row["step"] for row in rows(run)] == [1, 2]


def test_without_labels_each_pair_is_alone(small):
    changes = {"data.paired_batch": 12, "optim.steps": 1}
    guided = rows(pretrain(shrunk(small, "clip_labels", **changes)))[0]
    alone = rows(pretrain(shrunk(small, "clip", **changes)))[0]
    assert guided["loss_clip"] != alone["loss_clip"]


@pytest.mark.parametrize(
    ("method", "changes"), [*ALL[:2], *(pytest.param(*c, marks=pytest.mark.slow) for c in ALL[2:])]
)
def test_the_plan_of_a_method_is_its_traced_step(small, method, changes):
    config = shrunk(small, method, **{"model.image_size": 96} | changes)
    pairs, others = config.data.paired_batch and 8, config.data.unpaired_batch and 8
    found, planned = traced_and_planned(loaded(config, 2, pairs, others), 2, 12)
    assert planned == pytest.approx(found, rel=0.1)


@ONE
def test_a_plan_shows_the_parts_that_a_method_has(method):
    planned = plan(RECIPES[method](), nodes=1, gpus=4, gpu="a100-80")
    shown = {line.split(" ")[0] for line in report(planned).splitlines()}
    assert ("D_I" in shown, "E_T" in shown, "teacher" in shown) == tuple(
        name in METHODS[method] for name in ("mim", "clip", "mfd")
    )


def test_the_full_method_is_the_paper_s_run_by_another_name():
    assert override(RECIPES["maskedclip"](), {"name": "maskedclip_vitl"}) == maskedclip_vitl()
    network, _ = network_shape(RECIPES["maskedclip"]())
    assert network == network_shape(maskedclip_vitl())[0]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"data.paired_batch": 0}, "the contrast of eq. 4 needs pairs"),
        ({"data.paired_batch": 0, "data.unpaired_batch": 0}, "are 0"),
        ({"loss.mim": 0.0, "loss.mfd": 0.0}, "uses no unpaired images"),
        ({"loss.clip": 0.0}, "nothing would teach the bridge"),
        ({"loss.mim": 0.0, "loss.clip": 0.0, "loss.mfd": 0.0}, "nothing would be learnt"),
        ({"model.bridge_shared": True, "model.bridge_depth": 0}, "no bridge to share"),
        ({"loss.mim": -1.0}, "use 0 or more"),
    ],
)
def test_what_could_not_learn_is_refused_in_one_line(changes, words):
    with pytest.raises(ValueError, match=words) as error:
        method_of(override(maskedclip_vitl(), changes))
    assert "\n" not in str(error.value)
