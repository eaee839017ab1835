"""The source of a classifier's export: its network, its classes, and what images become for it."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor, nn

from maskedclip.data.labelled_views import preparation
from maskedclip.inference import read_header
from maskedclip.models.checkpoints.architectures import Network
from maskedclip.models.checkpoints.files import locate_classifier
from maskedclip.models.classifier import FINETUNED, read_classifier
from maskedclip.models.pretrained import EncoderInfo, encoder_info
from maskedclip.weights.source_run import example_images

TARGETS = ("timm", "hf", "onnx")


class ClassifierSource(NamedTuple):
    """A fine-tuned network; of a task of numbers its output is in the task's own unit."""

    file: Path
    header: dict[str, Any]
    network: Network

    @property
    def run(self) -> Path:
        return self.file.parent

    @property
    def name(self) -> str:
        return self.run.resolve().name

    @property
    def classes(self) -> list[str]:
        return list(self.header["classes"])

    @property
    def kind(self) -> str:
        """class, labels (several an image) or number."""
        return str(self.header.get("kind", "class"))

    @property
    def info(self) -> EncoderInfo:
        return encoder_info(self.network)

    @property
    def image_size(self) -> int:
        return self.info.preparation.image_size

    @property
    def tensors(self) -> dict[str, Tensor]:
        return {k: v.detach().contiguous() for k, v in self.network.state_dict().items()}

    @property
    def facts(self) -> dict[str, Any]:
        """What an export says of itself beside the fields of its library."""
        names = ("task", "dataset", "kind", "thresholds", "photographs")
        return {name: self.header[name] for name in names if self.header.get(name) is not None}


def is_classifier(path: Path) -> bool:
    """Return whether a path is a fine-tuned run, or the file of its network."""
    if path.is_dir():
        return (path / FINETUNED).is_file()
    return path.name == FINETUNED and path.is_file()


def read_classifier_source(path: Path) -> ClassifierSource:
    """Return the network of a fine-tuned run; ValueError where it is none."""
    file = locate_classifier(path)
    if "classes" not in read_header(file)[0]:
        raise ValueError(f"{file}: has no classes, so no fine-tuned network; name a fine-tuned run")
    network, header = read_classifier(file)
    if header.get("kind") == "number":  # what was learnt is (value - mean) / std
        head = network.get_classifier()
        assert isinstance(head, nn.Linear)
        with torch.no_grad():
            head.weight.mul_(header["std"])
            head.bias.mul_(header["std"]).add_(header["mean"])
    return ClassifierSource(file, header, network.eval())


def prepared(source: ClassifierSource, images: list[Image.Image]) -> Tensor:
    """Return images preprocessed as in the run's own evaluation."""
    prepare = preparation(**source.info.preparation._asdict())
    return torch.stack([prepare(image) for image in images])


@torch.no_grad()
def examples(source: ClassifierSource) -> tuple[list[Image.Image], Tensor, Tensor]:
    """Return drawn images, what they become for the network, and its logits for them."""
    images = example_images()
    image_BCHW = prepared(source, images)
    return images, image_BCHW, source.network(image_BCHW)


def notes(source: ClassifierSource) -> list[str]:
    """Return what a user of any export of a classifier should know."""
    photographs, lines = source.header.get("photographs"), []
    if photographs or "photographs" not in source.header:
        size = f"{photographs['size']} pixels" if photographs else "the size of its shards"
        lines.append(
            f"it was trained on fields of view, cropped to a square of at most {size} by "
            f"make_shards: crop whole photographs likewise (maskedclip.predict does), or the "
            f"numbers are others"
        )
    if source.kind == "labels":
        shown = dict(zip(source.classes, source.header.get("thresholds", ()), strict=False))
        lines.append(
            f"several labels an image: sigmoid, not softmax; chosen thresholds: {json.dumps(shown)}"
        )
    if source.kind == "number":
        lines.append(f"its one output is {source.classes[0]} itself, in the unit of the labels")
    return lines
