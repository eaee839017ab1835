"""Weights for transformers: a ViTModel folder, and one of ViTMAEForPreTraining below it.

With register tokens it is a Dinov2WithRegistersModel, with rotary positions a DINOv3ViTModel, of
layer scale 1, and without ViTMAE.

Files have the names of the models on the hub, which every version of transformers reads.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from transformers import (
    AutoImageProcessor,
    AutoModel,
    BitImageProcessor,
    Dinov2WithRegistersConfig,
    DINOv3ViTConfig,
    ViTConfig,
    ViTMAEConfig,
    ViTMAEForPreTraining,
)
from transformers.utils import logging

from maskedclip.data.labelled_views import RESIZE
from maskedclip.data.transforms import MEAN, STD
from maskedclip.models.blocks import sincos_positions
from maskedclip.models.checkpoints.sealed import save_sealed
from maskedclip.models.decoders import Decoder
from maskedclip.models.patches import split_patches
from maskedclip.weights.source_run import (
    FeatureCheck,
    SourceRun,
    example_images,
    max_difference,
    preprocessed,
    quoted,
    run_encoder,
    run_features,
)

WEIGHTS, MAE = "model.safetensors", "mae"
_BICUBIC = 3  # as Pillow counts
_BLOCK = {  # of a block: ours, theirs; qkv is three of theirs
    "norm1": "layernorm_before",
    "attn.proj": "attention.output.dense",
    "norm2": "layernorm_after",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
}
_BLOCK_OF_DINOV3 = {
    "norm1": "norm1",
    "attn.proj": "attention.o_proj",
    "norm2": "norm2",
    "mlp.fc1": "mlp.up_proj",
    "mlp.fc2": "mlp.down_proj",
}
_BLOCK_OF_DINOV2 = {name: name for name in _BLOCK} | {"attn.proj": "attention.output.dense"}


def write(source: SourceRun, folder: Path, final: Path) -> None:  # noqa: ARG001 (as all targets)
    """Write weights, configurations and the image processor's."""
    _processor(source).save_pretrained(folder)
    if source.positions == "rotary":
        save_sealed(_rotary(source), folder / WEIGHTS, images=source.images)
        _config_of_rotary(source).save_pretrained(folder)
        return
    if source.registers:
        save_sealed(_with_registers(source), folder / WEIGHTS, images=source.images)
        _config_of_registers(source).save_pretrained(folder)
        return
    width = source.size.width
    encoder = _encoder(source.encoder)
    # ViTModel always has a pooler: the identity, so that it gives [CLS]
    pooler = {"pooler.dense.weight": torch.eye(width), "pooler.dense.bias": torch.zeros(width)}
    save_sealed(encoder | pooler, folder / WEIGHTS, images=source.images)
    config = ViTConfig(**_shape(source), pooler_act="linear", architectures=["ViTModel"])
    config.save_pretrained(folder)
    if decoder := _decoder_of(source):
        (folder / MAE).mkdir()
        named = {f"vit.{name}": tensor for name, tensor in encoder.items()}
        named |= _decoder(decoder, source.image_size // source.patch_size)
        save_sealed(named, folder / MAE / WEIGHTS, images=source.images)
        _mae_config(source, decoder).save_pretrained(folder / MAE)
        _processor(source).save_pretrained(folder / MAE)


def _decoder_of(source: SourceRun) -> dict[str, Tensor]:
    """Return the tensors of the pixel decoder where MAE's reads the same: the encoder's tokens."""
    lacks = source.header.get("bridge_shared") or source.registers or source.positions == "rotary"
    return {} if lacks else source.tensors("pixel_decoder.")


def _shape(source: SourceRun) -> dict[str, Any]:
    kind = source.size
    return {
        "hidden_size": kind.width,
        "num_hidden_layers": kind.depth,
        "num_attention_heads": kind.heads,
        "intermediate_size": 4 * kind.width,
        "layer_norm_eps": 1e-6,
        "image_size": source.image_size,
        "patch_size": source.patch_size,
    }


def _mae_config(source: SourceRun, decoder: Mapping[str, Tensor]) -> ViTMAEConfig:
    kind, width = source.size, decoder["embed.weight"].shape[0]
    return ViTMAEConfig(
        **_shape(source),
        decoder_hidden_size=width,
        decoder_num_hidden_layers=len({n.split(".")[1] for n in decoder if n.startswith("blocks")}),
        decoder_num_attention_heads=kind.decoder_heads,
        decoder_intermediate_size=4 * width,
        mask_ratio=source.header["mask_ratio"],
        norm_pix_loss=source.config.get("loss", {}).get("normalise_pixels", True),
        architectures=["ViTMAEForPreTraining"],
    )


def _processor(source: SourceRun) -> BitImageProcessor:
    """Return MAE's evaluation: ViT's own processor would not cut the middle out."""
    size = source.image_size
    return BitImageProcessor(
        size={"shortest_edge": int(size * RESIZE)},
        crop_size={"height": size, "width": size},
        resample=_BICUBIC,
        image_mean=list(MEAN),
        image_std=list(STD),
    )


def _encoder(ours: Mapping[str, Tensor]) -> dict[str, Tensor]:
    tensors = _embedded(ours) | {"embeddings.position_embeddings": ours["pos_embed"]}
    return tensors | _blocks(ours, "encoder.layer.")


def _embedded(ours: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return what is outside of the blocks, less the positions."""
    tensors = {"embeddings.cls_token": ours["cls_token"]}
    for kind in ("weight", "bias"):
        tensors[f"embeddings.patch_embeddings.projection.{kind}"] = ours[f"patch_embed.proj.{kind}"]
        tensors[f"layernorm.{kind}"] = ours[f"norm.{kind}"]
    return tensors


def _config_of_registers(source: SourceRun) -> Dinov2WithRegistersConfig:
    shape = {name: value for name, value in _shape(source).items() if name != "intermediate_size"}
    return Dinov2WithRegistersConfig(
        **shape, num_register_tokens=source.registers, layerscale_value=1.0,
        architectures=["Dinov2WithRegistersModel"],
    )  # fmt: skip


def _with_registers(source: SourceRun) -> dict[str, Tensor]:
    """Return the tensors of Dinov2WithRegistersModel; its [CLS] has a position, here 0."""
    ours, width = source.encoder, source.size.width
    tensors = _embedded(ours) | _blocks(ours, "encoder.layer.", _BLOCK_OF_DINOV2)
    tensors["embeddings.register_tokens"] = ours["reg_token"]
    tensors["embeddings.mask_token"] = torch.zeros(1, width)
    positions = torch.zeros(1, 1, width), ours["pos_embed"]
    tensors["embeddings.position_embeddings"] = torch.cat(positions, dim=1)
    return tensors | _scales(source, "encoder.layer.")


def _scales(source: SourceRun, prefix: str) -> dict[str, Tensor]:
    """Return layer scale that changes nothing."""
    return {
        f"{prefix}{number}.layer_scale{place}.lambda1": torch.ones(source.size.width)
        for number in range(source.size.depth)
        for place in (1, 2)
    }


def _config_of_rotary(source: SourceRun) -> DINOv3ViTConfig:
    return DINOv3ViTConfig(
        **(_shape(source) | {"layer_norm_eps": 1e-5}), num_register_tokens=source.registers,
        rope_theta=100.0, query_bias=True, key_bias=False, value_bias=True, layerscale_value=1.0,
        pos_embed_rescale=None, architectures=["DINOv3ViTModel"],
    )  # fmt: skip


def _rotary(source: SourceRun) -> dict[str, Tensor]:
    """Return the tensors of DINOv3ViTModel, under the names of those on the hub."""
    ours, width = source.encoder, source.size.width
    tensors = {
        "embeddings.cls_token": ours["cls_token"],
        "embeddings.register_tokens": ours.get("reg_token", torch.zeros(1, 0, width)),
        "embeddings.mask_token": torch.zeros(1, 1, width),
    }
    for kind in ("weight", "bias"):
        tensors[f"embeddings.patch_embeddings.{kind}"] = ours[f"patch_embed.proj.{kind}"]
        tensors[f"norm.{kind}"] = ours[f"norm.{kind}"]
    for number in range(source.size.depth):
        for kind in ("weight", "bias"):
            fused = ours[f"blocks.{number}.attn.qkv.{kind}"]
            for which, part in zip("qkv", fused.chunk(3), strict=True):
                if (which, kind) != ("k", "bias"):
                    name = f"layer.{number}.attention.{which}_proj.{kind}"
                    tensors[name] = part.contiguous()
            for mine, theirs in _BLOCK_OF_DINOV3.items():
                name = f"layer.{number}.{theirs}.{kind}"
                tensors[name] = ours[f"blocks.{number}.{mine}.{kind}"]
    return tensors | _scales(source, "layer.")


def _decoder(ours: Mapping[str, Tensor], grid: int) -> dict[str, Tensor]:
    tensors = {
        "decoder.mask_token": ours["mask_token"],
        "decoder.decoder_pos_embed": sincos_positions(ours["mask_token"].shape[-1], grid),
    }
    for kind in ("weight", "bias"):
        for mine, theirs in {"embed": "embed", "norm": "norm", "head": "pred"}.items():
            tensors[f"decoder.decoder_{theirs}.{kind}"] = ours[f"{mine}.{kind}"]
    return tensors | _blocks(ours, "decoder.decoder_layers.")


def _blocks(
    ours: Mapping[str, Tensor], prefix: str, names: Mapping[str, str] = _BLOCK
) -> dict[str, Tensor]:
    tensors = {}
    for name, tensor in ours.items():
        if not name.startswith("blocks."):
            continue
        _, number, rest = name.split(".", 2)
        module, kind = rest.rsplit(".", 1)
        if module == "attn.qkv":
            for which, part in zip(("query", "key", "value"), tensor.chunk(3), strict=True):
                name = f"{prefix}{number}.attention.attention.{which}.{kind}"
                tensors[name] = part.contiguous()
        else:
            tensors[f"{prefix}{number}.{names[module]}.{kind}"] = tensor
    return tensors


@torch.no_grad()
def compare(source: SourceRun, folder: Path) -> list[FeatureCheck]:
    """Return how far transformers' features, and in mae/ the drawn pixels, are from the run's."""
    logging.disable_progress_bar()  # of reading tensors: two lines for each of the models
    model = _opened(AutoModel, folder)
    image_BCHW = preprocessed(example_images(), source.image_size)
    run_BD = run_features(source, image_BCHW)
    first = 1 + source.registers
    checks = [FeatureCheck("features", max_difference(_features(model, image_BCHW, first), run_BD))]
    for backend, shape, limit in (("pil", "square", 1e-4), ("torchvision", "square", None),
                                  ("pil", "oblong", None)):  # fmt: skip
        images = example_images(oblong=shape == "oblong")
        run_BD = run_features(source, preprocessed(images, source.image_size))
        theirs_BD = _features(model, _prepared_by(folder, backend, images), first)
        what = f"features, {shape} images prepared by AutoImageProcessor ({backend})"
        checks.append(FeatureCheck(what, max_difference(theirs_BD, run_BD), limit))
    if (folder / MAE).is_dir():
        checks.append(
            FeatureCheck("pixels of the masked patches", _pixels(source, folder, image_BCHW))
        )
    return checks


def _opened(kind: Any, folder: Path) -> Any:
    model, info = kind.from_pretrained(folder, output_loading_info=True)
    strange = [*info["missing_keys"], *info["unexpected_keys"], *info["mismatched_keys"]]
    if strange:
        raise RuntimeError(f"{folder}: transformers finds {strange[0]} missing or unexpected")
    return model.eval()


def _features(model: Any, image_BCHW: Tensor, first: int) -> Tensor:
    return model(pixel_values=image_BCHW).last_hidden_state[:, first:].mean(dim=1)


def _prepared_by(folder: Path, backend: str, images: list[Image.Image]) -> Tensor:
    processor = AutoImageProcessor.from_pretrained(folder, backend=backend)
    return processor(images, return_tensors="pt")["pixel_values"]


def _pixels(source: SourceRun, folder: Path, image_BCHW: Tensor) -> float:
    """Return the largest difference of what the two decoders draw, with the same patches hidden."""
    model = _opened(ViTMAEForPreTraining, folder / MAE)
    kind, tensors = source.size, source.tensors("pixel_decoder.")
    grid = source.image_size // source.patch_size
    decoder = Decoder(
        width_in=kind.width,
        width=kind.decoder_width,
        depth=kind.decoder_depth,
        heads=kind.decoder_heads,
        width_out=3 * source.patch_size**2,
        grid=grid,
    )
    decoder.load_state_dict(tensors)
    generator = torch.Generator().manual_seed(0)
    noise_BN = torch.rand(len(image_BCHW), grid * grid, generator=generator)
    theirs = model(pixel_values=image_BCHW, noise=noise_BN)
    hidden_BN = theirs.mask.bool()
    visible_BK, hidden_BM = split_patches(hidden_BN, int((~hidden_BN[0]).sum()))
    masked_BKD, _ = run_encoder(source)(image_BCHW, visible_BK, 0)
    assert masked_BKD is not None
    ours_BMP = decoder.eval()(masked_BKD, visible_BK, hidden_BM)
    index_BMP = hidden_BM[:, :, None].expand(-1, -1, ours_BMP.shape[-1])
    return max_difference(theirs.logits.gather(1, index_BMP), ours_BMP)


def opening_code(source: SourceRun, folder: Path) -> list[str]:  # noqa: ARG001 (as all targets)
    """Return the code that opens the export, in its last line."""
    return [
        "from transformers import AutoImageProcessor, AutoModel, ViTMAEForPreTraining",
        f"model = AutoModel.from_pretrained({quoted(folder)}).eval()",
    ]


def usage_code(source: SourceRun, folder: Path) -> list[str]:
    """Return the code that goes on from there."""
    first = 1 + source.registers
    mae = f'mae = ViTMAEForPreTraining.from_pretrained({quoted(folder)}, subfolder="{MAE}")'
    return [
        f'processor = AutoImageProcessor.from_pretrained({quoted(folder)}, backend="pil")',
        'state = model(**processor(image, return_tensors="pt")).last_hidden_state',
        f"feature = state[:, {first}:].mean(1)",
        *([mae] if _decoder_of(source) else []),
    ]


def notes(source: SourceRun) -> list[str]:
    """Return what a user of the export should know."""
    before = f"first {1 + source.registers} tokens" if source.registers else "first token"
    lines = [
        f"features are the mean of last_hidden_state without its {before}; pooler_output is [CLS]"
    ]
    if not _decoder_of(source):
        why = "its pixel decoder reads tokens that passed the bridge"
        if source.positions == "rotary":
            why = "it has no rotary positions"
        elif source.registers:
            why = "it has no register tokens"
        elif not source.tensors("pixel_decoder."):
            why = "these weights have no pixel decoder"
        lines.append(f"no {MAE}/ for ViTMAEForPreTraining: {why}")
    return lines
