"""What is guessed of an encoder of no known form is said once, and can be stated beside it."""

import logging
from pathlib import Path

import pytest
import torch
from PIL import Image

import maskedclip
from maskedclip.evaluate.features import FrozenEncoder
from maskedclip.models.checkpoints.architectures import pooled
from maskedclip.models.checkpoints.files import weights_sha256
from maskedclip.models.pretrained import encoder_info, load_encoder
from tests.models.checkpoints.test_architectures import FORMS, vit, written


def test_colours_size_and_pooling_of_an_unknown_form_are_said_in_one_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    torch.save(vit().state_dict(), tmp_path / "theirs.pth")
    for _ in range(2):
        maskedclip.load(tmp_path / "theirs.pth")
    lines = [r.message for r in caplog.records if r.levelno >= logging.WARNING]
    assert lines == [
        f"{tmp_path / 'theirs.pth'}: of no known form; guessed: ImageNet's colours (mean 0.485 "
        f"0.456 0.406, deviation 0.229 0.224 0.225), 64 px (its positions'), pooling by the mean "
        f"over the image; if it was trained otherwise, state it in theirs.pth.json beside it, such "
        f'as {{"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "image_size": 64, "pool": "cls"}}'
    ]


@pytest.mark.parametrize("name", ["mae_pretrain_vit_large.pth", "ViT-L-14.pt", "in21k.pth"])
def test_of_known_forms_nothing_is_said(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    load_encoder(written(tmp_path, name, FORMS[name][0]()[0]))
    assert not [r for r in caplog.records if r.levelno >= logging.WARNING]


def test_what_is_stated_is_what_images_go_through(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "theirs.pth"
    torch.save(vit().state_dict(), path)
    (tmp_path / "theirs.pth.json").write_text(
        '{"mean": [0.5, 0.25, 0], "std": [0.5, 0.5, 1], "image_size": 96, "pool": "cls"}'
    )
    model = maskedclip.load(path)
    assert not [r for r in caplog.records if r.levelno >= logging.WARNING]
    white_CHW = model.prepare(Image.new("RGB", (96, 96), "white"))
    assert white_CHW.shape == (3, 96, 96)
    assert white_CHW[:, 0, 0].tolist() == pytest.approx([1.0, 1.5, 1.0])
    network, _ = load_encoder(path, global_pool="token")
    image_BCHW = torch.randn(2, 3, 96, 96, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        token_BND = network.eval().forward_features(image_BCHW)
        assert torch.equal(pooled(network, image_BCHW), token_BND[:, 0])
    assert encoder_info(network).preparation.image_size == 96


def test_features_and_runs_of_other_statements_are_kept_apart(tmp_path: Path) -> None:
    path = tmp_path / "theirs.pth"
    torch.save(vit().state_dict(), path)
    before = weights_sha256(path), FrozenEncoder(path).sha256
    assert before[0] == before[1]
    (tmp_path / "theirs.pth.json").write_text('{"pool": "cls"}')
    after = weights_sha256(path), FrozenEncoder(path).sha256
    assert after[0] == after[1] != before[0]


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ('{"mena": [0.5, 0.5, 0.5]}', "unknown field mena; it may have mean, std, image_size"),
        ('{"mean": [123.7, 116.3, 103.5], "std": [1, 1, 1]}', "three numbers from 0 to 1"),
        ('{"mean": [0.5, 0.5, 0.5]}', "give mean and std, or none"),
        ('{"std": [0, 1, 1], "mean": [0, 0, 0]}', "three numbers above 0"),
        ('{"pool": "max"}', 'write "mean" or "cls"'),
        ('{"image_size": "224"}', "a number of pixels"),
        ("[1]", "no JSON object"),
        ('{"mean": ', "not whole JSON"),
    ],
)
def test_a_statement_without_meaning_is_refused_by_name(
    text: str, answer: str, tmp_path: Path
) -> None:
    torch.save(vit().state_dict(), tmp_path / "theirs.pth")
    (tmp_path / "theirs.pth.json").write_text(text)
    with pytest.raises(ValueError, match=answer) as error:
        load_encoder(tmp_path / "theirs.pth")
    assert "theirs.pth.json" in str(error.value)
    assert "\n" not in str(error.value)
