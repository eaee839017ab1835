"""Reports and comparisons of several labels an image, and of numbers."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, mean_absolute_error, roc_auc_score

from maskedclip.metrics.prediction_files import Predictions
from maskedclip.metrics.scores import score
from maskedclip.report.build import Report, report
from maskedclip.report.collect import collect
from maskedclip.report.command import ReportConfig
from maskedclip.report.compare_methods import compare
from tests.kinds_of_tasks import LABELS, write_findings
from tests.report.pages.runs import Place, predicted, write_run

NAMES = [*LABELS, "rare"]


def labels_found(skill: float, seed: int) -> Predictions:
    """Of 60 images; `rare` is on 3 of them."""
    own = np.random.default_rng(0)
    label_BY = (own.random((60, 4)) < [0.5, 0.4, 0.3, 0.0]).astype(int)
    label_BY[:3, 3] = 1
    noise = np.random.default_rng(seed).normal(size=(60, 4))
    probability_BY = 1 / (1 + np.exp(-(noise + skill * (2 * label_BY - 1))))
    return Predictions(*_images(), label_BY, probability_BY, False, (), "labels", (0.4,) * 4)


def numbers_found(error: float, seed: int) -> Predictions:
    value_B = np.random.default_rng(0).uniform(40, 80, 60)
    predicted_B = value_B + error * np.random.default_rng(seed).normal(size=60)
    return Predictions(*_images(), value_B, predicted_B[:, None], False, (), "number")


def _images() -> tuple[list[str], list[str]]:
    return [f"s{i:03d}" for i in range(60)], [f"p{i // 2}" for i in range(60)]


class Mixed:
    """Runs of two methods on labels, numbers and classes, and the report on them."""

    def __init__(self, root: Path) -> None:
        self.runs, self.out = root / "runs", root / "report"
        for method, skill, error in (("ours", 1.5, 3.0), ("random", 0.3, 9.0)):
            place = Place(method, "odir", task="findings")
            write_run(self.runs / method, place, labels_found(skill, 1), classes=NAMES)
            place = Place(method, "ages", task="age")
            write_run(self.runs / method, place, numbers_found(error, 1), classes=["age"])
            write_run(self.runs / method, Place(method, "idrid"), predicted("idrid", 5, skill, 1))
        self.written: Report = report([self.runs], ReportConfig(out=str(self.out)))

    def sheet(self, name: str) -> list[dict[str, str]]:
        return list(csv.DictReader((self.out / name).read_text().splitlines()))

    def page(self, dataset: str) -> str:
        (path,) = (self.out / "runs").glob(f"ours-{dataset}-*.html")
        return path.read_text()


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Mixed:
    return Mixed(tmp_path_factory.mktemp("mixed"))


def row_of(rows: list[dict[str, str]], **facts: Any) -> dict[str, str]:
    (row,) = [row for row in rows if facts.items() <= row.items()]
    return row


def test_each_value_comes_again_from_its_predictions(mixed: Mixed) -> None:
    assert mixed.written.problems == []


def test_the_best_error_is_the_lowest_and_no_number_counts_in_an_average(mixed: Mixed) -> None:
    rows = mixed.sheet("table1.csv")
    ours = row_of(rows, method="ours", dataset="ages", metric="mae")
    found = numbers_found(3.0, 1)
    error = mean_absolute_error(found.label_B, found.probability_BY[:, 0])
    assert float(ours["mean"]) == pytest.approx(error)
    assert (ours["mark"], ours["best"]) == ("best", "")
    other = row_of(rows, method="random", dataset="ages", metric="mae")
    assert (other["mark"], other["best"]) == ("second", "ours")
    assert float(other["difference"]) > 0
    assert f"{error:.2f}*" in mixed.written.text
    assert "ages MAE" in mixed.written.text
    assert {row["metric"] for row in rows if row["dataset"] == "ages"} == {"mae", "r2"}
    assert not [row for row in rows if row["task"] == "average" and row["metric"] in ("mae", "r2")]


def test_the_mean_over_labels_and_each_label_stand_with_intervals_and_positives(
    mixed: Mixed,
) -> None:
    found = labels_found(1.5, 1)
    macro = row_of(mixed.sheet("table1.csv"), method="ours", dataset="odir", metric="auroc")
    expected = roc_auc_score(found.label_B, found.probability_BY, average="macro")
    assert float(macro["mean"]) == pytest.approx(expected)
    assert macro["mark"] == "best"
    rows = mixed.sheet("labels.csv")
    assert len(rows) == 2 * 4 * 3
    for y, name in enumerate(NAMES):
        one = found.label_B[:, y], found.probability_BY[:, y]
        auroc = row_of(rows, method="ours", label=name, metric="auroc")
        assert float(auroc["value"]) == pytest.approx(roc_auc_score(*one))
        assert int(auroc["positives"]) == one[0].sum()
        alone = score("auroc", one[0], np.stack([1 - one[1], one[1]], axis=1), found.units)
        assert float(auroc["low"]) == pytest.approx(alone.low or 0)
        precision = row_of(rows, method="ours", label=name, metric="average_precision")
        assert float(precision["value"]) == pytest.approx(average_precision_score(*one))
    note = row_of(rows, method="ours", label="rare", metric="auroc")["note"]
    assert note == "only 3 test images: the values say little"
    index = (mixed.out / "index.html").read_text()
    assert "Each label by itself" in index
    assert note in index


def test_labels_of_images_in_pretraining_have_a_dagger_and_say_how_many(tmp_path: Path) -> None:
    mixed = Mixed(tmp_path)
    for path in (mixed.runs / "ours").rglob("results.jsonl"):
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        facts = {"seen": "odir", "seen_images": 7, "seen_note": ""}
        path.write_text("".join(json.dumps(row | facts) + "\n" for row in rows))
    report([mixed.runs], ReportConfig(out=str(mixed.out)))
    index = (mixed.out / "index.html").read_text()
    table = index[index.index("Each label by itself") : index.index("Figure 2")]
    assert "ours, 100 %\N{DAGGER}" in table
    assert "random, 100 %\N{DAGGER}" not in table
    assert "7 of 60 test images were in pre-training (odir)" in table
    notes = {row["method"]: row["note"] for row in mixed.sheet("labels.csv")}
    assert "7 of 60 test images were in pre-training" in notes["ours"]
    assert "pre-training" not in notes["random"]


def test_a_page_of_labels_has_curves_and_thresholds_and_no_confusion_matrix(mixed: Mixed) -> None:
    page = mixed.page("odir")
    assert "Confusion matrix" not in page
    assert "ROC curves. Area under the curve in per cent: N " in page
    found = labels_found(1.5, 1)
    called_B, own_B = found.probability_BY[:, 1] >= 0.4, found.label_B[:, 1] == 1
    row = page[page.index('<td class="name">D</td>') :].partition("</tr>")[0]
    sensitivity, specificity = (called_B & own_B).sum() / own_B.sum(), (~called_B[~own_B]).mean()
    for cell in (own_B.sum(), called_B.sum(), "40.0", f"{100 * sensitivity:.1f}",
                 f"{100 * specificity:.1f}"):  # fmt: skip
        assert f"<td>{cell}</td>" in row
    assert "the labels are" in page


def test_calibration_of_labels_is_the_mean_of_each_labels_own_gaps(mixed: Mixed) -> None:
    found, page = labels_found(1.5, 1), mixed.page("odir")
    errors = []
    for own_B, probability_B in zip(found.label_B.T, found.probability_BY.T, strict=True):
        bin_B = np.ceil(probability_B * 15).clip(1)  # low < probability <= high
        gaps = [abs((own_B - probability_B)[bin_B == i].sum()) for i in range(1, 16)]
        errors.append(sum(gaps) / len(own_B))
    rows = [row for row in mixed.sheet("labels.csv") if row["metric"] == "calibration_error"]
    stated = [float(row["value"]) for row in rows if row["method"] == "ours"]
    assert stated == pytest.approx(errors)
    assert f"own (above): <b>{100 * np.mean(errors):.1f} %</b>" in page
    assert "Probability: share that has the label" in page


def test_a_page_of_numbers_has_a_scatter_plot_and_the_largest_errors(mixed: Mixed) -> None:
    page = mixed.page("ages")
    assert "Predicted over true age of 60 images" in page
    assert "Confusion matrix" not in page
    found = numbers_found(3.0, 1)
    worst = np.abs(found.probability_BY[:, 0] - found.label_B).argmax()
    assert (
        f"predicted {found.probability_BY[worst, 0]:.4g}; it is {found.label_B[worst]:.4g}" in page
    )
    assert f"<td>{mean_absolute_error(found.label_B, found.probability_BY[:, 0]):.2f}</td>" in page


def test_a_comparison_has_the_metrics_of_the_kind(mixed: Mixed) -> None:
    text = compare(mixed.runs / "ours", mixed.runs / "random")
    labels = text[text.index("odir findings") :]
    found = [labels_found(skill, 1) for skill in (1.5, 0.3)]
    auroc = [roc_auc_score(f.label_B, f.probability_BY, average="macro") for f in found]
    line = next(line for line in labels.splitlines() if line.startswith("AUROC "))
    assert line.split()[1:4] == [
        f"{100 * auroc[0]:.1f}", f"{100 * auroc[1]:.1f}", f"{100 * (auroc[0] - auroc[1]):+.1f}",
    ]  # fmt: skip
    assert "AUROC of rare, DeLong" in labels
    assert "quadratic kappa" not in labels.partition("\n\n")[0]
    numbers = text[text.index("ages age") :].partition("\n\n")[0]
    assert "MAE (less is better)" in numbers
    assert "AUROC" not in numbers


def test_photographs_of_labels_stand_beside_their_errors(tmp_path: Path) -> None:
    shards = write_findings(tmp_path / "shards", images=60)
    from maskedclip.data.labelled import labelled
    from maskedclip.data.storage.shards import Shards

    task = labelled(Shards(shards))
    noise = np.random.default_rng(0).random((60, 3))
    found = Predictions(*_images(), task.answers(task.samples), noise, False, (), "labels")
    write_run(tmp_path / "runs", Place("ours", "odir", task="findings"), found,
              classes=list(LABELS), shards=shards)  # fmt: skip
    written = report([tmp_path / "runs"], ReportConfig(out=str(tmp_path / "out"), pictures=3))
    assert written.problems == []
    (page,) = (tmp_path / "out" / "runs").glob("*.html")
    assert page.read_text().count("data:image/jpeg") == 3


def test_a_row_of_an_unknown_kind_is_left_out_by_name(mixed: Mixed, tmp_path: Path) -> None:
    (run,) = mixed.runs.glob("ours/ours-odir*")
    lines = (run / "results.jsonl").read_text().splitlines()
    (tmp_path / "results.jsonl").write_text(
        "\n".join([*lines[1:], lines[0].replace('"kind": "labels"', '"kind": "colours"')])
    )
    problems = collect([tmp_path], "").problems
    assert any("kind is 'colours', not known" in line for line in problems)
