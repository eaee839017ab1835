"""Two runs are compared on the same images from their files, and what cannot be is said."""

import runpy
import sys
from pathlib import Path

import pytest

from maskedclip.metrics.comparison import paired_bootstrap
from maskedclip.metrics.prediction_files import Predictions
from maskedclip.metrics.results import save_and_score, write_rows
from maskedclip.report.compare_methods import compare
from tests.answers import measured

CLASSES = ("a", "b", "c")


def written(
    run: Path, found: Predictions, seed: int = 0, fraction: float = 1.0, dataset: str = "idrid"
) -> Path:
    identity = {
        "run": run.name, "dataset": dataset, "task": "grade", "protocol": "finetune",
        "fraction": fraction, "seed": seed,
    }  # fmt: skip
    write_rows(
        run, save_and_score(identity, CLASSES, found, run, method="m", shards=run / "shards")
    )
    return run


def cells(text: str, start: str) -> list[str]:
    (line,) = [line for line in text.splitlines() if line.startswith(start + "  ")]
    return [cell.strip() for cell in line.removeprefix(start).split("  ") if cell.strip()]


def test_a_better_run_is_told_from_a_worse_one_by_both_tests(tmp_path: Path) -> None:
    good = written(tmp_path / "good", measured(skill=2.0, seed=1))
    poor = written(tmp_path / "poor", measured(skill=0.5, seed=2))
    text = compare(good, poor)
    head = "idrid grade, finetune, 100% of the labels: 200 images of 100 patients, 1 and 1 runs"
    assert text.splitlines()[0] == head
    for line in ("AUROC", "macro F1", "AUROC of a, DeLong", "AUROC of c, DeLong"):
        first, second, difference, p = cells(text, line)
        assert float(first) > float(second) + 5
        assert difference.startswith("+")
        assert p == "<0.001" or float(p) < 0.005


def test_folders_of_runs_are_compared_by_their_means_over_seeds(tmp_path: Path) -> None:
    sides = []
    for name, skill in (("ours", 1.2), ("theirs", 1.0)):
        runs = [measured(skill=skill, seed=seed) for seed in range(2)]
        for seed, run in enumerate(runs):
            written(tmp_path / name / f"{name}-seed{seed}", run, seed)
        sides.append(runs)
    text = compare(tmp_path / "ours", tmp_path / "theirs")
    first, _, difference, _ = cells(text, "AUROC")
    found = paired_bootstrap("auroc", *sides)
    assert found.low is not None
    assert difference.startswith(f"{100 * found.value:+.1f} [{100 * found.low:+.1f}, ")
    assert " +- " in first
    assert "DeLong" not in text  # which is of two runs
    each = [sorted((tmp_path / name).iterdir()) for name in ("ours", "theirs")]
    assert compare(*each) == text  # one by one, as the seeds of a sweep's point lie


def test_only_what_both_have_measured_is_compared(tmp_path: Path) -> None:
    runs = [tmp_path / "one", tmp_path / "two"]
    for run in runs:
        written(run, measured())
    written(runs[0], measured(), fraction=0.1)
    assert compare(*runs).count("images of") == 1


def test_a_test_split_of_one_class_is_compared_as_far_as_it_can_be(tmp_path: Path) -> None:
    found = measured()
    found = found._replace(label_B=found.label_B * 0)
    text = compare(*(written(tmp_path / name, found) for name in ("one", "two")))
    assert cells(text, "AUROC") == ["-", "-", "- (test images of one class)", "-"]
    assert cells(text, "macro F1")[-1] == "1.000"


def test_what_cannot_be_compared_is_said_in_a_line(tmp_path: Path) -> None:
    run = written(tmp_path / "run", measured())
    other = written(tmp_path / "other", measured(), dataset="retina")
    fewer = written(tmp_path / "fewer", measured(images=198))
    for second, answer in (
        (other, "nothing in common: idrid grade, finetune, 100% of the labels and retina"),
        (fewer, "198 images of one run are not the 200"),
        (tmp_path, "two runs of seed 0"),
        (tmp_path / "run" / "predictions", "no results.jsonl"),
        (tmp_path / "nothing", "no such directory"),
    ):
        with pytest.raises(ValueError, match=answer) as error:
            compare(run, second)
        assert "\n" not in str(error.value)


def test_the_command_ends_in_the_next_one_or_in_a_line_and_status_2_where_it_cannot_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = str(written(tmp_path / "run", measured()))
    monkeypatch.delitem(sys.modules, "maskedclip.compare", raising=False)  # or runpy warns of it
    for words, answer in (([run], "1 runs given"), ([run, run, "--seed=1"], "unknown flag --seed")):
        monkeypatch.setattr(sys, "argv", ["compare", *words])
        with pytest.raises(SystemExit) as ended:
            runpy.run_module("maskedclip.compare", run_name="__main__")
        said = capsys.readouterr().err
        assert (ended.value.code, said.count("\n")) == (2, 1)
        assert answer in said
    monkeypatch.setattr(sys, "argv", ["compare", run, run])
    runpy.run_module("maskedclip.compare", run_name="__main__")
    said = capsys.readouterr().out
    assert "this run is on both sides." in said
    assert f"next: python -m maskedclip.report {run} {run} --out report" in said


def test_one_patient_has_no_p_value_and_it_is_said(tmp_path: Path) -> None:
    runs = [measured(seed=seed)._replace(units=["p"] * 200) for seed in range(2)]
    text = compare(*(written(tmp_path / str(i), run) for i, run in enumerate(runs)))
    assert "No interval and no p: the test images are of one patient." in text
    assert cells(text, "AUROC")[-1] == "-"


def test_compare_shows_quadratic_kappa_of_grades_alone(tmp_path: Path) -> None:
    """The classes a, b and c of rows that do not say so are no grades by their names."""
    runs = [written(tmp_path / name, measured(seed=i)) for i, name in enumerate(("one", "two"))]
    (line,) = [one for one in compare(*runs).splitlines() if one.startswith("quadratic kappa")]
    assert "- (no known order of the classes)" in line
    graded = [
        written(tmp_path / name, measured(seed=i)._replace(ordered=True))
        for i, name in enumerate(("three", "four"))
    ]
    (line,) = [one for one in compare(*graded).splitlines() if one.startswith("quadratic kappa")]
    assert "no known order" not in line
