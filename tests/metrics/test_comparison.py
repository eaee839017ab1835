"""Differences have the known answers, are paired, and call chance a difference in 5 % of trials."""

import math
from statistics import NormalDist

import numpy as np
import pytest

from maskedclip.metrics.comparison import (
    Difference,
    against_best,
    delong,
    holm,
    over_seeds,
    paired_bootstrap,
)
from maskedclip.metrics.prediction_files import Predictions
from maskedclip.metrics.scores import METRICS, macro, score
from tests.answers import measured, noise


def paired(metric: str, a: Predictions, b: Predictions, resamples: int = 2000) -> Difference:
    """Compare two single runs."""
    return paired_bootstrap(metric, [a], [b], resamples=resamples)


@pytest.mark.parametrize("metric", METRICS)
def test_a_paired_difference_is_that_of_the_scores_and_turns_with_them(metric: str) -> None:
    a, b = measured(skill=1.5, seed=1), measured(seed=2)
    found = paired(metric, a, b, resamples=300)
    values = [macro(metric, run.label_B, run.probability_BY)[0] for run in (a, b)]
    assert found.value == pytest.approx(values[0] - values[1])
    assert found.low is not None
    assert found.high is not None
    assert found.low < found.value < found.high
    turned = paired(metric, b, a, resamples=300)
    assert turned == pytest.approx((-found.value, -found.high, -found.low, found.p))
    assert found == paired(metric, a, b, resamples=300)


def test_a_run_does_not_differ_from_itself() -> None:
    run = measured()
    assert paired("auroc", run, run, resamples=100) == (0, 0, 0, 1)


@pytest.mark.parametrize("metric", ["auroc", "average_precision"])
def test_two_perfect_runs_do_not_differ_by_rounding(metric: str) -> None:
    for images in range(20, 60):
        label_B = np.arange(images) % 3
        keys = [str(i) for i in range(images)]
        sure_BY = np.eye(3)[label_B]  # all tied: the same 1 by another sum
        less_BY = sure_BY - np.random.default_rng(images).uniform(0, 0.1, sure_BY.shape)
        runs = [Predictions(keys, keys, label_B, row_BY) for row_BY in (sure_BY, less_BY)]
        assert paired(metric, *runs, resamples=50).p == 1


def test_pairing_tells_apart_what_two_intervals_would_not() -> None:
    a, b = measured(skill=1.1, seed=1), measured(skill=1.0, seed=1)
    first, second = (score("auroc", run.label_B, run.probability_BY, run.units) for run in (a, b))
    difference = paired("auroc", a, b)
    assert first.low is not None
    assert second.high is not None
    assert difference.low is not None
    assert first.low < second.high
    assert difference.low > 0


def test_the_order_of_the_images_plays_no_part() -> None:
    a, b = measured(skill=1.5, seed=1), measured(seed=2)
    turned = Predictions(b.keys[::-1], b.units[::-1], b.label_B[::-1], b.probability_BY[::-1])
    assert paired("auroc", a, turned) == paired("auroc", a, b)


def test_runs_on_other_images_labels_patients_or_classes_are_refused_in_a_line() -> None:
    a = measured()
    for other, answer in (
        (measured(images=198), "198 images of one run are not the 200"),
        (a._replace(keys=["other", *a.keys[1:]]), "are not the 200"),
        (a._replace(keys=[a.keys[1], *a.keys[1:]]), "are not the 200"),
        (a._replace(label_B=(a.label_B + 1) % 3), "other labels"),
        (a._replace(units=a.keys), "other labels or patients"),
        (a._replace(probability_BY=a.probability_BY[:, :2]), "number of classes"),
    ):
        with pytest.raises(ValueError, match=answer) as error:
            paired("macro_f1", a, other)
        assert "\n" not in str(error.value)


def test_one_patient_has_a_difference_but_no_interval() -> None:
    a, b = (measured(seed=seed)._replace(units=["p"] * 200) for seed in (1, 2))
    assert paired("auroc", a, b)[1:] == (None, None, None)


def test_the_mean_and_deviation_over_seeds_are_of_a_sample() -> None:
    assert over_seeds([0.8, 0.9, 1.0]) == pytest.approx((0.9, 0.1))
    assert over_seeds([0.8]) == (0.8, None)
    with pytest.raises(ValueError, match="no value"):
        over_seeds([])


def test_holms_rule_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]) == [1, 1]
    assert holm([]) == []


def differing(others: dict[str, Difference]) -> list[str]:
    return [name for name, other in others.items() if other.p is not None and other.p < 0.05]


