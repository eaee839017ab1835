"""A batch that breaks the loss, and a machine that does, in whole runs."""

import json
import math

import pytest

from maskedclip.config import Config, override
from maskedclip.models.pretrained import read_weights
from maskedclip.pretrain import sources
from maskedclip.pretrain.loop import pretrain
from maskedclip.pretrain.methods import maskedclip as module


def breaking(config: Config, monkeypatch: pytest.MonkeyPatch, step: int, times: int) -> list[str]:
    """Add nan to the loss of one step's batch, so many times; return the batch's ids."""
    ids: list[str] = []
    with monkeypatch.context() as patch:
        seen = []
        patch.setattr(sources, "to_device", lambda batch, _: seen.append(batch.keys) or batch)
        pretrain(override(config, {"name": "before", "optim.steps": step + 1}))
        ids += seen[step]
    objective, left = module.objective, [times]

    def broken(networks, image_BCHW, batch, *rest):
        losses, out = objective(networks, image_BCHW, batch, *rest)
        if batch.keys == ids and left[0]:
            left[0] -= 1
            losses["loss"] = losses["loss"] + math.nan * out.image_AD.sum()
        return losses, out

    monkeypatch.setattr(module, "objective", broken)
    return ids


def answers(config: Config) -> list[tuple]:
    lines = (config.directory / "faults.jsonl").read_text().splitlines()
    return [(row["step"], row["answer"]) for row in map(json.loads, lines)]


def metrics(config: Config) -> list[tuple]:
    lines = (config.directory / "metrics.jsonl").read_text().splitlines()
    return [(row["step"], row["loss"]) for row in map(json.loads, lines)]


def test_a_run_stops_before_the_step_and_names_it_and_its_samples(small, monkeypatch) -> None:
    config = override(small, {"engine.log_every": 3})
    ids = breaking(config, monkeypatch, step=4, times=99)
    with pytest.raises(RuntimeError, match="step 5: loss is nan") as error:
        pretrain(config)
    assert ids[0] in str(error.value)
    assert "\n" not in str(error.value)
    (row,) = map(json.loads, (config.directory / "faults.jsonl").read_text().splitlines())
    assert row["keys"] == ids
    assert [path.name for path in (config.directory / "checkpoints").iterdir()] == ["step-00000003"]


def test_a_guilty_batch_is_repeated_once_and_then_left_out(small, monkeypatch) -> None:
    config = override(small, {"engine.log_every": 3, "engine.on_fault": "skip"})
    breaking(config, monkeypatch, step=4, times=99)
    pretrain(config)
    assert answers(config) == [(4, "repeated"), (4, "skipped")]
    assert [step for step, _ in metrics(config)] == [3, 6]
    assert all(math.isfinite(loss) for _, loss in metrics(config))


def test_a_fault_of_the_machine_is_told_from_one_of_the_data_and_changes_nothing(
    small, monkeypatch
) -> None:
    whole = override(small, {"name": "whole"})
    pretrain(whole)
    config = override(small, {"engine.log_every": 1, "engine.on_fault": "skip"})
    breaking(config, monkeypatch, step=4, times=1)
    pretrain(config)
    assert answers(config) == [(4, "repeated"), (4, "well when repeated: not its samples")]
    assert metrics(config) == metrics(whole)
    ours, theirs = (read_weights(c.directory / "model.safetensors")[0] for c in (config, whole))
    assert all(ours[name].equal(theirs[name]) for name in theirs)
