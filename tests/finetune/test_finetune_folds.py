"""Cross-validation of fine-tuning: each image is tested once, and finished folds are kept."""

import logging
import signal
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from maskedclip.config import FinetuneConfig
from maskedclip.data.folds import folds_of
from maskedclip.data.labelled import labelled
from maskedclip.data.storage.shards import Shards, ShardWriter
from maskedclip.engine.preemption import Preempted
from maskedclip.finetune import loop
from maskedclip.finetune.command import read_finetune
from maskedclip.finetune.cross_validation import cross_validate
from maskedclip.finetune.loop import finetune
from maskedclip.finetune.run_directory import read_labels
from maskedclip.metrics.prediction_files import read_predictions
from maskedclip.metrics.results import predictions_of, read_rows, recomputed, table
from maskedclip.metrics.scores import METRICS
from maskedclip.report.collect import collect
from maskedclip.report.compare_methods import compare
from maskedclip.shards.building.prepare_sample import encode
from tests.colours import config_of, two_colours
from tests.kinds_of_tasks import write_ages, write_findings


def clinic(directory: Path) -> Path:
    """Write 48 images of 24 patients in two colours, without a published split."""
    generator = np.random.default_rng(0)
    with ShardWriter(directory, "clinic") as writer:
        for i in range(48):
            image_HWC = generator.integers(0, 120, (40, 40, 3), dtype=np.uint8)
            image_HWC[..., i // 2 % 2] += 20
            facts = {
                "labels": {"colour": ("red", "green")[i // 2 % 2]},
                "patient": f"p{i // 2}",
                "sha256": str(i),
            }
            writer.add(f"s{i:03d}", encode(image_HWC, 90), facts)
    return directory


def config_for(root: Path, dataset: Path) -> FinetuneConfig:
    return replace(config_of(root), dataset=str(dataset), name="", out=str(root / "runs"), epochs=3)


@pytest.fixture(scope="module")
def pooled(tmp_path_factory: pytest.TempPathFactory) -> tuple[FinetuneConfig, Path]:
    root = tmp_path_factory.mktemp("folds")
    config = config_for(root, clinic(root / "clinic"))
    return config, cross_validate(config, 2)


def fold_runs(run: Path) -> list[Path]:
    return sorted(path.parent for path in run.glob("*/results.jsonl"))


def test_each_image_is_tested_once_by_the_folds_of_evaluate(
    pooled: tuple[FinetuneConfig, Path],
) -> None:
    config, run = pooled
    assert run.name == "random_micro-clinic-colour-1-seed0-2folds"
    folds = folds_of(labelled(Shards(Path(config.dataset))), 2)
    tested: list[str] = []
    for directory, parts in zip(fold_runs(run), folds, strict=True):
        (row,) = [one for one in read_rows(directory) if one["metric"] == "auroc"]
        keys = predictions_of(directory, row)[0].keys
        assert set(keys) == {sample.key for sample in parts["test"]}
        labels = read_labels(replace(config, split=str(directory / "split.csv")))
        for name in ("train", "val"):
            assert {s.key for s in labels.parts[name]} == {s.key for s in parts[name]}
        tested += keys
    assert Counter(tested) == Counter({f"s{i:03d}": 1 for i in range(48)})


def test_the_pooled_value_is_scikit_learns_with_an_interval_by_patient_and_the_spread(
    pooled: tuple[FinetuneConfig, Path],
) -> None:
    _, run = pooled
    rows = {row["metric"]: row for row in read_rows(run)}
    assert set(rows) == set(METRICS)  # no threshold is of all folds
    row = rows["auroc"]
    _, _, label_B, probability_BY = read_predictions(run / row["predictions"])
    expected = [roc_auc_score(label_B == y, probability_BY[:, y]) for y in range(2)]
    assert row["value"] == pytest.approx(np.mean(expected)) == recomputed(run, row).value
    assert row["low"] < row["value"] < row["high"]
    facts = {name: row[name] for name in ("protocol", "n", "patients", "folds", "recipe")}
    assert facts == {
        "protocol": "finetune, 2 folds", "n": 48, "patients": 24, "folds": 2, "recipe": "paper",
    }  # fmt: skip
    alone = [
        next(one["value"] for one in read_rows(directory) if one["metric"] == "auroc")
        for directory in fold_runs(run)
    ]
    assert row["fold_values"] == alone
    shown = table(read_rows(run))
    assert "finetune, 2 folds" in shown
    assert "AUROC pooled over 2 folds; by themselves " in shown
    assert "standard deviation" in shown


def test_no_table_mixes_pooled_rows_with_those_of_the_split(
    pooled: tuple[FinetuneConfig, Path], tmp_path: Path
) -> None:
    _, run = pooled
    (only,) = collect([run], "").results
    assert (only.protocol, only.n) == ("finetune, 2 folds", 48)
    config = config_for(tmp_path, two_colours(tmp_path / "colours"))
    single = finetune(replace(config, epochs=1, warmup_epochs=0))
    found = collect([run.parent, single], "")
    assert [one.protocol for one in found.results] == ["finetune"]
    assert [one.protocol for one in collect([run, single], "finetune, 2 folds").results] == [
        "finetune, 2 folds"
    ]
    shown = compare(run, run)
    assert "clinic colour, finetune, 2 folds, 100% of the labels: 48 images" in shown
    assert "fold 1 of 2" not in shown


def stopped_in_the_second_fold(
    config: FinetuneConfig, monkeypatch: pytest.MonkeyPatch
) -> dict[Path, int]:
    """Ask to stop in the second epoch of fold 2; return when the files of fold 1 changed."""
    train = loop.train_epoch

    def asked(*arguments):
        if "fold2" in arguments[4].name and arguments[5] == 1:
            signal.raise_signal(signal.SIGTERM)
        return train(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "train_epoch", asked)
        with pytest.raises(Preempted, match="is saved, and the same command goes on"):
            cross_validate(config, 2)
    first = Path(config.out) / config.name / f"{config.name}-fold1of2"
    return {path: path.stat().st_mtime_ns for path in first.rglob("*.*")}


def test_finished_folds_are_not_run_again_and_a_stopped_one_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    config = config_for(tmp_path, two_colours(tmp_path / "colours"))
    config = replace(config, epochs=2, name="cv")
    first = stopped_in_the_second_fold(config, monkeypatch)
    run = tmp_path / "runs" / "cv"
    assert not read_rows(run)  # one fold is no value
    with caplog.at_level(logging.INFO):
        cross_validate(config, 2)
    assert {path: path.stat().st_mtime_ns for path in first} == first
    assert "cv-fold1of2 is finished" in caplog.text
    assert "cv-fold2of2 goes on after epoch" in caplog.text
    assert "2 folds of 60 images" in caplog.text
    assert "the 24 images of the published test split take no part" in caplog.text
    (row,) = [one for one in read_rows(run) if one["metric"] == "auroc"]
    keys = predictions_of(run, row)[0].keys
    assert set(keys) == {f"s{i:03d}" for i in range(60)} - {"s011"}  # which is damaged
    before = (run / "results.jsonl").read_bytes()
    cross_validate(config, 2)
    assert (run / "results.jsonl").read_bytes() == before
    for other, folds, said in (
        (config, 3, "holds 2 folds; choose another --name or --out"),
        (replace(config, epochs=3), 2, "holds a fine-tuning with epochs .*, now 3; choose"),
    ):
        with pytest.raises(ValueError, match=said):
            cross_validate(other, folds)
    with pytest.raises(ValueError, match="holds the folds of a cross-validation"):
        finetune(config)
    assert (run / "results.jsonl").read_bytes() == before


def test_numbers_have_folds_too(tmp_path: Path) -> None:
    config = config_for(tmp_path, write_ages(tmp_path / "ages"))
    run = cross_validate(replace(config, epochs=1, warmup_epochs=0), 2)
    rows = {row["metric"]: row for row in read_rows(run)}
    found, _ = predictions_of(run, rows["mae"])
    error = np.abs(found.label_B - found.probability_BY[:, 0]).mean()
    assert rows["mae"]["value"] == pytest.approx(error)
    assert rows["mae"]["fold_values"] == [
        next(one["value"] for one in read_rows(directory) if one["metric"] == "mae")
        for directory in fold_runs(run)
    ]
    assert "ages age finetune, 2 folds, MAE pooled over 2 folds; by themselves " in table(
        [*rows.values()]
    )


def test_what_folds_cannot_do_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = clinic(tmp_path / "clinic")
    with pytest.raises(SystemExit):
        read_finetune("", ["random", f"--dataset={data}", "--folds=1"])
    assert "folds 1: use 2 or more" in capsys.readouterr().err
    assert read_finetune("", ["random", f"--dataset={data}", "--folds=5"]).folds == 5
    config = config_for(tmp_path, data)
    with pytest.raises(ValueError, match="folds 2 with split: leave one out"):
        cross_validate(replace(config, split="a.csv"), 2)
    with pytest.raises(
        ValueError, match=r"there are 24 patients \(images, where none is known\); use fewer folds"
    ):
        cross_validate(config, 30)
    findings = config_for(tmp_path, write_findings(tmp_path / "findings"))
    with pytest.raises(ValueError, match="have several labels; leave --folds out"):
        cross_validate(findings, 2)
    assert not (tmp_path / "runs").exists()
    finetune(replace(config, name="single", epochs=1, warmup_epochs=0))
    with pytest.raises(ValueError, match="holds a run without folds"):
        cross_validate(replace(config, name="single"), 2)


def test_images_that_are_others_than_at_the_beginning_are_refused(tmp_path: Path) -> None:
    config = config_for(tmp_path, clinic(tmp_path / "clinic"))
    run = tmp_path / "runs" / "random_micro-clinic-colour-1-seed0-2folds"
    fold = run / f"{run.name}-fold1of2"
    fold.mkdir(parents=True)
    (fold / "split.csv").write_text("of other images")
    with pytest.raises(ValueError, match="the images or their patients are others"):
        cross_validate(config, 2)
