"""Cross-validation by patient: every image is tested once, and one value is of all of them."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import (
    average_precision_score,
    balanced_accuracy_score,
    cohen_kappa_score,
    f1_score,
    mean_absolute_error,
    roc_auc_score,
)

from maskedclip.data.folds import folds_line, folds_of
from maskedclip.data.labelled import Task, labelled
from maskedclip.data.storage.shards import Shards, ShardWriter
from maskedclip.evaluate.protocols import evaluate
from maskedclip.metrics.class_groups import group_of, grouped
from maskedclip.metrics.pooled_folds import of_folds, with_spread
from maskedclip.metrics.prediction_files import Predictions, read_predictions
from maskedclip.metrics.results import predictions_of, read_rows, recomputed
from maskedclip.report.collect import collect
from maskedclip.shards.building.prepare_sample import encode
from tests.kinds_of_tasks import write_ages
from tests.untrained import exported

CLASSES = ("mild", "none", "severe")


def dataset(directory: Path, published: int = 0) -> Path:
    """Write 90 images of 45 patients in three colours, so many of them in a published test."""
    generator = np.random.default_rng(0)
    with ShardWriter(directory, "clinic") as writer:
        for i in range(90):
            image_HWC = generator.integers(0, 150, (40, 40, 3), dtype=np.uint8)
            image_HWC[..., i // 2 % 3] += 2
            facts = {
                "labels": {"dr": CLASSES[i // 2 % 3]},
                "split": ("test" if i < published else "train") if published else None,
                "patient": f"p{i // 2}",
                "sha256": str(i),
            }
            writer.add(f"s{i:03d}", encode(image_HWC, 90), facts)
    return directory


def test_each_image_is_tested_once_by_a_fold_that_saw_no_image_of_its_patient(
    tmp_path: Path,
) -> None:
    task = labelled(Shards(dataset(tmp_path / "clinic")))
    folds = folds_of(task, 5)
    tested = Counter(sample.key for parts in folds for sample in parts["test"])
    assert tested == Counter({sample.key: 1 for sample in task.samples})
    for parts in folds:
        patients = [{sample.patient for sample in samples} for samples in parts.values()]
        assert sum(map(len, patients)) == len(set.union(*patients)) == 45
        assert Counter(s.label for s in parts["test"]) == {0: 6, 1: 6, 2: 6}  # stratified
    assert folds_of(task, 5) == folds


def test_a_published_test_split_takes_no_part_and_that_is_said(tmp_path: Path) -> None:
    task = labelled(Shards(dataset(tmp_path / "clinic", published=30)))
    tested = {sample.key for parts in folds_of(task, 3) for sample in parts["test"]}
    every = {s.key for parts in folds_of(task, 3) for samples in parts.values() for s in samples}
    assert len(tested) == len(every) == 60
    assert "3 folds of 60 images" in folds_line(task, 3)
    assert "the 30 images of the published test split take no part" in folds_line(task, 3)


def test_the_pooled_value_is_of_all_images_and_no_row_is_mixed_with_the_splits(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, data = tmp_path / "ours", dataset(tmp_path / "clinic")
    exported(run)
    evaluate(run, [(data, "")], ["logistic"], run)
    capsys.readouterr()
    evaluate(run, [(data, "")], ["logistic"], run, folds=5)
    text = capsys.readouterr().out
    assert "logistic, 5 folds  100%" in text
    assert "clinic dr logistic, 5 folds, AUROC pooled over 5 folds; by themselves " in text
    rows = {(row["protocol"], row["metric"]): row for row in read_rows(run)}
    row = rows["logistic, 5 folds", "auroc"]
    assert (row["n"], row["folds"], rows["logistic", "auroc"]["n"]) == (90, 5, 30)
    _, _, label_B, probability_BY = read_predictions(run / row["predictions"])
    expected = [roc_auc_score(label_B == y, probability_BY[:, y]) for y in range(3)]
    assert row["value"] == pytest.approx(np.mean(expected))
    assert recomputed(run, row).value == row["value"]
    assert row["low"] < row["value"] < row["high"]
    assert len(row["fold_values"]) == 5
    assert row["patients"] == 45
    for protocol in ("logistic", "logistic, 5 folds"):
        (result,) = collect([run], protocol).results
        assert result.protocol == protocol
    before = (run / "results.jsonl").read_bytes()
    evaluate(run, [(data, "")], ["logistic"], run, folds=5)  # it is there
    assert (run / "results.jsonl").read_bytes() == before


def test_joined_classes_have_pooled_values_too_and_no_threshold(tmp_path: Path) -> None:
    run, data = tmp_path / "ours", dataset(tmp_path / "clinic")
    exported(run)
    rows = evaluate(run, [(data, "")], ["knn"], run, folds=3, group="none|mild,severe")
    joined = {row["metric"]: row for row in rows if row["task"].startswith("dr (")}
    assert joined["auroc"]["n"] == 90
    assert "sensitivity" not in joined


def in_each_fold(run: Path, row: dict[str, Any], task: Task, folds: int) -> list[tuple[Any, Any]]:
    """Return labels and probabilities of a row's predictions, found for each fold by their ids."""
    keys, _, label_B, probability_BY = read_predictions(run / row["predictions"])
    tests = [{sample.key for sample in parts["test"]} for parts in folds_of(task, folds)]
    own = [[i for i, key in enumerate(keys) if key in test] for test in tests]
    return [(label_B[i], probability_BY[i]) for i in own]


