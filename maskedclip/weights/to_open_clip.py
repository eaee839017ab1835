"""Weights for open_clip: both towers in one folder, its open_clip_config.json beside them."""

import importlib
import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from maskedclip.data.captions import TEMPLATE, Wording, prompts
from maskedclip.data.transforms import MEAN, STD
from maskedclip.inference import caption_template, load
from maskedclip.models import BUILTIN
from maskedclip.models.checkpoints.sealed import save_sealed
from maskedclip.models.text import build_text
from maskedclip.weights.image_tower import tower_name
from maskedclip.weights.source_run import (
    FeatureCheck,
    SourceRun,
    example_images,
    max_difference,
    preprocessed,
    quoted,
)
from maskedclip.weights.to_timm import timm_name

WEIGHTS = "open_clip_model.safetensors"


def write(source: SourceRun, folder: Path, final: Path) -> None:
    """Write both towers; ValueError where the run has no text tower.

    Args:
        final: where the folder will lie: open_clip wants a path of the text tower's files.
    """
    if not source.tensors("text.") or not source.tensors("image_projection."):
        raise ValueError(
            f"{source.file}: no text tower, and open_clip needs both; use --to timm, or give the "
            f"model.safetensors of a run with text"
        )
    text, projection = str(source.header["text"]), int(source.header["projection"])
    tower, tokenizer = build_text(
        text, projection=projection, dropout=0.0, max_tokens=source.header["text_tokens"],
        pretrained=False,
    )  # fmt: skip
    tower.bert.config.save_pretrained(folder)
    tokenizer.save(folder)
    bias = {"init_logit_bias": -10.0} if "bias.logit_bias" in source.rest else {}
    config = {
        "model_cfg": {
            "embed_dim": projection,
            **bias,
            "vision_cfg": {
                "timm_model_name": _vision_name(source),
                "timm_model_pretrained": False,
                "timm_pool": "token" if source.pools_cls else "avg",
                "timm_proj": "linear",
                "image_size": source.image_size,
            },
            "text_cfg": {
                "hf_model_name": str(final.resolve()) if _local(text) else text,
                "hf_tokenizer_name": str(final.resolve()) if _local(text) else text,
                "hf_proj_type": "linear",
                "hf_pooler_type": "mean_pooler",
                "context_length": source.header["text_tokens"],
            },
            "custom_text": True,
        },
        "preprocess_cfg": {"mean": list(MEAN), "std": list(STD), "interpolation": "bicubic",
                           "resize_mode": "shortest"},
    }  # fmt: skip
    (folder / "open_clip_config.json").write_text(json.dumps(config, indent=2) + "\n")
    save_sealed(_tensors(source), folder / WEIGHTS, images=source.images)


def _local(text: str) -> bool:
    return text == BUILTIN or Path(text).is_dir()


def _is_plain(source: SourceRun) -> bool:
    """Whether one of timm's own names is enough: no bridge, and no further arguments."""
    extra = source.tensors("bridge.") or timm_name(source)[1] or source.positions == "rotary"
    return not extra


def _vision_name(source: SourceRun) -> str:
    if _is_plain(source):
        return timm_name(source)[0]
    return tower_name(source.tower_shape)


def _tensors(source: SourceRun) -> dict[str, Tensor]:
    """Return CustomTextCLIP's state dict."""
    tensors = {f"visual.trunk.{name}": tensor for name, tensor in source.tower.items()}
    tensors["visual.head.proj.weight"] = source.rest["image_projection.weight"]
    tensors |= {f"text.transformer.{k}": v for k, v in source.tensors("text.bert.").items()}
    tensors["text.proj.weight"] = source.rest["text.projection.weight"]
    tensors["logit_scale"] = source.rest["temperature.logit_scale"].reshape(())
    if "bias.logit_bias" in source.rest:
        tensors["logit_bias"] = source.rest["bias.logit_bias"].reshape(())
    return {name: tensor.float().contiguous() for name, tensor in tensors.items()}


def _texts(source: SourceRun) -> list[str]:
    """Return what a user of the run would ask: captions as it learnt from, and a bare word."""
    wording = Wording(caption_template(source.file.parent) or TEMPLATE)
    return [*prompts("glaucoma", wording)[:2], *prompts("severe diabetic retinopathy", wording)[:1],
            "normal"]  # fmt: skip


@torch.no_grad()
def compare(source: SourceRun, folder: Path) -> list[FeatureCheck]:
    """Return how far open_clip's unit rows are from the run's; none where it is not installed."""
    if find_spec("open_clip") is None:
        return []
    open_clip: Any = importlib.import_module("open_clip")
    where = f"local-dir:{folder}"
    model, _, preprocess = open_clip.create_model_and_transforms(where)
    tokenize = open_clip.get_tokenizer(where)
    own = load(source.file)
    model = model.to(own.device).eval()

    def theirs(image_BCHW: Tensor) -> Tensor:
        return model.encode_image(image_BCHW.to(own.device), normalize=True).cpu()

    images = example_images()
    image_BCHW = preprocessed(images, source.image_size)
    whole_BCHW = torch.stack([preprocess(image) for image in images])
    texts = _texts(source)
    text_BD = model.encode_text(tokenize(texts).to(own.device), normalize=True).cpu()
    run_BD = own.features(image_BCHW)
    scale = source.rest["temperature.logit_scale"].exp()
    return [
        FeatureCheck("image features", max_difference(theirs(image_BCHW), run_BD)),
        FeatureCheck(
            "image features, images prepared by open_clip for both",
            max_difference(theirs(whole_BCHW), own.features(whole_BCHW)),
        ),
        FeatureCheck(
            "image features, images prepared by open_clip and by the run",
            max_difference(theirs(whole_BCHW), run_BD),
            None,
        ),
        FeatureCheck(
            "text features, tokens of open_clip", max_difference(text_BD, own.encode_text(texts))
        ),
        FeatureCheck("temperature", max_difference(model.logit_scale.exp().cpu().view(1), scale)),
    ]


def opening_code(source: SourceRun, folder: Path) -> list[str]:
    """Return the code that opens the export, in its last line."""
    where = quoted(f"local-dir:{folder}")
    also = "" if _is_plain(source) else ", maskedclip.weights.image_tower"
    return [
        f"import open_clip{also}",
        f"model, _, preprocess = open_clip.create_model_and_transforms({where})",
    ]


def usage_code(source: SourceRun, folder: Path) -> list[str]:
    """Return the code that goes on from there."""
    where = quoted(f"local-dir:{folder}")
    return [
        f"tokenizer = open_clip.get_tokenizer({where})",
        "image_row = model.eval().encode_image(preprocess(image)[None], normalize=True)",
        f"text_row = model.encode_text(tokenizer([{_texts(source)[0]!r}]), normalize=True)",
    ]


def notes(source: SourceRun) -> list[str]:
    """Return what a user of the export should know."""
    lines = ["open_clip's preprocess shows the whole image, the run's evaluation 7/8 of its side"]
    if not _is_plain(source):
        why = "the bridge lies behind the ViT's final norm" if source.tensors("bridge.") else "timm"
        if why == "timm":
            why = "timm has no name for this shape"
        lines.append(
            f"{why}: open_clip knows no such image tower until "
            "maskedclip.weights.image_tower is imported"
        )
    if _local(str(source.header["text"])):
        lines.append("a moved folder needs its new path as hf_model_name in open_clip_config.json")
    if find_spec("open_clip") is None:
        lines.append("not compared here: no open_clip; pip install open_clip_torch")
    return lines
