"""What TensorBoard shows of a run's results is what results.jsonl and the predictions say."""

import io
import json
import logging
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import metadata
from tensorboard.util import tensor_util

from maskedclip.evaluate.protocols import evaluate
from maskedclip.finetune.confusion_picture import confusion_png
from maskedclip.finetune.loop import finetune
from maskedclip.finetune.result_board import write_board
from maskedclip.metrics.confusion import confusion
from maskedclip.metrics.prediction_files import Predictions
from maskedclip.metrics.results import read_rows, save_and_score, write_rows
from tests.answers import measured
from tests.colours import config_of, two_colours

CLASSES = ("none", "mild", "severe")
NAME = "finetune"


def scored(run: Path, predictions: Predictions, classes: Sequence[str] = CLASSES) -> None:
    """Write predictions and rows as a fine-tuning does."""
    identity = {
        "run": run.name, "dataset": "idrid", "task": "grade", "protocol": "finetune",
        "fraction": 0.1, "seed": 1,
    }  # fmt: skip
    rows = save_and_score(identity, classes, predictions, run, method="ours", shards=Path("shards"))
    write_rows(run, [row | {"recipe": "paper", "seen_images": None} for row in rows])


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Return a run with the results of one fine-tuning and their board."""
    directory = tmp_path / "run"
    scored(directory, measured())
    (directory / "config.json").write_text(json.dumps({"weights": "w", "lr": 5e-4, "name": "run"}))
    write_board(directory)
    return directory


def opened(run: Path, name: str = NAME) -> EventAccumulator:
    return EventAccumulator(str(run / "results" / name)).Reload()


def number(events: EventAccumulator, tag: str) -> float:
    (event,) = events.Scalars(tag)
    return event.value


def files(run: Path) -> dict[str, tuple[bytes, int]]:
    paths = sorted((run / "results").rglob("*tfevents*"))
    return {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in paths}


def columns(events: EventAccumulator) -> dict[str, str | float | bool]:
    tag = metadata.SESSION_START_INFO_TAG
    content = events.summary_metadata[tag].plugin_data.content
    start = metadata.parse_session_start_info_plugin_data(content)
    return {name: getattr(cell, cell.WhichOneof("kind")) for name, cell in start.hparams.items()}


def test_values_and_intervals_are_those_of_results_jsonl_in_single_precision(run: Path) -> None:
    events = opened(run)
    for row in read_rows(run):
        shown = [number(events, row["metric"] + end) for end in ("", "_low", "_high")]
        assert shown == [np.float32(row[name]) for name in ("value", "low", "high")]


def test_a_result_is_a_row_with_its_system_share_seed_and_learning_rate(run: Path) -> None:
    assert columns(opened(run)) == {
        "system": "ours", "dataset": "idrid", "task": "grade", "protocol": "finetune",
        "fraction": 0.1, "seed": 1.0, "recipe": "paper", "lr": 5e-4, "test_images": 200.0,
        "test_images_in_pretraining": "not known",
    }  # fmt: skip


def test_a_pr_curve_counts_the_images_above_each_threshold(run: Path) -> None:
    found, events = measured(), opened(run)
    (event,) = events.Tensors("idrid grade/mild")
    curve = tensor_util.make_ndarray(event.tensor_proto)  # tp, fp, tn, fn, precision, recall
    called_B = np.floor(found.probability_BY[:, 1] * 126) >= 63
    is_B = found.label_B == 1
    counts = [called_B & is_B, called_B & ~is_B, ~called_B & ~is_B, ~called_B & is_B]
    assert curve[:4, 63].tolist() == [count_B.sum() for count_B in counts]
    assert {f"idrid grade/{name}" for name in CLASSES} <= set(events.Tags()["tensors"])


def test_a_class_without_images_or_training_has_no_curve(tmp_path: Path) -> None:
    found = measured()
    kept = found.label_B != 2
    keys = [key for key, keeps in zip(found.keys, kept, strict=True) if keeps]
    units = [unit for unit, keeps in zip(found.units, kept, strict=True) if keeps]
    fewer = found._replace(
        keys=keys, units=units, label_B=found.label_B[kept],
        probability_BY=found.probability_BY[kept], untrained=(0,),
    )  # fmt: skip
    scored(tmp_path / "run", fewer)
    write_board(tmp_path / "run")
    tags = opened(tmp_path / "run").Tags()["tensors"]
    assert [tag for tag in tags if tag.startswith("idrid grade/")] == [
        "idrid grade/mild", "idrid grade/confusion",
    ]  # fmt: skip


def test_the_confusion_matrix_has_true_classes_in_rows() -> None:
    label_B = np.array([0, 0, 1])
    probability_BY = np.array([[0.9, 0.1], [0.2, 0.8], [0.3, 0.7]])
    assert confusion(2, label_B, probability_BY).tolist() == [[1, 1], [0, 1]]


@pytest.mark.parametrize("classes", [2, 39])
def test_the_picture_of_a_matrix_is_as_large_as_it_says(classes: int) -> None:
    png, size = confusion_png(np.eye(classes, dtype=int), ["a name of a class " * 5] * classes)
    assert Image.open(io.BytesIO(png)).size == size


def test_the_same_command_again_writes_nothing(run: Path) -> None:
    before = files(run)
    write_board(run)
    assert files(run) == before
    assert len(before) == 1


def test_a_result_that_changed_replaces_its_file(run: Path) -> None:
    before = files(run)
    scored(run, measured(skill=3.0))
    write_board(run)
    assert len(files(run)) == 1
    assert not files(run).keys() & before.keys()
    values = [row["value"] for row in read_rows(run) if row["metric"] == "auroc"]
    assert [number(opened(run), "auroc")] == [np.float32(value) for value in values]


@pytest.mark.parametrize("kept", [0, 400])
def test_a_damaged_file_is_written_again(run: Path, kept: int) -> None:
    ((name, (content, _)),) = files(run).items()
    path = run / "results" / NAME / name
    path.write_bytes(content[:kept])
    write_board(run)
    assert len(files(run)) == 1
    assert number(opened(run), "auroc") > 0.5


def test_a_result_that_is_gone_is_shown_no_longer(run: Path) -> None:
    (run / "results.jsonl").write_text("")
    write_board(run)
    assert files(run) == {}


def test_damaged_predictions_are_named_and_the_others_shown(
    run: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.rmtree(run / "results")
    path = run / read_rows(run)[0]["predictions"]
    path.write_text("id,label\n")
    with caplog.at_level(logging.WARNING):
        write_board(run)
    assert path.name in caplog.text
    assert "TensorBoard does not show it" in caplog.text
    assert files(run) == {}


def test_a_full_disk_costs_the_board_and_not_the_run(
    run: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.rmtree(run / "results")
    (run / "results").write_text("a file in the way")
    write_board(run)
    assert "TensorBoard does not show all results (Not a directory)" in caplog.text


def test_a_fine_tuning_and_an_evaluation_write_theirs(tmp_path: Path) -> None:
    two_colours(tmp_path / "colours")
    config = replace(config_of(tmp_path), epochs=1, warmup_epochs=0)
    run = finetune(config)
    datasets = [(tmp_path / "colours", "")]
    evaluate(run, datasets, ("logistic",), run, fractions=(0.5, 1.0), seeds=2, threads=0)
    shown = {path.name for path in (run / "results").iterdir()}
    assert shown == {
        "finetune", "colours-colour-logistic-0.5-seed0", "colours-colour-logistic-0.5-seed1",
        "colours-colour-logistic-1-seed0",
    }  # fmt: skip
    before = files(run)
    finetune(config)  # finished: not run again
    assert files(run) == before
    assert {"lr": 1e-3, "layer_decay": 0.9, "size": "micro"}.items() <= columns(opened(run)).items()
