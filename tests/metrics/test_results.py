"""Rows say what they are of and where their images are, and come again from those files alone."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from maskedclip.metrics.prediction_files import (
    Predictions,
    read_predictions,
    read_test_split,
    write_test_split,
)
from maskedclip.metrics.results import (
    IDENTITY,
    read_rows,
    recomputed,
    row,
    save_and_score,
    table,
    write_rows,
)
from maskedclip.metrics.scores import METRICS, Score, score

CLASSES = ("a", "b, c", "d")


def example(labels: Any = range(3), images: int = 60) -> Predictions:
    generator = np.random.default_rng(0)
    label_B = generator.choice(list(labels), images)
    raw_BY = generator.random((images, 3)) + 0.5 * np.eye(3)[label_B]
    return Predictions(
        [f"image{i}" for i in range(images)],
        [f"patient {i // 2}" for i in range(images)],
        label_B,
        raw_BY / raw_BY.sum(axis=1, keepdims=True),
    )


def measured(run: Path, found: Predictions, /, **changes: Any) -> list[dict[str, Any]]:
    identity = {
        "run": run.name, "dataset": "idrid", "task": "grade", "protocol": "logistic",
        "fraction": 0.1, "seed": 2,
    }  # fmt: skip
    rows = save_and_score(
        identity | changes, CLASSES, found, run, method="ours", shards=run / "shards"
    )
    write_rows(run, rows)
    return rows


def rows_of(value: float, **changes: Any) -> dict[str, Any]:
    identity = dict.fromkeys(IDENTITY, "a") | {"fraction": 1.0, "seed": 0, "metric": "auroc"}
    return row(identity | changes, Score(value, 0.1, 0.9, 7, []), CLASSES)


def test_a_row_takes_the_place_of_the_same_measurement(tmp_path: Path) -> None:
    write_rows(tmp_path, [rows_of(0.1), rows_of(0.2, seed=1)])
    write_rows(tmp_path, [rows_of(0.3), rows_of(0.4, task="b")])
    found = {(r["seed"], r["task"]): r["value"] for r in read_rows(tmp_path)}
    assert found == {(1, "a"): 0.2, (0, "a"): 0.3, (0, "b"): 0.4}
    assert len(read_rows(tmp_path)) == 3


def test_a_row_names_its_method_its_files_and_its_shards(tmp_path: Path) -> None:
    for metric, found in zip(METRICS, measured(tmp_path / "ours", example()), strict=True):
        assert tuple(found)[: len(IDENTITY)] == IDENTITY
        assert (found["metric"], found["n"], found["note"], found["method"]) == (
            metric, 60, "", "ours",
        )  # fmt: skip
        assert found["predictions"] == "predictions/idrid-grade-logistic-0.1-seed2-test.csv"
        assert found["shards"] == str(tmp_path / "ours" / "shards")
        assert (tmp_path / "ours" / found["predictions"]).is_file()


def test_two_runs_in_one_directory_keep_their_own_predictions(tmp_path: Path) -> None:
    for name in ("one", "two"):
        measured(tmp_path, example(), run=name)
    assert len({found["predictions"] for found in read_rows(tmp_path)}) == 2


def test_every_number_comes_again_from_the_directory_alone(tmp_path: Path) -> None:
    measured(tmp_path / "run", example())
    moved = (tmp_path / "run").rename(tmp_path / "elsewhere")
    for found in read_rows(moved):
        again = recomputed(moved, found)
        assert again[:4] == tuple(found[name] for name in ("value", "low", "high", "n"))


def test_the_interval_comes_again_by_patient_and_not_by_image(tmp_path: Path) -> None:
    found = example()
    (first, *_) = measured(tmp_path, found)
    by_image = score("auroc", found.label_B, found.probability_BY)
    assert (first["low"], first["high"]) != (by_image.low, by_image.high)


def test_a_class_without_images_is_named_where_a_mean_leaves_it_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = {found["metric"]: found for found in measured(tmp_path, example(labels=[0, 2]))}
    note = "no test image of b, c: mean of the other classes"
    assert [rows[metric]["note"] == note for metric in METRICS] == [
        True, True, False, True, True, False,
    ]  # fmt: skip
    assert all(found["value"] is not None for found in rows.values())
    assert caplog.text.count(note) == 1


def test_a_test_split_of_one_class_gives_rows_that_say_so(tmp_path: Path) -> None:
    measured(tmp_path, example(labels=[2]))
    rows = {found["metric"]: found for found in read_rows(tmp_path)}
    for metric in ("auroc", "average_precision", "quadratic_kappa"):
        assert (rows[metric]["value"], rows[metric]["low"], rows[metric]["high"]) == (None,) * 3
        assert rows[metric]["note"] == "undefined: all 60 test images are of one class, d"
    assert rows["balanced_accuracy"]["value"] is not None
    assert "no test image of a, b, c" in rows["balanced_accuracy"]["note"]
    assert recomputed(tmp_path, rows["auroc"]).value is None
    assert "-" in table(list(rows.values())).splitlines()[1]


def test_a_value_without_an_interval_says_why(tmp_path: Path) -> None:
    rows = measured(tmp_path, example()._replace(units=["one"] * 60))
    assert {found["note"] for found in rows} == {
        "no interval: too few patients (or images, where unknown) in the test split"
    }


def test_the_table_has_a_line_a_measurement_that_a_terminal_can_show(tmp_path: Path) -> None:
    head, line = table(measured(tmp_path, example())).splitlines()
    assert head.split("  ")[0] == "dataset"
    assert line.count("[") == 2
    assert "10%" in line
    assert len(line) < 120


def test_the_table_shows_a_missing_metric_as_missing() -> None:
    line = table([rows_of(0.5)]).splitlines()[1]
    assert "50.0 [10.0, 90.0]" in line
    assert " - " in line


def test_lines_of_folds_say_of_which_share_of_labels_and_seed_they_are() -> None:
    rows = [
        rows_of(0.5, fraction=share, seed=seed) | {"spread": f"pooled {share} {seed}"}
        for share in (0.1, 1.0)
        for seed in (0, 1)
    ]
    shown = table(rows)
    for share, seed, labels in ((0.1, 1, "10%"), (1.0, 0, "100%")):
        assert f"\n{labels} of labels, seed {seed}: a a a, AUROC pooled {share} {seed}.\n" in shown


def test_predictions_come_back_as_they_were(tmp_path: Path) -> None:
    wrote = example()
    path = tmp_path / "x-0.1-test.csv"
    write_test_split(path, CLASSES, wrote)
    found, classes = read_test_split(path)
    assert (found.keys, found.units, tuple(classes)) == (wrote.keys, wrote.units, CLASSES)
    np.testing.assert_array_equal(found.label_B, wrote.label_B)
    np.testing.assert_array_equal(found.probability_BY, wrote.probability_BY)
    assert sorted(each.name for each in tmp_path.iterdir()) == [
        "x-0.1-test.csv",
        "x-0.1-test.units.csv",
    ]
    assert path.read_text().splitlines()[0] == 'id,label,a,"b, c",d'


@pytest.mark.parametrize(
    ("damage", "answer"),
    [
        (lambda text: text[: len(text) // 2].rstrip() + ",", "measure again"),
        (lambda text: text.replace("0.", "zero", 1), "measure again"),
        (lambda text: text.replace("image3,", "image4,", 1), "other ids"),
        (lambda _: "", "is not a CSV"),
        (lambda _: None, "no such file"),
    ],
)
def test_damaged_predictions_are_refused_in_a_line(
    tmp_path: Path, damage: Any, answer: str
) -> None:
    rows = measured(tmp_path, example())
    path = tmp_path / rows[0]["predictions"]
    text = damage(path.read_text())
    path.unlink()
    if text is not None:
        path.write_text(text)
    with pytest.raises(ValueError, match=answer) as error:
        recomputed(tmp_path, rows[0])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["/etc/hosts", "../other/x.csv", None])
def test_predictions_outside_of_the_run_are_not_read(tmp_path: Path, name: Any) -> None:
    with pytest.raises(ValueError, match="measure again"):
        recomputed(tmp_path, rows_of(0.5) | {"predictions": name})


def test_a_line_that_is_not_json_is_refused_in_a_line(tmp_path: Path) -> None:
    (tmp_path / "results.jsonl").write_text(json.dumps(rows_of(0.5)) + "\n{\n")
    with pytest.raises(ValueError, match="a line is not JSON"):
        read_rows(tmp_path)


def test_read_predictions_gives_what_the_contract_names(tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text("id,label,no,yes\nx,yes,0.25,0.75\ny,no,1.0,0.0\n")
    ids, classes, label_B, probability_BY = read_predictions(tmp_path / "p.csv")
    assert (ids, classes, label_B.tolist()) == (["x", "y"], ["no", "yes"], [1, 0])
    assert probability_BY.tolist() == [[0.25, 0.75], [1.0, 0.0]]


def test_classes_without_an_order_have_no_quadratic_kappa_in_rows_or_tables(tmp_path: Path) -> None:
    found = example()
    by_order = {
        ordered: {
            one["metric"]: one
            for one in measured(tmp_path / str(ordered), found._replace(ordered=ordered))
        }
        for ordered in (True, False)
    }
    kappa = score("quadratic_kappa", found.label_B, found.probability_BY, found.units)
    assert by_order[True]["quadratic_kappa"]["value"] == kappa.value
    none = by_order[False]["quadratic_kappa"]
    assert (none["value"], none["low"], none["ordered"]) == (None, None, False)
    assert none["note"].startswith("no quadratic kappa: the order of classes a, b, c, d is not")
    assert recomputed(tmp_path / "False", none).value is None
    shown = table(list(by_order[False].values())).splitlines()[1]
    assert f"{100 * (kappa.value or 0):.1f}" not in shown.split()
    for metric in ("auroc", "macro_f1"):
        assert by_order[True][metric]["value"] == by_order[False][metric]["value"]


def test_a_class_that_was_never_trained_is_named_and_comes_again_from_the_row(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = measured(tmp_path, example()._replace(untrained=(1,)))
    note = "no training image of b, c: mean of the other classes"
    assert [one["note"] == note for one in rows] == [True, True, False, True, True, False]
    assert rows[2]["note"] == "no training image of b, c: its test images count as errors"
    assert caplog.text.count(note) == 1
    assert rows[0]["untrained"] == ["b, c"]
    assert [recomputed(tmp_path, one).value for one in rows] == [one["value"] for one in rows]
