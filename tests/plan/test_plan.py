"""The plan of a run against the networks themselves and against traced steps."""

import json
import runpy
import sys
from pathlib import Path

import pytest
import torch

from maskedclip.config import Config, override
from maskedclip.engine.gpu_specs import GPUS
from maskedclip.models.dinov2 import DinoTeacher
from maskedclip.models.maskedclip import build
from maskedclip.models.shapes import BatchShape, parameter_count
from maskedclip.plan.cost import FULL, PAPER_IMAGES, footprint, main, plan, remedy, report
from maskedclip.plan.footprint import Ways
from maskedclip.pretrain.methods import method_of
from maskedclip.pretrain.methods.dinov2 import DinoV2Method, step_flops, student
from maskedclip.pretrain.methods.maskedclip import MaskedClipMethod, network_shape
from maskedclip.pretrain.sources import length
from maskedclip.recipes import (
    RECIPES,
    demo,
    dinov2,
    mae,
    maskedclip_vitb,
    maskedclip_vitl,
    maskedclip_vits,
)
from tests.plan.traced import traced

TOOL = Path(__file__).parents[2] / "tools" / "plan.py"
PAPER = {"nodes": 1, "gpus": 4, "gpu": "a100-80"}


@pytest.mark.parametrize(
    ("size", "registers"),
    [("micro", 0), ("tiny", 0), ("small", 4), ("base", 0), ("large", 0)],
)
def test_operations_by_part_add_up_to_what_the_model_counts(size, registers):
    config = override(
        demo(),
        {"model.size": size, "model.image_size": 224, "model.registers": registers},
    )
    with torch.device("meta"):
        model, _ = build(**MaskedClipMethod.shape(config))
    network, _ = network_shape(config)
    load = BatchShape(images=12, paired=5, text_tokens=23)
    found = sum(footprint.flops(network, load).values())
    assert found == pytest.approx(model.step_flops(12, 5, 23), rel=1e-12)


@pytest.mark.parametrize(
    "changes", [{}, {"dino.separate_heads": False}, {"dino.ibot": 0.0}, {"model.registers": 4}]
)
def test_operations_and_parameters_of_dinov2_are_those_of_its_networks(changes):
    config = override(small_dinov2(), {"dino.separate_heads": True} | changes)
    with torch.device("meta"):
        model = student(build(**DinoV2Method.shape(config))[0], config)
        teacher = DinoTeacher(model)
    network, notes = method_of(config).network(config)
    found = footprint.flops(network, BatchShape(images=12, paired=5, text_tokens=23))
    assert sum(found.values()) == pytest.approx(step_flops(model, 12, config), rel=1e-12)
    assert (network.parameters, network.teacher_parameters) == (
        parameter_count(model), parameter_count(teacher),
    )  # fmt: skip
    assert ("58.8 an image" in notes[0]) == bool(config.dino.ibot)


def test_planned_memory_and_traffic_are_those_of_a_traced_step_of_a_small_dinov2():
    changes = {
        "model.size": "micro", "model.image_size": 96, "dino.local_size": 48,
        "dino.head_width": 512, "dino.bottleneck": 128, "dino.prototypes": 512,
    }  # fmt: skip
    found, planned = traced_and_planned(loaded(override(dinov2(), changes), 2, 8, 8), 2, 8)
    assert planned == pytest.approx(found, rel=0.1)


def test_fewer_prototypes_are_less_memory_and_a_step_of_dinov2_is_never_cut_into_parts():
    crowded = {"nodes": 1, "gpus": 1, "gpu": "a100-40"}
    full = plan(dinov2(), **crowded)
    assert not full.fits
    assert "accumulate" not in remedy(full)
    fewer = plan(override(dinov2(), {"dino.prototypes": 16_384}), **crowded)
    assert fewer.memory.total < 0.75 * full.memory.total


def test_several_crops_of_an_image_cost_the_loader_more():
    one, ten = plan(mae(), **PAPER).decoding, plan(dinov2(), **PAPER).decoding
    assert ten.ms == pytest.approx(2.6 * one.ms)
    five = plan(override(dinov2(), {"dino.local_crops": 3}), **PAPER).decoding
    assert one.ms < five.ms < ten.ms


def test_parameters_are_those_of_the_paper_s_networks():
    planned = plan(maskedclip_vitl(), **PAPER)
    assert (
        planned.parameters["E_I"] == 303_301_632 - 197 * 1024
    )  # timm's ViT-L: its positions train
    bert_base = 28_996 * 768 + 514 * 768 + 2 * 768 + 12 * 7_087_872
    assert planned.parameters["E_T"] == bert_base
    assert planned.parameters["teacher"] == planned.parameters["E_I"] + planned.parameters["B"]


