"""DeLong's test has the known answers, and calls chance chance as often as it says."""

import math
from statistics import NormalDist

import numpy as np
import pytest

from maskedclip.metrics.comparison import Difference, paired_bootstrap
from maskedclip.metrics.delong import delong
from tests.answers import measured, noise


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
    found = paired_bootstrap("auroc", a, b)
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
