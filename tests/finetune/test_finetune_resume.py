"""A fine-tuning that was killed at any moment goes on, and nothing shows that it was."""

import errno
import json
import logging
import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator

from maskedclip.config import FinetuneConfig, override
from maskedclip.engine.preemption import Preempted
from maskedclip.finetune import loop as module
from maskedclip.finetune.loop import finetune
from maskedclip.finetune.progress import SaveInterval
from maskedclip.finetune.run_directory import lock_run
from maskedclip.finetune.selection import BestWeights
from maskedclip.metrics.results import read_rows
from maskedclip.models.checkpoints.files import read_safetensors
from maskedclip.models.checkpoints.sealed import save_sealed
from maskedclip.models.pretrained import read_weights
from tests.colours import config_of, two_colours

EPOCHS, STEPS = 6, 3  # steps of an epoch
FORKS = multiprocessing.get_context("forkserver")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> FinetuneConfig:
    """Return what was run once without a disturbance."""
    directory = tmp_path_factory.mktemp("resume")
    two_colours(directory / "colours", contrast=4)
    config = replace(config_of(directory), epochs=EPOCHS, mixup=0.4, name="same")
    run = finetune(replace(config, out=str(directory / "whole")))
    scores = [json.loads(line)["val_auroc"] for line in (run / "metrics.jsonl").open()]
    best = next(epoch for epoch, score in enumerate(scores) if score > max(scores) - 1e-9)
    assert best not in (0, EPOCHS - 1)  # or the best weights are no test
    return config


def files_of(run: Path) -> dict[str, bytes]:
    """Return what must not differ by a bit."""
    names = ["metrics.jsonl", "lost_samples.jsonl", "results.jsonl"]
    paths = [*(run / name for name in names), *sorted((run / "predictions").iterdir())]
    tensors, _ = read_weights(run / "finetuned.safetensors")
    weights = {name: tensor.numpy().tobytes() for name, tensor in tensors.items()}
    return weights | {path.name: path.read_bytes() for path in paths}


def undisturbed(config: FinetuneConfig) -> dict[str, bytes]:
    return files_of(Path(config.out) / "whole" / config.name)


def saving_each_epoch(config: FinetuneConfig) -> None:
    torch.set_num_threads(1)
    module._SAVING = 1.0
    finetune(config)


def lines(run: Path) -> int:
    path = run / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def killed_when(config: FinetuneConfig, moment: Callable[[Path], bool]) -> Path:
    """Start a fine-tuning in another process, and kill it without a warning at a moment."""
    run = Path(config.out) / config.name
    process = FORKS.Process(target=saving_each_epoch, args=(config,))
    process.start()
    while not moment(run):
        assert process.is_alive(), "it ended before the moment came"
        time.sleep(0.0005)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    return run


