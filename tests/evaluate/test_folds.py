"""Cross-validation by patient: every image is tested once, and one value is of all of them."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from maskedclip.data.folds import folds_line, folds_of
from maskedclip.data.labelled import labelled
from maskedclip.data.storage.shards import Shards, ShardWriter
from maskedclip.evaluate.protocols import evaluate
from maskedclip.finetune.command import read_evaluate
from maskedclip.metrics.results import read_predictions, read_rows, recomputed
from maskedclip.report.collect import collect
from maskedclip.shards.building.prepare_sample import encode
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


def test_what_folds_cannot_do_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = dataset(tmp_path / "clinic")
    for words, said in (
        (["--folds=1"], "folds 1: use 2 or more"),
        (["--folds=5", "--at_sensitivity=0.9"], "folds 5 with at_sensitivity"),
        (["--folds=5", "--shots=1"], "folds 5 with shots"),
    ):
        with pytest.raises(SystemExit):
            read_evaluate("", ["random", f"--datasets={data}", *words])
        assert said in capsys.readouterr().err
    with pytest.raises(ValueError, match="there are 45 patients; use fewer folds"):
        folds_of(labelled(Shards(data)), 60)
