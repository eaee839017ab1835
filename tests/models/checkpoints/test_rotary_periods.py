"""Rotary positions that a file stores are those that the network is built with, or are refused."""

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor

from maskedclip.models.checkpoints.architectures import infer_architecture
from maskedclip.models.checkpoints.formats import WeightFormat
from maskedclip.models.checkpoints.key_mapping import rotary_of
from maskedclip.models.pretrained import begin_from, check_start, load_encoder
from tests.models.stand_ins import dinov3
from tests.models.test_pretrained import dinov3 as in_layout
from tests.models.test_pretrained import network, third_party

START: dict[str, Any] = {
    "size": "small", "image_size": 64, "patch_size": 16, "registers": 4, "positions": "rotary",
}  # fmt: skip
NAME = "rope_embed.periods"


@pytest.fixture(scope="module")
def published() -> dict[str, Tensor]:
    return dinov3()


@pytest.fixture(scope="module")
def transformers() -> dict[str, Tensor]:
    return in_layout("transformers")


def periods(base: float = 100, count: int = 16, kind: torch.dtype = torch.float32) -> Tensor:
    """As DINOv3's own code makes them, exponents in that type, too."""
    return base ** (2 * torch.arange(count, dtype=kind) / (2 * count))


def within(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {f"{prefix}{name}": tensor for name, tensor in tensors.items()}


def refused(path: Path, answer: str) -> None:
    for read in (load_encoder, lambda weights: check_start(weights, **START)):
        with pytest.raises(ValueError, match=answer) as error:
            read(path)
        assert str(error.value).startswith(str(path))
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("stored", "found"),
    [
        (3 * periods(), "16 periods from 3 to 225"),
        (periods(300), r"16 periods from 1 to 210"),
        (periods(110), "16 periods from 1 to"),
        (periods(300, kind=torch.bfloat16), "16 periods from 1 to"),
        (periods(count=8), "8 periods from 1 to"),
        (torch.full((16,), torch.nan), "16 periods from nan"),
        (torch.ones(0), "0 periods;"),
    ],
    ids=["times 3", "base 300", "base 110", "base 300 in bf16", "half", "no numbers", "none"],
)
def test_periods_of_another_base_or_number_are_refused_in_one_line(
    published: dict[str, Tensor], tmp_path: Path, stored: Tensor, found: str
) -> None:
    torch.save({**published, NAME: stored}, tmp_path / "dinov3.pth")
    refused(
        tmp_path / "dinov3.pth",
        rf"{NAME}: {found}.*the 16 of base 100 alone, from 1 to 74\.99 \(heads of 64 channels\)",
    )


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_published_periods_are_taken_however_they_are_rounded(
    published: dict[str, Tensor], tmp_path: Path, kind: torch.dtype
) -> None:
    torch.save({**published, NAME: periods(kind=kind)}, tmp_path / "dinov3.pth")
    check_start(tmp_path / "dinov3.pth", **START)
    _, report = load_encoder(tmp_path / "dinov3.pth")
    assert (report.missing, report.unexpected) == ([], [])
    for count in range(2, 65):
        wanted = periods(count=count, kind=torch.float64)
        assert (periods(count=count, kind=kind) / wanted - 1).abs().max() < 0.025


@pytest.mark.parametrize(
    ("prefix", "where"),
    [
        ("teacher.backbone.", f"teacher.backbone.{NAME}"),
        ("module.backbone.", f"module.backbone.{NAME}"),
        ("backbone.", NAME),
        ("", "blocks.3.attn.rope.periods"),
    ],
)
def test_periods_are_found_in_the_encoder_in_its_blocks_and_in_what_holds_it(
    published: dict[str, Tensor], tmp_path: Path, prefix: str, where: str
) -> None:
    tensors = {k: v for k, v in within(published, prefix).items() if NAME not in k}
    torch.save({**tensors, where: periods()}, tmp_path / "dinov3.pth")
    _, report = load_encoder(tmp_path / "dinov3.pth")
    assert report.unexpected == []
    torch.save({**tensors, where: periods(300)}, tmp_path / "dinov3.pth")
    refused(tmp_path / "dinov3.pth", r"periods: 16 periods from 1 to 210;")


def test_periods_of_a_second_encoder_a_decoder_or_a_text_tower_are_not_the_encoders(
    published: dict[str, Tensor],
) -> None:
    student = within(published, "student.backbone.")
    others = {"text_model.rope.inv_freq": periods(), "teacher.backbone.decoder.rope.x": periods()}
    found = rotary_of(within(published, "teacher.backbone.") | student | others)
    assert list(found) == [f"teacher.backbone.{NAME}"]


def test_periods_of_transformers_are_read_as_one_over_them_and_its_configuration_too(
    transformers: dict[str, Tensor], tmp_path: Path
) -> None:
    path = tmp_path / "dinov3" / "pytorch_model.bin"
    path.parent.mkdir()
    for theta in ({"rope_theta": 100.0}, {"rope_parameters": {"rope_theta": 100.0}}):
        (path.parent / "config.json").write_text(json.dumps(theta))
        torch.save({**transformers, "rope_embeddings.inv_freq": 1 / periods()}, path)
        check_start(path, **START)
    torch.save({**transformers, "rope_embeddings.inv_freq": 1 / periods(300)}, path)
    refused(path, r"rope_embeddings\.inv_freq: 16 periods from 1 to 210;")
    torch.save(transformers, path)
    for theta in ({"rope_theta": 300.0}, {"rope_parameters": {"rope_theta": 300.0}}):
        (path.parent / "config.json").write_text(json.dumps(theta))
        refused(path, r"config\.json beside it: rope_theta 300\.0; .*base 100 alone")


def test_other_kinds_of_rotary_positions_are_refused_by_their_name(
    published: dict[str, Tensor], tmp_path: Path
) -> None:
    other = {k: v for k, v in published.items() if k != NAME}
    torch.save({**other, "rope.freqs": torch.ones(2, 12, 6, 32)}, tmp_path / "rope_mixed.pth")
    refused(tmp_path / "rope_mixed.pth", r"rope\.freqs: rotary positions other than DINOv3's")
    torch.save({**third_party().state_dict(), NAME: periods()}, tmp_path / "vit.pth")
    with pytest.raises(ValueError, match="rotary positions besides added ones"):
        load_encoder(tmp_path / "vit.pth")


def test_begin_from_refuses_them_too_and_takes_files_without_any(
    published: dict[str, Tensor], tmp_path: Path
) -> None:
    model = network("small", 64, registers=4, positions="rotary")
    torch.save({**published, NAME: periods(300)}, tmp_path / "dinov3.pth")
    with pytest.raises(ValueError, match="of base 100 alone"):
        begin_from(model, tmp_path / "dinov3.pth")
    torch.save({k: v for k, v in published.items() if k != NAME}, tmp_path / "dinov3.pth")
    assert begin_from(model, tmp_path / "dinov3.pth").missing == []


@pytest.mark.parametrize("size", ["small", "small_plus", "base", "large", "huge_plus", "7b"])
def test_the_heads_of_every_dinov3_are_those_of_timm(size: str) -> None:
    """And so the number of its periods."""
    with torch.device("meta"):
        theirs = timm.create_model(f"vit_{size}_patch16_dinov3", num_classes=0)
    found = infer_architecture(theirs.state_dict(), WeightFormat("", family="eva"))
    assert found["heads"] == theirs.blocks[0].attn.num_heads
