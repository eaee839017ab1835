"""Probe and zero-shot are scored on the test split, and measuring again doubles no row."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from maskedclip.data.photographs.fundus import encode
from maskedclip.data.storage.shards import Shards, ShardWriter
from maskedclip.downstream_command import read_evaluate
from maskedclip.eval.results import read_predictions, read_rows
from maskedclip.eval.scores import METRICS, macro
from maskedclip.evaluate import LOST, evaluate
from maskedclip.inference import load
from maskedclip.models.maskedclip import build
from maskedclip.models.pretrained import export

SHAPE: dict[str, Any] = {
    "size": "micro", "image_size": 32, "patch_size": 16, "mask_ratio": 0.75, "bridge_depth": 1,
    "feature_decoder_depth": 1, "projection": 16, "text": "builtin", "text_tokens": 77,
    "text_dropout": 0.0,
}  # fmt: skip
CLASSES = ("glaucoma", "no glaucoma", "normal")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("place")
    generator = np.random.default_rng(0)
    with ShardWriter(directory / "colours", "colours") as writer:
        for i in range(90):
            image_HWC = generator.integers(0, 120, (40, 40, 3), dtype=np.uint8)
            image_HWC[..., i % 3] += 80
            jpeg = encode(image_HWC, 90)
            facts = {
                "labels": {"disease": CLASSES[i % 3]},
                "split": "train" if i < 60 else "test",
                "sha256": str(i),
            }
            writer.add(f"s{i:03d}", jpeg[:200] if i == 80 else jpeg, facts)
    run = directory / "ours"
    run.mkdir()
    torch.manual_seed(0)
    network, _ = build(**SHAPE)
    export(network.state_dict(), SHAPE, run)
    return directory


def test_both_protocols_are_scored_on_the_test_split(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = place / "ours"
    rows = evaluate(run, [place / "colours"], "disease", ("zeroshot", "linear"), run)
    assert rows == read_rows(run)
    found = {(row["protocol"], row["metric"]): row for row in rows}
    assert len(found) == 2 * len(METRICS)
    assert found["linear", "auroc"]["value"] > 0.95
    assert {(row["run"], row["dataset"], row["n"]) for row in rows} == {("ours", "colours", 29)}
    assert capsys.readouterr().out.count("colours") == 2
    assert '"key": "s080"' in (run / LOST).read_text()
    for protocol in ("linear", "zeroshot"):
        _, classes, label_B, probability_BY = read_predictions(
            run / found[protocol, "auroc"]["predictions"]
        )
        assert tuple(classes) == CLASSES
        for metric in METRICS:
            value = found[protocol, metric]["value"]
            assert macro(metric, label_B, probability_BY)[0] == value


def test_measuring_again_replaces_the_rows(place: Path) -> None:
    out = place / "twice"
    for _ in range(2):
        evaluate(place / "ours", [place / "colours"], "", ("linear",), out, fraction=0.5)
    assert len(read_rows(out)) == len(METRICS)
    evaluate(place / "ours", [place / "colours"], "", ("linear",), out, fraction=0.5, seed=1)
    assert len(read_rows(out)) == 2 * len(METRICS)


def test_zero_shot_is_what_classify_says_of_the_images(place: Path) -> None:
    out = place / "zeroshot"
    evaluate(place / "ours", [place / "colours"], "disease", ("zeroshot",), out)
    _, classes, _, probability_BY = read_predictions(
        out / "predictions" / "colours-disease-zeroshot-0-seed0-test.csv"
    )
    dataset = Shards(place / "colours")
    image = place / "one.jpg"
    image.write_bytes(dataset.read(60)[0])
    found_BY = load(place / "ours").classify([image], classes).numpy()
    np.testing.assert_allclose(found_BY, probability_BY[:1], atol=1e-5)


def test_weights_without_a_text_tower_have_no_zero_shot(
    place: Path, caplog: pytest.LogCaptureFixture
) -> None:
    weights, out = place / "ours" / "encoder.safetensors", place / "encoder"
    with pytest.raises(ValueError, match="no text tower"):
        evaluate(weights, [place / "colours"], "", ("zeroshot",), out)
    rows = evaluate(weights, [place / "colours"], "", ("linear", "zeroshot"), out)
    assert {row["protocol"] for row in rows} == {"linear"}
    assert "zero-shot is left out" in caplog.text


def test_the_command_line_is_checked_before_anything_is_touched(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, dataset = str(place / "ours"), str(place / "colours")
    config = read_evaluate("", [run, "--datasets", dataset, "--protocols", "linear"])
    assert (config.datasets, config.protocols) == ((dataset,), ("linear",))
    for arguments, answer in (
        ([run, "--datasets", dataset, "--protocols", "linaer"], "did you mean linear?"),
        ([run, "--datasets", f"{dataset},{dataset}s"], "no such directory"),
        ([run], "no dataset given"),
    ):
        with pytest.raises(SystemExit) as stopped:
            read_evaluate("", arguments)
        assert stopped.value.code == 2
        assert answer in capsys.readouterr().err
