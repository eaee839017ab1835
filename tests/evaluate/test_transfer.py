"""A fine-tuned network is scored on another dataset, on the classes that both have."""

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

from maskedclip.data.labelled_views import sample_image
from maskedclip.data.storage.shards import Shards, ShardWriter
from maskedclip.evaluate.protocols import run as run_evaluate
from maskedclip.finetune.command import EvaluateConfig
from maskedclip.finetune.loop import finetune
from maskedclip.inference import load
from maskedclip.metrics.results import predictions_of, read_rows, recomputed, write_rows
from maskedclip.metrics.scores import METRICS
from maskedclip.report.build import report
from maskedclip.report.command import ReportConfig
from maskedclip.shards.building.prepare_sample import encode
from tests.colours import config_of, two_colours
from tests.kinds_of_tasks import write_ages, write_findings

OTHERS = ("Red", "GREEN", "blue")


def write_other(
    directory: Path, names: Sequence[str] = OTHERS, *, published: bool = True, task: str = "colour"
) -> Path:
    """Write 60 weakly tinted images, half of them a test split."""
    generator = np.random.default_rng(1)
    with ShardWriter(directory, directory.name) as writer:
        for i in range(60):
            image_HWC = generator.integers(0, 150, (40, 40, 3), dtype=np.uint8)
            image_HWC[..., i % len(names)] += generator.integers(0, 6, dtype=np.uint8)
            facts = {
                "labels": {task: names[i % len(names)]},
                "split": ("train" if i < 30 else "test") if published else None,
                "sha256": f"other{i}",
                "source": f"{names[i % len(names)]}/{i}.jpg",
            }
            writer.add(f"o{i:03d}", encode(image_HWC, 90), facts)
    return directory


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("root")
    two_colours(directory / "colours")
    finetune(replace(config_of(directory), out=str(directory / "runs"), seed=3, fraction=0.5))
    write_other(directory / "other")
    return directory


def transferred(root: Path, *datasets: Path, **options: bool | int | str) -> str:
    """Run the command; return nothing of it but the rows' protocol, the rest is in the run."""
    names = tuple(map(str, datasets))
    run_evaluate(EvaluateConfig(weights=str(root / "runs" / "ours"), datasets=names, **options))  # type: ignore[arg-type]
    return "transfer-whole" if options.get("whole") else "transfer"


def expected_of(root: Path, dataset: Path, split: str | None) -> tuple[np.ndarray, np.ndarray]:
    """Return label_B (green, red: in the order of training) and probability_BY, by hand."""
    model, shards = load(root / "runs" / "ours"), Shards(dataset)
    labels, rows = [], []
    for index in range(len(shards)):
        facts = shards.metadata(index)
        name = facts["labels"]["colour"].lower()
        if name in ("green", "red") and split in (None, facts["split"]):
            labels.append(("green", "red").index(name))
            rows.append(model.prepare(sample_image(shards, index)))
    assert model.classes == ("green", "red")
    with torch.no_grad():
        return np.array(labels), model.network(torch.stack(rows)).double().softmax(1).numpy()


