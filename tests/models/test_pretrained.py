"""Networks that begin from third-party weights."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from timm.models.vision_transformer import VisionTransformer

from maskedclip.models.maskedclip import MaskedCLIP, build
from maskedclip.models.pretrained import begin_from, export


def network(size: str = "micro", image_size: int = 32) -> MaskedCLIP:
    model, _ = build(
        size=size, image_size=image_size, patch_size=16, mask_ratio=0.75, bridge_depth=1,
        feature_decoder_depth=1, projection=16, text="builtin", text_tokens=16, text_dropout=0.0,
    )  # fmt: skip
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
    flags = "set --model.size=tiny --model.patch_size=14 --model.image_size=224 "
    with pytest.raises(ValueError, match=flags):
        begin_from(network("tiny"), tmp_path / "vit.safetensors")


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
