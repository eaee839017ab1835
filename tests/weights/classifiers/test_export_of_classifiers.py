"""Fine-tuned networks leave with their classes: timm, transformers and ONNX Runtime agree."""

import json
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from torch import nn
from transformers import AutoImageProcessor, AutoModelForImageClassification

from maskedclip.models.checkpoints.architectures import plain_architecture
from maskedclip.models.checkpoints.formats import Preparation
from maskedclip.models.classifier import write_classifier
from maskedclip.models.pretrained import EncoderInfo, untrained_network
from maskedclip.weights.classifiers.source import read_classifier_source
from maskedclip.weights.export import export
from maskedclip.weights.source_run import example_images

CLASSES = ("healthy eye", "Glaukom, früh", "=3")
PLAIN = plain_architecture(32, 2, 2, 8)
HALF = (0.5, 0.5, 0.5)
FORMS: dict[str, dict[str, Any]] = {  # what sets other encoders apart from ours
    "plain": {},
    "layer scale": {"layer_scale": True, "activation": "quick_gelu", "hidden": 100},
    "no bias, no class position": {"qkv_bias": False, "class_position": False},
    "registers": {"registers": 4, "class_position": False, "layer_scale": True},
    "pre-norm": {"pre_norm": True, "epsilon": 1e-5, "activation": "quick_gelu"},
    "packed": {"mlp": "packed", "hidden": 128, "layer_scale": True},
    "dinov3": {"family": "eva", "epsilon": 1e-5, "registers": 4, "mlp": "gated", "hidden": 64,
               "class_position": False, "layer_scale": True},
    "rotary": {"family": "eva", "epsilon": 1e-5, "registers": 2, "class_position": False},
    "resnet50": {"family": "resnet50"},
}  # fmt: skip
IN_TRANSFORMERS = ("plain", "layer scale", "no bias, no class position")


def classifier(run: Path, form: str = "plain", **facts: Any) -> Path:
    """Write a fine-tuned network of random weights, none of them zero."""
    torch.manual_seed(0)
    architecture = {"family": "resnet50"} if form == "resnet50" else PLAIN | FORMS[form]
    resize = facts.pop("resize", 1.125)
    preparation = Preparation(
        32, HALF, HALF, resize=resize, interpolation="bilinear", squash=facts.pop("squash", False)
    )
    info = EncoderInfo(architecture, preparation, "", ())
    classes = facts.pop("classes", CLASSES)
    network = untrained_network(info, num_classes=len(classes))
    if form != "resnet50":
        for parameter in network.parameters():
            nn.init.normal_(parameter, std=0.3)
    run.mkdir(parents=True, exist_ok=True)
    photographs = {"size": 512, "quality": 95}
    write_classifier(
        network, run / "finetuned.safetensors", classes,
        {"task": "glaucoma", "dataset": "clinic", "photographs": photographs, **facts},
    )  # fmt: skip
    return run


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return classifier(tmp_path_factory.mktemp("runs") / "fine")


def ours(run: Path) -> tuple[list[Any], np.ndarray]:
    """Return drawn images, and the logits of the run for them as it prepares them."""
    source, images = read_classifier_source(run), example_images()
    prepare = import_module("maskedclip.inference").load(run).prepare
    with torch.no_grad():
        logit_BY = source.network(torch.stack([prepare(image) for image in images]))
    assert logit_BY.std(dim=0).min() > 1e-4  # images differ
    return images, logit_BY.numpy()


def test_timm_gives_the_same_logits_under_the_same_names(plain: Path, tmp_path: Path) -> None:
    export(plain, "timm", tmp_path / "timm")
    images, expected = ours(plain)
    model = timm.create_model(f"local-dir:{tmp_path / 'timm'}", pretrained=True).eval()
    data = timm.data.resolve_model_data_config(model)
    assert (*data["mean"], *data["std"], *data["input_size"]) == (*HALF, *HALF, 3, 32, 32)
    transform = timm.data.create_transform(**data, is_training=False)
    with torch.no_grad():
        found = model(torch.stack([transform(image) for image in images]))
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-4)
    assert tuple(model.pretrained_cfg["label_names"]) == CLASSES


def test_transformers_gives_the_same_logits_under_the_same_names(
    plain: Path, tmp_path: Path
) -> None:
    export(plain, "hf", tmp_path / "hf")
    images, expected = ours(plain)
    model = AutoModelForImageClassification.from_pretrained(tmp_path / "hf").eval()
    processor = AutoImageProcessor.from_pretrained(tmp_path / "hf", backend="pil")
    with torch.no_grad():
        found = model(**processor(images, return_tensors="pt")).logits
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-4)
    assert model.config.id2label == dict(enumerate(CLASSES))
    assert model.config.label2id == {name: label for label, name in enumerate(CLASSES)}
    assert list(processor.image_mean) == list(HALF)


