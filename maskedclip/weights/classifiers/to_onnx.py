"""A classifier for ONNX Runtime: any number of images, logits and probabilities."""

import importlib
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from maskedclip.weights.classifiers import source as classifier
from maskedclip.weights.classifiers.source import ClassifierSource, examples
from maskedclip.weights.source_run import FeatureCheck, max_difference, quoted
from maskedclip.weights.to_onnx import check_packages, export_program

FILE = "classifier.onnx"


class _ClassifierOutputs(nn.Module):
    """What the file computes: logits, and of classes or labels their probabilities."""

    def __init__(self, source: ClassifierSource) -> None:
        super().__init__()
        self.network, self.kind = source.network, source.kind

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        logit_BY = self.network(image)
        if self.kind == "number":
            return (logit_BY,)
        probability_BY = logit_BY.sigmoid() if self.kind == "labels" else logit_BY.softmax(dim=-1)
        return logit_BY, probability_BY


def write(source: ClassifierSource, folder: Path, final: Path) -> None:  # noqa: ARG001 (as all)
    """Write classifier.onnx; RuntimeError with the command to run where a package is missing."""
    check_packages()
    facts = source.facts | {
        "classes": source.classes,
        "run": source.name,
        **source.info.preparation._asdict(),
    }
    export_program(
        _ClassifierOutputs(source), source.image_size, _outputs(source), facts, folder / FILE
    )


def _outputs(source: ClassifierSource) -> list[str]:
    return ["value"] if source.kind == "number" else ["logit", "probability"]


def compare(source: ClassifierSource, folder: Path) -> list[FeatureCheck]:
    """Return how far ONNX Runtime's outputs are from the run's, for one image and for several."""
    runtime: Any = importlib.import_module("onnxruntime")
    session = runtime.InferenceSession(folder / FILE, providers=["CPUExecutionProvider"])
    facts = json.loads(session.get_modelmeta().custom_metadata_map["maskedclip"])
    if facts["classes"] != source.classes:
        raise RuntimeError(f"{folder}: ONNX Runtime reads other classes, {facts['classes']}")
    _, image_BCHW, logit_BY = examples(source)
    names = _outputs(source)
    several = session.run(names, {"image": image_BCHW.numpy()})
    one = session.run(names[:1], {"image": image_BCHW[:1].numpy()})[0]
    checks = [
        FeatureCheck("logits", max_difference(torch.from_numpy(several[0]), logit_BY)),
        FeatureCheck(
            "logits of one image alone", max_difference(torch.from_numpy(one), logit_BY[:1])
        ),
    ]
    if source.kind != "number":
        ours = logit_BY.sigmoid() if source.kind == "labels" else logit_BY.softmax(dim=-1)
        checks.append(
            FeatureCheck("probabilities", max_difference(torch.from_numpy(several[1]), ours))
        )
    return checks


def opening_code(source: ClassifierSource, folder: Path) -> list[str]:  # noqa: ARG001 (as all)
    """Return the code that opens the export, in its last line."""
    return [
        "import json, onnxruntime",
        f"session = onnxruntime.InferenceSession({quoted(folder / FILE)})",
    ]


def usage_code(source: ClassifierSource, folder: Path) -> list[str]:  # noqa: ARG001 (as all)
    """Return the code that goes on from there."""
    size = source.image_size
    return [
        'facts = json.loads(session.get_modelmeta().custom_metadata_map["maskedclip"])',
        f"# image: float32, batch x 3 x {size} x {size}, normalised by facts['mean'], facts['std']",
        f'found = session.run(["{_outputs(source)[-1]}"], {{"image": image}})[0]',
        'names = facts["classes"]',
    ]


def notes(source: ClassifierSource) -> list[str]:
    """Return what a user of the export should know."""
    return [
        *classifier.notes(source),
        "images go in normalised; the file's metadata has classes, size, mean and deviation",
    ]
