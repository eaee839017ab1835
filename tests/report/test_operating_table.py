"""Evaluation, fine-tuning and report state sensitivity and specificity, and of joined classes."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from maskedclip.data.storage.shards import ShardWriter
from maskedclip.evaluate.protocols import evaluate
from maskedclip.metrics.prediction_files import read_predictions
from maskedclip.metrics.results import read_rows, recomputed, write_rows
from maskedclip.report.build import Report, report
from maskedclip.report.command import ReportConfig
from maskedclip.shards.building.prepare_sample import encode
from tests.report.pages.runs import Place, predicted, write_run
from tests.untrained import exported

TITLE = "Sensitivity and specificity"


def dataset(directory: Path, classes: Sequence[str]) -> Path:
    """Write 120 images of as many brightnesses as classes, two of each patient."""
    generator = np.random.default_rng(0)
    with ShardWriter(directory, "grades") as writer:
        for i in range(120):
            grade = i // 2 % len(classes)
            image_HWC = generator.integers(0, 150, (40, 40, 3), dtype=np.uint8) + 25 * grade
            facts = {
                "labels": {"dr": classes[grade]},
                "split": ("train", "val", "test")[i // 2 // len(classes) % 3],
                "patient": f"p{i // 2}",
                "sha256": str(i),
            }
            writer.add(f"s{i:03d}", encode(image_HWC.astype(np.uint8), 90), facts)
    return directory


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("graded")
    exported(root / "runs" / "ours")
    graded = dataset(root / "grades", "01234")
    evaluate(root / "runs" / "ours", [(graded, "")], ["knn"], root / "runs" / "ours",
             group="0,1|2,3,4")  # fmt: skip
    return root / "runs" / "ours"


def test_joined_classes_are_a_task_of_their_own_with_a_threshold_of_validation(run: Path) -> None:
    rows = {row["metric"]: row for row in read_rows(run) if row["task"] == "dr (0,1|2,3,4)"}
    whole = next(row for row in read_rows(run) if row["task"] == "dr")
    assert {"auroc", "sensitivity", "specificity", "ppv", "npv"} <= rows.keys()
    _, _, label_B, probability_BY = read_predictions(run / whole["predictions"])
    expected = roc_auc_score(label_B >= 2, probability_BY[:, 2:].sum(axis=1))
    assert rows["auroc"]["value"] == pytest.approx(expected)
    assert recomputed(run, rows["auroc"]).value == rows["auroc"]["value"]
    found = rows["sensitivity"]
    called_B = probability_BY[label_B >= 2, 2:].sum(axis=1) >= found["threshold"]
    assert found["value"] == pytest.approx(called_B.mean())
    assert found["positive"] == "2, 3, 4"
    assert found["rule"] == "Youden's J on 40 validation images, 24 positive"
    assert "sensitivity" not in {row["metric"] for row in read_rows(run) if row["task"] == "dr"}


def text_of(run: Path, out: Path, **options: object) -> tuple[Report, str]:
    config = ReportConfig(out=str(out), protocol="knn", pictures=0, **options)  # type: ignore[arg-type]
    written = report([run], config)
    return written, (out / "index.html").read_text()


def test_the_report_joins_classes_of_existing_predictions(run: Path, tmp_path: Path) -> None:
    written, page = text_of(run, tmp_path, group="0|1,2,3,4", at_sensitivity=0.8)
    assert written.problems == []
    assert TITLE in page
    assert "grades dr (0|1,2,3,4)" in page
    assert "chosen on validation images by a sensitivity of 80 %" in page
    for name in ("operating_points.md", "operating_points.tex"):
        assert "grades dr" in (tmp_path / name).read_text()
    assert "grades dr (0" in written.text
    assert page.count("grades dr (0,1|2,3,4)</td>") == 1  # what evaluate joined is no column


def test_a_group_of_unknown_classes_is_refused_with_the_nearest_name(
    run: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="no class '5'; there are 0, 1, 2, 3, 4"):
        text_of(run, tmp_path, group="0|5")


def test_runs_without_validation_predictions_are_named(tmp_path: Path) -> None:
    found = predicted("origa", 2, 2.0, 0)
    write_run(tmp_path / "runs", Place("old", "origa"), found)
    out = tmp_path / "report"
    written = report([tmp_path / "runs"], ReportConfig(out=str(out), pictures=0))
    page = (out / "index.html").read_text()
    assert "Results without a threshold: 1." in page
    assert "no predictions of the validation split are kept" in page
    assert "no predictions of the validation split are kept" in written.text
    assert written.problems == []


def test_a_task_of_two_classes_needs_no_group(tmp_path: Path) -> None:
    exported(tmp_path / "ours")
    binary = dataset(tmp_path / "binary", ("glaucoma", "normal"))
    evaluate(tmp_path / "ours", [(binary, "")], ["logistic"], tmp_path / "out", at_sensitivity=0.9)
    (row,) = [row for row in read_rows(tmp_path / "out") if row["metric"] == "specificity"]
    assert row["positive"] == "glaucoma"
    assert row["rule"].startswith("a sensitivity of 90 % on 40 validation images, 20 positive")


def say(run: Path, seen: str, images: int | None, note: str = "") -> None:
    """Let the rows of a run say what is known of its test images in pre-training."""
    facts = {"seen": seen, "seen_images": images, "seen_note": note}
    write_rows(run, [row | facts for row in read_rows(run)])


def cells(table: str) -> list[list[str]]:
    """Return the cells of a Markdown table without daggers and padding."""
    rows = [row for row in table.replace("\u2020", "").splitlines() if row.startswith("| ")]
    return [["".join(cell.split()) for cell in row.split(" | ")] for row in rows]


@pytest.mark.parametrize(
    ("group", "task", "said"),
    [
        ("", "dr (0,1|2,3,4)", "7 of 40 test images were in pre-training (clinic)."),
        ("0|1,2,3,4", "dr (0|1,2,3,4)", "7 of 40 test images were in pre-training (clinic)."),
        # of the 24 images of these classes nobody counted them
        ("0|3,4", "dr (0|3,4)", "its weights (clinic) were trained on images of"),
    ],
)
def test_sensitivity_of_images_in_pretraining_has_a_dagger_and_says_how_many(
    run: Path, tmp_path: Path, group: str, task: str, said: str
) -> None:
    own = shutil.copytree(run, tmp_path / "own")
    before, _ = text_of(own, tmp_path / "before", group=group)
    say(own, "clinic", 7)
    after, page = text_of(own, tmp_path / "after", group=group)
    names = ("operating_points.md", "table1.md")
    tables = {name: (tmp_path / "after" / name).read_text() for name in names}
    plain = {name: (tmp_path / "before" / name).read_text() for name in names}
    method = read_rows(run)[0]["method"]
    line = f"{method}, grades {task}: {said}" if group != "0|3,4" else f"{method}: {said} grades"
    shown = line.replace("|", r"\|").replace("_", r"\_")
    points = tables["operating_points.md"]
    row = next(one for one in points.splitlines() if task.replace("|", r"\|") in one)
    # ROC, sensitivity, specificity, PPV and NPV; not the threshold
    assert row.count("\u2020 \\[") == 5
    assert f"\n\u2020 {shown}" in points
    assert line in after.text  # as it is, and not escaped for Markdown
    assert f'<p class="soft">&dagger; {line}' in page
    code = (tmp_path / "after" / "operating_points.tex").read_text()
    latex = line.replace("|", r"\textbar{}").replace("_", r"\_")
    assert rf"\par\footnotesize $^\dagger${latex}" in code
    assert code.count(r"$^\dagger$ [") == 5 * (2 if group else 1)
    assert "\u2020" not in code
    assert "\u2020" not in before.text
    for name, text in tables.items():  # values, bold and underlined ones are as they were
        assert cells(text) == cells(plain[name])


def test_that_seen_images_are_not_known_stands_under_sensitivity_too(
    run: Path, tmp_path: Path
) -> None:
    own = shutil.copytree(run, tmp_path / "own")
    say(own, "", None, "not known: gone")
    text_of(own, tmp_path / "out")
    points = (tmp_path / "out" / "operating_points.md").read_text()
    assert "Whether test images were in pre-training is not known: gone: " in points
    assert "\u2020" not in points
