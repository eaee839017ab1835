"""Fine-tuning of several labels an image, and of numbers: head, loss, mixing, selection, resume."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score, mean_absolute_error, roc_auc_score
from torch.nn import functional as F

from maskedclip.config import FinetuneConfig
from maskedclip.data.augmentation import mixed
from maskedclip.data.lost_samples import Ledger
from maskedclip.engine.preemption import Preempted
from maskedclip.finetune import loop as module
from maskedclip.finetune.epoch import EvaluationBatches, predict
from maskedclip.finetune.loop import finetune
from maskedclip.finetune.progress import SaveInterval
from maskedclip.finetune.run_directory import read_labels
from maskedclip.inference import load, read_header
from maskedclip.metrics.prediction_files import read_test_split
from maskedclip.metrics.results import read_rows
from maskedclip.metrics.scores import LABELS_METRICS, NUMBER_METRICS
from maskedclip.models.classifier import FINETUNED, TaskHead
from maskedclip.models.pretrained import read_weights
from tests.colours import config_of
from tests.kinds_of_tasks import write_ages, write_findings


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("kinds")
    write_findings(directory / "findings")
    write_ages(directory / "ages")
    for name in ("findings", "ages"):
        finetune(config_for(directory, name))
    return directory


def config_for(root: Path, name: str) -> FinetuneConfig:
    return replace(
        config_of(root), dataset=str(root / name), name=f"run_{name}", out=str(root / "runs"),
        epochs=8, lr=2e-3, augmentation="", re_prob=0.0,
    )  # fmt: skip


def test_labels_are_learnt_and_selected_by_their_macro_auroc(root: Path) -> None:
    config = config_for(root, "findings")
    run = root / "runs" / config.name
    rows = {row["metric"]: row for row in read_rows(run)}
    assert set(rows) == set(LABELS_METRICS)
    found, classes = read_test_split(run / rows["auroc"]["predictions"], "labels")
    assert classes == ["N", "D", "G"]
    expected = roc_auc_score(found.label_B, found.probability_BY, average="macro")
    assert rows["auroc"]["value"] == pytest.approx(expected)
    assert rows["auroc"]["value"] > 0.8
    assert not np.allclose(found.probability_BY.sum(axis=1), 1)
    # the best epoch's weights, and thresholds of the highest F1 on its validation images
    labels, ledger = read_labels(config), Ledger(root / "lost.jsonl", "findings")
    val = predict(load(run).network, EvaluationBatches(labels, "val", config), labels, ledger)
    log = [json.loads(line) for line in (run / "metrics.jsonl").open()]
    best = max(row["val_auroc"] for row in log)
    assert roc_auc_score(val.label_B, val.probability_BY, average="macro") == pytest.approx(best)
    thresholds = rows["macro_f1"]["thresholds"]
    for y, threshold in enumerate(thresholds):
        f1 = [f1_score(val.label_B[:, y], val.probability_BY[:, y] >= t)
              for t in val.probability_BY[:, y]]  # fmt: skip
        chosen = f1_score(val.label_B[:, y], val.probability_BY[:, y] >= threshold)
        assert chosen == pytest.approx(max(f1))
    header, _ = read_header(run / "finetuned.safetensors")
    assert (header["kind"], header["thresholds"]) == ("labels", thresholds)


def test_a_number_is_learnt_in_its_own_unit_and_selected_by_its_error(root: Path) -> None:
    config = config_for(root, "ages")
    run = root / "runs" / config.name
    rows = {row["metric"]: row for row in read_rows(run)}
    assert set(rows) == set(NUMBER_METRICS)
    found, _ = read_test_split(run / rows["mae"]["predictions"], "number")
    error = mean_absolute_error(found.label_B, found.probability_BY[:, 0])
    assert rows["mae"]["value"] == pytest.approx(error)
    assert error < 8  # of 40 years; the mean alone is off by 10
    labels, ledger = read_labels(config), Ledger(root / "lost.jsonl", "ages")
    val = predict(load(run).network, EvaluationBatches(labels, "val", config), labels, ledger)
    log = [json.loads(line) for line in (run / "metrics.jsonl").open()]
    best = min(row["val_mae"] for row in log)
    assert mean_absolute_error(val.label_B, val.probability_BY[:, 0]) == pytest.approx(best)
    training = [sample.value for sample in labels.parts["train"]]
    header, _ = read_header(run / "finetuned.safetensors")
    assert (header["kind"], header["classes"]) == ("number", ["age"])
    assert header["mean"] == pytest.approx(np.mean(training))
    assert header["std"] == pytest.approx(np.std(training))


@pytest.mark.parametrize("name", ["findings", "ages"])
def test_loaded_weights_give_the_predictions_again(root: Path, tmp_path: Path, name: str) -> None:
    run, labels = root / "runs" / f"run_{name}", read_labels(config_for(root, name))
    (row,) = [row for row in read_rows(run) if row["metric"] in ("auroc", "mae")]
    found, _ = read_test_split(run / row["predictions"], row["kind"])
    images = []
    for sample in labels.parts["test"][:6]:
        images.append(tmp_path / f"{sample.key}.jpg")
        images[-1].write_bytes(labels.dataset.read(sample.index)[0])
    answered_BY = load(run).classify(images).numpy()
    tolerance = 0.02 if name == "findings" else 0.02 * 12  # bf16 there, fp32 here
    np.testing.assert_allclose(answered_BY, found.probability_BY[:6], atol=tolerance)


@pytest.mark.parametrize("name", ["findings", pytest.param("ages", marks=pytest.mark.slow)])
def test_a_run_that_was_stopped_goes_on_to_the_same_bits(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    config = replace(config_for(root, name), epochs=3, mixup=0.4, name="same")
    whole = finetune(replace(config, out=str(tmp_path / "whole")))
    monkeypatch.setattr(SaveInterval, "due", lambda _: True)
    trained = module.train_epoch

    def stopped(*arguments: object) -> float:
        if arguments[5] == 1:
            raise Preempted(tmp_path, 0, "SIGTERM")
        return trained(*arguments)  # type: ignore[arg-type]

    with monkeypatch.context() as patched:
        patched.setattr(module, "train_epoch", stopped)
        with pytest.raises(Preempted):
            finetune(replace(config, out=str(tmp_path / "parts")))
    parts = finetune(replace(config, out=str(tmp_path / "parts")))
    for file in ("metrics.jsonl", "results.jsonl"):
        assert (parts / file).read_bytes() == (whole / file).read_bytes()
    (tensors, header), expected = (read_weights(run / FINETUNED) for run in (parts, whole))
    assert header == expected[1]
    assert all(tensor.equal(expected[0][name]) for name, tensor in tensors.items())


def test_the_loss_is_binary_cross_entropy_of_smoothed_labels_and_hubers_of_numbers() -> None:
    logit_BY = torch.tensor([[0.3, -1.0], [2.0, 0.5]])
    head = TaskHead("labels")
    target_BY = head.targets(np.array([[1, 0], [1, 1]]), torch.device("cpu"))
    smoothed_BY = torch.tensor([[0.95, 0.05], [0.95, 0.95]])
    expected = F.binary_cross_entropy(logit_BY.sigmoid(), smoothed_BY)
    assert head.loss(logit_BY, target_BY, 0.1) == pytest.approx(expected.item())
    number = TaskHead("number", mean=50.0, std=10.0)
    target_B1 = number.targets(np.array([60.0, 20.0]), torch.device("cpu"))
    assert target_B1.tolist() == [[1.0], [-3.0]]
    # off by 0.5: half its square; off by 4: 4 less a half
    loss = number.loss(torch.tensor([[1.5], [1.0]]), target_B1, 0.1)
    assert loss.item() == pytest.approx((0.125 + 3.5) / 2)
    assert number.answers(torch.tensor([[1.5]])).tolist() == [[65.0]]


def test_mixup_blends_rows_of_labels_by_the_share_of_the_images() -> None:
    label_BY = torch.tensor([[1.0, 1.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [0.0, 0.0, 0.0]])
    image_BCHW = torch.arange(4.0)[:, None, None, None].expand(4, 3, 8, 8)
    found_BCHW, target_BY = mixed(image_BCHW, label_BY, classes=3, mixup=0.8, cutmix=0.0, key=7)
    share = found_BCHW[0, 0, 0, 0].item() / 3  # of the last image in the first
    assert 0 < share < 1
    torch.testing.assert_close(target_BY, (1 - share) * label_BY + share * label_BY.flip(0))


def test_a_selection_of_classes_is_refused_for_labels(root: Path) -> None:
    config = replace(config_for(root, "findings"), selection="retfound", name="other")
    with pytest.raises(ValueError, match="use --selection=auroc"):
        finetune(config)
