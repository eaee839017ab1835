import io
import json
import math
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from maskedclip.config import Config, load, override, save
from maskedclip.data.storage.exclusions import Exclusion, write_exclusions
from maskedclip.data.storage.shards import Shards
from maskedclip.engine.distributed import process_group
from maskedclip.engine.preemption import REQUEUE, STOP, Preempted
from maskedclip.models.pretrained import read_weights
from maskedclip.pretrain.loop import claim, pretrain
from maskedclip.pretrain.methods import maskedclip as module
from tests.conftest import a_small_run


def rows(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def losses(run: Path) -> list[tuple]:
    return [
        tuple(row[key] for key in ("step", "loss", "loss_mim", "loss_clip", "loss_mfd", "lr"))
        for row in rows(run)
    ]


@pytest.fixture(scope="module")
def whole(phantoms: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the run of `small`, for tests that do not write to it."""
    config = a_small_run(phantoms, tmp_path_factory.mktemp("whole"))
    return pretrain(override(config, {"log.images": True}))


def stopped_after(config: Config, step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run, and die like a killed process once the checkpoint of `step` is written."""
    from maskedclip.engine.checkpoint import Checkpoints

    def save_and_die(checkpoints, at, *rest):
        saved(checkpoints, at, *rest)
        if at == step:
            raise KeyboardInterrupt

    saved = Checkpoints.save
    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "save", save_and_die)
        with pytest.raises(KeyboardInterrupt):
            pretrain(config)


def test_a_run_leaves_the_files_of_the_contract(small):
    small = override(small, {"loss.clip": 0.3, "loss.mfd": 0.2})
    run = pretrain(small)
    assert load(run / "config.json", Config) == small
    assert {path.name for path in run.iterdir()} >= {
        "config.json", "provenance.json", "metrics.jsonl", "checkpoints",
        "encoder.safetensors", "model.safetensors",
    }  # fmt: skip
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == [
        "step-00000003", "step-00000006",
    ]  # fmt: skip
    wanted = {
        "step", "epoch", "loss", "loss_mim", "loss_clip", "loss_mfd", "lr", "logit_scale",
        "grad_norm", "images_per_s", "data_wait", "mfu",
    }  # fmt: skip
    assert [row["step"] for row in rows(run)] == [1, 2, 3, 4, 5, 6]
    weights = {"mim": 1.0, "clip": 0.3, "mfd": 0.2}
    for row in rows(run):
        assert wanted <= row.keys()
        total = sum(weight * row[f"loss_{name}"] for name, weight in weights.items())
        assert row["loss"] == pytest.approx(total, rel=1e-5)
        assert 0 <= row["data_wait"] <= 1
        assert 0 < row["mfu"] < 1
    facts = json.loads((run / "provenance.json").read_text())[0]
    assert facts["packages"]["torch"] == torch.__version__.split("+")[0]
    assert len(facts["manifests_sha256"]) == 2


def test_tensorboard_has_every_term_and_pictures_of_the_same_images(whole):
    events = EventAccumulator(str(whole)).Reload()
    terms = {"losses/loss", "losses/loss_mim", "losses/loss_clip", "losses/loss_mfd"}
    assert terms | {"optimiser/lr", "throughput/images_per_s"} <= set(events.Tags()["tensors"])
    assert [event.step for event in events.Tensors("losses/loss")] == [1, 2, 3, 4, 5, 6]
    (picture,) = events.Tags()["images"]
    assert [event.step for event in events.Images(picture)] == [3, 6]
    first, last = (
        np.asarray(Image.open(io.BytesIO(event.encoded_image_string)))
        for event in events.Images(picture)
    )
    assert (first[:, :300] == last[:, :300]).all()  # input and mask
    assert (first[:, 300:] != last[:, 300:]).any()


def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(small, whole, monkeypatch):
    stopped_after(small, 3, monkeypatch)
    # the dead run had logged a step beyond its checkpoint, and left half a line
    with (small.directory / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(rows(small.directory)[-1] | {"step": 4}) + '\n{"step": 5, "lo')
    resumed = pretrain(small)
    assert losses(resumed) == losses(whole)
    ours, theirs = (read_weights(run / "model.safetensors")[0] for run in (resumed, whole))
    assert ours.keys() == theirs.keys()
    assert all(ours[name].equal(theirs[name]) for name in ours)


def test_a_damaged_checkpoint_is_passed_over_for_an_older_one(small, whole, caplog):
    shutil.copytree(whole, small.directory)
    newest = small.directory / "checkpoints" / "step-00000006"
    victim = next(newest.glob("*.distcp"))
    content = bytearray(victim.read_bytes())
    content[len(content) // 2] ^= 1
    victim.write_bytes(content)
    again = pretrain(small)
    assert "step-00000006" in caplog.text
    assert "sha256" in caplog.text
    assert losses(again) == losses(whole)


@pytest.mark.parametrize("number", [signal.SIGUSR2, signal.SIGTERM])
def test_a_signal_saves_the_step_and_leaves_and_the_same_command_goes_on(
    small, whole, monkeypatch, number
):
    step = module.train_step

    def asked_in_the_second(*arguments):
        if arguments[4].step == 1:
            signal.raise_signal(number)
        return step(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(module, "train_step", asked_in_the_second)
        with pytest.raises(Preempted, match="step 3 is saved") as stop:
            pretrain(small)
    assert stop.value.request == {signal.SIGTERM: STOP, signal.SIGUSR2: REQUEUE}[number]
    assert losses(pretrain(small)) == losses(whole)


def test_a_finished_run_is_not_run_again(small, whole):
    run = shutil.copytree(whole, small.directory)
    before = (run / "metrics.jsonl").read_text()
    pretrain(small)
    assert (run / "metrics.jsonl").read_text() == before


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"optim.base_lr": 1e-3}, "optim"),
        ({"data.paired_batch": 8}, "data"),
        ({"data.paired": ("elsewhere/other",)}, "data"),
        # an earlier version wrote numbers
        (
            {
                "data.threads": 2,
                "data.readers": 16,
                "engine.keep": 9,
                "data.paired": ("moved/to/paired",),
            },
            None,
        ),
    ],
)
def test_a_directory_belongs_to_one_configuration(small, changes, part):
    small.directory.mkdir(parents=True)
    save(small, small.directory / "config.json")
    with process_group():
        if part is None:
            with pytest.raises(FileNotFoundError, match="moved"):  # past the check, at the shards
                claim(override(small, changes))
        else:
            with pytest.raises(ValueError, match=f"holds a run with {part}"):
                claim(override(small, changes))