@pytest.mark.parametrize("whole", [False, True])
def test_shared_classes_are_scored_and_the_rest_is_named_and_counted(
    root: Path, whole: bool, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO"):
        protocol = transferred(root, root / "other", whole=whole)
    run = root / "runs" / "ours"
    rows = {row["metric"]: row for row in read_rows(run) if row["protocol"] == protocol}
    label_B, probability_BY = expected_of(root, root / "other", None if whole else "test")
    assert set(rows) == set(METRICS)
    assert {row["n"] for row in rows.values()} == {len(label_B)} == {40 if whole else 20}
    # bf16 there, fp32 here
    auroc = roc_auc_score(label_B, probability_BY[:, 1])
    assert 0.6 < auroc < 1
    assert rows["auroc"]["value"] == pytest.approx(auroc, abs=0.03)
    found, classes = predictions_of(run, rows["auroc"])
    assert classes == ["green", "red"]
    np.testing.assert_allclose(found.probability_BY, probability_BY, atol=0.02)
    assert found.label_B.tolist() == label_B.tolist()
    assert found.sources[0].split("/")[0] in OTHERS
    called_B = found.probability_BY.argmax(axis=1)
    balanced = balanced_accuracy_score(label_B, called_B)
    assert rows["balanced_accuracy"]["value"] == pytest.approx(balanced)
    assert recomputed(run, rows["auroc"]).value == rows["auroc"]["value"]
    lost = 20 if whole else 10
    one = rows["auroc"]
    assert one["note"] == f"not learnt and left out: blue ({lost} images)"
    assert (one["trained_on"], one["dataset"], one["left_out"]) == ("colours", "other",
                                                                    {"blue": lost})  # fmt: skip
    assert one["renamed"] == {"GREEN": "green", "Red": "red"}
    assert (one["fraction"], one["seed"], one["method"]) == (0.5, 3, "random_micro")
    assert f"not learnt and left out: blue ({lost} images)" in caplog.text
    assert "class 'Red' is taken for 'red'" in caplog.text
    said = capsys.readouterr().out
    assert f"--out report_{protocol} --protocol={protocol}\n" in said
    assert "{" not in said  # what was left out is in words


def test_what_is_measured_is_not_measured_again_and_other_weights_are(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    transferred(root, root / "other")
    before = (root / "runs" / "ours" / "results.jsonl").read_bytes()
    monkeypatch.setattr("maskedclip.evaluate.transfer.predictions_with", None)
    transferred(root, root / "other")
    assert (root / "runs" / "ours" / "results.jsonl").read_bytes() == before


def test_a_network_that_learnt_nothing_says_so_on_other_datasets_too(
    root: Path, tmp_path: Path
) -> None:
    config = config_of(root)
    run = finetune(replace(config, out=str(tmp_path), lr=1e-9, min_lr=0.0, epochs=2))
    own = read_rows(run)[0]["unlearnt"]
    run_evaluate(EvaluateConfig(weights=str(run), datasets=(str(root / "other"),)))
    rows = [row for row in read_rows(run) if row["protocol"] == "transfer"]
    assert {row["unlearnt"] for row in rows} == {own}


def test_rows_of_another_size_stand_beside_those_of_the_networks_own(
    root: Path, tmp_path: Path
) -> None:
    own_root = Path(shutil.copytree(root, tmp_path / "root"))  # others read the rows of `root`
    run, other = own_root / "runs" / "ours", own_root / "other"
    for size in (0, 64, 0):
        transferred(own_root, other, image_size=size)
    sizes = [
        row["image_size"]
        for row in read_rows(run)
        if row["protocol"] == "transfer" and row["dataset"] == "other" and row["metric"] == "auroc"
    ]
    own = load(run).image_size
    assert sorted(sizes) == sorted([own, 64])


def test_a_dataset_without_a_published_test_split_says_what_is_tested(
    root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    other = write_other(tmp_path / "unsplit", published=False)
    transferred(root, other)
    assert "publishes no test split: tested on the 18 of its 60 labelled images" in caplog.text
    rows = [row for row in read_rows(root / "runs" / "ours") if row["dataset"] == "unsplit"]
    assert {row["n"] for row in rows} == {12}  # six of them blue


def test_fewer_than_two_shared_classes_are_refused_and_so_is_the_training_dataset(
    root: Path, tmp_path: Path
) -> None:
    other = write_other(tmp_path / "drusen", ("RED", "drusen"), task="finding")
    with pytest.raises(ValueError, match=r"classes RED, drusen, and .* learnt green, red: 1 of"):
        transferred(root, other)
    with pytest.raises(ValueError, match=r"ours was fine-tuned on it, .* by protocol finetune"):
        transferred(root, root / "colours")
    with pytest.raises(ValueError, match=r"is of kind number, and .* learnt a class"):
        transferred(root, write_ages(tmp_path / "ages"))
    with pytest.raises(ValueError, match="no fine-tuned network, so no transfer"):
        run_evaluate(EvaluateConfig(weights="random", size="micro", protocols=("transfer",),
                                    datasets=(str(other),)))  # fmt: skip


def test_the_report_shows_it_apart_from_the_tables_of_the_training_dataset(
    root: Path, tmp_path: Path
) -> None:
    transferred(root, root / "other")
    usual = report([root / "runs"], ReportConfig(out=str(tmp_path / "a"), compare=False))
    table, _, apart = usual.text.partition("Trained on one dataset, tested on another")
    assert "colours ROC" in table
    assert "other" not in table
    assert "other (trained on colours)" in apart
    page = usual.page.read_text()
    assert "<h2>Trained on one dataset, tested on another</h2>" in page
    assert "not learnt and left out: blue (10 images)" in page
    config = ReportConfig(out=str(tmp_path / "b"), compare=False, protocol="transfer")
    own = report([root / "runs"], config)
    assert "other (trained on colours) ROC" in own.text
    assert own.problems == []
    (result_page, *_) = (tmp_path / "b" / "runs").glob("*.html")
    assert "cannot be had" not in result_page.read_text()  # its labels are those of the dataset


def test_transfers_to_images_of_pretraining_have_a_dagger_and_say_how_many(
    root: Path, tmp_path: Path
) -> None:
    transferred(root, root / "other")
    run = tmp_path / "runs" / "ours"
    shutil.copytree(root / "runs" / "ours", run)
    seen = {"seen": "clinic", "seen_images": 7, "seen_note": ""}
    place = ("other", "transfer")
    rows = [row for row in read_rows(run) if (row["dataset"], row["protocol"]) == place]
    write_rows(run, [row | seen for row in rows])
    usual = report([run], ReportConfig(out=str(tmp_path / "a"), compare=False, pictures=0))
    table, _, apart = usual.text.partition("Trained on one dataset, tested on another")
    lines = [" ".join(one.split()) for one in apart.splitlines()]
    (line,) = [one for one in lines if " other (trained on colours) transfer 50 %" in one]
    value_of = {row["metric"]: row["value"] for row in rows}
    for metric in ("auroc", "average_precision"):
        assert f" {100 * value_of[metric]:.1f}\u2020 " in line
    assert apart.count("\u2020") == 2 + 1  # and the line below that says how many
    said = "other (trained on colours) colour: 7 of 20 test images were in pre-training (clinic)."
    assert f"\n\u2020 {rows[0]['method']}, {said}\n" in apart
    assert f"\u2020 {rows[0]['method']}, {said}</p>" in usual.page.read_text()
    assert "\u2020" not in table  # of the dataset that it learnt


def test_labels_and_numbers_are_transferred_too(tmp_path: Path) -> None:
    for name, write in (("findings", write_findings), ("ages", write_ages)):
        write(tmp_path / name)
        other = write(tmp_path / f"more_{name}", 60)
        config = replace(config_of(tmp_path), dataset=str(tmp_path / name), name=f"run_{name}")
        finetune(replace(config, epochs=2, out=str(tmp_path)))
        run = tmp_path / f"run_{name}"
        run_evaluate(EvaluateConfig(weights=str(run), datasets=(str(other),), whole=True))
        rows = [row for row in read_rows(run) if row["protocol"] == "transfer-whole"]
        assert {row["n"] for row in rows} == {60}
        found, _ = predictions_of(run, rows[0])
        if name == "ages":
            (mae,) = [row["value"] for row in rows if row["metric"] == "mae"]
            error = np.abs(found.probability_BY[:, 0] - found.label_B).mean()
            assert mae == pytest.approx(error)
        else:
            assert (load(run).classes, found.label_B.shape) == (("N", "D", "G"), (60, 3))
            (auroc,) = [row["value"] for row in rows if row["metric"] == "auroc"]
            expected = roc_auc_score(found.label_B, found.probability_BY, average="macro")
            assert auroc == pytest.approx(expected)
