"""A classifier for transformers, as BEiT: the one of its ViTs whose head reads the patches' mean.

BEiT's keys have no bias. Ours may have one; it adds the same to every score of a query, so the
softmax, and with it every logit, is the same without it.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    AutoImageProcessor,
    AutoModelForImageClassification,
    BeitConfig,
    BitImageProcessor,
)
from transformers.utils import logging

from maskedclip.models.checkpoints.architectures import prefix_positions
from maskedclip.models.checkpoints.files import read_facts
from maskedclip.models.checkpoints.formats import Preparation
from maskedclip.models.checkpoints.sealed import save_sealed
from maskedclip.weights.classifiers import source as classifier
from maskedclip.weights.classifiers.source import ClassifierSource, examples
from maskedclip.weights.source_run import FeatureCheck, max_difference, quoted

WEIGHTS = "model.safetensors"
_RESAMPLE = {"nearest": 0, "bilinear": 2, "bicubic": 3}  # as Pillow counts
_PROBLEM = {
    "class": "single_label_classification",
    "labels": "multi_label_classification",
    "number": "regression",
}
_BLOCK = {  # of a block: ours, theirs; qkv is three of theirs
    "norm1": "layernorm_before",
    "attn.proj": "attention.output.dense",
    "norm2": "layernorm_after",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
}


def write(source: ClassifierSource, folder: Path, final: Path) -> None:  # noqa: ARG001 (as all)
    """Write weights, configuration with the classes, and the image processor's.

    Raises ValueError where BEiT cannot express the network.
    """
    architecture, preparation = source.info.architecture, source.info.preparation
    strange = _strange(source)
    if strange:
        raise ValueError(
            f"{source.file}: no classifier of transformers has {strange}; use --to timm or onnx"
        )
    save_sealed(_tensors(source), folder / WEIGHTS, images=read_facts(source.file)[1])
    fields: dict[str, Any] = {"maskedclip": source.facts, "problem_type": _PROBLEM[source.kind]}
    config = BeitConfig(
        hidden_size=architecture["width"],
        num_hidden_layers=architecture["depth"],
        num_attention_heads=architecture["heads"],
        intermediate_size=architecture["hidden"],
        hidden_act=architecture["activation"],
        layer_norm_eps=architecture["epsilon"],
        image_size=preparation.image_size,
        patch_size=architecture["patch_size"],
        use_absolute_position_embeddings=True,
        use_mean_pooling=True,
        layer_scale_init_value=1e-5 if architecture["layer_scale"] else 0.0,
        id2label=dict(enumerate(source.classes)),
        label2id={name: label for label, name in enumerate(source.classes)},
        architectures=["BeitForImageClassification"],
        **fields,
    )
    config.save_pretrained(folder)
    size = preparation.image_size
    square = {"height": size, "width": size}
    BitImageProcessor(
        size=square if preparation.squash else {"shortest_edge": _shorter_side(preparation)},
        crop_size=square,
        resample=_RESAMPLE[preparation.interpolation],
        image_mean=list(preparation.mean),
        image_std=list(preparation.std),
    ).save_pretrained(folder)


def _shorter_side(preparation: Preparation) -> int:
    """Return the pixels of an image's shorter side before the middle is cut out, as timm counts."""
    return int(preparation.image_size / (1 / preparation.resize))


def _cuts_alike(preparation: Preparation) -> bool:
    """Return whether transformers cuts out the same pixels: an odd border it halves otherwise."""
    border = _shorter_side(preparation) - preparation.image_size
    return preparation.squash or border % 2 == 0


def _strange(source: ClassifierSource) -> str:
    """Return what BEiT lacks of the network, "" where it has all."""
    architecture = source.info.architecture
    if architecture["family"] != "vit":
        return f"this network and pooling ({architecture['family']})"
    if architecture["mlp"] != "plain":
        return "a gated MLP before a mean of the patches"
    if architecture["registers"]:
        return "registers before a mean of the patches"
    if architecture["pre_norm"]:
        return "a norm before the blocks and a mean of the patches"
    return "" if "fc_norm.weight" in source.tensors else "a norm before the pooling"