def test_a_text_tower_that_is_not_here_is_assumed_only_where_its_shape_is_known():
    planned = plan(maskedclip_vitl(), **PAPER)
    assert planned.parameters["E_T"] > 100e6
    stranger = override(maskedclip_vitl(), {"model.text": "nobody/no_such_bert"})
    with pytest.raises(ValueError, match="not on this machine"):
        plan(stranger, **PAPER)


def traced_and_planned(
    config: Config, world: int, tokens: int, *, recompute: bool = False
) -> tuple[float, float]:
    """Compare what is exchanged, and return both peaks of memory."""
    found = traced(config, world=world, text_tokens=tokens, recompute=recompute)
    data = config.data
    pairs = data.paired_batch // world
    load = BatchShape(pairs + data.unpaired_batch // world, pairs, tokens)
    network, _ = method_of(config).network(config)
    ways = Ways(world, 2, config.optim.accumulate, recompute)
    traffic = footprint.traffic(network, ways)
    # FSDP fills shards up to equal sizes, and gathers tau in fp32
    gathered = traffic["gathered for the student"] + traffic["gathered for the teacher"]
    assert found.gathered == pytest.approx(gathered, rel=0.01)
    assert found.reduced == pytest.approx(traffic["reduced"], rel=0.01)
    return found.peak, footprint.memory(network, load, ways).total


def small_dinov2() -> Config:
    return override(dinov2(), {"model.size": "small", "dino.separate_heads": False})


def loaded(config: Config, world: int, paired: int, unpaired: int) -> Config:
    shares = {"data.paired_batch": world * paired, "data.unpaired_batch": world * unpaired}
    return override(config, shares)


@pytest.mark.parametrize("kind", [{}, {"model.registers": 4, "model.positions": "rotary"}])
def test_planned_memory_and_traffic_are_those_of_a_traced_step_of_the_demo(kind):
    shallow = {"model.bridge_depth": 1, "model.feature_decoder_depth": 1}  # a trace takes seconds
    found, planned = traced_and_planned(loaded(override(demo(), shallow | kind), 2, 8, 8), 2, 12)
    assert planned == pytest.approx(found, rel=0.1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("recipe", "world", "paired", "unpaired", "tokens", "recompute", "parts"),
    [
        (demo, 2, 8, 8, 12, True, 2),
        (maskedclip_vits, 4, 32, 32, 32, False, 1),
        (maskedclip_vitb, 1, 2, 2, 16, False, 1),
        (maskedclip_vitb, 8, 64, 64, 77, False, 1),
        (maskedclip_vitl, 4, 180, 180, 77, False, 1),
        (maskedclip_vitl, 4, 180, 180, 77, True, 1),
        (maskedclip_vitl, 4, 180, 180, 77, False, 4),
        (maskedclip_vitl, 16, 8, 24, 20, False, 1),
        (small_dinov2, 4, 16, 16, 8, False, 1),
        (dinov2, 4, 180, 180, 8, True, 1),
    ],
)
def test_planned_memory_and_traffic_are_those_of_traced_steps(
    recipe, world, paired, unpaired, tokens, recompute, parts
):
    config = override(loaded(recipe(), world, paired, unpaired), {"optim.accumulate": parts})
    found, planned = traced_and_planned(config, world, tokens, recompute=recompute)
    assert planned == pytest.approx(found, rel=0.1)


def test_the_largest_batch_fits_and_one_more_pair_does_not():
    planned = plan(maskedclip_vitl(), **PAPER)
    paired, unpaired = planned.largest
    network, _ = network_shape(maskedclip_vitl())
    room = FULL * GPUS["a100-80"].usable_gib * 2**30

    def needed(more: int) -> float:
        load = BatchShape(paired + unpaired + 2 * more, paired + more, planned.load.text_tokens)
        return footprint.memory(network, load, Ways(4)).total

    assert needed(0) <= room < needed(1)


def test_recomputing_and_parts_save_memory_and_cost_operations():
    plain = plan(maskedclip_vitl(), **PAPER)
    for changes in ({"engine.activation_checkpointing": True}, {"optim.accumulate": 2}):
        other = plan(override(maskedclip_vitl(), changes), **PAPER)
        assert other.memory.total < 0.7 * plain.memory.total
        assert plain.step_s < other.step_s < 1.35 * plain.step_s
        assert other.flops == plain.flops


def test_a_run_is_as_long_as_pretraining_makes_it():
    for images in (PAPER_IMAGES, (900, 100), (7, 7000)):
        planned = plan(maskedclip_vitb(), **PAPER, images=images)
        epoch, steps = length(maskedclip_vitb(), range(images[0]), range(images[1]))
        assert (planned.steps, planned.epochs) == (steps, pytest.approx(steps / epoch))


def test_samples_are_counted_in_the_shards_that_are_there(phantoms):
    here = {
        "data.paired": (str(phantoms["paired"]),),
        "data.unpaired": (str(phantoms["unpaired"]),),
    }
    assert plan(override(demo(), here), nodes=1, gpus=2, gpu="l4-24").images == (24, 24)
    missing = override(demo(), {"data.paired": ("shards/nothing_here",)})
    with pytest.raises(ValueError, match="nothing_here"):
        plan(missing, nodes=1, gpus=2, gpu="l4-24")


def test_staged_shards_count_once_on_the_disk_of_a_node(phantoms):
    shards = str(phantoms["paired"])
    config = override(demo(), {"data.paired": (shards,), "data.unpaired": (shards,)})
    assert "staged" not in report(plan(config, nodes=1, gpus=1, gpu="a100-80"))
    planned = plan(override(config, {"data.stage": "/x"}), nodes=1, gpus=1, gpu="a100-80")
    assert planned.staged_bytes == sum(f.stat().st_size for f in Path(shards).glob("*.tar"))
    assert " of staged shards" in report(planned)


def test_time_energy_and_loader_follow_from_the_operations():
    planned = plan(maskedclip_vitl(), **PAPER, mfu=0.5)
    step_s = sum(planned.flops.values()) / (4 * 312e12 * 0.5)
    assert planned.step_s == pytest.approx(step_s)
    assert planned.images_per_s == pytest.approx(1440 / step_s)
    assert planned.gpu_hours == pytest.approx(4 * planned.steps * step_s / 3600)
    assert planned.kg_co2e == pytest.approx(0.4 * planned.gpu_hours * 1.2 * 0.4)


def test_a_card_without_bf16_computes_in_fp32():
    small = override(maskedclip_vits(), {"optim.steps": 10})
    old = plan(small, nodes=1, gpus=4, gpu="v100-32")
    new = plan(override(small, {"engine.precision": "fp32"}), **PAPER)
    assert old.memory.by_part["E_I"] == new.memory.by_part["E_I"]
    with pytest.raises(ValueError, match="v100-32 does not multiply bf16"):
        plan(override(small, {"engine.precision": "bf16"}), nodes=1, gpus=4, gpu="v100-32")


def test_a_batch_that_the_ranks_cannot_share_is_refused():
    with pytest.raises(ValueError, match="world size 7"):
        plan(maskedclip_vitl(), nodes=1, gpus=7, gpu="a100-80")


@pytest.mark.parametrize(
    ("gpu", "words"), [("a100-40", "DOES NOT FIT"), ("h100-80", "fits"), ("h200-141", "fits")]
)
def test_the_report_says_whether_the_paper_s_run_fits(gpu, words):
    shown = report(plan(maskedclip_vitl(), nodes=1, gpus=4, gpu=gpu))
    (line,) = [line for line in shown.splitlines() if " of " in line and "%):" in line]
    assert words in line
    assert ("--optim.accumulate" in line) == (words != "fits")


@pytest.mark.parametrize(
    ("recipe", "gpu", "count"),
    [
        ("maskedclip_vitl", "l4-24", 1),  # two parts, once the advice, take 564 % of it
        ("maskedclip_vitl", "a100-40", 4),
        ("maskedclip_vitl", "v100-16", 4),
        ("mae", "l4-24", 1),
    ],
)
def test_a_run_fits_with_each_change_that_the_plan_proposes(recipe, gpu, count, capsys):
    planned = plan(RECIPES[recipe](), nodes=1, gpus=count, gpu=gpu)
    assert not planned.fits
    assert len(planned.fixes) >= 2
    for fix in planned.fixes:
        machine = () if "--gpus" in fix else (f"--gpus={count}",)
        main([recipe, f"--gpu={gpu}", *machine, *fix.split(), "--images=1000,1000"])
        assert "%): fits" in capsys.readouterr().out, fix


def test_the_plan_proposes_a_smaller_batch_only_where_nothing_else_fits():
    # a prime number of pairs is not divisible by more GPUs, and dropout forbids micro-batches
    odd = {
        "data.paired_batch": 719,
        "data.unpaired_batch": 0,
        "engine.activation_checkpointing": True,
        "model.text_dropout": 0.1,
    }
    planned = plan(override(maskedclip_vitl(), odd), nodes=1, gpus=1, gpu="a10-24")
    assert planned.fixes == ()
    flags = dict(flag.lstrip("-").split("=") for flag in remedy(planned).split(": ")[1].split())
    smaller = {name: int(value) for name, value in flags.items()}
    fitting = plan(override(maskedclip_vitl(), odd | smaller), nodes=1, gpus=1, gpu="a10-24")
    assert fitting.fits
    assert fitting.load.paired > 0


def test_the_command_prints_one_json_object(monkeypatch, capsys):
    flags = ["maskedclip_vits", "--gpu=h100-80", "--gpus=8", "--json"]
    monkeypatch.setattr(sys, "argv", [str(TOOL), *flags])
    runpy.run_path(str(TOOL), run_name="__main__")
    planned = json.loads(capsys.readouterr().out)
    assert (planned["gpu"], planned["gpus"]) == ("h100-80", 8)


@pytest.mark.parametrize(
    ("flag", "words"),
    [
        ("--gpu=a100-8", "did you mean a100-80?"),
        ("--gpu=a100", "did you mean a100-40 or a100-80?"),
        ("--gpuz=3", "did you mean --gpu?"),
        ("--mfu=40", "write a share"),
        ("--images=5", "paired,unpaired"),
    ],
)
def test_a_mistake_ends_in_one_line(flag, words, capsys):
    with pytest.raises(SystemExit) as ended:
        main([flag])
    said = capsys.readouterr().err
    assert (ended.value.code, said.count("\n")) == (2, 1)
    assert words in said


def test_the_plan_says_the_sharding_and_where_launches_take_longer_than_work():
    few = report(plan(maskedclip_vitl(), nodes=15, gpus=4, gpu="h100-80"))
    assert "sharding hybrid" in few
    assert "24 images a GPU: launching the kernels" in few
    many = report(plan(maskedclip_vitl(), **PAPER))
    assert "sharding shard" in many
    assert "launching" not in many
    assert "sharding replicate" in report(plan(maskedclip_vitb(), **PAPER))
    assert "sharding none" in report(plan(maskedclip_vitb(), nodes=1, gpus=1, gpu="h200-141"))


def test_the_plan_counts_the_cores_that_decode_for_a_gpu():
    planned = plan(maskedclip_vitl(), nodes=1, gpus=4, gpu="h100-80")
    a_gpu = planned.images_per_s / 4
    assert planned.decoding.cores == pytest.approx(a_gpu * 1.30e-3)  # 512 px, fine
    assert (planned.decoding.usable, planned.decoding.starves) == (7, "")
    assert "TOO FEW" not in report(planned)


@pytest.mark.parametrize(
    ("changes", "options", "words"),
    [
        ({}, {"shard_size": 2048}, "--data.fidelity=fast (21.0 cores), shards of 512 px"),
        ({"data.fidelity": "exact"}, {"cpus_per_rank": 2}, "--data.fidelity=fine (4.3 cores)"),
        ({"data.threads": 1}, {}, "then more --data.threads and cores a GPU"),
    ],
)
def test_the_plan_says_where_the_loader_would_starve_a_gpu(changes, options, words):
    planned = plan(override(mae(), changes), nodes=1, gpus=4, gpu="h100-80", **options)
    shown = report(planned)
    assert "TOO FEW, see below" in shown
    (line,) = [line for line in shown.splitlines() if "STARVED" in line]
    assert words in line


def test_the_plan_takes_the_size_of_the_images_from_the_manifests(tmp_path: Path):
    (tmp_path / "manifest.json").write_text('{"samples": 9, "settings": {"size": 768}}')
    here = {"data.paired": (str(tmp_path),), "data.unpaired": (str(tmp_path),)}
    config = override(maskedclip_vitl(), here)
    assert plan(config, **PAPER).decoding.side == 768
    assert plan(config, **PAPER, shard_size=256).decoding.side == 256


def test_all_figures_of_a_report_are_called_planned():
    blocks = report(plan(maskedclip_vitl(), **PAPER)).split("\n\n")
    assert [block.split()[0].rstrip(",") for block in blocks] == 4 * ["planned"] + ["assumed"]