def test_what_differs_from_the_best_is_named_and_what_does_not_is_not() -> None:
    def seeds(skill: float, first: int) -> list[Predictions]:
        return [measured(skill=skill, seed=first + seed) for seed in range(3)]

    found = {"poor": seeds(0.4, 0), "ours": seeds(2.0, 10), "near": seeds(1.98, 20)}
    best, others = against_best(["auroc"], found, resamples=500)["auroc"]
    assert best in ("ours", "near")
    assert differing(others) == ["poor"]
    assert set(others) == set(found) - {best}
    assert all(other.value <= 0 for other in others.values())


def test_the_best_calibration_error_is_the_smallest() -> None:
    sure = measured(skill=0.5, seed=1)
    surer = sure._replace(probability_BY=np.eye(3)[sure.probability_BY.argmax(axis=1)])
    best, others = against_best(["calibration_error"], {"sure": [sure], "surer": [surer]})[
        "calibration_error"
    ]
    assert (best, differing(others)) == ("sure", ["surer"])
    with pytest.raises(ValueError, match="no run"):
        against_best(["auroc"], {"a": []})


def test_resamples_without_the_only_image_that_two_runs_differ_in_tell_nothing() -> None:
    """A third of them lack it; moved by the bias of the others they made a p-value of 0.001."""
    label_B = np.arange(40) % 2
    right_BY = np.eye(2)[label_B] * 0.8 + 0.1 + np.arange(40)[:, None] * [-1e-4, 1e-4]
    wrong_BY = right_BY.copy()
    wrong_BY[0] = 0.01, 0.99
    keys = [str(i) for i in range(40)]
    runs = [Predictions(keys, keys, label_B, p_BY) for p_BY in (right_BY, wrong_BY)]
    for metric in ("auroc", "average_precision", "macro_f1", "balanced_accuracy"):
        found = paired(metric, *runs)
        assert found.value > 0
        assert found.low == 0
        assert found.p == pytest.approx(2 * (1 - 1 / 40) ** 40, abs=0.08)


@pytest.mark.parametrize("images", [8, 20])
def test_chance_among_few_images_of_almost_perfect_runs_is_rarely_called_a_difference(
    images: int,
) -> None:
    """A difference was found in 17 and 27 % of such trials until 2026-11-29."""
    generator = np.random.default_rng(0)
    label_B, keys = np.arange(images) % 2, [str(i) for i in range(images)]
    wrong = []
    for _ in range(100):
        logit_B = generator.normal(size=images) + 6 * label_B - 3
        runs = []
        for _ in range(2):
            p_B = 1 / (1 + np.exp(-logit_B - generator.normal(size=images)))
            runs.append(Predictions(keys, keys, label_B, np.stack([1 - p_B, p_B], axis=1)))
        p = paired("auroc", *runs, resamples=200).p
        wrong.append(p is not None and p < 0.05)
    assert np.mean(wrong) < 0.08


