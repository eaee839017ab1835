"""Third-party encoders give what their own code gives, from the names that their files have."""

import argparse
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip
import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file
from timm.layers import SwiGLUPacked
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModel,
    Dinov2Config,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    DINOv3ViTConfig,
    DINOv3ViTModel,
    ViTMAEConfig,
    ViTMAEModel,
)

from maskedclip.models.checkpoints.architectures import pooled
from maskedclip.models.checkpoints.formats import formats
from maskedclip.models.pretrained import LoadReport, encoder_info, load_encoder

SIZE, WIDTH = 64, 128
Given = tuple[dict[str, Any], Callable[[Tensor], Tensor]]  # content of a file; [CLS], patch tokens
IMAGENET = (0.485, 0.456, 0.406)


def drawn(network: nn.Module) -> nn.Module:
    """Return it with random values everywhere: zeros and ones hide what is not loaded."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, value in network.state_dict().items():
            if value.is_floating_point():
                spread = 0.2 if re.search("norm|ln_|gamma|lambda", name) else 0.05
                noise = torch.randn(value.shape, generator=generator) * spread
                value.copy_(noise + (1.0 if spread == 0.2 and value.ndim == 1 else 0.0))
            if name.endswith("running_var"):
                value.abs_().add_(0.5)
    return network.eval()


def vit(**changes: Any) -> VisionTransformer:
    settings = {
        "img_size": SIZE, "patch_size": 16, "embed_dim": WIDTH, "depth": 2, "num_heads": 2,
        "num_classes": 0,
    }  # fmt: skip
    network = drawn(VisionTransformer(**(settings | changes)))
    assert isinstance(network, VisionTransformer)
    return network


def patches(network: Any) -> Callable[[Tensor], Tensor]:
    return lambda x: network.forward_features(x)[:, network.num_prefix_tokens :]


def tokens_of(network: Any) -> Callable[[Tensor], Tensor]:
    """Return what gives [CLS] and the patch tokens, without registers."""

    def tokens(x: Tensor) -> Tensor:
        token_BLD = network.forward_features(x)
        return torch.cat([token_BLD[:, :1], token_BLD[:, network.num_prefix_tokens :]], dim=1)

    return tokens


def renamed(network: nn.Module, *rules: tuple[str, str], before: str = "") -> dict[str, Tensor]:
    tensors = {}
    for name, tensor in network.state_dict().items():
        for pattern, replacement in rules:
            name = re.sub(pattern, replacement, name)
        tensors[before + name] = tensor
    return tensors


def mae() -> Given:
    network = vit()
    decoder = {"decoder_embed.weight": torch.ones(8, WIDTH), "mask_token": torch.ones(1, 1, 8)}
    args = argparse.Namespace(model="mae_vit_large_patch16", lr=1e-3)
    return {"model": network.state_dict() | decoder, "args": args, "epoch": 3}, tokens_of(network)


def retfound_dinov2() -> Given:
    """As its main_finetune.py finds it: under `teacher`, `backbone.`, chunks, w12 and w3."""
    network = vit(
        patch_size=14, img_size=70, init_values=1.0, mlp_layer=SwiGLUPacked,
        act_layer=nn.SiLU, mlp_ratio=344.5 / WIDTH,
    )  # fmt: skip
    tensors = renamed(
        network, (r"^blocks\.(\d+)\.", r"blocks.0.\1."), (r"mlp\.fc1", "mlp.w12"),
        (r"mlp\.fc2", "mlp.w3"), before="backbone.",
    )  # fmt: skip
    tensors |= {"backbone.mask_token": torch.ones(1, WIDTH), "dino_head.mlp.0.bias": torch.ones(3)}
    return {"teacher": tensors}, tokens_of(network)


def dinov2_registers() -> Given:
    """As torch.hub has it: positions of [CLS] and patches, none of the registers."""
    network = vit(patch_size=14, img_size=70, init_values=1.0, reg_tokens=4, no_embed_class=True)
    tensors = network.state_dict()
    place_11D = torch.full((1, 1, WIDTH), 0.3)
    tensors["register_tokens"] = tensors.pop("reg_token")
    tensors["cls_token"] = tensors["cls_token"] - place_11D
    tensors["pos_embed"] = torch.cat([place_11D, tensors["pos_embed"]], dim=1)
    return {**tensors, "mask_token": torch.ones(1, WIDTH)}, tokens_of(network)


def dinov3() -> Given:
    network = drawn(
        timm.create_model(
            "vit_small_plus_patch16_dinov3_qkvb", img_size=SIZE, embed_dim=WIDTH, depth=2,
            num_heads=2, num_classes=0,
        )
    )  # fmt: skip
    tensors = renamed(
        network, (r"\.gamma_(\d)", r".ls\1.gamma"), ("reg_token", "storage_tokens"),
        (r"mlp\.fc1_g", "mlp.w1"), (r"mlp\.fc1_x", "mlp.w2"), (r"mlp\.fc2", "mlp.w3"),
    )  # fmt: skip
    for block in range(2):
        stem = f"blocks.{block}.attn."
        query_D, value_D = tensors.pop(f"{stem}q_bias"), tensors.pop(f"{stem}v_bias")
        tensors[f"{stem}qkv.bias"] = torch.cat([query_D, torch.ones(WIDTH), value_D])
        tensors[f"{stem}qkv.bias_mask"] = torch.ones(3 * WIDTH)
    return {**tensors, "rope_embed.periods": 100 ** (torch.arange(16) / 16)}, tokens_of(network)


def imagenet_21k() -> Given:
    network = vit(num_classes=21843)
    return network.state_dict(), tokens_of(network)


def openai_clip() -> Given:
    return clip(quick=True)


def clip(quick: bool = False) -> Given:
    tower = open_clip.model.VisionTransformer(
        image_size=SIZE, patch_size=16, width=WIDTH, layers=2, heads=2, mlp_ratio=4.0,
        output_dim=32, output_tokens=True,
        act_layer=open_clip.transformer.QuickGELU if quick else nn.GELU,
    )  # fmt: skip
    drawn(tower)
    tensors = renamed(tower, before="visual.")
    tensors |= {"positional_embedding": torch.ones(77, 32), "token_embedding.weight": torch.ones(9)}
    if quick:
        tensors |= {"input_resolution": torch.tensor(SIZE), "logit_scale": torch.tensor(4.6)}
    tower.proj = None
    return tensors, lambda x: torch.cat([tower(x)[0][:, None], tower(x)[1]], dim=1)


def slip() -> Given:
    network = vit(embed_dim=384, num_heads=12, depth=12)
    head = {"module.image_mlp.layer1.weight": torch.ones(2), "module.logit_scale": torch.ones(())}
    return {"state_dict": renamed(network, before="module.visual.") | head}, tokens_of(network)


def moco_v3() -> Given:
    """Its ViT-S has 12 heads, which no shape tells."""
    network = vit(embed_dim=384, num_heads=12, depth=12)
    base = renamed(network, before="module.base_encoder.")
    slow = renamed(vit(embed_dim=384, depth=12), before="module.momentum_encoder.")
    slow = {name: torch.zeros_like(tensor) for name, tensor in slow.items()}
    head = {"module.base_encoder.head.0.weight": torch.ones(2)}
    return {"state_dict": slow | base | head}, tokens_of(network)


def dino() -> Given:
    network = vit()
    student = {f"module.backbone.{k}": v * 0 for k, v in network.state_dict().items()}
    teacher = renamed(network, before="backbone.") | {"head.last_layer.weight_g": torch.ones(9, 1)}
    return {"student": student, "teacher": teacher, "epoch": 1}, tokens_of(network)


def ibot() -> Given:
    network = vit()
    tensors = renamed(network) | {"masked_embed": torch.ones(1, WIDTH)}
    return {"state_dict": tensors}, tokens_of(network)


def urfound() -> Given:
    content, tokens = mae()
    return {"model": content["model"] | {"bert_mlp.weight": torch.ones(384, WIDTH)}}, tokens


HUGGING = {
    "hidden_size": WIDTH, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": SIZE,
    "patch_size": 16,
}  # fmt: skip


def transformers_mae() -> Given:
    config = ViTMAEConfig(  # of transformers' own epsilon, 1e-12, MAE's code knows nothing
        **HUGGING, intermediate_size=4 * WIDTH, mask_ratio=0.0, layer_norm_eps=1e-6
    )
    network = drawn(ViTMAEModel(config))
    order_1N = torch.arange((SIZE // 16) ** 2)[None].float()  # of noise: nothing is shuffled
    tensors = renamed(network, before="vit.")
    return tensors, lambda x: network(x, noise=order_1N.expand(len(x), -1))[0]


def transformers_dinov2() -> Given:
    network = drawn(Dinov2Model(Dinov2Config(**HUGGING, use_swiglu_ffn=True)))
    return network.state_dict(), lambda x: network(x)[0]


def transformers_registers() -> Given:
    network = drawn(Dinov2WithRegistersModel(Dinov2WithRegistersConfig(**HUGGING)))
    return network.state_dict(), lambda x: network(x)[0][:, [0, *range(5, 21)]]


def transformers_dinov3() -> Given:
    config = DINOv3ViTConfig(
        **HUGGING,
        intermediate_size=4 * WIDTH,
        num_register_tokens=4,
        use_gated_mlp=True,
        hidden_act="silu",
    )
    network = drawn(DINOv3ViTModel(config))
    return network.state_dict(), lambda x: network(x)[0][:, [0, *range(5, 21)]]


def transformers_clip() -> Given:
    network = drawn(CLIPVisionModel(CLIPVisionConfig(**HUGGING, intermediate_size=4 * WIDTH)))
    tensors = renamed(network, before="vision_model.")
    last = network.get_submodule("post_layernorm")
    return tensors, lambda x: last(network(x)[0])


# name of the file, its content, and the format that it is recognised as
FORMS: dict[str, tuple[Callable[[], Given], str]] = {
    "mae_pretrain_vit_large.pth": (mae, "MAE"),
    "RETFound_mae_natureCFP.pth": (mae, "RETFound"),
    "RETFound_dinov2_meh.pth": (retfound_dinov2, "RETFound (DINOv2)"),
    "dinov2_vitl14_reg4_pretrain.pth": (dinov2_registers, "DINOv2"),
    "dinov3_vitl16_pretrain.pth": (dinov3, "DINOv3"),
    "in21k.pth": (imagenet_21k, "ImageNet-21K"),
    "ViT-L-14.pt": (openai_clip, "OpenAI CLIP"),
    "open_clip_pytorch_model.bin": (clip, "CLIP"),
    "slip_small_100ep.pt": (slip, "SLIP"),
    "vit-s-300ep.pth.tar": (moco_v3, "MoCo v3"),
    "dino_vitbase16_pretrain_full_checkpoint.pth": (dino, "DINO"),
    "checkpoint_student.pth": (ibot, "iBOT"),
    "checkpoint-199.pth": (urfound, "UrFound"),
    "vit-mae-large/pytorch_model.bin": (transformers_mae, "MAE"),
    "dinov2-giant/pytorch_model.bin": (transformers_dinov2, "DINOv2"),
    "dinov2-with-registers-large/pytorch_model.bin": (transformers_registers, "DINOv2"),
    "dinov3-vitl16/pytorch_model.bin": (transformers_dinov3, "DINOv3"),
    "openai/clip-vit-large-patch14/pytorch_model.bin": (transformers_clip, "OpenAI CLIP"),
}


def written(tmp_path: Path, name: str, content: dict[str, Any]) -> Path:
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(content, path)
    return path


@pytest.mark.parametrize("name", FORMS)
def test_its_tokens_and_its_pooling_are_those_of_its_own_code(name: str, tmp_path: Path) -> None:
    make, form = FORMS[name]
    content, tokens = make()
    size = 70 if make in (retfound_dinov2, dinov2_registers) else SIZE
    path = written(tmp_path, name, content)
    network, report = load_encoder(path, image_size=size, global_pool="token")
    assert (report.format, report.share, report.missing) == (form, 1.0, [])
    image_BCHW = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))
    network.eval()
    with torch.no_grad():
        found_BLD = tokens_of(network)(image_BCHW)
        expected_BLD = tokens(image_BCHW)
    assert found_BLD.std() > 0.1
    assert (found_BLD - expected_BLD).abs().max() <= 1e-5
    card = next(card for card in formats().values() if card.name == form)
    row_BD = expected_BLD[:, 0] if card.pool == "cls" else expected_BLD[:, 1:].mean(dim=1)
    torch.testing.assert_close(pooled(network, image_BCHW), row_BD)


def test_flair_is_torchvisions_resnet_at_512_pixels_and_black_borders(tmp_path: Path) -> None:
    reference = torchvision.models.resnet50()
    reference.fc = nn.Identity()
    drawn(reference)
    with torch.no_grad():
        for module in reference.modules():  # else values overflow through its layers
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)
    tensors = renamed(reference, before="vision_model.model.") | {
        "vision_model.projection_head_vision.projection.weight": torch.ones(512, 2048),
        "text_model.model.embeddings.position_ids": torch.arange(512)[None],
        "logit_scale": torch.tensor(2.66),
    }
    save_file(tensors, tmp_path / "model.safetensors")
    network, report = load_encoder(tmp_path, global_pool="token")
    assert (report.format, report.share) == ("FLAIR", 1.0)
    _, preparation, _, trained_on = encoder_info(network)
    assert preparation[:3] == (512, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    assert preparation.whole
    assert {"aptos2019", "idrid", "origa", "jsiec", "retina"} <= set(trained_on)
    image_BCHW = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    network.eval()
    with torch.no_grad():
        expected_BD = reference(image_BCHW)
        scale = expected_BD.abs().max()
        assert (pooled(network, image_BCHW) - expected_BD).abs().max() / scale <= 1e-5


def test_its_size_and_colours_go_with_it(tmp_path: Path) -> None:
    wanted = {
        "in21k.pth": (SIZE, (0.5, 0.5, 0.5), 1 / 0.9),
        "ViT-L-14.pt": (SIZE, (0.48145466, 0.4578275, 0.40821073), 1.0),
        "dinov2_vitl14_reg4_pretrain.pth": (224, IMAGENET, 256 / 224),
        "dinov3_vitl16_pretrain.pth": (256, IMAGENET, 1.0),
        "mae_pretrain_vit_large.pth": (SIZE, IMAGENET, 256 / 224),
    }
    for name, (size, mean, resize) in wanted.items():
        path = written(tmp_path, name, FORMS[name][0]()[0])
        network, _ = load_encoder(path)
        preparation = encoder_info(network).preparation
        assert (preparation.image_size, preparation.mean, preparation.resize) == (
            size,
            mean,
            resize,
        )
        timms = timm.data.resolve_model_data_config(network)
        assert (timms["input_size"], timms["mean"]) == ((3, size, size), mean)


def test_a_configuration_beside_the_file_has_the_last_word_on_colours(tmp_path: Path) -> None:
    path = written(tmp_path, "laion/open_clip_pytorch_model.bin", clip()[0])
    config = '{"preprocess_cfg": {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]}}'
    (path.parent / "open_clip_config.json").write_text(config)
    preparation = encoder_info(load_encoder(path)[0]).preparation
    assert (preparation.mean, preparation.std) == ((0.5,) * 3, (0.25,) * 3)


def test_positions_are_resampled_as_timm_does(tmp_path: Path) -> None:
    tensors = vit().state_dict()
    path = written(tmp_path, "mae.pth", {"model": tensors})
    network, report = load_encoder(path, image_size=96, global_pool="token")
    assert (report.reshaped, report.share) == (["pos_embed"], 1.0)
    reference = VisionTransformer(img_size=96, embed_dim=WIDTH, depth=2, num_heads=2)
    theirs = timm.models.vision_transformer.checkpoint_filter_fn(tensors, reference)
    torch.testing.assert_close(network.state_dict()["pos_embed"], theirs["pos_embed"])


def test_a_missing_part_is_refused_in_one_line_and_the_table_is_shown(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tensors = {k: v for k, v in vit().state_dict().items() if "blocks.1.mlp" not in k}
    path = written(tmp_path, "mae.pth", {"model": tensors})
    with pytest.raises(ValueError, match=r"gives 73\.5% of MAE .* blocks\.1\.mlp") as error:
        load_encoder(path)
    assert "\n" not in str(error.value)
    assert "missing    blocks.N.mlp.fc1.bias" in caplog.text


def test_blocks_with_parts_that_the_network_lacks_are_refused(tmp_path: Path) -> None:
    tensors = vit(qk_norm=True).state_dict()
    with pytest.raises(ValueError, match=r"tensors of blocks .*blocks\.0\.attn\.k_norm\.bias"):
        load_encoder(written(tmp_path, "vit.pth", tensors))


@pytest.mark.parametrize(
    ("tensors", "answer"),
    [
        ({"weight": torch.ones(3)}, "no cls_token, class_embedding or conv1"),
        ({"conv1.weight": torch.ones(3)}, "a ResNet other than torchvision's ResNet-50"),
        ({"cls_token": torch.ones(1, 1, 3)}, "no patch_embed.proj"),
    ],
)
def test_what_is_no_encoder_is_refused_by_name(
    tensors: dict[str, Tensor], answer: str, tmp_path: Path
) -> None:
    path = written(tmp_path, "strange.pth", tensors)
    with pytest.raises(ValueError, match=answer) as error:
        load_encoder(path)
    assert str(path) in str(error.value)


def test_the_table_counts_what_is_alike() -> None:
    report = LoadReport("a.pth", ["blocks.0.x", "blocks.1.x"], [], ["head.bias"], 1.0, format="MAE")
    assert report.table().splitlines()[1:] == [
        "  unexpected head.bias",
        "  matched    blocks.N.x (2)",
    ]
    assert report.facts()["unexpected"] == ["head.bias"]


@pytest.mark.slow
def test_a_vit_large_of_mae_gives_timms_features(tmp_path: Path) -> None:
    network = drawn(timm.create_model("vit_large_patch16_224", num_classes=0))
    path = written(tmp_path, "mae_pretrain_vit_large.pth", {"model": network.state_dict()})
    loaded, report = load_encoder(path, global_pool="token")
    assert report.share == 1.0
    image_1CHW = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        difference = patches(loaded.eval())(image_1CHW) - patches(network)(image_1CHW)
    assert difference.abs().max() <= 1e-5
