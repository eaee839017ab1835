"""The model card beside a classifier's export: classes, preparation, training data, scores."""

import json
from collections.abc import Sequence
from typing import Any

from maskedclip import __version__
from maskedclip.config import FinetuneConfig, load
from maskedclip.finetune.measured_rows import measured_rows
from maskedclip.weights.classifiers.source import ClassifierSource
from maskedclip.weights.model_card import (
    INTENDED_USE,
    UNKNOWN,
    equality_lines,
    fenced,
    markdown_table,
    measured_lines,
)
from maskedclip.weights.source_run import FeatureCheck, read_json

_LIBRARY = {"timm": "timm", "hf": "transformers", "onnx": "onnx"}
_LIMITS = [
    "- It knows the cameras, populations and diseases of its training images; how it does on "
    "others is not known until it is measured there.",
    "- A class is called where it is the likeliest, or where its threshold is passed; no "
    "threshold was chosen for a clinical use.",
]


def classifier_card(
    source: ClassifierSource,
    to: str,
    code: Sequence[str],
    checks: Sequence[FeatureCheck],
    notes: Sequence[str],
) -> str:
    """Return the card as Markdown with the front matter of the Hugging Face hub."""
    sections = {
        "Open it": [*fenced(code, "python"), "", *(f"- {remark}" for remark in notes)],
        "Is it the run?": equality_lines(checks),
        "Classes": [f"{label}. {name}" for label, name in enumerate(source.classes)],
        "Preparation of images": _preparation(source),
        "Fine-tuning": _finetuning(source),
        "Measured": measured_lines(list(measured_rows(source.run))),
        "Intended use": INTENDED_USE,
        "Limits": _LIMITS,
    }
    lines = [
        *_front_matter(source, to), "", f"# {source.name}", "",
        f"A classifier of fundus photographs ({source.header.get('task', UNKNOWN)}), fine-tuned "
        f"with maskedclip {__version__}.",
    ]  # fmt: skip
    for title, body in sections.items():
        lines += ["", f"## {title}", "", *body]
    return "\n".join(lines) + "\n"


def _front_matter(source: ClassifierSource, to: str) -> list[str]:
    facts: dict[str, Any] = {
        "license": "other",
        "license_name": "not-stated",
        "tags": ["fundus", "retina", "ophthalmology", "medical-imaging", "maskedclip"],
        "pipeline_tag": "image-classification",
        "library_name": _LIBRARY[to],
    }
    if source.kind == "number":
        del facts["pipeline_tag"]
    # JSON is YAML, and needs no second writer
    return ["---", *(f"{key}: {json.dumps(value)}" for key, value in facts.items()), "---"]


def _preparation(source: ClassifierSource) -> list[str]:
    rows = [(name, str(value)) for name, value in source.info.preparation._asdict().items()]
    return markdown_table(("field", "value"), rows)


def _finetuning(source: ClassifierSource) -> list[str]:
    """Return what the run's directory says of its data, weights and recipe."""
    path = source.run / "config.json"
    if not path.is_file():
        return [f"Data and weights: {UNKNOWN}; the file lies without the run's config.json."]
    config = load(path, FinetuneConfig)
    shown = ("weights", "dataset", "task", "recipe", "fraction", "seed", "epochs", "image_size")
    rows = [(name, str(getattr(config, name))) for name in shown]
    attempts: list[dict[str, Any]] = read_json(source.run / "provenance.json", [])
    commit = ((attempts[-1] if attempts else {}).get("git") or {}).get("commit", UNKNOWN)
    return [
        *markdown_table(("field", "value"), rows),
        "",
        f"Commit {commit}. What may be done with the weights depends on the licences of the data "
        f"and of the weights that it began from; settle it before publishing.",
    ]