def test_images_that_are_squashed_are_squashed_by_timm_and_transformers(tmp_path: Path) -> None:
    run = classifier(tmp_path / "fine", resize=1.0, squash=True)
    source = read_classifier_source(run)
    images = [image.resize((80, 48)) for image in example_images()]
    prepare = import_module("maskedclip.inference").load(run).prepare
    with torch.no_grad():
        expected = source.network(torch.stack([prepare(image) for image in images])).numpy()
    export(run, "timm", tmp_path / "timm")
    export(run, "hf", tmp_path / "hf")
    model = timm.create_model(f"local-dir:{tmp_path / 'timm'}", pretrained=True).eval()
    data = timm.data.resolve_model_data_config(model)
    transform = timm.data.create_transform(**data, is_training=False)
    theirs = AutoModelForImageClassification.from_pretrained(tmp_path / "hf").eval()
    processor = AutoImageProcessor.from_pretrained(tmp_path / "hf", backend="pil")
    with torch.no_grad():
        found = model(torch.stack([transform(image) for image in images]))
        other = theirs(**processor(images, return_tensors="pt")).logits
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-4)
    np.testing.assert_allclose(other.numpy(), expected, atol=1e-4)


def test_onnx_runtime_gives_logits_and_probabilities_with_the_names(
    plain: Path, tmp_path: Path
) -> None:
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    export(plain, "onnx", tmp_path / "onnx")
    images, expected = ours(plain)
    session = runtime.InferenceSession(tmp_path / "onnx" / "classifier.onnx")
    facts = json.loads(session.get_modelmeta().custom_metadata_map["maskedclip"])
    assert (facts["classes"], facts["image_size"], facts["mean"]) == ([*CLASSES], 32, [*HALF])
    prepare = import_module("maskedclip.inference").load(plain).prepare
    image_BCHW = torch.stack([prepare(image) for image in images]).numpy()
    logit_BY, probability_BY = session.run(["logit", "probability"], {"image": image_BCHW})
    np.testing.assert_allclose(logit_BY, expected, atol=1e-4)
    softmax = np.exp(expected) / np.exp(expected).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(probability_BY, softmax, atol=1e-5)


@pytest.mark.parametrize("form", [form for form in FORMS if form != "plain"])
def test_fine_tuned_encoders_of_others_go_where_they_can_be_expressed(
    form: str, tmp_path: Path
) -> None:
    run = classifier(tmp_path / "fine", form)
    export(run, "timm")  # which compares, and refuses what differs
    if form in IN_TRANSFORMERS:
        export(run, "hf")
    else:
        with pytest.raises(
            ValueError, match=r"no classifier of transformers has .*; use --to timm"
        ):
            export(run, "hf")
        assert not (run / "export" / "hf").exists()


def test_a_task_of_numbers_leaves_in_its_own_unit_and_labels_with_their_thresholds(
    tmp_path: Path,
) -> None:
    run = classifier(tmp_path / "age", kind="number", classes=("age",), mean=57.0, std=12.0)
    plain_head = read_classifier_source(classifier(tmp_path / "same", classes=("age",)))
    image_BCHW = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected_B1 = 57.0 + 12.0 * plain_head.network(image_BCHW)
    for to in ("timm", "hf"):
        export(run, to)
    model = AutoModelForImageClassification.from_pretrained(run / "export" / "hf").eval()
    with torch.no_grad():
        found_B1 = model(pixel_values=image_BCHW).logits
    torch.testing.assert_close(found_B1, expected_B1, atol=1e-3, rtol=0)
    assert model.config.problem_type == "regression"
    run = classifier(tmp_path / "many", kind="labels", thresholds=[0.3, 0.4, 0.5])
    said = export(run, "hf")
    config = json.loads((run / "export" / "hf" / "config.json").read_text())
    assert config["problem_type"] == "multi_label_classification"
    assert config["maskedclip"]["thresholds"] == [0.3, 0.4, 0.5]
    assert "sigmoid, not softmax" in said


def test_the_printed_lines_run_and_the_card_names_the_classes(plain: Path, tmp_path: Path) -> None:
    folder = tmp_path / "a folder"
    said = export(plain, "timm", folder)
    code = said.split("it opens with:\n")[1]
    names: dict[str, Any] = {}
    exec(code, names)
    assert names["model"].num_classes == 3
    card = (folder / "README.md").read_text()
    assert "1. Glaukom, früh" in card
    assert "cropped to a square of at most 512 pixels" in card


def test_a_processor_that_cuts_a_pixel_beside_the_run_is_named(tmp_path: Path) -> None:
    said = export(classifier(tmp_path / "odd", resize=1.1), "hf")  # 35 pixels around 32
    assert "cuts the middle out a pixel beside the run's" in said


def test_a_target_that_takes_no_classifier_is_named(plain: Path) -> None:
    with pytest.raises(ValueError, match="a fine-tuned run goes to timm, hf, onnx, and not to ret"):
        export(plain, "retfound")
