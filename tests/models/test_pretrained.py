"""Networks that begin from third-party weights."""

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor
from transformers import DINOv3ViTConfig, DINOv3ViTModel

from maskedclip.data.transforms import MEAN, STD
from maskedclip.models.checkpoints.architectures import Network
from maskedclip.models.maskedclip import MaskedCLIP, build
from maskedclip.models.patches import take
from maskedclip.models.pretrained import (
    begin_from,
    check_start,
    encoder_info,
    export,
    load_encoder,
)
from tests.models import stand_ins
from tests.models.checkpoints.test_architectures import drawn, renamed
from tests.models.test_encoder import timms_blocks


def network(size: str = "micro", image_size: int = 32, **changes: Any) -> MaskedCLIP:
    shape = {
        "patch_size": 16, "mask_ratio": 0.75, "bridge_depth": 1, "feature_decoder_depth": 1,
        "projection": 16, "text": "builtin", "text_tokens": 16, "text_dropout": 0.0,
    }  # fmt: skip
    model, _ = build(size=size, image_size=image_size, **(shape | changes))
    return model


def third_party(image_size: int = 32) -> VisionTransformer:
    """A ViT as of ImageNet: learnt positions, one for [CLS] too, and a head."""
    torch.manual_seed(3)
    model = VisionTransformer(
        img_size=image_size, patch_size=16, embed_dim=128, depth=4, num_heads=4, num_classes=7
    )
    torch.nn.init.normal_(model.pos_embed)
    torch.nn.init.normal_(model.cls_token)
    return model.eval()


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_an_encoder_begun_from_timm_gives_its_features(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"vit{suffix}"
    if suffix == ".pth":
        torch.save({"model": third_party().state_dict()}, path)
    else:
        save_file(third_party().state_dict(), path)
    model = network()
    report = begin_from(model, path)
    assert report.unexpected == ["encoder.head.bias", "encoder.head.weight"]
    image_BCHW = torch.randn(2, 3, 32, 32)
    _, ours_BND = model.encoder(image_BCHW, None, 2)
    torch.testing.assert_close(ours_BND, third_party().forward_features(image_BCHW))


def test_positions_of_another_grid_are_resampled(tmp_path: Path) -> None:
    save_file(third_party(64).state_dict(), tmp_path / "vit.safetensors")
    model = network()
    assert not begin_from(model, tmp_path / "vit.safetensors").missing
    assert model.encoder.pos_embed.shape == (1, 5, 128)


def test_a_run_gives_every_network(tmp_path: Path) -> None:
    torch.manual_seed(1)
    other, model = network(), network()
    export(other.state_dict(), {"size": "micro"}, tmp_path)
    assert begin_from(model, tmp_path).share == 1
    ours, theirs = model.state_dict(), other.state_dict()
    assert all(ours[name].equal(theirs[name]) for name in theirs)


def test_weights_of_another_size_are_refused_in_one_line(tmp_path: Path) -> None:
    save_file(third_party().state_dict(), tmp_path / "vit.safetensors")
    flags = (
        r"4 blocks of width 128 and patches of 16 pixels; set --model\.size=micro --model\.patch"
    )
    with pytest.raises(ValueError, match=flags) as error:
        begin_from(network("tiny"), tmp_path / "vit.safetensors")
    assert "\n" not in str(error.value)


def test_weights_of_other_patches_are_refused_with_the_flags_that_fit(tmp_path: Path) -> None:
    other = VisionTransformer(img_size=28, patch_size=14, embed_dim=192, depth=12, num_heads=3)
    save_file(other.state_dict(), tmp_path / "vit.safetensors")
    size = r"set --model\.size=tiny --model\.patch_size=14"
    flags = rf"{size} --model\.image_size=28 \(or another multiple of 14\)$"
    with pytest.raises(ValueError, match=flags):
        begin_from(network("tiny"), tmp_path / "vit.safetensors")
    shape: dict[str, Any] = {"size": "small", "patch_size": 16}
    shape |= {"registers": 0, "positions": "sine"}
    for given, wanted in ((224, ""), (112, ""), (240, "238"), (8, "14")):
        more = rf" --model\.image_size={wanted} \(or another multiple of 14\)" if wanted else ""
        with pytest.raises(ValueError, match=f"{size}{more}$"):
            check_start(tmp_path / "vit.safetensors", image_size=given, **shape)


def test_weights_of_a_size_that_there_is_not_are_refused_with_those_that_there_are(
    tmp_path: Path,
) -> None:
    other = VisionTransformer(img_size=32, patch_size=16, embed_dim=64, depth=2, num_heads=1)
    save_file(other.state_dict(), tmp_path / "vit.safetensors")
    with pytest.raises(
        ValueError, match=r"2 blocks of width 64, and model\.size none such"
    ) as error:
        begin_from(network("tiny"), tmp_path / "vit.safetensors")
    assert "micro 4 of 128, tiny 12 of 192" in str(error.value)


def retfound_green(layout: str = "retfound") -> dict[str, Tensor]:
    """RETFound-Green's ViT-S/14 with values that show; 392 px, no position of [CLS]."""
    tensors = drawn(
        timm.create_model("vit_small_patch14_reg4_dinov2", img_size=(392, 392), num_classes=0)
    )
    if layout == "timm":
        return tensors.state_dict()
    place_11D = torch.full((1, 1, 384), 0.3)  # DINOv2's own has one, and none of the registers
    renamed_tensors = renamed(tensors, ("reg_token", "register_tokens"))
    renamed_tensors["cls_token"] = renamed_tensors["cls_token"] - place_11D
    renamed_tensors["pos_embed"] = torch.cat([place_11D, renamed_tensors["pos_embed"]], dim=1)
    return renamed_tensors


def assert_as_timms(model: MaskedCLIP, path: Path, image_size: int) -> None:
    timms, _ = load_encoder(path, image_size=image_size, global_pool="token")
    visible_BV = torch.tensor([[0, 3, 9], [2, 7, 15]])
    for ours, theirs in both(model, timms, image_size, visible_BV):
        assert theirs.std() > 0.1
        assert (ours - theirs).abs().max() < 1e-5


def both(
    ours: MaskedCLIP, theirs: Network, image_size: int, visible_BV: Tensor
) -> list[tuple[Tensor, Tensor]]:
    """Return ours and theirs of one image in its own colours: all tokens, and the visible ones."""
    value_BCHW = torch.rand(
        2, 3, image_size, image_size, generator=torch.Generator().manual_seed(1)
    )
    preparation = encoder_info(theirs).preparation
    colours = (MEAN, STD), (preparation.mean, preparation.std)
    ours_BCHW, theirs_BCHW = (
        (value_BCHW - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
        for mean, std in colours
    )
    first = theirs.num_prefix_tokens
    with torch.no_grad():
        masked, whole = ours.eval().encoder(ours_BCHW, visible_BV, 2)
        token_BLD = theirs.eval().forward_features(theirs_BCHW)
        few_BLD, rope = theirs._pos_embed(theirs.patch_embed(theirs_BCHW)), None
        if isinstance(theirs, Eva):
            few_BLD, rope_NC = few_BLD
            rope = rope_NC[visible_BV][:, None]  # an axis of heads
        few_BLD = torch.cat([few_BLD[:, :first], take(few_BLD[:, first:], visible_BV)], dim=1)
        few_BLD = timms_blocks(theirs, few_BLD, rope)
    pairs = (whole, token_BLD), (masked, few_BLD)
    return [(own, torch.cat([x[:, :1], x[:, first:]], dim=1)) for own, x in pairs]


@pytest.mark.parametrize("layout", ["retfound", "timm"])
def test_an_encoder_begun_from_registers_gives_the_features_of_timms_own(
    tmp_path: Path, layout: str
) -> None:
    path = tmp_path / "RETFoundGreen.pth"
    torch.save(retfound_green(layout), path)
    model = network("small", 56, patch_size=14, registers=4)
    report = begin_from(model, path)
    assert (report.format, report.missing) == ("RETFound-Green", [])
    assert_as_timms(model, path, 56)


def test_registers_are_asked_for_by_the_flags_that_fit(tmp_path: Path) -> None:
    torch.save(retfound_green("timm"), tmp_path / "RETFoundGreen.pth")
    with pytest.raises(ValueError, match=r"14 pixels and 4 registers; set --model\.registers=4$"):
        begin_from(network("small", 56, patch_size=14), tmp_path / "RETFoundGreen.pth")
    save_file(third_party().state_dict(), tmp_path / "vit.safetensors")
    with pytest.raises(ValueError, match=r"and 0 registers; set --model\.registers=0$"):
        begin_from(network(registers=4), tmp_path / "vit.safetensors")


@pytest.mark.parametrize("layout", ["meta", "timm", "timm without biases", "transformers"])
def test_an_encoder_begun_from_dinov3_gives_the_features_of_timms_own(
    tmp_path: Path, layout: str
) -> None:
    path = tmp_path / "dinov3_vits16_pretrain.pth"
    torch.save(dinov3(layout), path)
    model = network("small", 64, registers=4, positions="rotary")
    report = begin_from(model, path)
    assert (report.format, report.missing) == ("DINOv3", [])
    assert_as_timms(model, path, 64)


def test_an_encoder_begun_from_dinov3_gives_the_features_of_transformers_own(
    tmp_path: Path,
) -> None:
    theirs = transformers_dinov3()
    torch.save(theirs.state_dict(), tmp_path / "dinov3.pth")
    model = network("small", 96, registers=4, positions="rotary")  # it was made for 64
    begin_from(model, tmp_path / "dinov3.pth")
    image_BCHW = torch.randn(2, 3, 96, 96, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        _, ours_BND = model.eval().encoder(image_BCHW, None, 2)
        theirs_BND = theirs(image_BCHW)[0][:, [0, *range(5, 41)]]
    assert theirs_BND.std() > 0.1
    assert (ours_BND - theirs_BND).abs().max() < 1e-5


def transformers_dinov3() -> Any:
    config = DINOv3ViTConfig(
        image_size=64, patch_size=16, hidden_size=384, num_hidden_layers=12,
        num_attention_heads=6, intermediate_size=1536, num_register_tokens=4,
    )  # fmt: skip
    return drawn(DINOv3ViTModel(config))


def dinov3(layout: str) -> dict[str, Tensor]:
    """DINOv3's ViT-S/16 with values that show."""
    if layout == "transformers":
        return transformers_dinov3().state_dict()
    bias = "" if "without" in layout else "_qkvb"
    timms = drawn(timm.create_model(f"vit_small_patch16_dinov3{bias}", num_classes=0))
    if layout != "meta":
        return timms.state_dict()
    return stand_ins.dinov3(timms) | {"mask_token": torch.zeros(1, 384)}


def test_rotary_positions_are_asked_for_by_the_flags_that_fit(tmp_path: Path) -> None:
    torch.save(dinov3("timm"), tmp_path / "dinov3.pth")
    shape: dict[str, Any] = {"size": "small", "image_size": 64, "patch_size": 16}
    shape |= {"registers": 0, "positions": "sine"}
    said = r"4 registers and rotary positions; set --model\.registers=4 --model\.positions=rotary$"
    with pytest.raises(ValueError, match=said):
        begin_from(network("small", 64), tmp_path / "dinov3.pth")
    with pytest.raises(ValueError, match=said):
        check_start(tmp_path / "dinov3.pth", **shape)
    check_start(tmp_path / "dinov3.pth", **(shape | {"registers": 4, "positions": "rotary"}))
    save_file(third_party().state_dict(), tmp_path / "vit.safetensors")
    with pytest.raises(ValueError, match=r"and sine positions; set --model\.positions=sine$"):
        begin_from(network(positions="rotary"), tmp_path / "vit.safetensors")


@pytest.mark.parametrize(
    "kind", [{"registers": 2}, {"positions": "rotary"}, {"registers": 2, "positions": "rotary"}]
)
def test_a_run_with_registers_or_rotary_positions_is_read_by_timm_as_it_is(
    tmp_path: Path, kind: dict[str, Any]
) -> None:
    torch.manual_seed(1)
    model = network(**kind)
    export(model.state_dict(), {"size": "micro", "image_size": 32, **kind}, tmp_path)
    again = network(**kind)
    assert begin_from(again, tmp_path / "encoder.safetensors").missing == []
    assert again.encoder.norm.eps == model.encoder.norm.eps
    timms, report = load_encoder(tmp_path, global_pool="token")
    assert (report.missing, report.unexpected) == ([], [])
    for ours, theirs in both(model, timms, 32, torch.tensor([[0, 3], [2, 1]])):
        assert (ours - theirs).abs().max() < 1e-5


def test_a_bias_that_an_encoder_leaves_out_begins_as_zero(tmp_path: Path) -> None:
    other = VisionTransformer(
        img_size=32, embed_dim=128, depth=4, num_heads=4, num_classes=0, qkv_bias=False,
        no_embed_class=True,
    )  # fmt: skip
    save_file(other.state_dict(), tmp_path / "vit.safetensors")
    model = network()
    begin_from(model, tmp_path / "vit.safetensors")
    image_BCHW = torch.randn(2, 3, 32, 32)
    _, ours_BND = model.encoder(image_BCHW, None, 2)
    torch.testing.assert_close(ours_BND, other.eval().forward_features(image_BCHW))
