"""The cards of retinal models: their files are known by their tensors and prepared as they were."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import timm
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision import transforms
from torchvision.transforms import v2

from maskedclip.data.labelled_views import preparation
from maskedclip.models.checkpoints.architectures import pooled
from maskedclip.models.checkpoints.formats import format_of, formats, training_datasets
from maskedclip.models.pretrained import encoder_info, load_encoder
from maskedclip.shards.downloads.cards import card_names
from tests.models.checkpoints.test_architectures import (
    FORMS,
    SIZE,
    WIDTH,
    Given,
    drawn,
    renamed,
    tokens_of,
    vit,
    written,
)

CLIPS = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def green() -> Given:
    """As its README makes it, one block deep."""
    network = drawn(
        timm.create_model(
            "vit_small_patch14_reg4_dinov2", img_size=(392, 392), num_classes=0, depth=1
        )
    )
    return network.state_dict(), tokens_of(network)


def visionfm() -> Given:
    network = vit()
    student = {f"module.backbone.{name}": t * 0 for name, t in network.state_dict().items()}
    return {"student": student, "teacher": renamed(network, before="backbone.")}, tokens_of(network)


class LowRank(nn.Module):
    """Queries, keys and values with a change of rank 8 to queries and values."""

    def __init__(self, qkv: nn.Linear) -> None:
        super().__init__()
        width = qkv.in_features
        self.qkv = qkv
        self.linear_a_q, self.linear_a_v = (nn.Linear(width, 8, bias=False) for _ in "qv")
        self.linear_b_q, self.linear_b_v = (nn.Linear(8, width, bias=False) for _ in "qv")

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.qkv(x).chunk(3, dim=-1)
        query = query + self.linear_b_q(self.linear_a_q(x))
        return torch.cat([query, key, value + self.linear_b_v(self.linear_a_v(x))], dim=-1)


def retizero() -> Given:
    network = vit()
    for block in network.blocks:
        block.attn.qkv = LowRank(block.attn.qkv)  # type: ignore[assignment, arg-type]
    drawn(network)
    head = {
        "vision_model.projection_head_vision.projection.weight": torch.ones(512, WIDTH),
        "text_model.model.embeddings.word_embeddings.weight": torch.ones(9, 64),
        "logit_scale": torch.tensor(2.7),
    }
    return renamed(network, before="vision_model.model.lora_vit.") | head, tokens_of(network)


def quick_tower(patch: int) -> tuple[dict[str, Tensor], Callable[[Tensor], Tensor]]:
    tower = drawn(
        open_clip.model.VisionTransformer(
            image_size=SIZE, patch_size=patch, width=WIDTH, layers=2, heads=2, mlp_ratio=4.0,
            output_dim=32, output_tokens=True, act_layer=open_clip.transformer.QuickGELU,
        )
    )  # fmt: skip
    tensors = renamed(tower, before="visual.")
    tower.proj = None  # type: ignore[assignment]
    return tensors, lambda x: torch.cat([tower(x)[0][:, None], tower(x)[1]], dim=1)


def eyeclip() -> Given:
    tensors, tokens = quick_tower(32)
    tensors |= {
        "visual.decoder.decoder_pos_embed": torch.ones(1, 50, 512),
        "visual.decoder.decoder_blocks.0.attn.qkv.weight": torch.ones(3, 3),
        "token_embedding.weight": torch.ones(9, 64), "text_projection": torch.ones(64, 32),
    }  # fmt: skip
    return {"epoch": 1, "model_state_dict": tensors, "loss": 1.0}, tokens


def chinese(**more: Tensor) -> Given:
    tensors, tokens = quick_tower(16)
    tensors |= {"bert.embeddings.word_embeddings.weight": torch.ones(9, 64), **more}
    return {"state_dict": {f"module.{k}": v for k, v in tensors.items()}}, tokens


def vilref() -> Given:
    return chinese(text_projection=torch.ones(64, 32))


def ret_clip() -> Given:
    return chinese(**{"text_projection_left.0.weight": torch.ones(64, 64)})


# of each card: a name that says nothing or the wrong thing, the file, pixels, prepared by hand
CARDS: dict[str, tuple[str, Callable[[], Given], int, Any]] = {
    "RETFound-Green": ("RETFound.pth", green, 392, None),
    "VisionFM": (
        "VFM_Fundus_weights.pth", visionfm, SIZE,
        (3, (0.42374, 0.26095, 0.12840), (0.29483, 0.20167, 0.13668)),
    ),
    "RetiZero": ("best.pth", retizero, SIZE, (2, *IMAGENET)),
    "EyeCLIP": ("epoch10.pt", eyeclip, SIZE, None),
    "ViLReF": ("epoch_latest.pt", vilref, SIZE, (3, *CLIPS)),
    "RET-CLIP": ("vit-b-16.pt", ret_clip, SIZE, (3, *CLIPS)),
}  # fmt: skip


@pytest.fixture(scope="module")
def photograph() -> Image.Image:
    value_HWC = np.random.default_rng(1).integers(0, 256, (300, 400, 3), dtype=np.uint8)
    return Image.fromarray(value_HWC)


@pytest.mark.parametrize("form", CARDS)
def test_it_is_known_by_its_tensors_and_gives_what_its_own_code_gives(
    form: str, tmp_path: Path, photograph: Image.Image
) -> None:
    name, make, size, by_hand = CARDS[form]
    content, tokens = make()
    path = written(tmp_path, name, content)
    (tmp_path / f"{name}.json").write_text('{"depth": 1}' if make is green else "{}")
    network, report = load_encoder(path, global_pool="token")
    assert (report.format, report.share) == (form, 1.0)
    image_BCHW = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))
    network.eval()
    with torch.no_grad():
        expected_BLD = tokens(image_BCHW)
        found_BLD = tokens_of(network)(image_BCHW)
    assert found_BLD.std() > 0.1
    assert (found_BLD - expected_BLD).abs().max() <= 1e-5
    card = next(card for card in formats().values() if card.name == form)
    row_BD = expected_BLD[:, 1:].mean(dim=1) if card.pool == "mean" else expected_BLD[:, 0]
    torch.testing.assert_close(pooled(network, image_BCHW), row_BD)
    shown = encoder_info(network).preparation
    assert shown.image_size == size
    if by_hand is not None:  # as its own code has it: torchvision, on PIL's image
        interpolation, mean, std = by_hand
        theirs = transforms.Compose([
            transforms.Resize((size, size), interpolation=interpolation),
            transforms.ToTensor(),
            transforms.Normalize(mean, std),
        ])  # fmt: skip
        ours_CHW = preparation(**shown._asdict())(photograph)
        torch.testing.assert_close(ours_CHW, theirs(photograph), rtol=0, atol=1e-4)


def test_retfound_green_sees_what_its_readme_prepares(photograph: Image.Image) -> None:
    card = formats()["retfound_green"]
    theirs = v2.Compose([
        v2.Resize((392, 392), antialias=True),
        v2.ToDtype(torch.float32, scale=True),
        v2.Normalize((0.5,), (0.5,)),
    ])  # fmt: skip
    image_CHW = torch.from_numpy(np.array(photograph)).permute(2, 0, 1)
    ours_CHW = preparation(**card.preparation._asdict())(photograph)
    # torchvision rounds a tensor's pixels and PIL its own: one of 255 steps of 2 / 255 apart
    torch.testing.assert_close(ours_CHW, theirs(image_CHW), rtol=0, atol=1.01 * 2 / 255)
    assert training_datasets("RETFound-Green") == ("airogs", "odir5k")


def test_keepfit_is_not_taken_for_flair() -> None:
    lines = ["vision_model.model.conv1.weight 64x3x7x7", "encoder conv1.weight 64x3x7x7"]
    assert format_of("resnet_v2_epoch40.pth", "resnet50", lines).format.name == "FLAIR"
    lines.append("attention.W_q.weight 512x512")
    found, rivals = format_of("flair/resnet_v2_epoch40.pth", "resnet50", lines)
    assert (found.name, rivals) == ("KeepFIT", ())
    assert "jsiec" not in found.trained_on
    assert found.preparation == formats()["flair"].preparation


@pytest.mark.parametrize("name", ["VisionFM/VFM_OCT_weights.pth", "checkpoint.pth"])
def test_what_may_be_of_other_images_is_not_read_with_the_colours_of_photographs(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    network, report = load_encoder(written(tmp_path, name, visionfm()[0]))
    assert report.format == "a vit of no known form"
    assert encoder_info(network).preparation.mean == IMAGENET[0]
    assert "of no known form; guessed" in caplog.text


@pytest.mark.parametrize(
    ("make", "card", "rivals", "stated"),
    [
        ("dinov2_vitl14_reg4_pretrain.pth", "DINOv2", "", ""),
        ("RETFound_dinov2_meh.pth", "DINOv2", "RETFound (DINOv2)", "retfound_dinov2"),
        ("open_clip_pytorch_model.bin", "CLIP", "OpenAI CLIP", "openai_clip"),
        ("mae_pretrain_vit_large.pth", "MAE", "RETFound", "retfound"),
        ("checkpoint_student.pth", "iBOT", "VisionFM", "visionfm"),
    ],
)
def test_tensors_of_two_cards_without_a_name_are_said_in_one_line_and_can_be_stated(
    make: str, card: str, rivals: str, stated: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = written(tmp_path, "weights.pth", FORMS[make][0]()[0])
    for _ in range(2):
        assert load_encoder(path)[1].format == card
    lines = [r.message for r in caplog.records if r.levelno >= logging.WARNING]
    assert lines == [
        f"{path}: read as {card} by its tensors, which {rivals} may have too; if it is not {card}, "
        f'state it in weights.pth.json beside it, such as {{"form": "{stated}"}}'
    ] * bool(rivals)
    if rivals:
        (tmp_path / "weights.pth.json").write_text(f'{{"form": "{stated}"}}')
        assert load_encoder(path)[1].format == rivals


def test_a_statement_against_the_tensors_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path, "weights.pth", vit().state_dict())
    (tmp_path / "weights.pth.json").write_text('{"form": "retfound_green"}')
    with pytest.raises(ValueError, match=r"stated as retfound_green, whose tensors it does not"):
        load_encoder(path)
    (tmp_path / "weights.pth.json").write_text('{"form": "retfound_blue"}')
    with pytest.raises(ValueError, match=r"form 'retfound_blue': write one of .*retfound_green"):
        load_encoder(path)


def test_a_name_is_not_believed_against_the_tensors(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = written(tmp_path, "retfound_green_flair.pth", vit().state_dict())
    assert load_encoder(path)[1].format == "a vit of no known form"
    assert "of no known form; guessed" in caplog.text


def test_siglip_is_refused_by_name(tmp_path: Path) -> None:
    tensors = {"visual.trunk.attn_pool.latent": torch.ones(1, 1, 8)}
    with pytest.raises(ValueError, match="SigLIP's encoder, without a class token"):
        load_encoder(written(tmp_path, "siglip.bin", tensors))


@pytest.mark.parametrize("card", formats())
def test_a_card_names_known_datasets_cards_and_where_it_was_read(card: str) -> None:
    one = formats()[card]
    assert set(one.trained_on) <= set(card_names())
    assert set(one.like) <= formats().keys() - {card}
    assert one.sources
    assert one.licence
    assert one.name not in {other.name for key, other in formats().items() if key != card}
