"""Scores of several labels an image, and of numbers, are scikit-learn's; so are their resamples."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import pearsonr
from sklearn.metrics import (
    average_precision_score,
    cohen_kappa_score,
    f1_score,
    mean_absolute_error,
    r2_score,
    roc_auc_score,
)

from maskedclip.metrics.comparison import against_best, paired_bootstrap
from maskedclip.metrics.prediction_files import Predictions, read_test_split, write_test_split
from maskedclip.metrics.results import recomputed, save_and_score, table
from maskedclip.metrics.scores import (
    LABELS_METRICS,
    NUMBER_METRICS,
    chosen_thresholds,
    draws,
    point,
    resampled,
    score,
)

LABELS = ("N", "D", "G", "C")
THRESHOLDS = (0.3, 0.5, 0.7, 0.6)


def several(images: int = 80, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    label_BY = (generator.random((images, 4)) < [0.5, 0.3, 0.2, 0.1]).astype(int)
    # rounded, so that there are ties
    return label_BY, (0.6 * generator.random((images, 4)) + 0.3 * label_BY).round(2)


def numbers(images: int = 60, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    value_B = 50 + 10 * generator.standard_normal(images)
    return value_B, (value_B + 5 * generator.standard_normal(images))[:, None]


def by_scikit_learn(metric: str, label: np.ndarray, found: np.ndarray) -> float:
    if label.ndim == 1:
        return float({
            "mae": mean_absolute_error, "r2": r2_score, "pearson": lambda a, b: pearsonr(a, b)[0],
        }[metric](label, found[:, 0]))  # fmt: skip
    called = found >= np.array(THRESHOLDS)
    flat, answers = label.reshape(-1), found.reshape(-1) > 0.5
    odir = [  # as the script of the challenge has it
        cohen_kappa_score(flat, answers),
        f1_score(flat, answers, average="micro"),
        roc_auc_score(flat, found.reshape(-1)),
    ]
    return float({
        "auroc": lambda: roc_auc_score(label, found, average="macro"),
        "average_precision": lambda: average_precision_score(label, found, average="macro"),
        "macro_f1": lambda: f1_score(label, called, average="macro"),
        "micro_f1": lambda: f1_score(label, called, average="micro"),
        "odir_score": lambda: np.mean(odir),
    }[metric]())  # fmt: skip


@pytest.mark.parametrize("metric", [*LABELS_METRICS, *NUMBER_METRICS])
def test_a_score_and_each_of_its_resamples_are_scikit_learns(metric: str) -> None:
    label, found = several() if metric in LABELS_METRICS else numbers()
    value, absent = point(metric, label, found, thresholds=THRESHOLDS)
    assert absent == []
    assert value == pytest.approx(by_scikit_learn(metric, label, found), abs=1e-12)
    (weight_BR,) = draws([f"p{i // 2}" for i in range(len(label))], len(label), seed=1, resamples=9)
    value_R = resampled(metric, label, found, weight_BR, thresholds=THRESHOLDS)
    for weight_B, one in zip(weight_BR.T, value_R, strict=True):
        drawn = np.repeat(np.arange(len(label)), weight_B.astype(int))
        assert one == pytest.approx(by_scikit_learn(metric, label[drawn], found[drawn]), abs=1e-9)


def test_a_label_that_no_test_image_or_no_training_image_has_is_left_out_and_named(
    tmp_path: Path,
) -> None:
    label_BY, found_BY = several()
    label_BY[:, 2] = 0
    value, absent = point("auroc", label_BY, found_BY, untrained=(0,))
    own = [roc_auc_score(label_BY[:, y], found_BY[:, y]) for y in (1, 3)]
    assert (value, absent) == (pytest.approx(np.mean(own)), [2])
    f1 = [f1_score(label_BY[:, y], found_BY[:, y] >= THRESHOLDS[y]) for y in (1, 3)]
    assert point("macro_f1", label_BY, found_BY, (0,), THRESHOLDS)[0] == pytest.approx(np.mean(f1))
    # what is called of a label that no test image has is wrong, and counts in the micro mean
    called = found_BY >= np.array(THRESHOLDS)
    micro = f1_score(label_BY[:, 1:], called[:, 1:], average="micro")
    assert point("micro_f1", label_BY, found_BY, (0,), THRESHOLDS)[0] == pytest.approx(micro)
    rows = written(tmp_path, label_BY, found_BY, untrained=(0,))
    assert rows["auroc"]["note"] == (
        "test images all without or all with G: mean of the other labels; "
        "training images all without or all with N: left out"
    )
    assert rows["auroc"]["untrained"] == ["N"]


def test_no_label_that_can_be_scored_gives_no_value_and_the_reason(tmp_path: Path) -> None:
    label_BY, found_BY = several()
    rows = written(tmp_path, np.zeros_like(label_BY), found_BY)
    assert {row["value"] for row in rows.values()} == {None}
    assert "no trained label has positives and negatives" in rows["auroc"]["note"]
    value_B, found_B1 = numbers()
    rows = written(tmp_path, np.full_like(value_B, 3.0), found_B1, kind="number", classes=["age"])
    assert (rows["r2"]["value"], rows["pearson"]["value"]) == (None, None)
    assert rows["mae"]["value"] == pytest.approx(mean_absolute_error(0 * value_B + 3, found_B1))


def test_a_threshold_is_the_one_of_the_highest_f1() -> None:
    label_BY, found_BY = several()
    label_BY[:, 3] = 0
    found = chosen_thresholds(label_BY, found_BY, untrained=(1,))
    assert (found[1], found[3]) == (0.5, 0.5)
    for y in (0, 2):
        value_T = np.unique(found_BY[:, y]).tolist()
        f1 = [f1_score(label_BY[:, y], found_BY[:, y] >= t) for t in value_T]
        best = max(i for i, value in enumerate(f1) if value == max(f1))
        assert f1_score(label_BY[:, y], found_BY[:, y] >= found[y]) == max(f1)
        assert found[y] == pytest.approx((value_T[best] + value_T[best - 1]) / 2)


def written(
    run: Path, label: np.ndarray, found: np.ndarray, /, *, classes: Any = LABELS, **facts: Any
) -> dict[str, dict[str, Any]]:
    facts = {"kind": "labels", "thresholds": THRESHOLDS, "ordered": False} | facts
    if facts["kind"] == "number":
        facts["thresholds"] = ()
    keys = [f"image{i}" for i in range(len(label))]
    predictions = Predictions(
        keys, [f"p{i // 2}" for i in range(len(label))], label, found, **facts
    )
    identity = {
        "run": run.name, "dataset": "odir", "task": "findings", "protocol": "logistic",
        "fraction": 1.0, "seed": 0,
    }  # fmt: skip
    rows = save_and_score(identity, classes, predictions, run, method="ours", shards=run)
    return {row["metric"]: row for row in rows}


def test_labels_are_read_back_from_their_joined_text_and_scored_alike(tmp_path: Path) -> None:
    rows = written(tmp_path, *several())
    assert list(rows) == list(LABELS_METRICS)
    lines = (tmp_path / rows["auroc"]["predictions"]).read_text().splitlines()
    label_BY, _ = several()
    assert lines[0] == "id,label,N,D,G,C"
    joined = ["|".join(n for n, has in zip(LABELS, row, strict=True) if has) for row in label_BY]
    assert [line.split(",")[1] for line in lines[1:]] == joined
    assert any("|" in text for text in joined)
    assert "" in joined
    for row in rows.values():
        again = recomputed(tmp_path, row)
        assert (again.value, again.low, again.high) == (row["value"], row["low"], row["high"])
    assert "odir" in table(list(rows.values()))


def test_numbers_are_read_back_and_shown_in_their_own_unit(tmp_path: Path) -> None:
    value_B, found_B1 = numbers()
    rows = written(tmp_path, value_B, found_B1, kind="number", classes=["age"])
    assert list(rows) == list(NUMBER_METRICS)
    again, classes = read_test_split(tmp_path / rows["mae"]["predictions"], "number")
    assert (classes, again.label_B.tolist()) == (["age"], value_B.tolist())
    assert recomputed(tmp_path, rows["r2"]).low == rows["r2"]["low"]
    text = table(list(rows.values()))
    assert f"{rows['mae']['value']:.2f} [" in text
    assert f"{rows['pearson']['value']:.3f} [" in text


def test_intervals_draw_patients_for_labels_and_numbers() -> None:
    for label, found, metric in [(*several(), "auroc"), (*numbers(), "mae")]:
        twice = np.concatenate([label, label]), np.concatenate([found, found])
        patients = [f"p{i:02d}" for i in range(len(label))] * 2
        alone = score(metric, label, found)
        together, apart = score(metric, *twice, patients), score(metric, *twice)
        assert (together.low, together.high) == pytest.approx((alone.low, alone.high), abs=1e-9)
        assert apart.high - apart.low < together.high - together.low


def test_a_lower_error_is_the_better_method() -> None:
    value_B, found_B1 = numbers()
    keys = [f"image{i}" for i in range(len(value_B))]
    good, bad = (
        Predictions(keys, keys, value_B, value_B[:, None] + share * (found_B1 - value_B[:, None]),
                    kind="number")
        for share in (0.5, 1.0)
    )  # fmt: skip
    best, others = against_best(["mae"], {"bad": [bad], "good": [good]}, resamples=200)["mae"]
    assert best == "good"
    assert others["bad"].value == pytest.approx(mean_absolute_error(value_B, found_B1) / 2)
    difference = paired_bootstrap("r2", [good], [bad], resamples=200)
    assert difference.value > 0


def test_a_paired_difference_of_labels_is_that_of_their_macro_aurocs(tmp_path: Path) -> None:
    label_BY, found_BY = several()
    _, other_BY = several(seed=1)
    keys = [f"image{i}" for i in range(len(label_BY))]
    a, b = (Predictions(keys, keys, label_BY, p, kind="labels") for p in (found_BY, other_BY))
    found = paired_bootstrap("auroc", [a], [b], resamples=300)
    expected = [roc_auc_score(label_BY, p, average="macro") for p in (found_BY, other_BY)]
    assert found.value == pytest.approx(expected[0] - expected[1])
    write_test_split(tmp_path / "p.csv", LABELS, a)
    assert read_test_split(tmp_path / "p.csv", "labels")[0].label_B.tolist() == label_BY.tolist()