def test_the_loss_falls(small):
    run = pretrain(override(small, {"optim.steps": 60, "engine.save_every": 60}))
    terms = rows(run)
    for name in ("loss_mim", "loss_mfd"):
        first, last = (sum(row[name] for row in part) for part in (terms[:10], terms[-10:]))
        assert last < first, name


def test_a_damaged_sample_is_named_in_the_ledger_of_the_run(small, tmp_path, phantoms):
    copy = tmp_path / "unpaired"
    shutil.copytree(phantoms["unpaired"], copy)
    shards = Shards(copy)
    tar = copy / shards.shard(4)
    jpeg, _ = shards.read(4)
    content = bytearray(tar.read_bytes())
    content[content.index(jpeg) + 100] ^= 255
    tar.write_bytes(content)
    run = pretrain(override(small, {"data.unpaired": (str(copy),)}))
    (entry,) = [json.loads(x) for x in (run / "lost_samples.jsonl").read_text().splitlines()]
    assert entry["key"] == shards.key(4)
    assert entry["shard"] == shards.shard(4)
    assert "checksum" in entry["reason"]


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_term(small):
    with pytest.raises(RuntimeError, match=r"loss(_\w+)? is (nan|inf)"):
        pretrain(override(small, {"optim.lr": 1e30, "optim.warmup_epochs": 0.1}))
    assert not list((small.directory / "checkpoints").glob("step-????????"))


@pytest.mark.parametrize(
    "changes",
    [
        {"optim.accumulate": 2},
        {"optim.accumulate": 4, "engine.activation_checkpointing": True},
        pytest.param(
            {"engine.compile": True, "engine.activation_checkpointing": True},
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_way_to_save_memory_or_time_changes_nothing_but_rounding(small, whole, changes):
    run = pretrain(override(small, changes))
    for ours, theirs in zip(losses(run), losses(whole), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-5)


def test_activation_checkpointing_is_exact(small, whole):
    run = pretrain(override(small, {"engine.activation_checkpointing": True}))
    assert losses(run) == losses(whole)


def test_a_run_that_is_given_less_memory_goes_on_in_parts(small, whole, monkeypatch):
    stopped_after(small, 3, monkeypatch)
    resumed = pretrain(override(small, {"optim.accumulate": 2}))
    for ours, theirs in zip(losses(resumed), losses(whole), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-5)


def test_a_run_begins_from_the_weights_it_is_given(small, whole):
    changes = {"init_from": str(whole), "optim.lr": 0.0}
    weights, _ = read_weights(pretrain(override(small, changes)) / "model.safetensors")
    expected, _ = read_weights(whole / "model.safetensors")
    assert all(weights[name].equal(expected[name]) for name in expected)


def test_missing_shards_are_said_in_one_line(small):
    with pytest.raises(ValueError, match="nowhere: no such directory") as error:
        pretrain(override(small, {"data.unpaired": ("nowhere",)}))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_the_learning_rate_warms_up_and_ends_near_zero(small, share):
    changes = {"optim.warmup_epochs": share * small.optim.epochs, "optim.lr": 1e-3}
    rates = [row["lr"] for row in rows(pretrain(override(small, changes)))]
    warm = round(share * 6)
    assert rates[:warm] == pytest.approx([1e-3 * step / warm for step in range(warm)])
    cosine = [5e-4 * (1 + math.cos(math.pi * k / (6 - warm))) for k in range(6 - warm)]
    assert rates[warm:] == pytest.approx(cosine)


def test_in_bf16_tau_is_still_exact(small):
    run = pretrain(override(small, {"engine.precision": "bf16"}))
    first = rows(run)[0]["logit_scale"]
    assert first == pytest.approx(1 / 0.07, rel=1e-6)  # bf16 would round it to 14.25


def test_a_step_of_two_images_has_its_pictures_too(small):
    """Four ranks of a small batch may hold no more than that."""
    changes = {"data.paired_batch": 1, "data.unpaired_batch": 1, "engine.pictures_every": 1}
    changes |= {"log.images": True}
    run = pretrain(override(small, changes | {"optim.steps": 2}))
    events = EventAccumulator(str(run)).Reload()
    assert len(events.Images(events.Tags()["images"][0])) == 2


def test_a_run_does_not_go_on_with_another_list_of_exclusions(small, tmp_path, phantoms):
    copy = tmp_path / "unpaired"
    shutil.copytree(phantoms["unpaired"], copy)
    config = override(small, {"data.unpaired": (str(copy),), "optim.steps": 2})
    pretrain(config)
    write_exclusions(copy, [Exclusion(Shards(copy).key(0), "near copy", "test/x")])
    with pytest.raises(ValueError, match=r"another exclude\.csv"):
        pretrain(config)
    pretrain(override(config, {"name": "anew"}))
