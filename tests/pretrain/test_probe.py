"""The online probe scores what an evaluation would, on images that are no test images."""

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator

from maskedclip.config import Config, override
from maskedclip.data.labelled import LabelledSample, labelled
from maskedclip.data.pretraining_images import PretrainingImages
from maskedclip.data.splits import division_of
from maskedclip.data.storage.shards import Shards, ShardWriter
from maskedclip.engine.distributed import process_group
from maskedclip.evaluate.features import PATCHES, FrozenEncoder, features
from maskedclip.metrics.probes import logistic, nearest
from maskedclip.pretrain import probe
from maskedclip.pretrain.loop import pretrain
from maskedclip.pretrain.methods import method_of
from maskedclip.pretrain.probe import OnlineProbe, Probed, read_probed, say_probed
from maskedclip.pretrain.trained_images import trained_dataset
from maskedclip.shards.building.prepare_sample import encode
from tests.conftest import a_small_run

CPU = torch.device("cpu")


def probing(phantoms: dict[str, Path], root: Path, **changes: Any) -> Config:
    own = {"log.probe": str(phantoms["heldout"]), "log.probe_every": 3, "optim.steps": 4}
    return override(a_small_run(phantoms, root), own | changes)


@pytest.fixture(scope="module")
def run(phantoms: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of four steps that was started again from its third."""
    torch.set_num_threads(1)
    config = probing(phantoms, tmp_path_factory.mktemp("probe"))
    directory = pretrain(config)
    shutil.rmtree(directory / "checkpoints" / "step-00000004")
    return pretrain(config)


def probed_of(config: Config) -> Probed:
    found = read_probed(config, method_of(config))
    assert found is not None
    return found


def test_the_last_scores_are_those_of_an_evaluation_with_the_same_knobs(
    run: Path, phantoms: dict[str, Path], tmp_path: Path
) -> None:
    last = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    for name, score in scores_of(run, phantoms, tmp_path).items():
        assert last[name] == pytest.approx(score, abs=0.02)


def test_a_run_of_two_starts_has_each_look_once(run: Path) -> None:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    looks = [row["step"] for row in rows if "probe_knn" in row]
    assert looks == [0, 3, 4]
    events = EventAccumulator(str(run)).Reload()
    assert [event.step for event in events.Tensors("probe/probe_logistic")] == looks
    text = events.Tensors("probe/best/text_summary")[-1].tensor_proto.string_val[0].decode()
    best = max((row for row in rows if "probe_knn" in row), key=lambda row: row["probe_knn"])
    low, high = (best[f"probe_knn_{end}"] for end in ("low", "high"))
    assert 0 <= low <= best["probe_knn"] <= high <= 1
    assert low < high
    score = f"{100 * best['probe_knn']:.1f} [{100 * low:.1f}, {100 * high:.1f}]"
    assert f"k-NN best AUROC {score} at step {best['step']}" in text
    first = rows[0]
    low, high = (f"{100 * first[f'probe_knn_{end}']:.1f}" for end in ("low", "high"))
    began = f"{100 * first['probe_knn']:.1f} [{low}, {high}]"
    assert first is best or f", {began} at 0" in text
    assert "no result" in text


def scores_of(weights: Path, phantoms: dict[str, Path], cache: Path) -> dict[str, float]:
    """Return what an evaluation with the probe's fixed knobs gives, on validation images."""
    dataset = Shards(phantoms["heldout"])
    task = labelled(dataset)
    parts = division_of(dataset, task).parts
    samples = [*parts["train"], *parts["val"]]
    table = features(FrozenEncoder(weights), dataset, samples, cache, 0)
    train, val = (
        (feature_BD, task.answers(kept))
        for kept, feature_BD in (table.of(parts[name], PATCHES) for name in ("train", "val"))
    )
    neighbours, strengths = (probe.NEIGHBOURS,), (probe.STRENGTH,)
    return {
        "probe_knn": nearest(train, val, val[0], 5, neighbours).validation_score,
        "probe_logistic": logistic(train, val, val[0], 5, strengths).validation_score,
    }


def test_the_first_look_is_at_the_weights_that_the_run_begins_with(
    run: Path, phantoms: dict[str, Path], tmp_path: Path
) -> None:
    begun = {"name": "begun", "init_from": str(run), "optim.steps": 1}
    rows = pretrain(probing(phantoms, tmp_path, **begun)) / "metrics.jsonl"
    first = json.loads(rows.read_text().splitlines()[0])
    assert first["step"] == 0
    for name, score in scores_of(run, phantoms, tmp_path / "features").items():
        assert first[name] == pytest.approx(score, abs=0.02)


def test_a_run_killed_before_its_first_checkpoint_keeps_the_first_look(
    phantoms: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[float] = []

    def counted(_ours: OnlineProbe, _method: Any) -> dict[str, float]:
        looks.append(len(looks) / 10)
        return {"probe_knn": looks[-1]}

    monkeypatch.setattr(OnlineProbe, "scores", counted)
    config = probing(phantoms, tmp_path, **{"optim.steps": 2})
    with monkeypatch.context() as broken:
        broken.setattr("maskedclip.pretrain.loop.warmup_cosine", lambda *_: {}["killed"])
        with pytest.raises(KeyError, match="killed"):
            pretrain(config)
    directory = pretrain(config)
    rows = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    assert [(row["step"], row.get("probe_knn")) for row in rows] == [(0, 0.0), (1, None), (2, 0.1)]
    events = EventAccumulator(str(directory)).Reload()
    assert [event.step for event in events.Tensors("probe/probe_knn")] == [0, 2]


def test_no_test_image_is_among_those_that_are_read(
    phantoms: dict[str, Path], tmp_path: Path
) -> None:
    found = probed_of(probing(phantoms, tmp_path))
    parts = division_of(found.dataset, found.task).parts
    assert found.is_published
    assert (found.train, found.validation) == (parts["train"], parts["val"])
    assert not {*found.train, *found.validation} & {*parts["test"]}


def test_of_a_large_dataset_each_class_gives_the_same_share_of_both_parts() -> None:
    train, validation = (
        [
            LabelledSample(first + i, f"{first + i}", min(i % 100, 3), None, None, f"{first + i}")
            for i in range(count)
        ]
        for first, count in ((0, 8000), (8000, 2000))
    )
    found = probe.at_most(2000, train, validation)
    sizes = [len(part) for part in found]
    assert 1980 <= sum(sizes) <= 2000
    assert sizes[0] == pytest.approx(4 * sizes[1], rel=0.02)
    for part, whole in zip(found, (train, validation), strict=True):
        for label in range(4):
            count = sum(sample.label == label for sample in whole)
            kept = sum(sample.label == label for sample in part)
            assert kept == pytest.approx(count / 5, rel=0.01, abs=2)
    assert probe.at_most(10_000, train, validation) == (train, validation)


@pytest.fixture
def undivided(phantoms: dict[str, Path], tmp_path: Path) -> Config:
    """A run whose probe has two images a patient, a task of numbers, and no validation split."""
    jpeg = encode(np.zeros((8, 8, 3), dtype=np.uint8), 90)
    with ShardWriter(tmp_path / "grades", "grades", kinds={"years": "number"}) as writer:
        for i in range(80):
            labels = {"grade": str(i // 2 % 2), "years": str(30 + i)}
            facts = {"labels": labels, "patient": f"p{i // 2}", "width": 8, "height": 8}
            writer.add(f"{i:03d}", jpeg, facts | {"split": "train" if i < 60 else "test"})
    return probing(phantoms, tmp_path, **{"log.probe": str(tmp_path / "grades")})


def test_without_a_validation_split_patients_are_parted_off_and_it_is_said(
    undivided: Config, caplog: pytest.LogCaptureFixture
) -> None:
    found = probed_of(undivided)
    assert not found.is_published
    assert len(found.train) + len(found.validation) == 60
    assert not {s.patient for s in found.train} & {s.patient for s in found.validation}
    with caplog.at_level(logging.INFO):
        say_probed(found, PretrainingImages())
    assert f"scored on {len(found.validation)} (no validation split is published:" in caplog.text


def test_scored_images_that_are_trained_on_are_counted_before_the_run(
    phantoms: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    found = probed_of(probing(phantoms, tmp_path))
    source = Shards(phantoms["heldout"])
    index_N = np.arange(8)  # of which the fourth alone is of the validation split
    say_probed(found, PretrainingImages((trained_dataset(source, index_N, "unpaired"),)))
    assert "1 of the 12 images that are scored are trained on (heldout)" in caplog.text
    caplog.clear()
    others = trained_dataset(Shards(phantoms["paired"]), index_N, "paired")
    say_probed(found, PretrainingImages((others,)))
    assert "are trained on" not in caplog.text


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"log.probe_task": "years"}, "years is a number, which has no AUROC"),
        ({"log.probe_task": "grades"}, "did you mean grade"),
    ],
)
def test_what_cannot_be_probed_is_refused_in_one_line(
    undivided: Config, changes: dict[str, str], words: str
) -> None:
    with pytest.raises(ValueError, match=words) as error:
        probed_of(override(undivided, changes))
    assert "\n" not in str(error.value)


def test_no_probe_is_asked_for_by_an_empty_name_or_an_interval_of_zero(
    phantoms: dict[str, Path], tmp_path: Path
) -> None:
    for changes in ({"log.probe": ""}, {"log.probe_every": 0}):
        config = probing(phantoms, tmp_path, **changes)
        assert read_probed(config, method_of(config)) is None


def test_features_that_are_not_finite_have_no_score_and_end_no_run(
    phantoms: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = probing(phantoms, tmp_path)
    with process_group():
        ours = OnlineProbe(probed_of(config), config, CPU)
        assert ours.fitted(np.arange(48), np.full((48, 3), np.nan, np.float32)) == {}
    assert "log.probe: no score now" in caplog.text


def test_a_damaged_image_is_named_and_the_others_are_scored(
    phantoms: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(phantoms["heldout"], tmp_path / "heldout")
    shard = tmp_path / "heldout" / "heldout-000000.tar"
    content = bytearray(shard.read_bytes())
    at = content.index(b"\xff\xd8") + 300  # within the first JPEG
    content[at : at + 8] = bytes(8)
    shard.write_bytes(content)
    config = probing(phantoms, tmp_path, **{"log.probe": str(tmp_path / "heldout")})
    with process_group():
        ours = OnlineProbe(probed_of(config), config, CPU)
        scores = ours.scores(method_of(config)(config, CPU))
    names = {"probe_knn", "probe_logistic"}
    assert scores.keys() == names | {f"{name}_{end}" for name in names for end in ("low", "high")}
    assert all(0 <= value <= 1 for value in scores.values())
    assert caplog.text.count("log.probe: left out") == 1
