"""Differences have the known answers, are paired, and call chance chance as often as they say."""

import numpy as np
import pytest

from maskedclip.metrics.comparison import (
    differing_from_best,
    holm,
    over_seeds,
    paired_bootstrap,
)
from maskedclip.metrics.predictions import Measured
from maskedclip.metrics.scores import METRICS, macro, score
from tests.answers import measured, noise


@pytest.mark.parametrize("metric", METRICS)
def test_a_paired_difference_is_that_of_the_scores_and_turns_with_them(metric: str) -> None:
    a, b = measured(skill=1.5, seed=1), measured(seed=2)
    found = paired_bootstrap(metric, a, b, resamples=300)
    values = [macro(metric, run.label_B, run.probability_BY)[0] for run in (a, b)]
    assert found.value == pytest.approx(values[0] - values[1])
    assert found.low is not None
    assert found.high is not None
    assert found.low < found.value < found.high
    turned = paired_bootstrap(metric, b, a, resamples=300)
    assert turned == pytest.approx((-found.value, -found.high, -found.low, found.p))
    assert found == paired_bootstrap(metric, a, b, resamples=300)


def test_a_run_does_not_differ_from_itself() -> None:
    run = measured()
    assert paired_bootstrap("auroc", run, run, resamples=100) == (0, 0, 0, 1)


def test_pairing_tells_apart_what_two_intervals_would_not() -> None:
    a, b = measured(skill=1.1, seed=1), measured(skill=1.0, seed=1)
    first, second = (score("auroc", run.label_B, run.probability_BY, run.units) for run in (a, b))
    paired = paired_bootstrap("auroc", a, b)
    assert first.low is not None
    assert second.high is not None
    assert paired.low is not None
    assert first.low < second.high
    assert paired.low > 0


def test_the_order_of_the_images_plays_no_part() -> None:
    a, b = measured(skill=1.5, seed=1), measured(seed=2)
    turned = Measured(b.keys[::-1], b.units[::-1], b.label_B[::-1], b.probability_BY[::-1])
    assert paired_bootstrap("auroc", a, turned) == paired_bootstrap("auroc", a, b)


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
            paired_bootstrap("macro_f1", a, other)
        assert "\n" not in str(error.value)


def test_one_patient_has_a_difference_but_no_interval() -> None:
    a, b = (measured(seed=seed)._replace(units=["p"] * 200) for seed in (1, 2))
    assert paired_bootstrap("auroc", a, b)[1:] == (None, None, None)


def test_the_mean_and_deviation_over_seeds_are_of_a_sample() -> None:
    assert over_seeds([0.8, 0.9, 1.0]) == pytest.approx((0.9, 0.1))
    assert over_seeds([0.8]) == (0.8, None)
    with pytest.raises(ValueError, match="no value"):
        over_seeds([])


def test_holms_rule_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]) == [1, 1]
    assert holm([]) == []


def test_what_differs_from_the_best_is_named_and_what_does_not_is_not() -> None:
    def seeds(skill: float, first: int) -> list[Measured]:
        return [measured(skill=skill, seed=first + seed) for seed in range(3)]

    found = {"poor": seeds(0.4, 0), "ours": seeds(2.0, 10), "near": seeds(1.98, 20)}
    best = differing_from_best("auroc", found, resamples=500)
    assert best.name in ("ours", "near")
    assert best.differing == ["poor"]
    assert set(best.others) == set(found) - {best.name}
    assert all(each.value <= 0 for each in best.others.values())


def test_the_best_calibration_error_is_the_smallest() -> None:
    sure = measured(skill=0.5, seed=1)
    surer = sure._replace(probability_BY=np.eye(3)[sure.probability_BY.argmax(axis=1)])
    best = differing_from_best("calibration_error", {"sure": [sure], "surer": [surer]})
    assert (best.name, best.differing) == ("sure", ["surer"])
    with pytest.raises(ValueError, match="no run"):
        differing_from_best("auroc", {"a": []})


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
            runs.append(Measured(units, units, label_B * 1, np.stack([1 - p_B, p_B], axis=1)))
        runs = [run._replace(keys=[f"{i}" for i in range(160)]) for run in runs]
        p = paired_bootstrap(metric, *runs, resamples=400).p
        assert p is not None
        wrong.append(p < 0.05)
    assert 0.02 < np.mean(wrong) < 0.085, np.mean(wrong)
