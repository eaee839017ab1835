"""Scores equal scikit-learn's where it has an answer, and say what they left out elsewhere."""

from typing import Any

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from maskedclip.eval.resampling import _auroc, _average_precision
from maskedclip.eval.results import (
    IDENTITY,
    read_predictions,
    read_rows,
    row,
    table,
    write_predictions,
    write_rows,
)
from maskedclip.eval.scores import macro, score
from maskedclip.eval.zeroshot import categories


def example(images: int = 60, classes: int = 4, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    label_B = generator.integers(0, classes, images)
    # rounded, so that there are ties
    raw_BY = generator.random((images, classes)).round(1) + 0.5 * np.eye(classes)[label_B] + 0.1
    return label_B, raw_BY / raw_BY.sum(axis=1, keepdims=True)


def rows_of(value: float, **changes: Any) -> dict[str, Any]:
    identity = dict.fromkeys(IDENTITY, "a") | {"fraction": 1.0, "seed": 0, "metric": "auroc"}
    label_B, probability_BY = example()
    found = row(identity | changes, score("auroc", label_B, probability_BY), ["a", "b", "c", "d"])
    return found | {"value": value}


def test_macro_scores_are_retfounds_calls_of_scikit_learn() -> None:
    label_B, probability_BY = example()
    onehot_BY = np.eye(4)[label_B]
    auroc = roc_auc_score(onehot_BY, probability_BY, multi_class="ovr", average="macro")
    assert macro("auroc", label_B, probability_BY) == (pytest.approx(auroc, abs=1e-12), [])
    precision = average_precision_score(onehot_BY, probability_BY, average="macro")
    found, _ = macro("average_precision", label_B, probability_BY)
    assert found == pytest.approx(precision, abs=1e-12)


def test_a_pair_counted_by_hand_gives_the_auroc() -> None:
    label_B = np.array([0, 0, 1, 1])
    second_B = np.array([0.1, 0.4, 0.4, 0.9])  # pairs: won, won, tied, won
    probability_BY = np.stack([1 - second_B, second_B], axis=1)
    assert macro("auroc", label_B, probability_BY)[0] == pytest.approx(3.5 / 4)


@pytest.mark.parametrize("metric", ["auroc", "average_precision"])
def test_a_class_absent_from_the_labels_is_left_out_and_named(metric: str) -> None:
    label_B, probability_BY = example()
    kept_B = label_B != 2
    label_B, probability_BY = label_B[kept_B], probability_BY[kept_B]
    point = {"auroc": roc_auc_score, "average_precision": average_precision_score}[metric]
    by_hand = np.mean([point(label_B == y, probability_BY[:, y]) for y in (0, 1, 3)])
    assert macro(metric, label_B, probability_BY) == (pytest.approx(by_hand), [2])
    assert score(metric, label_B, probability_BY).absent == [2]


def test_labels_of_one_class_and_values_that_are_not_finite_are_refused() -> None:
    label_B, probability_BY = example()
    with pytest.raises(ValueError, match="two classes are needed"):
        macro("auroc", np.zeros_like(label_B), probability_BY)
    probability_BY[0, 0] = np.nan
    with pytest.raises(ValueError, match="not finite"):
        macro("auroc", label_B, probability_BY)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (_auroc, roc_auc_score),
        (_average_precision, average_precision_score),
    ],
)
def test_a_bootstrap_resample_scores_as_scikit_learn_with_those_images(
    ours: Any, theirs: Any
) -> None:
    label_B, probability_BY = example()
    generator = np.random.default_rng(1)
    weight_RB = generator.integers(0, 4, (5, len(label_B)))
    found_R = ours(label_B == 1, probability_BY[:, 1], weight_RB)
    for weight_B, found in zip(weight_RB, found_R, strict=True):
        again_B = np.repeat(np.arange(len(label_B)), weight_B)
        assert found == pytest.approx(theirs(label_B[again_B] == 1, probability_BY[again_B, 1]))


def test_the_interval_holds_the_value_and_repeats_itself() -> None:
    label_B, probability_BY = example()
    found = score("auroc", label_B, probability_BY)
    assert found.low < found.value < found.high
    assert found == score("auroc", label_B, probability_BY)


def test_the_interval_is_wider_when_the_images_of_a_patient_go_together() -> None:
    label_B, probability_BY = example(images=40)
    label_B, probability_BY = np.tile(label_B, 5), np.tile(probability_BY, (5, 1))
    patients = [str(i % 40) for i in range(200)]  # five copies of each image
    alone = score("auroc", label_B, probability_BY)
    together = score("auroc", label_B, probability_BY, patients)
    assert together.value == alone.value
    assert together.high - together.low > 1.5 * (alone.high - alone.low)


def test_a_row_takes_the_place_of_the_same_measurement(tmp_path: Any) -> None:
    write_rows(tmp_path, [rows_of(0.1), rows_of(0.2, seed=1)])
    write_rows(tmp_path, [rows_of(0.3), rows_of(0.4, task="b")])
    found = {(r["seed"], r["task"]): r["value"] for r in read_rows(tmp_path)}
    assert found == {(1, "a"): 0.2, (0, "a"): 0.3, (0, "b"): 0.4}
    assert len(read_rows(tmp_path)) == 3


def test_the_table_shows_a_missing_metric_as_missing() -> None:
    line = table([rows_of(0.5)]).splitlines()[1]
    assert "50.0 [" in line
    assert " - " in line


def test_predictions_come_back_as_they_were(tmp_path: Any) -> None:
    label_B, probability_BY = example()
    keys = [f"key{i}" for i in range(len(label_B))]
    classes = ["a", "b, c", "d", "e"]
    write_predictions(tmp_path / "p.csv", classes, keys, label_B, probability_BY)
    found = read_predictions(tmp_path / "p.csv")
    assert found[:2] == (keys, classes)
    np.testing.assert_array_equal(found[2], label_B)
    np.testing.assert_array_equal(found[3], probability_BY)


def test_grades_are_called_by_their_names_and_other_classes_as_they_are() -> None:
    assert categories("diabetic_retinopathy", ["0", "4"]) == [
        "no diabetic retinopathy",
        "proliferative diabetic retinopathy",
    ]
    assert categories("disease", ["glaucoma", "normal"]) == ["glaucoma", "normal"]
    assert categories("disease", ["x"], {"x": "cataract"}) == ["cataract"]
