"""Frozen protocols on several labels an image, and on numbers."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import f1_score, mean_absolute_error, roc_auc_score
from sklearn.preprocessing import StandardScaler

from maskedclip.data.captions import prompts
from maskedclip.data.labelled import labelled
from maskedclip.data.splits import division_of, few_shots
from maskedclip.data.storage.shards import Shards
from maskedclip.evaluate.predicting import Benchmark, absence, class_prompts
from maskedclip.evaluate.protocols import evaluate
from maskedclip.metrics import probes
from maskedclip.metrics.prediction_files import read_predictions, read_test_split
from maskedclip.metrics.results import read_rows
from maskedclip.metrics.scores import LABELS_METRICS, NUMBER_METRICS
from tests.kinds_of_tasks import write_ages, write_findings
from tests.untrained import exported


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("root")
    write_findings(directory / "findings")
    write_ages(directory / "ages")
    exported(directory / "ours")
    return directory


def by_protocol(rows: list[dict[str, Any]], metric: str) -> dict[str, dict[str, Any]]:
    return {row["protocol"]: row for row in rows if row["metric"] == metric}


def test_every_protocol_scores_several_labels_an_image(root: Path) -> None:
    out = root / "labels"
    protocols = ("logistic", "linear", "knn", "zeroshot")
    rows = evaluate(root / "ours", [(root / "findings", "")], protocols, out, shots=(4,))
    auroc = by_protocol(rows, "auroc")
    assert set(auroc) == {*protocols, "4-shot"}
    for protocol in ("logistic", "linear", "knn", "4-shot"):
        row = auroc[protocol]
        assert row["value"] > 0.8
        assert "validation AUROC" in row["chosen"]
        found, classes = read_test_split(out / row["predictions"], "labels")
        assert classes == ["N", "D", "G"]
        expected = roc_auc_score(found.label_B, found.probability_BY, average="macro")
        assert row["value"] == pytest.approx(expected)
        called = found.probability_BY >= np.array(row["thresholds"])
        f1 = by_protocol(rows, "macro_f1")[protocol]["value"]
        assert f1 == pytest.approx(f1_score(found.label_B, called, average="macro"))
    assert {row["metric"] for row in rows} == set(LABELS_METRICS)
    assert {row["kind"] for row in rows} == {"labels"}
    # what is stored is not measured again
    before = read_rows(out)
    assert evaluate(root / "ours", [(root / "findings", "")], protocols, out, shots=(4,)) == before


def test_zero_shot_holds_each_label_against_its_absence(root: Path) -> None:
    assert absence("glaucoma") == "no glaucoma"
    assert absence("normal") == "a disease"
    assert absence("pathologic myopia") == "normal"  # the dictionary has no word for its absence
    shards = Shards(root / "findings")
    task = labelled(shards)
    of_task = class_prompts(Benchmark(shards, task, division_of(shards, task)))
    named = ["normal", "diabetic retinopathy", "glaucoma"]
    assert of_task[:3] == [prompts(name) for name in named]
    assert of_task[3:] == [prompts(absence(name)) for name in named]
    rows = evaluate(root / "ours", [(root / "findings", "")], ("zeroshot",), root / "zeroshot")
    _, _, _, probability_BY = read_predictions(root / "zeroshot" / rows[0]["predictions"], "labels")
    assert ((probability_BY > 0) & (probability_BY < 1)).all()
    assert not np.allclose(probability_BY.sum(axis=1), 1)
    assert len(rows[0]["thresholds"]) == 3


def test_zero_shot_leaves_out_a_label_that_no_words_stand_for(tmp_path: Path) -> None:
    labels = {"N": "normal", "D": "diabetic retinopathy", "G": "other"}
    write_findings(tmp_path / "findings", labels=labels)
    exported(tmp_path / "ours")
    out = tmp_path / "out"
    (row, *_) = evaluate(tmp_path / "ours", [(tmp_path / "findings", "")], ("zeroshot",), out)
    assert row["untrained"] == ["G"]
    assert row["note"] == "the expert dictionary has no words for G: left out"
    found, _ = read_test_split(out / row["predictions"], "labels")
    expected = roc_auc_score(found.label_B[:, :2], found.probability_BY[:, :2], average="macro")
    assert row["value"] == pytest.approx(expected)


def test_one_penalty_serves_all_labels_and_a_label_without_training_images_is_left_out() -> None:
    generator = np.random.default_rng(0)
    label_BY = (generator.random((120, 3)) < 0.4).astype(np.int64)
    feature_BD = (label_BY @ generator.standard_normal((3, 8)) * 0.7).astype(np.float32)
    feature_BD += generator.standard_normal((120, 8)).astype(np.float32)
    label_BY[:40, 2] = 0  # of training
    parts = [(feature_BD[a:b], label_BY[a:b]) for a, b in ((0, 40), (40, 80), (80, 120))]
    found = probes.logistic(parts[0], parts[1], parts[2][0], 3)
    scaler = StandardScaler().fit(parts[0][0])
    validation, test = {}, {}
    for strength in probes.STRENGTHS:
        models = [
            LogisticRegression(C=strength, max_iter=2000).fit(
                scaler.transform(parts[0][0]), parts[0][1][:, y]
            )
            for y in (0, 1)
        ]
        own = [
            np.stack([m.predict_proba(scaler.transform(rows))[:, 1] for m in models], axis=1)
            for rows in (parts[1][0], parts[2][0])
        ]
        validation[strength] = roc_auc_score(parts[1][1][:, :2], own[0], average="macro")
        test[strength] = own[1]
    best = max(validation, key=lambda strength: validation[strength])
    assert found.chosen == f"C={best:g}"
    assert found.validation_score == pytest.approx(validation[best])
    np.testing.assert_allclose(found.probability_BY[:, :2], test[best])
    assert not found.probability_BY[:, 2].any()
    assert found.thresholds[2] == 0.5


def test_few_shots_are_the_first_images_of_each_label_and_nested(root: Path) -> None:
    shards = Shards(root / "findings")
    task = labelled(shards)
    division = division_of(shards, task)
    few, more = ({s.key for s in few_shots(division, k, 0)} for k in (2, 5))
    assert few < more
    chosen = [s for s in division.parts["train"] if s.key in more]
    assert all(sum(label in s.labels for s in chosen) >= 5 for label in range(3))


def test_ridge_and_neighbours_predict_numbers(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    out = root / "numbers"
    rows = evaluate(root / "ours", [(root / "ages", "")], ("logistic", "knn", "zeroshot"), out,
                    shots=(4,))  # fmt: skip
    assert {row["metric"] for row in rows} == set(NUMBER_METRICS)
    mae = by_protocol(rows, "mae")
    assert set(mae) == {"ridge", "knn"}
    assert "age is a number: zeroshot, 4-shot left out" in caplog.text
    for row in mae.values():
        found, classes = read_test_split(out / row["predictions"], "number")
        assert classes == ["age"]
        expected = mean_absolute_error(found.label_B, found.probability_BY[:, 0])
        assert row["value"] == pytest.approx(expected)
        assert row["value"] < 3  # of 40 years
        assert "validation MAE" in row["chosen"]
    with pytest.raises(ValueError, match="age is a number: zeroshot tell classes apart"):
        evaluate(root / "ours", [(root / "ages", "")], ("zeroshot",), out)


def test_the_penalty_of_ridge_is_of_the_lowest_validation_error() -> None:
    generator = np.random.default_rng(0)
    feature_BD = generator.standard_normal((90, 20)).astype(np.float32)
    value_B = 60 + feature_BD @ generator.standard_normal(20) + 4 * generator.standard_normal(90)
    train, validation = ((feature_BD[a:b], value_B[a:b]) for a, b in ((0, 30), (30, 60)))
    found = probes.ridge(train, validation, feature_BD[60:])
    scaler = StandardScaler().fit(train[0])
    errors = {
        alpha: mean_absolute_error(
            validation[1],
            Ridge(alpha).fit(scaler.transform(train[0]), train[1]).predict(
                scaler.transform(validation[0])
            ),
        )
        for alpha in probes.ALPHAS
    }  # fmt: skip
    best = min(errors, key=lambda alpha: errors[alpha])
    assert found.chosen == f"alpha={best:g}"
    assert found.validation_score == pytest.approx(errors[best], rel=1e-5)
