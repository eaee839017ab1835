"""Fine-tuning learns a small task, repeats itself, and leaves files that say what it measured."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from timm.models.vision_transformer import VisionTransformer

from maskedclip.config import FinetuneConfig
from maskedclip.config import load as read_config_file
from maskedclip.data.lost_samples import Ledger
from maskedclip.data.storage.shards import Shards, ShardWriter
from maskedclip.finetune import epoch as finetune_steps
from maskedclip.finetune.command import read_finetune
from maskedclip.finetune.epoch import EvaluationBatches, learning_rate, predict
from maskedclip.finetune.loop import finetune
from maskedclip.finetune.run_directory import finished as is_finished
from maskedclip.finetune.run_directory import read_labels
from maskedclip.inference import load
from maskedclip.metrics.operating_points import OPERATING
from maskedclip.metrics.prediction_files import read_predictions
from maskedclip.metrics.results import read_rows, recomputed
from maskedclip.metrics.scores import METRICS, macro
from maskedclip.models.classifier import adamw_by_layer, build_classifier
from maskedclip.shards.building.prepare_sample import encode
from tests.colours import DAMAGED, config_of, two_colours

PREDICTIONS = "predictions/colours-colour-finetune-1-seed0-test.csv"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> FinetuneConfig:
    directory = tmp_path_factory.mktemp("runs")
    two_colours(directory / "colours")
    config = config_of(directory)
    finetune(config)
    return config


def run_of(config: FinetuneConfig) -> Path:
    return Path(config.out) / config.name


def log_of(config: FinetuneConfig) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run_of(config) / "metrics.jsonl").open()]


def test_two_colours_are_told_apart(finished: FinetuneConfig) -> None:
    rows = {row["metric"]: row for row in read_rows(run_of(finished))}
    assert set(rows) == {*METRICS, *OPERATING}
    assert rows["auroc"]["value"] > 0.9
    assert rows["sensitivity"]["positive"] == "red"
    assert rows["sensitivity"]["rule"] == "Youden's J on 12 validation images, 6 positive"
    assert rows["auroc"]["n"] == 23  # one of 24 is damaged
    assert rows["auroc"] | {"value": 0, "low": 0, "high": 0} == {
        "run": "ours", "dataset": "colours", "task": "colour", "protocol": "finetune",
        "fraction": 1.0, "seed": 0, "metric": "auroc", "value": 0, "n": 23, "low": 0, "high": 0,
        "note": "", "recipe": "paper", "seen": "", "seen_images": 0, "seen_note": "",
        "method": "random_micro",
        "predictions": PREDICTIONS, "shards": str(Path(finished.dataset).resolve()),
        "validation": PREDICTIONS.replace("-test", "-val"), "patients": 0, "with_patient": 0,
        "few_images": "",
            "ordered": True, "untrained": [], "image_size": 32, "colours": "imagenet",
    }  # fmt: skip


def test_the_predictions_give_the_scores_again(finished: FinetuneConfig) -> None:
    ids, classes, label_B, probability_BY = read_predictions(run_of(finished) / PREDICTIONS)
    assert classes == ["green", "red"]
    assert "s080" not in ids
    for row in read_rows(run_of(finished)):
        if row["metric"] in OPERATING:
            assert recomputed(run_of(finished), row).value == row["value"]
        else:
            assert macro(row["metric"], label_B, probability_BY)[0] == row["value"]


def test_the_saved_weights_give_the_predictions_again(finished: FinetuneConfig) -> None:
    model = load(run_of(finished))
    labels = read_labels(finished)
    ids, _, _, probability_BY = read_predictions(run_of(finished) / PREDICTIONS)
    images = []
    for sample in labels.parts["test"]:
        if sample.key in ids:
            jpeg, _ = labels.dataset.read(sample.index)
            images.append(Path(finished.out) / f"{sample.key}.jpg")
            images[-1].write_bytes(jpeg)
    assert model.classes == ("green", "red")
    classified_BY = model.classify(images).numpy()
    np.testing.assert_allclose(classified_BY, probability_BY, atol=0.02)  # bf16 there, fp32 here


def test_the_log_has_a_row_an_epoch(finished: FinetuneConfig) -> None:
    rows = log_of(finished)
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4, 5]
    assert rows[-1]["lr"] == pytest.approx(finished.min_lr)


def test_the_weights_kept_are_of_the_best_epoch_on_validation(
    finished: FinetuneConfig, tmp_path: Path
) -> None:
    generator = np.random.default_rng(0)
    with ShardWriter(tmp_path / "noise", "noise") as writer:  # nothing to learn: epochs differ
        for i in range(80):
            image_HWC = generator.integers(0, 256, (40, 40, 3), dtype=np.uint8)
            facts = {"labels": {"side": str(i % 2)}, "sha256": str(i)}
            writer.add(f"s{i:03d}", encode(image_HWC, 90), facts)
    config = replace(finished, dataset=str(tmp_path / "noise"), out=str(tmp_path), epochs=6)
    finetune(config)
    aurocs = [row["val_auroc"] for row in log_of(config)]
    assert len(set(aurocs)) > 1
    labels, ledger = read_labels(config), Ledger(tmp_path / "lost.jsonl", "noise")
    predictions = predict(
        load(run_of(config)).network, EvaluationBatches(labels, "val", config), labels, ledger
    )
    assert macro("auroc", predictions.label_B, predictions.probability_BY)[0] == max(aurocs)


def test_what_validates_is_read_once_and_the_same_each_time(
    finished: FinetuneConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def counted(dataset, index):
        read.append(index)
        return read_of(dataset, index)

    read, read_of = [], Shards.read
    labels = read_labels(finished)
    images = len(labels.parts["val"])
    small = EvaluationBatches(labels, "val", finished)
    monkeypatch.setattr(finetune_steps, "_KEPT_BYTES", 0)
    large = EvaluationBatches(labels, "val", finished)
    monkeypatch.setattr(Shards, "read", counted)
    for batches, count in ((small, images), (large, 3 * images)):
        (first,), (second,) = list(batches), list(batches)
        assert second.image_BCHW.equal(first.image_BCHW)
        assert len(read) == count


def test_a_damaged_sample_is_listed_once_and_costs_that_sample(finished: FinetuneConfig) -> None:
    lines = (run_of(finished) / "lost_samples.jsonl").read_text().splitlines()
    assert sorted(json.loads(line)["key"] for line in lines) == list(DAMAGED)


def test_the_same_configuration_gives_the_same_numbers(finished: FinetuneConfig) -> None:
    again = replace(finished, name="again", threads=2)  # workers and threads play no part
    finetune(again)
    values = [
        [(row["value"], row["low"], row["high"]) for row in read_rows(run_of(config))]
        for config in (finished, again)
    ]
    assert values[0] == values[1]
    logs = [(run_of(config) / "metrics.jsonl").read_bytes() for config in (finished, again)]
    assert logs[0] == logs[1]


def test_a_finished_run_is_not_run_again(finished: FinetuneConfig) -> None:
    before = (run_of(finished) / "provenance.json").read_bytes()
    assert finetune(finished) == run_of(finished)
    assert (run_of(finished) / "provenance.json").read_bytes() == before


@pytest.mark.parametrize("pattern", ["predictions/*-test.csv", "predictions/*-val.csv", "*.jsonl",
                                     "finetuned.safetensors"])  # fmt: skip
def test_a_run_whose_results_are_not_what_was_written_is_not_finished(
    finished: FinetuneConfig, pattern: str
) -> None:
    run = run_of(finished)
    config = read_config_file(run / "config.json", FinetuneConfig)
    assert is_finished(config, run)
    path = max(run.glob(pattern), key=lambda one: one.name)  # of the rows results.jsonl
    whole = path.read_bytes()
    last = max(whole.rfind(digit) for digit in b"0123456789")
    path.write_bytes(whole[:last] + bytes([whole[last] ^ 1]) + whole[last + 1 :])
    assert not is_finished(config, run)
    path.write_bytes(whole)
    assert is_finished(config, run)


def test_the_directory_of_another_run_is_left_alone(finished: FinetuneConfig) -> None:
    with pytest.raises(ValueError, match=r"holds a fine-tuning with lr .*, now 0\.002; choose"):
        finetune(replace(finished, lr=2e-3))
    other = Path(finished.out) / "pretraining"
    other.mkdir()
    (other / "config.json").write_text('{"data": {"threads": 3}}')
    with pytest.raises(ValueError, match="another kind of run"):
        finetune(replace(finished, name="pretraining"))


def test_an_unfinished_run_starts_over(finished: FinetuneConfig) -> None:
    half = replace(finished, name="half", epochs=2)
    finetune(half)
    run = run_of(half)
    (run / "results.jsonl").unlink()
    (run / "predictions" / "old.csv").touch()
    before = (run / "metrics.jsonl").read_bytes()
    finetune(half)
    assert (run / "metrics.jsonl").read_bytes() == before
    assert not (run / "predictions" / "old.csv").exists()
    assert len(read_rows(run)) == len(METRICS) + len(OPERATING)


def micro() -> VisionTransformer:
    model, _ = build_classifier("random", image_size=32, num_classes=3, drop_path=0.1, size="micro")
    return model


@pytest.mark.parametrize("registers", [0, 4])
def test_layer_decay_scales_are_maes(registers: int) -> None:
    model = VisionTransformer(
        img_size=32, embed_dim=64, depth=3, num_heads=2, num_classes=3, reg_tokens=registers,
        global_pool="avg",
    )  # fmt: skip
    scales, decays = {}, {}
    for group in adamw_by_layer(model, layer_decay=0.65, weight_decay=0.05).param_groups:
        for parameter in group["params"]:
            scales[id(parameter)] = group["lr_scale"]
            decays[id(parameter)] = group["weight_decay"]
    depth = len(model.blocks)
    for name, parameter in model.named_parameters():
        if name.startswith(("cls_token", "reg_token", "pos_embed", "patch_embed")):
            layer = 0
        elif name.startswith("blocks."):
            layer = int(name.split(".")[1]) + 1
        else:
            assert name.startswith(("fc_norm.", "head."))
            layer = depth + 1
        assert scales[id(parameter)] == pytest.approx(0.65 ** (depth + 1 - layer)), name
        vector = parameter.ndim == 1 or name in ("cls_token", "reg_token", "pos_embed")
        assert decays[id(parameter)] == (0.0 if vector else 0.05), name


def test_a_fresh_head_has_small_weights_and_everything_trains() -> None:
    model = micro()
    assert dict(model.named_parameters())["head.weight"].std() < 5e-5
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_the_rate_rises_from_zero_and_falls_to_its_floor() -> None:
    config = FinetuneConfig(epochs=50, warmup_epochs=10, lr=5e-4, min_lr=1e-6)
    assert learning_rate(config, 0) == 0
    assert learning_rate(config, 5) == pytest.approx(2.5e-4)
    assert learning_rate(config, 10) == pytest.approx(5e-4)
    assert learning_rate(config, 30) == pytest.approx((5e-4 + 1e-6) / 2)
    assert learning_rate(config, 50) == pytest.approx(1e-6)


def test_the_command_line_is_checked_before_anything_is_touched(
    finished: FinetuneConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset = finished.dataset
    config, *_ = read_finetune("", ["random", "--dataset", dataset, "--fraction", "0.1"])
    assert (config.weights, config.fraction) == ("random", 0.1)
    for arguments, answer in (
        (["random", "--dataset", dataset, "--fractoin", "0.1"], "did you mean --fraction?"),
        (["random", "--dataset", dataset + "s"], "no such directory"),
        (["runs/nothing", "--dataset", dataset], "no such run or file of weights"),
        (["--dataset", dataset], "no weights given"),
        (["random"], "no dataset given"),
        (["random", "--dataset", dataset, "--fraction", "10"], "write a share of the labels"),
    ):
        with pytest.raises(SystemExit) as stopped:
            read_finetune("", arguments)
        assert stopped.value.code == 2
        message = capsys.readouterr().err
        assert answer in message
        assert message.count("\n") == 1


def test_a_warm_up_longer_than_the_run_is_refused(finished: FinetuneConfig) -> None:
    with pytest.raises(ValueError, match="use --warmup_epochs=1"):
        read_labels(replace(finished, warmup_epochs=10))


def test_labels_are_what_the_dataset_says(finished: FinetuneConfig) -> None:
    dataset = Shards(Path(finished.dataset))
    for sample in read_labels(finished).parts["train"]:
        name = dataset.metadata(sample.index)["labels"]["colour"]
        assert ("green", "red")[sample.label] == name
