"""A published DINOv2 ViT-S/14 and MiniLM: opened, continued and exported, against their own code.

MASKEDCLIP_REAL_WEIGHTS names a folder with dinov2-small and minilm, as transformers reads them.
"""

from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import AutoModel, Dinov2Model

from maskedclip.config import Config, override
from maskedclip.evaluate.protocols import evaluate
from maskedclip.metrics.results import read_rows
from maskedclip.models.pretrained import load_encoder, read_weights
from maskedclip.pretrain.loop import pretrain
from tests.real_weights import published
from tests.weights.test_export import assert_equal, written

pytestmark = pytest.mark.slow
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def images(size: int) -> Tensor:
    return torch.randint(
        0, 256, (2, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )


def normalised(image_BCHW: Tensor) -> Tensor:
    mean, std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))
    return (image_BCHW / 255 - mean) / std


def continued(small: Config, **changes: object) -> Config:
    start = {
        "init_from": str(published("dinov2-small")), "model.text": str(published("minilm")),
        "model.size": "small", "model.patch_size": 14, "model.image_size": 112,
        "optim.steps": 2,
    }  # fmt: skip
    return override(small, start | changes)


def test_a_published_encoder_gives_the_features_of_its_own_code() -> None:
    path = published("dinov2-small")
    network, report = load_encoder(path, image_size=518, global_pool="")
    assert not report.missing
    theirs = Dinov2Model.from_pretrained(path).eval()
    image_BCHW = normalised(images(518))[:1]
    with torch.no_grad():
        ours_BND = network.eval().forward_features(image_BCHW)
        theirs_BND = theirs(image_BCHW).last_hidden_state
    torch.testing.assert_close(ours_BND, theirs_BND, rtol=1e-3, atol=1e-3)


def test_a_run_that_learns_nothing_exports_what_it_began_from(small: Config) -> None:
    run = pretrain(continued(small, **{"optim.lr": 0.0}))
    image_BCHW = normalised(images(112))
    start, _ = load_encoder(published("dinov2-small"), image_size=112, global_pool="")
    end, _ = load_encoder(run, global_pool="")
    with torch.no_grad():
        start_BND, end_BND = (part.eval().forward_features(image_BCHW) for part in (start, end))
    torch.testing.assert_close(end_BND, start_BND, rtol=1e-3, atol=1e-3)
    weights, _ = read_weights(run / "model.safetensors")
    bert = AutoModel.from_pretrained(published("minilm")).state_dict()
    words = "embeddings.word_embeddings.weight"
    assert torch.equal(weights[f"text.bert.{words}"], bert[words])


@pytest.mark.parametrize("to", ["timm", "hf"])
def test_a_continued_run_has_learnt_and_is_opened_elsewhere(
    small: Config, tmp_path: Path, to: str
) -> None:
    changes = {"optim.lr": 1e-4, "optim.layer_decay": 0.75, "optim.freeze_text_epochs": 1.0}
    run = pretrain(continued(small, **changes))
    start, _ = load_encoder(published("dinov2-small"), image_size=112, global_pool="")
    end, _ = load_encoder(run, global_pool="")
    before, after = (part.state_dict()["blocks.11.mlp.fc1.weight"] for part in (start, end))
    assert 0 < (after - before).abs().max() < 1e-3
    target, source, folder = written(run, to, tmp_path / to)
    assert_equal(target, source, folder)


def test_a_frozen_evaluation_names_it_and_knows_of_no_photographs(
    phantoms: dict[str, Path], tmp_path: Path
) -> None:
    datasets = [(phantoms["heldout"], "disease")]
    evaluate(published("dinov2-small"), datasets, ("knn",), tmp_path / "out")
    rows = read_rows(tmp_path / "out")
    assert {row["method"] for row in rows} == {"dinov2-small"}
    assert not any(row.get("seen") for row in rows)
    assert {row["image_size"] for row in rows} == {224}
