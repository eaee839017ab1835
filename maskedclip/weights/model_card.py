"""The model card beside an export, written from what the run holds and from nothing else."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from maskedclip import __version__
from maskedclip.config import flat
from maskedclip.metrics.scores import METRICS
from maskedclip.models.text import BUILTIN
from maskedclip.weights.run_facts import (
    UNKNOWN,
    Dataset,
    compute,
    datasets,
    json_lines,
    leakage,
    lives,
    results,
)
from maskedclip.weights.source_run import Check, Subject

FILE = "README.md"
_LIBRARY = {"timm": "timm", "hf": "transformers", "open_clip": "open_clip", "onnx": "onnx"}
_LICENCE = {"emilyalsentzer/Bio_ClinicalBERT": "MIT", BUILTIN: "as this project: Apache-2.0"}
_SHOWN = ("seed", "init_from", "model.", "loss.", "optim.", "data.paired_batch",
          "data.unpaired_batch", "data.crop_area", "engine.precision")  # fmt: skip


def card(
    subject: Subject, to: str, code: Sequence[str], checks: Sequence[Check], remarks: Sequence[str]
) -> str:
    """Return the card as Markdown with the front matter of the Hugging Face hub.

    Args:
        to: the target of the export.
        code: opens and uses it.
        checks: how far the opened features were from the run's.
        remarks: what a user of it should know.
    """
    found = datasets(subject)
    sections = {
        "Open it": [
            *_fenced(code, "bash" if code[0].startswith("python ") else "python"),
            "",
            *(f"- {remark}" for remark in remarks),
        ],
        "Is it the run?": _equality(checks),
        "Data and licences": _data(subject, found),
        "Method": _method(subject),
        "Measured": _measured(results(subject)),
        "Leakage": leakage(subject, found),
        "What it cost": [f"{compute(subject)}."],
        "Intended use": _USE,
        "Limits": _LIMITS,
        "Made by": _made_by(subject),
    }
    size = f"ViT {subject.header['size']}, patch {subject.patch_size}, {subject.image_size} pixels"
    lines = [*_front_matter(to), "", f"# {subject.name}", "", f"An image encoder ({size}) "
             f"pre-trained on fundus photographs with maskedclip {__version__}."]  # fmt: skip
    for title, body in sections.items():
        lines += ["", f"## {title}", "", *body]
    return "\n".join(lines) + "\n"


_USE = [
    "Research on fundus photographs: features, fine-tuning and probing on labelled images, and "
    "with a text tower zero-shot comparison of findings. Not for diagnosis, triage or any "
    "decision about a patient; it is no medical device and was not assessed as one.",
]
_LIMITS = [
    "- It knows the cameras, populations and diseases of the data above; how it does on others is "
    "not known until it is measured there.",
    "- Images are expected in RGB, cropped to the field of view (tools/make_shards.py does it).",
    "- Findings that are rare in the data may be missed, and labels and captions of public "
    "datasets hold errors that it may have learnt.",
    "- Scores above are of the named test images; where the section on leakage says that nothing "
    "was checked, copies of them may have been among the training images.",
]


def _front_matter(to: str) -> list[str]:
    task = "zero-shot-image-classification" if to == "open_clip" else "image-feature-extraction"
    facts: dict[str, Any] = {
        "license": "other",
        "license_name": "not-stated",
        "tags": ["fundus", "retina", "ophthalmology", "medical-imaging", "vision-transformer",
                 "maskedclip"],
        "pipeline_tag": task,
    }  # fmt: skip
    if to in _LIBRARY:
        facts["library_name"] = _LIBRARY[to]
    # JSON is YAML, and needs no second writer
    return ["---", *(f"{key}: {json.dumps(value)}" for key, value in facts.items()), "---"]


def _fenced(lines: Sequence[str], kind: str) -> list[str]:
    return [f"```{kind}", *lines, "```"]


def _equality(checks: Sequence[Check]) -> list[str]:
    if not checks:
        return ["Not compared: the other library was not installed where this was written."]
    rows = [(check.what, f"{check.difference:.1e}") for check in checks]
    return [
        "Opened again by the other library and given drawn images, the largest absolute "
        "difference from what the run gives:",
        "",
        *_table(("of", "difference"), rows),
    ]


def _data(subject: Subject, found: Sequence[Dataset]) -> list[str]:
    lines = [
        "The run states no licence for its weights. What may be done with them depends on the "
        "licences of the data and of the weights that it began from; settle it before publishing.",
        "",
    ]
    if not found:
        return [*lines, f"Data: {UNKNOWN}; the weights lie without the run's config.json."]
    rows = [
        (f"`{e.directory}`: {e.title}", e.use, e.samples, e.licence, e.citation, e.note)
        for e in found
    ]
    lines += _table(("dataset", "used", "samples", "licence", "to cite", "note"), rows)
    begun = subject.config.get("init_from")
    lines += ["", f"Began from: {f'`{begun}`, licence {UNKNOWN}' if begun else 'random weights'}."]
    if subject.part("text."):
        text = str(subject.header["text"])
        lines.append(f"Text tower: `{text}`, licence: {_LICENCE.get(text, UNKNOWN)}.")
    return lines


def _method(subject: Subject) -> list[str]:
    config = subject.config
    if not config:
        rows = [(name, str(value)) for name, value in subject.header.items()]
        why = f"config.json: {UNKNOWN}; the header of the weights says:"
        return [why, "", *_table(("field", "value"), rows)]
    weights = {key: config.get("loss", {}).get(key) for key in ("mim", "clip", "mfd")}
    words = {
        "mim": "masked image modelling",
        "clip": "image-text contrast",
        "mfd": "masked feature distillation",
    }
    terms = [f"{words[name]} ({weight:g})" for name, weight in weights.items() if weight]
    last = list(json_lines(subject.run / "metrics.jsonl"))[-1:]
    end = f"{last[0]['step']:,} steps, loss {last[0]['loss']:.4g}" if last else UNKNOWN
    shown = {k: v for k, v in flat(config).items() if k.startswith(_SHOWN)}
    return [
        f"Losses and their weights: {', '.join(terms) or UNKNOWN}. Ended after: {end}.",
        "",
        *_table(("field", "value"), [(f"`{k}`", str(v) or "none") for k, v in shown.items()]),
    ]


def _measured(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    if not rows:
        return [f"Nothing: the run has no results.jsonl. Scores are {UNKNOWN}."]
    places: dict[tuple[str, ...], dict[str, Mapping[str, Any]]] = {}
    for row in rows:
        labels = f"{100 * row['fraction']:.3g} %"
        place = (row["dataset"], row["task"], row["protocol"], labels, str(row["seed"]))
        places.setdefault(place, {})[row["metric"]] = row
    lines = [
        (*place, str(max(row["n"] for row in by_metric.values())),
         *(_score(by_metric.get(metric)) for metric in METRICS))
        for place, by_metric in places.items()
    ]  # fmt: skip
    names = [metric.replace("_", " ") for metric in METRICS]
    head = ("dataset", "task", "protocol", "labels", "seed", "test images", *names)
    notes = sorted({f"- {row['dataset']}: {row['note']}" for row in rows if row.get("note")})
    return [
        "In per cent, with 95 % intervals that draw patients:",
        "",
        *_table(head, lines),
        *(["", *notes] if notes else []),
    ]


def _score(row: Mapping[str, Any] | None) -> str:
    if row is None or row["value"] is None:
        return UNKNOWN
    value = f"{100 * row['value']:.1f}"
    if row["low"] is None:
        return value
    return f"{value} [{100 * row['low']:.1f}, {100 * row['high']:.1f}]"


def _made_by(subject: Subject) -> list[str]:
    starts = lives(subject)
    if not starts:
        return [f"Code and versions of the run: {UNKNOWN}; it has no provenance.json."]
    last = starts[-1]
    git = last.get("git") or {}
    commit = git.get("commit", UNKNOWN)
    changed = ", with changes that were not committed" if git.get("diff_sha256") else ""
    versions = ", ".join(f"{name} {number}" for name, number in last.get("packages", {}).items())
    return [
        f"Commit {commit}{changed}; {versions or UNKNOWN}; started {len(starts)} time(s).",
        "",
        "The method is that of *MaskedCLIP: Bridging the Masked and CLIP Space for "
        "Semi-Supervised Medical Vision-Language Pre-training* (Zhu, Zhou, Goh, Liu).",
    ]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [_row(head), "|---" * len(head) + "|", *map(_row, rows)]


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(" ".join(c.split()).replace("|", "\\|") for c in cells) + " |"