def _tensors(source: ClassifierSource) -> dict[str, Tensor]:
    """Return the tensors under the names of BEiT at the hub, which every version reads."""
    ours = source.tensors
    position = ours["pos_embed"]
    if not prefix_positions(source.info.architecture):
        position = torch.cat([torch.zeros_like(position[:, :1]), position], dim=1)
    tensors = {
        "beit.embeddings.cls_token": ours["cls_token"],
        "beit.embeddings.position_embeddings": position,
    }
    for kind in ("weight", "bias"):
        tensors[f"beit.embeddings.patch_embeddings.projection.{kind}"] = ours[
            f"patch_embed.proj.{kind}"
        ]
        tensors[f"beit.pooler.layernorm.{kind}"] = ours[f"fc_norm.{kind}"]
        tensors[f"classifier.{kind}"] = ours[f"head.{kind}"]
    for name, tensor in ours.items():
        if name.startswith("blocks."):
            _, number, rest = name.split(".", 2)
            tensors |= _of_block(f"beit.encoder.layer.{number}.", rest, tensor)
    if not source.info.architecture["qkv_bias"]:
        for layer in range(source.info.architecture["depth"]):
            zero_D = torch.zeros(source.info.architecture["width"])
            for which in ("query", "value"):
                name = f"beit.encoder.layer.{layer}.attention.attention.{which}.bias"
                tensors[name] = zero_D.clone()
    return tensors


def _of_block(prefix: str, rest: str, tensor: Tensor) -> dict[str, Tensor]:
    """Return what a tensor of one of our blocks is in BEiT's."""
    module, kind = rest.rsplit(".", 1)
    if module == "attn.qkv":
        parts = dict(zip(("query", "key", "value"), tensor.chunk(3), strict=True))
        if kind == "bias":
            del parts["key"]
        return {
            f"{prefix}attention.attention.{which}.{kind}": part.contiguous()
            for which, part in parts.items()
        }
    if module in ("ls1", "ls2"):
        return {f"{prefix}lambda_{module[-1]}": tensor}
    return {f"{prefix}{_BLOCK[module]}.{kind}": tensor}


@torch.no_grad()
def compare(source: ClassifierSource, folder: Path) -> list[FeatureCheck]:
    """Return how far transformers' logits are from the run's."""
    logging.disable_progress_bar()  # of reading tensors
    model, info = AutoModelForImageClassification.from_pretrained(folder, output_loading_info=True)
    strange = [*info["missing_keys"], *info["unexpected_keys"], *info["mismatched_keys"]]
    if strange:
        raise RuntimeError(f"{folder}: transformers finds {strange[0]} missing or unexpected")
    names = [model.config.id2label[label] for label in range(len(source.classes))]
    if names != source.classes:
        raise RuntimeError(f"{folder}: transformers reads other classes, {', '.join(names)}")
    images, image_BCHW, logit_BY = examples(source)
    theirs = model.eval()(pixel_values=image_BCHW).logits
    checks = [FeatureCheck("logits", max_difference(theirs, logit_BY))]
    exact = 1e-4 if _cuts_alike(source.info.preparation) else None
    for backend, limit in (("pil", exact), ("torchvision", None)):
        processor: Any = AutoImageProcessor.from_pretrained(folder, backend=backend)
        prepared_BCHW = processor(images, return_tensors="pt")["pixel_values"]
        what = f"logits, images prepared by AutoImageProcessor ({backend})"
        difference = max_difference(model(pixel_values=prepared_BCHW).logits, logit_BY)
        checks.append(FeatureCheck(what, difference, limit))
    return checks


def opening_code(source: ClassifierSource, folder: Path) -> list[str]:  # noqa: ARG001 (as all)
    """Return the code that opens the export, in its last line."""
    return [
        "from transformers import AutoImageProcessor, AutoModelForImageClassification",
        f"model = AutoModelForImageClassification.from_pretrained({quoted(folder)}).eval()",
    ]


def usage_code(source: ClassifierSource, folder: Path) -> list[str]:  # noqa: ARG001 (as all)
    """Return the code that goes on from there."""
    return [
        f"processor = AutoImageProcessor.from_pretrained({quoted(folder)})",
        'logit = model(**processor(image, return_tensors="pt")).logits[0]',
        "name = model.config.id2label[int(logit.argmax())]",
    ]


def notes(source: ClassifierSource) -> list[str]:
    """Return what a user of the export should know."""
    lines = classifier.notes(source)
    lines.append("it is a BEiT: the bias of its keys, which changes no logit, is left out")
    if not _cuts_alike(source.info.preparation):
        lines.append(
            "transformers' processor cuts the middle out a pixel beside the run's, as the border "
            "is of an odd width: logits of images that it prepares differ"
        )
    return lines