def scikit_learns(label_B: np.ndarray, probability_BY: np.ndarray) -> dict[str, float]:
    called_B, classes = probability_BY.argmax(1), range(probability_BY.shape[1])
    one = [(label_B == y, probability_BY[:, y]) for y in classes]
    return {
        "auroc": float(np.mean([roc_auc_score(*pair) for pair in one])),
        "average_precision": float(np.mean([average_precision_score(*pair) for pair in one])),
        "quadratic_kappa": cohen_kappa_score(label_B, called_B, weights="quadratic"),
        "macro_f1": f1_score(label_B, called_B, average="macro", labels=classes, zero_division=0),
        "balanced_accuracy": balanced_accuracy_score(label_B, called_B),
    }


@pytest.mark.parametrize("group", ["none|mild,severe", "none|severe"])
def test_values_of_folds_are_of_the_rows_own_metric_and_of_its_joined_classes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], group: str
) -> None:
    run, data = tmp_path / "ours", dataset(tmp_path / "clinic")
    exported(run)
    task = labelled(Shards(data))
    evaluate(run, [(data, "")], ["logistic"], run, folds=3, group=group)
    shown = capsys.readouterr().out
    for name in ("dr", f"dr ({group})"):
        rows = {row["metric"]: row for row in read_rows(run) if row["task"] == name}
        folds = in_each_fold(run, rows["auroc"], task, 3)
        expected = [scikit_learns(*fold) for fold in folds]
        for metric in expected[0]:
            values = [own[metric] for own in expected]
            assert rows[metric]["fold_values"] == pytest.approx(values), (name, metric)
        each = ", ".join(f"{100 * own['auroc']:.1f}" for own in expected)
        deviation = 100 * np.std([own["auroc"] for own in expected], ddof=1)
        words = f"by themselves {each}, standard deviation {deviation:.1f}"
        assert f"clinic {name} logistic, 3 folds, AUROC pooled over 3 folds; {words}." in shown
        assert rows["auroc"]["note"].endswith(words)


def test_rows_of_before_are_replaced(tmp_path: Path) -> None:
    run, data = tmp_path / "ours", dataset(tmp_path / "clinic")
    exported(run)
    evaluate(run, [(data, "")], ["knn"], run, folds=2, group="none|mild,severe")
    rows = read_rows(run)
    older = [row | {"fold_values": [0.123] * 2} for row in rows]
    for row in older:
        del row["fold_images"]
    (run / "results.jsonl").write_text("".join(json.dumps(row) + "\n" for row in older))
    evaluate(run, [(data, "")], ["knn"], run, folds=2, group="none|mild,severe")
    assert read_rows(run) == rows


def test_a_metric_without_a_value_has_none_of_a_fold_nor_has_a_fold_without_images() -> None:
    probability_BY = np.array([[0.7, 0.3, 0.0], [0.2, 0.6, 0.2], [0.1, 0.1, 0.8], [0.2, 0.2, 0.6]])
    every = Predictions(list("abcd"), list("abcd"), np.array([0, 1, 2, 2]), probability_BY)
    row = {"fold_images": [2, 2], "fold_untrained": [["severe"], []]}
    names = ["none", "mild", "severe"]
    first, second = of_folds(row, every, names)
    assert (first.keys, first.untrained, second.keys) == (["a", "b"], (2,), ["c", "d"])
    tests = [grouped(one, group_of("none|mild", names)) for one in (first, second)]
    empty = {"metric": "quadratic_kappa", "value": None, "note": "no order"}
    assert with_spread(empty, tests, ["none", "mild"]) == empty | {"fold_images": [2, 0]}
    found = with_spread(empty | {"metric": "auroc", "value": 1.0}, tests, ["none", "mild"])
    assert found["fold_values"] == [1.0, None]


def test_numbers_print_the_folds_below_the_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, data = tmp_path / "ours", write_ages(tmp_path / "ages")
    exported(run)
    evaluate(run, [(data, "")], ["ridge"], run, folds=2)
    shown = capsys.readouterr().out
    (row,) = [row for row in read_rows(run) if row["metric"] == "mae"]
    found, _ = predictions_of(run, row)
    tests = [
        {sample.key for sample in parts["test"]} for parts in folds_of(labelled(Shards(data)), 2)
    ]
    own = [[i for i, key in enumerate(found.keys) if key in test] for test in tests]
    errors = [mean_absolute_error(found.label_B[i], found.probability_BY[i, 0]) for i in own]
    assert row["fold_values"] == pytest.approx(errors)
    each = f"{errors[0]:.3f}, {errors[1]:.3f}, standard deviation {np.std(errors, ddof=1):.3f}"
    assert f"ages age ridge, 2 folds, MAE pooled over 2 folds; by themselves {each}." in shown
