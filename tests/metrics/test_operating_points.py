"""Sensitivity and specificity: the threshold is validation's, the values are scikit-learn's."""

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix, precision_score, recall_score, roc_auc_score

from maskedclip.data.class_order import positive_of_two
from maskedclip.metrics.class_groups import group_of, grouped
from maskedclip.metrics.operating_points import at_threshold, chosen_threshold, operating_point
from maskedclip.metrics.prediction_files import Predictions
from maskedclip.metrics.scores import point


def drawn(seed: int, images: int, shift: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    positive_B = generator.random(images) < 0.3
    return positive_B, 1 / (1 + np.exp(-generator.normal(size=images) - shift * positive_B))


def units(images: int) -> list[str]:
    return [f"patient{i // 2}" for i in range(images)]


def test_youdens_threshold_is_the_best_of_all_by_hand() -> None:
    positive_B, probability_B = drawn(0, 80)

    def youden(threshold: float) -> float:
        called_B = probability_B >= threshold
        return called_B[positive_B].mean() + (~called_B[~positive_B]).mean()

    best = max(map(youden, probability_B))
    highest = max(t for t in probability_B if youden(t) > best - 1e-12)
    assert chosen_threshold(positive_B, probability_B) == highest


def test_a_stated_sensitivity_is_reached_on_validation_by_the_highest_threshold() -> None:
    positive_B, probability_B = drawn(1, 80)
    threshold = chosen_threshold(positive_B, probability_B, 0.9)
    assert (probability_B[positive_B] >= threshold).mean() >= 0.9
    above = probability_B[probability_B > threshold].min()
    assert (probability_B[positive_B] >= above).mean() < 0.9


def test_values_on_the_test_split_are_those_of_scikit_learn_at_that_threshold() -> None:
    validation, test = drawn(2, 90), drawn(3, 120)
    found = operating_point(validation, test, units(120))
    called_B = test[1] >= chosen_threshold(*validation)
    (true_negatives, _), _ = confusion_matrix(test[0], called_B)
    value = {name: one.value for name, one in found.scores.items()}
    assert value["sensitivity"] == pytest.approx(recall_score(test[0], called_B))
    assert value["specificity"] == pytest.approx(recall_score(test[0], called_B, pos_label=0))
    assert value["ppv"] == pytest.approx(precision_score(test[0], called_B))
    assert value["npv"] == pytest.approx(true_negatives / (~called_B).sum())
    assert (found.images, found.positives) == (90, int(validation[0].sum()))
    for one in found.scores.values():
        assert one.low is not None
        assert one.high is not None
        assert one.low < float(one.value or 0) < one.high


def test_test_images_choose_nothing() -> None:
    validation, test = drawn(2, 90), drawn(3, 120)
    other = operating_point(validation, (~test[0], 1 - test[1]), units(120))
    assert other.threshold == operating_point(validation, test, units(120)).threshold


def test_intervals_hold_the_truth_in_nine_of_ten_draws_of_patients() -> None:
    threshold, held = 0.5, 0
    everyone = drawn(4, 200_000)
    truth = (everyone[1][everyone[0]] >= threshold).mean()
    for seed in range(60):
        positive_B, probability_B = drawn(100 + seed, 160)
        one = at_threshold(positive_B, probability_B >= threshold, units(160))["sensitivity"]
        assert one.low is not None
        assert one.high is not None
        held += one.low <= truth <= one.high
    assert held >= 52


def test_of_all_right_the_interval_is_the_exact_binomial_one_of_patients() -> None:
    positive_B = np.array([True] * 20 + [False] * 20)
    found = at_threshold(positive_B, positive_B, units(40))
    assert found["sensitivity"].value == 1.0
    assert found["sensitivity"].low == pytest.approx(0.025 ** (1 / 10))  # Clopper and Pearson
    assert found["sensitivity"].high == 1.0
    none = at_threshold(positive_B, ~positive_B, units(40))["sensitivity"]
    assert (none.value, none.low) == (0.0, 0.0)
    assert none.high == pytest.approx(1 - 0.025 ** (1 / 10))
    assert at_threshold(positive_B, positive_B & False, units(40))["ppv"].value is None


def test_validation_of_one_class_chooses_no_threshold() -> None:
    with pytest.raises(ValueError, match="5 validation images of one class"):
        chosen_threshold(np.ones(5), np.linspace(0, 1, 5))


def graded(images: int = 60) -> Predictions:
    generator = np.random.default_rng(0)
    probability_BY = generator.dirichlet(np.ones(5), size=images)
    label_B = np.arange(images) % 5
    return Predictions([str(i) for i in range(images)], units(images), label_B, probability_BY)


def test_a_group_has_the_sums_of_its_classes_probabilities() -> None:
    found = grouped(graded(), group_of("0,1|2, 3,4", "01234"))
    assert found.label_B.tolist() == (graded().label_B >= 2).astype(int).tolist()
    assert np.array_equal(found.probability_BY[:, 1], graded().probability_BY[:, 2:].sum(axis=1))
    auroc = roc_auc_score(graded().label_B >= 2, graded().probability_BY[:, 2:].sum(axis=1))
    assert point("auroc", found.label_B, found.probability_BY)[0] == pytest.approx(auroc)


def test_classes_of_neither_side_are_left_out_with_their_images() -> None:
    group = group_of("0|3,4", "01234")
    assert [group.left_out, group.text, group.task("dr")] == [(1, 2), "0|3,4", "dr (0|3,4)"]
    found = grouped(graded(), group)
    assert len(found.keys) == 36
    assert np.allclose(found.probability_BY.sum(axis=1), 1)
    whole_BY = graded().probability_BY[np.isin(graded().label_B, (0, 3, 4))]
    expected_B = whole_BY[:, 3:].sum(axis=1) / whole_BY[:, [0, 3, 4]].sum(axis=1)
    assert np.allclose(found.probability_BY[:, 1], expected_B)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0,1,2", "write the negative classes, a bar"),
        ("0|", "write the negative classes, a bar"),
        ("0|1|2", "write the negative classes, a bar"),
        ("0,1|1,2", "'1' stands there twice"),
        ("mild|severe, moderat", "no class 'moderat'; did you mean 'moderate'"),
    ],
)
def test_a_group_that_is_none_is_refused_in_one_line(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        group_of(text, ("0", "1", "2", "mild", "moderate", "severe"))


@pytest.mark.parametrize(
    ("classes", "positive"),
    [
        (("0", "1"), "1"),
        (("glaucoma", "no glaucoma"), "glaucoma"),
        (("glaucoma", "normal"), "glaucoma"),
        (("normal", "glaucoma"), "glaucoma"),
        (("non referable", "referable"), "referable"),
    ],
)
def test_the_positive_class_is_the_finding(classes: tuple[str, str], positive: str) -> None:
    assert classes[positive_of_two(classes)] == positive
