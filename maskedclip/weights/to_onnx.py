"""The image encoder for ONNX Runtime: any number of images, the mean of the patch tokens.

A run with a joint space gives its unit rows as a second output.
"""

import importlib
import json
import logging
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from maskedclip.data.transforms import MEAN, STD
from maskedclip.inference import load
from maskedclip.weights.image_tower import Bridged, build_tower, without_registers
from maskedclip.weights.source_run import (
    FeatureCheck,
    SourceRun,
    example_images,
    max_difference,
    preprocessed,
    quoted,
    run_features,
)

FILE = "encoder.onnx"
_NEEDED = ("onnx", "onnxscript", "onnxruntime")
_LARGEST = 2**31 - 2**24  # bytes: a single file of protobuf ends below 2 GiB


class _Outputs(nn.Module):
    """What the file computes, of timm's blocks: they are traced by torch.export."""

    def __init__(self, source: SourceRun) -> None:
        super().__init__()
        self.tower = build_tower(source.tower_shape)
        self.tower.load_state_dict(source.tower)
        self.projection: Tensor | None
        self.register_buffer("projection", source.rest.get("image_projection.weight"))
        self.pools_cls = source.pools_cls

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        tower = self.tower
        if isinstance(tower, Bridged):
            token_BND = tower.encoded(image)
            last_BND = tower.bridge(token_BND)
        else:
            token_BND = last_BND = without_registers(tower.forward_features(image), tower)
        feature_BD = token_BND[:, 1:].mean(dim=1)
        if self.projection is None:
            return (feature_BD,)
        pooled_BD = last_BND[:, 0] if self.pools_cls else last_BND[:, 1:].mean(dim=1)
        return feature_BD, F.normalize(F.linear(pooled_BD, self.projection), dim=-1)


def write(source: SourceRun, folder: Path, final: Path) -> None:  # noqa: ARG001 (as all targets)
    """Write encoder.onnx; RuntimeError with the command to run where a package is missing."""
    check_packages()
    network = _Outputs(source)
    names = ["feature", "joint"][: 1 + (network.projection is not None)]
    facts = {"image_size": source.image_size, "mean": MEAN, "std": STD, "run": source.name}
    export_program(network, source.image_size, names, facts, folder / FILE)


def check_packages() -> None:
    """Raise RuntimeError with the command to run where a package is missing."""
    missing = [name for name in _NEEDED if find_spec(name) is None]
    if missing:
        raise RuntimeError(
            f"--to onnx: no {', '.join(missing)} on this machine; run pip install -e '.[export]'"
        )


def export_program(
    network: nn.Module, size: int, names: Sequence[str], facts: Mapping[str, Any], path: Path
) -> None:
    """Trace a network and write it, with `facts` as its metadata.

    Args:
        size: of the images, in pixels; their number is free.
        names: of the outputs.
    """
    weights = sum(value.numel() * 4 for value in network.state_dict().values())
    for noisy in ("torch.onnx", "onnxscript", "onnx_ir"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    program: Any = torch.onnx.export(
        network.eval(),
        (torch.zeros(2, 3, size, size),),
        dynamo=True,
        input_names=["image"],
        output_names=list(names),
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        verbose=False,
    )
    program.model.metadata_props["maskedclip"] = json.dumps(facts)
    program.save(path, external_data=weights > _LARGEST)


def compare(source: SourceRun, folder: Path) -> list[FeatureCheck]:
    """Return how far ONNX Runtime's rows are from the run's, for one image and for several."""
    image_BCHW = preprocessed(example_images(), source.image_size)
    runtime: Any = importlib.import_module("onnxruntime")
    session = runtime.InferenceSession(folder / FILE, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    given = dict(zip(names, session.run(None, {"image": image_BCHW.numpy()}), strict=True))
    one = session.run(["feature"], {"image": image_BCHW[:1].numpy()})[0]
    run_BD = run_features(source, image_BCHW)
    checks = [
        FeatureCheck("features", max_difference(torch.from_numpy(given["feature"]), run_BD)),
        FeatureCheck(
            "features of one image alone", max_difference(torch.from_numpy(one), run_BD[:1])
        ),
    ]
    if "joint" in given and source.tensors("text."):
        joint_BD = load(source.file).features(image_BCHW)
        checks.append(
            FeatureCheck(
                "joint features", max_difference(torch.from_numpy(given["joint"]), joint_BD)
            )
        )
    return checks


def opening_code(source: SourceRun, folder: Path) -> list[str]:  # noqa: ARG001 (as all targets)
    """Return the code that opens the export, in its last line."""
    return [
        "import onnxruntime",
        f"session = onnxruntime.InferenceSession({quoted(folder / FILE)})",
    ]


def usage_code(source: SourceRun, folder: Path) -> list[str]:  # noqa: ARG001 (as all targets)
    """Return the code that goes on from there."""
    size = source.image_size
    return [
        f"# image: float32, batch x 3 x {size} x {size}, normalised",
        'feature = session.run(["feature"], {"image": image})[0]',
    ]


def notes(source: SourceRun) -> list[str]:  # noqa: ARG001 (as all targets)
    """Return what a user of the export should know."""
    return ["images go in normalised; the file's metadata has size, mean and deviation"]