MOMENTS: dict[str, Callable[[Path], bool]] = {
    "before the first epoch": lambda run: (run / "provenance.json").exists(),
    "after four epochs": lambda run: lines(run) >= 4,
    "within a save": lambda run: lines(run) >= 2 and any(run.glob("checkpoints/*.tmp")),
    "within the results": lambda run: any(run.glob("predictions/*.csv")),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_run_that_was_killed_ends_as_one_that_was_not(
    whole: FinetuneConfig, moment: str, tmp_path: Path
) -> None:
    config = replace(whole, out=str(tmp_path))
    run = killed_when(config, MOMENTS[moment])
    assert not read_rows(run)
    finetune(config)
    assert files_of(run) == undisturbed(whole)
    assert not (run / "checkpoints").exists()
    curve = EventAccumulator(str(run)).Reload().Tensors("fine-tuning/loss")
    assert [event.step for event in curve] == [STEPS * epoch for epoch in range(1, EPOCHS + 1)]


def stopped_after(config: FinetuneConfig, epoch: int, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Die once the state of an epoch is on the disk; a state is saved after each."""

    def save_and_die(checkpoints, step, *rest):
        saved(checkpoints, step, *rest)
        if step == STEPS * epoch:
            raise KeyboardInterrupt

    saved = module.Checkpoints.save
    with monkeypatch.context() as patch:
        patch.setattr(module.Checkpoints, "save", save_and_die)
        patch.setattr(module, "_SAVING", 1.0)
        with pytest.raises(KeyboardInterrupt):
            finetune(config)
    return Path(config.out) / config.name


@pytest.mark.parametrize("encoder", ["frozen", "lora"])
def test_a_run_of_few_weights_that_died_ends_as_one_that_did_not(
    whole: FinetuneConfig, encoder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = override(whole, {"encoder": encoder, "epochs": 3, "lr": 1e-2, "layer_decay": 1.0})
    undisturbed = files_of(finetune(replace(config, out=str(tmp_path / "whole"))))
    died = replace(config, out=str(tmp_path))
    stopped_after(died, 2, monkeypatch)
    assert files_of(finetune(died)) == undisturbed


def test_a_damaged_state_is_named_and_an_older_one_taken(
    whole: FinetuneConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    config = replace(whole, out=str(tmp_path))
    run = stopped_after(config, 4, monkeypatch)
    states = sorted(path.name for path in (run / "checkpoints").iterdir())
    assert states == ["step-00000009", "step-00000012"]
    victim = next((run / "checkpoints" / states[1]).glob("*.distcp"))
    content = bytearray(victim.read_bytes())
    content[len(content) // 2] ^= 1
    victim.write_bytes(content)
    with caplog.at_level(logging.INFO):
        finetune(config)
    assert "step-00000012" in caplog.text
    assert "sha256" in caplog.text
    assert "goes on after epoch 3" in caplog.text
    assert files_of(run) == undisturbed(whole)


def test_a_signal_costs_at_most_the_epoch_it_comes_in(
    whole: FinetuneConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    config = replace(whole, out=str(tmp_path))
    train = module.train_epoch

    def asked_in_the_third(*arguments):
        if arguments[5] == 2:
            signal.raise_signal(signal.SIGTERM)
        return train(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(module, "train_epoch", asked_in_the_third)
        with pytest.raises(Preempted, match="is saved, and the same command goes on"):
            finetune(config)
    run = Path(config.out) / config.name
    assert not read_rows(run)
    with caplog.at_level(logging.INFO):
        finetune(config)
    assert "goes on after epoch 2" in caplog.text or "goes on after epoch 3" in caplog.text
    assert files_of(run) == undisturbed(whole)


def test_a_disk_that_holds_no_state_does_not_cost_the_results(
    whole: FinetuneConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("maskedclip.engine.checkpoint.publish", full)
    config = replace(whole, out=str(tmp_path))
    assert files_of(finetune(config)) == undisturbed(whole)
    assert "cannot be written" in caplog.text


def test_other_weights_under_the_same_name_are_another_run(
    whole: FinetuneConfig, tmp_path: Path
) -> None:
    run = Path(whole.out) / "whole" / whole.name
    weights = tmp_path / "encoder.safetensors"
    weights.write_bytes((run / "finetuned.safetensors").read_bytes())
    config = replace(whole, weights=str(weights), out=str(tmp_path), epochs=2, name="from_file")
    finetune(config)
    moved = tmp_path / "moved" / "encoder.safetensors"
    moved.parent.mkdir()
    weights.rename(moved)
    finetune(replace(config, weights=str(moved)))  # the same bytes are the same run
    assert len(json.loads((tmp_path / "from_file" / "provenance.json").read_text())) == 1
    tensors, header = read_safetensors(moved)
    save_sealed(tensors, moved, header | {"task": "colors"})
    with pytest.raises(ValueError, match="with other weights"):
        finetune(replace(config, weights=str(moved)))


def test_two_processes_do_not_share_a_directory(whole: FinetuneConfig, tmp_path: Path) -> None:
    config = replace(whole, out=str(tmp_path))
    with (
        lock_run(tmp_path / config.name),
        pytest.raises(RuntimeError, match="another process is fine-tuning there"),
    ):
        finetune(config)


def test_of_equal_scores_the_earlier_weights_are_kept() -> None:
    model = torch.nn.Linear(2, 2)
    best = BestWeights(model)
    assert best.offer(0.5, model)
    first = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.no_grad():
        model.weight += 1
    assert not best.offer(0.5, model)
    assert best.model.state_dict()["weight"].equal(first["weight"])
    assert best.offer(0.6, model)
    assert best.model.state_dict()["weight"].equal(model.weight)


def test_saving_takes_its_share_of_the_time_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("maskedclip.finetune.progress.time.monotonic", lambda: now[0])
    saves = SaveInterval(0.1)
    assert saves.due()  # what a save takes is not known before the first
    with saves.measured():
        now[0] += 2
    now[0] += 17.9
    assert not saves.due()
    now[0] += 0.2
    assert saves.due()
