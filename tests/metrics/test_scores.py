"""Scores equal scikit-learn's where it has an answer, and say what they left out elsewhere."""

from typing import Any

import numpy as np
import pytest
from sklearn.metrics import (
    average_precision_score,
    balanced_accuracy_score,
    cohen_kappa_score,
    f1_score,
    recall_score,
    roc_auc_score,
)

from maskedclip.data.captions import class_categories
from maskedclip.metrics.scores import (
    METRICS,
    NEED_TWO_CLASSES,
    draws,
    macro,
    point,
    resampled,
    score,
)


def example(images: int = 60, classes: int = 4, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    label_B = generator.integers(0, classes, images)
    # rounded, so that there are ties
    raw_BY = generator.random((images, classes)).round(1) + 0.5 * np.eye(classes)[label_B] + 0.1
    return label_B, raw_BY / raw_BY.sum(axis=1, keepdims=True)


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


@pytest.mark.parametrize("classes", [2, 5])
def test_scores_of_the_likeliest_class_are_scikit_learns(classes: int) -> None:
    label_B, probability_BY = example(classes=classes)
    called_B = probability_BY.argmax(axis=1)
    expected = {
        "quadratic_kappa": cohen_kappa_score(label_B, called_B, weights="quadratic"),
        "macro_f1": f1_score(label_B, called_B, average="macro"),
        "balanced_accuracy": balanced_accuracy_score(label_B, called_B),
    }
    for metric, value in expected.items():
        assert point(metric, label_B, probability_BY) == (pytest.approx(value, abs=1e-12), [])


def test_calibration_error_is_counted_by_hand() -> None:
    label_B = np.array([0, 0, 1, 1, 0])
    first_B = np.array([0.9, 0.9, 0.9, 0.41, 0.59])
    # bin (0.867, 0.933]: 3 images, 2 right, said 0.9; bin (0.533, 0.6]: 2 images, 2 right, 0.59
    by_hand = 3 / 5 * abs(2 / 3 - 0.9) + 2 / 5 * abs(1 - 0.59)
    probability_BY = np.stack([first_B, 1 - first_B], axis=1)
    assert macro("calibration_error", label_B, probability_BY)[0] == pytest.approx(by_hand)


def test_a_confidence_on_the_edge_of_two_bins_is_in_the_lower_one() -> None:
    label_B = np.array([0, 1])
    probability_BY = np.array([[0.6, 0.4], [0.61, 0.39]])  # edges at 0.6 and 0.667
    by_hand = 0.5 * 0.4 + 0.5 * 0.61  # in one bin it would be |0.5 - 0.605|
    assert macro("calibration_error", label_B, probability_BY)[0] == pytest.approx(by_hand)


def test_certain_and_right_is_calibrated_and_certain_and_wrong_is_not() -> None:
    label_B = np.array([0, 1, 1])
    assert macro("calibration_error", label_B, np.eye(2)[label_B])[0] == 0
    assert macro("calibration_error", label_B, np.eye(2)[1 - label_B])[0] == 1


def without(label: int) -> tuple[np.ndarray, np.ndarray]:
    label_B, probability_BY = example()
    return label_B[label_B != label], probability_BY[label_B != label]


@pytest.mark.parametrize("metric", ["auroc", "average_precision"])
def test_a_class_absent_from_the_labels_is_left_out_and_named(metric: str) -> None:
    label_B, probability_BY = without(2)
    one = {"auroc": roc_auc_score, "average_precision": average_precision_score}[metric]
    by_hand = np.mean([one(label_B == y, probability_BY[:, y]) for y in (0, 1, 3)])
    assert macro(metric, label_B, probability_BY) == (pytest.approx(by_hand), [2])
    assert score(metric, label_B, probability_BY).absent == [2]


def test_f1_and_recall_are_of_the_classes_that_have_images() -> None:
    label_B, probability_BY = without(2)
    called_B = probability_BY.argmax(axis=1)
    assert 2 in called_B
    for metric, one in (("macro_f1", f1_score), ("balanced_accuracy", recall_score)):
        by_hand = one(label_B, called_B, labels=[0, 1, 3], average="macro")
        assert point(metric, label_B, probability_BY) == (pytest.approx(by_hand), [2])


def test_kappa_counts_steps_of_the_grades_also_where_one_has_no_image() -> None:
    label_B = np.array([0, 0, 3, 3])
    probability_BY = np.eye(4)[[0, 3, 3, 1]]
    expected = cohen_kappa_score(label_B, [0, 3, 3, 1], labels=range(4), weights="quadratic")
    assert point("quadratic_kappa", label_B, probability_BY)[0] == pytest.approx(expected)


@pytest.mark.parametrize("metric", METRICS)
def test_labels_of_one_class_have_a_score_or_none_but_no_crash(metric: str) -> None:
    _, probability_BY = example()
    label_B = np.zeros(len(probability_BY), dtype=int)
    found = score(metric, label_B, probability_BY)
    assert found.absent == [1, 2, 3]
    assert (found.value is None) == (metric in NEED_TWO_CLASSES)
    assert (found.low is None) == (found.value is None)


def test_what_cannot_be_scored_is_refused() -> None:
    label_B, probability_BY = example()
    with pytest.raises(ValueError, match="two classes are needed"):
        macro("auroc", np.zeros_like(label_B), probability_BY)
    with pytest.raises(ValueError, match="no image"):
        score("auroc", label_B[:0], probability_BY[:0])
    probability_BY[0, 0] = np.nan
    with pytest.raises(ValueError, match="not finite"):
        macro("auroc", label_B, probability_BY)


@pytest.mark.parametrize("metric", METRICS)
def test_a_resample_scores_as_a_test_split_of_those_images(metric: str) -> None:
    label_B, probability_BY = example()
    weight_BR = np.random.default_rng(1).integers(0, 4, (len(label_B), 6)).astype(float)
    weight_BR[label_B == 1, 0] = 0  # a class that was not drawn
    found_R = resampled(metric, label_B, probability_BY, weight_BR)
    for weight_B, found in zip(weight_BR.T, found_R, strict=True):
        again_B = np.repeat(np.arange(len(label_B)), weight_B.astype(int))
        expected, _ = point(metric, label_B[again_B], probability_BY[again_B])
        assert found == pytest.approx(expected, abs=1e-12)


def test_a_resample_of_one_class_has_no_value_where_two_are_needed() -> None:
    label_B, probability_BY = example()
    weight_BR = (label_B == 0)[:, None].astype(float)
    for metric in METRICS:
        undefined = np.isnan(resampled(metric, label_B, probability_BY, weight_BR)[0])
        assert undefined == (metric in NEED_TWO_CLASSES)


def test_images_of_a_patient_are_drawn_together_and_patients_as_often_as_there_are() -> None:
    units = ["b", "a", "b", "c"]
    (weight_BR,) = draws(units, 4, seed=0, resamples=50)
    assert weight_BR.shape == (4, 50)
    np.testing.assert_array_equal(weight_BR[0], weight_BR[2])
    np.testing.assert_array_equal(weight_BR[[0, 1, 3]].sum(axis=0), np.full(50, 3))


@pytest.mark.parametrize("metric", METRICS)
def test_the_interval_holds_the_value_and_repeats_itself(metric: str) -> None:
    label_B, probability_BY = example(images=200)
    found = score(metric, label_B, probability_BY)
    assert found.low is not None
    assert found.high is not None
    assert found.value is not None
    assert found.low <= found.value <= found.high
    assert found.low < found.high
    assert found == score(metric, label_B, probability_BY)


@pytest.mark.parametrize("metric", METRICS)
def test_the_interval_is_wider_when_the_images_of_a_patient_go_together(metric: str) -> None:
    label_B, probability_BY = example(images=40)
    label_B, probability_BY = np.tile(label_B, 5), np.tile(probability_BY, (5, 1))
    patients = [str(i % 40) for i in range(200)]  # five copies of each image
    alone = score(metric, label_B, probability_BY)
    together = score(metric, label_B, probability_BY, patients)
    assert together.value == alone.value
    assert width(together) > 1.5 * width(alone)


def width(found: Any) -> float:
    return found.high - found.low


def test_images_of_a_single_patient_have_a_value_but_no_interval() -> None:
    label_B, probability_BY = example()
    found = score("auroc", label_B, probability_BY, ["p"] * len(label_B))
    assert found[1:3] == (None, None)
    assert found.value == macro("auroc", label_B, probability_BY)[0]


def test_a_rare_class_does_not_lift_the_interval_of_average_precision() -> None:
    label_B, probability_BY = example(images=400)
    chance_BY = np.random.default_rng(3).permutation(probability_BY)
    rare_B = (label_B > 0) | (np.arange(400) < 20)  # of class 0 no more than a handful
    label_B, chance_BY = label_B[rare_B], chance_BY[rare_B]
    found = score("average_precision", label_B, chance_BY)
    (weight_BR,) = draws(None, len(label_B), seed=0, resamples=500)
    value_R = resampled("average_precision", label_B, chance_BY, weight_BR)
    assert found.value is not None
    assert found.low is not None
    assert value_R.mean() > found.value + 0.005
    low, high = np.percentile(value_R, [2.5, 97.5])
    assert found.low < low
    assert width(found) == pytest.approx(high - low)


@pytest.mark.slow
@pytest.mark.parametrize("metric", METRICS)
def test_ninety_five_of_a_hundred_intervals_hold_the_truth(metric: str) -> None:
    """Patients of two images of one class, whose scores differ more between than within them."""
    generator = np.random.default_rng(0)

    def drawn(patients: int) -> tuple[np.ndarray, np.ndarray, list[str]]:
        label_P = generator.choice(3, patients, p=[0.5, 0.3, 0.2])
        shared_PY = 2 * np.eye(3)[label_P] + generator.normal(size=(patients, 3))
        logit_BY = np.repeat(shared_PY, 2, axis=0) + 0.5 * generator.normal(size=(2 * patients, 3))
        probability_BY = np.exp(2 * logit_BY)  # too sure of itself
        probability_BY /= probability_BY.sum(axis=1, keepdims=True)
        return np.repeat(label_P, 2), probability_BY, [str(i // 2) for i in range(2 * patients)]

    truth, _ = macro(metric, *drawn(100_000)[:2])
    held = []
    for _ in range(200):
        found = score(metric, *drawn(150))
        assert found.low is not None
        assert found.high is not None
        held.append(found.low <= truth <= found.high)
    assert 0.89 < np.mean(held) <= 0.995, np.mean(held)  # 0.95 +- 4 standard errors, and small n


def test_grades_are_called_by_their_names_and_other_classes_as_they_are() -> None:
    assert class_categories("diabetic_retinopathy", ["0", "4"]) == [
        "no diabetic retinopathy",
        "proliferative diabetic retinopathy",
    ]
    assert class_categories("disease", ["glaucoma", "normal"]) == ["glaucoma", "normal"]
    assert class_categories("disease", ["x"], {"x": "cataract"}) == ["cataract"]


def test_a_class_without_training_images_takes_no_part_in_a_mean_over_classes() -> None:
    """Classes 0 and 1 are right in all images, class 2 was never trained: its AUROC is 50."""
    label_B = np.array([0, 0, 1, 1, 2, 2])
    probability_BY = np.array(
        [[0.9, 0.1, 0], [0.8, 0.2, 0], [0.1, 0.9, 0], [0.2, 0.8, 0], [0.6, 0.4, 0], [0.6, 0.4, 0]]
    )
    assert point("auroc", label_B, probability_BY)[0] == pytest.approx((1 + 1 + 0.5) / 3)
    assert point("auroc", label_B, probability_BY, [2]) == (1.0, [])
    assert point("average_precision", label_B, probability_BY, [2])[0] == 1.0
    # class 0: 2 of its 2 images, 4 predicted; class 1: 2 of 2, 2 predicted
    assert point("macro_f1", label_B, probability_BY, [2])[0] == pytest.approx((4 / 6 + 1) / 2)
    assert point("balanced_accuracy", label_B, probability_BY, [2])[0] == 1.0
    kappa = point("quadratic_kappa", label_B, probability_BY)[0]
    assert point("quadratic_kappa", label_B, probability_BY, [2])[0] == kappa
    assert score("auroc", label_B, probability_BY, untrained=[2]).untrained == [2]
    assert point("auroc", label_B, probability_BY, [0, 1, 2])[0] is None


def test_resamples_leave_out_the_same_classes_as_the_value() -> None:
    label_B, probability_BY = example()
    weight_BR = np.ones((len(label_B), 1))
    for metric in METRICS:
        again = resampled(metric, label_B, probability_BY, weight_BR, [1])
        assert again[0] == pytest.approx(point(metric, label_B, probability_BY, [1])[0])