@pytest.mark.slow
@pytest.mark.parametrize("metric", ["auroc", "macro_f1", "calibration_error"])
def test_the_paired_bootstrap_calls_chance_a_difference_in_a_twentieth_of_trials(
    metric: str,
) -> None:
    generator = np.random.default_rng(0)
    units = [str(i // 2) for i in range(160)]
    wrong = []
    for _ in range(400):
        label_B = np.repeat(generator.random(80) < 0.4, 2)
        shared_B = np.repeat(generator.normal(size=80), 2) + 2 * label_B - 1
        runs = []
        for _ in range(2):
            p_B = 1 / (1 + np.exp(-shared_B - noise(generator, 2, 160)))
            runs.append(Predictions(units, units, label_B * 1, np.stack([1 - p_B, p_B], axis=1)))
        runs = [run._replace(keys=[f"{i}" for i in range(160)]) for run in runs]
        p = paired(metric, *runs, resamples=400).p
        assert p is not None
        wrong.append(p < 0.05)
    assert 0.02 < np.mean(wrong) < 0.085, np.mean(wrong)


def by_pairs(label_B: np.ndarray, a_B: np.ndarray, b_B: np.ndarray) -> tuple[float, float]:
    """Return (difference of the AUROCs, its variance) as DeLong's paper has them, by all pairs."""

    def table(score_B: np.ndarray) -> np.ndarray:
        first, second = score_B[label_B == 1][:, None], score_B[label_B == 0][None]
        return (first > second) + 0.5 * (first == second)

    pair_PN = table(a_B) - table(b_B)
    variance = pair_PN.mean(axis=1).var(ddof=1) / pair_PN.shape[0]
    return float(pair_PN.mean()), variance + pair_PN.mean(axis=0).var(ddof=1) / pair_PN.shape[1]


@pytest.mark.parametrize("places", [1, 6])  # with many ties, and with none
def test_delong_by_midranks_is_delong_by_all_pairs(places: int) -> None:
    generator = np.random.default_rng(places)
    label_B = generator.integers(0, 2, 80)
    a_B, b_B = (np.round(generator.normal(size=80) + label_B * k, places) for k in (1.0, 0.5))
    value, variance = by_pairs(label_B, a_B, b_B)
    z = NormalDist().inv_cdf(0.975) * math.sqrt(variance)
    p = 2 * (1 - NormalDist().cdf(abs(value) / math.sqrt(variance)))
    assert delong(label_B, a_B, b_B) == pytest.approx((value, value - z, value + z, p), abs=1e-9)


def test_delong_counted_by_hand() -> None:
    label_B = np.array([1, 1, 0, 0])
    a_B, b_B = np.array([4.0, 3, 2, 1]), np.array([4.0, 1, 2, 3])
    # a wins 4 of 4 pairs, b wins 2 of 4: of the positives' shares 1 - (1, 0), of the negatives'
    # 1 - (1/2, 1/2); the variance is var(0, 1) / 2 + var(1/2, 1/2) / 2 = 1/4
    found = delong(label_B, a_B, b_B)
    assert found.value == 0.5
    assert found.high == pytest.approx(0.5 + 1.959964 * 0.5)
    assert found.p == pytest.approx(0.317311, abs=1e-6)  # two-sided, one standard error away


def test_delong_takes_patients_of_one_image_as_images() -> None:
    a, b = measured(skill=1.5, seed=1), measured(seed=2)
    positive_B = a.label_B == 0
    scores = a.probability_BY[:, 0], b.probability_BY[:, 0]
    alone = delong(positive_B, *scores)
    assert delong(positive_B, *scores, a.keys) == pytest.approx(alone)


def test_copies_of_an_image_tell_delong_nothing_new_when_they_are_of_one_patient() -> None:
    a, b = measured(each=1, seed=1, skill=1.3), measured(each=1, seed=2)
    positive_B = a.label_B == 0
    once = delong(positive_B, a.probability_BY[:, 0], b.probability_BY[:, 0])
    copies = [np.tile(x, 4) for x in (positive_B, a.probability_BY[:, 0], b.probability_BY[:, 0])]
    together = delong(*copies, a.units * 4)
    assert together == pytest.approx(once, abs=1e-9)
    taken_apart = delong(*copies)
    assert taken_apart.p is not None
    assert together.p is not None
    assert taken_apart.p < together.p


def test_delong_of_equal_scores_finds_no_difference() -> None:
    label_B = np.array([0, 1, 0, 1])
    assert delong(label_B, label_B, label_B) == Difference(0.0, None, None, 1.0)


def test_delong_does_not_guess_where_its_variance_is_zero() -> None:
    label_B = np.array([0, 1, 0, 1])
    assert delong(label_B, label_B, np.zeros(4)) == Difference(0.5, None, None, None)
    with pytest.raises(ValueError, match="all alike"):
        delong(np.ones(4), label_B, label_B)


def test_a_clear_difference_has_a_small_p_value_and_delong_says_the_same() -> None:
    a, b = measured(skill=3, seed=1, classes=2), measured(skill=0.5, seed=2, classes=2)
    found = paired("auroc", a, b)
    again = delong(a.label_B, a.probability_BY[:, 1], b.probability_BY[:, 1], a.units)
    assert found.p is not None
    assert found.p < 0.002
    assert found.low is not None
    assert found[:3] == pytest.approx(again[:3], abs=0.02)


@pytest.mark.slow
@pytest.mark.parametrize("each", [1, 2])
def test_delong_calls_chance_a_difference_in_a_twentieth_of_trials(each: int) -> None:
    generator = np.random.default_rng(0)
    units = [str(i // each) for i in range(120)]
    wrong = []
    for _ in range(2000):
        label_B = np.repeat(generator.random(120 // each) < 0.4, each)
        shared_B = np.repeat(generator.normal(size=120 // each), each) + label_B
        a_B, b_B = (shared_B + noise(generator, each) for _ in range(2))
        p = delong(label_B, a_B, b_B, units).p
        assert p is not None
        wrong.append(p < 0.05)
    assert 0.035 < np.mean(wrong) < 0.07, np.mean(wrong)


def test_runs_are_compared_over_the_classes_that_both_were_trained_on() -> None:
    a, b = measured(skill=1.5, seed=1), measured(skill=1.0, seed=2)
    found = paired_bootstrap("auroc", [a._replace(untrained=(0,))], [b], resamples=50)
    values = [macro("auroc", run.label_B, run.probability_BY, [0])[0] for run in (a, b)]
    assert found.value == pytest.approx(values[0] - values[1])
