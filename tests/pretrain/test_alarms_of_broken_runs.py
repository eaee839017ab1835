"""Each alarm in a run that is broken in the way that it is for, and none in one that is not."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import simplejpeg
from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator

from maskedclip.config import override
from maskedclip.data.storage.shards import ShardWriter
from maskedclip.pretrain.loop import pretrain
from maskedclip.shards.phantoms.phantom import draw
from tests.conftest import a_small_run

ALONE = {"loss.clip": 0.0, "loss.mfd": 0.0, "model.bridge_depth": 0, "data.paired_batch": 0}


def alarms(phantoms: dict[str, Path], root: Path, changes: Mapping[str, Any]) -> dict[str, int]:
    """Return the step of each alarm of a run, which the log, its rows and TensorBoard name."""
    small = {"model.patch_size": 8, "optim.steps": 12, "log.health_every": 0, "log.shares_every": 0}
    small |= {"engine.save_every": 1000, "engine.pictures_every": 1000, "log.least_share": 0.001}
    run = pretrain(override(a_small_run(phantoms, root), small | changes))
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    found = {name: row["step"] for row in reversed(rows) for name in row.get("alarms", {})}
    events = EventAccumulator(str(run)).Reload()
    shown = {tag: events.Tensors(tag)[0].step for tag in events.Tags()["tensors"]}
    for name, step in found.items():
        assert shown[f"alarms/{name}/text_summary"] == step
    return found


def written(directory: Path, images: list[np.ndarray]) -> tuple[str]:
    with ShardWriter(directory, directory.name, samples_per_shard=100) as writer:
        for i, image_HWC in enumerate(images):
            size = image_HWC.shape[0]
            facts = {"split": "train", "categories": [], "labels": {}, "width": size}
            facts |= {"dataset": directory.name, "height": size}
            writer.add(f"{i:06d}", simplejpeg.encode_jpeg(image_HWC), facts)
    return (str(directory),)


def test_a_run_that_is_not_broken_raises_none(phantoms: dict[str, Path], tmp_path: Path) -> None:
    looks = {"log.health_every": 2, "log.shares_every": 4, "optim.lr": 1e-3}
    assert alarms(phantoms, tmp_path, looks) == {}


def test_a_rate_far_too_high_is_a_collapse_of_encoder_and_teacher(
    phantoms: dict[str, Path], tmp_path: Path
) -> None:
    found = alarms(phantoms, tmp_path, {"optim.lr": 0.3, "log.health_every": 4})
    assert {"collapse", "teacher near constant"} <= found.keys()


def test_a_weight_of_a_millionth_gives_a_term_no_share(
    phantoms: dict[str, Path], tmp_path: Path
) -> None:
    changes = {"loss.clip": 1e-6, "loss.mfd": 0.1, "log.shares_every": 2, "optim.steps": 4}
    assert alarms(phantoms, tmp_path, changes) == {"gradient share of clip": 4}


def test_photographs_that_take_longer_to_decode_than_a_step_are_starvation(
    phantoms: dict[str, Path], tmp_path: Path
) -> None:
    large = written(tmp_path / "large", [draw(i, 2048).image_HWC for i in range(2)])
    changes = ALONE | {"data.unpaired": large, "data.unpaired_batch": 8, "optim.steps": 6}
    assert alarms(phantoms, tmp_path, changes).keys() == {"starvation"}


def test_a_batch_of_noise_is_a_spike(phantoms: dict[str, Path], tmp_path: Path) -> None:
    """It is one of 24 images, a step each: the second time comes when 20 rows are known."""
    noise_HW = np.random.default_rng(0).integers(0, 2, (6, 6)).astype(np.uint8) * 255
    noise_HWC = np.ascontiguousarray(np.kron(noise_HW, np.ones((8, 8), np.uint8))[..., None])
    images = [draw(i, 48).image_HWC for i in range(23)] + [noise_HWC.repeat(3, axis=2)]
    changes = ALONE | {
        "data.unpaired": written(tmp_path / "poisoned", images), "data.unpaired_batch": 1,
        "loss.normalise_pixels": False, "optim.lr": 1e-3, "optim.steps": 48,
    }  # fmt: skip
    assert alarms(phantoms, tmp_path, changes).keys() == {"spike"}


@pytest.mark.slow
def test_a_rate_of_zero_lets_no_loss_fall(phantoms: dict[str, Path], tmp_path: Path) -> None:
    changes = ALONE | {"optim.lr": 0.0, "optim.steps": 208, "engine.log_every": 8}
    assert alarms(phantoms, tmp_path, changes) == {"loss not falling": 208}
