"""The model card beside an export, written from what the run's directory holds.

What it does not hold is stated as not known; nothing is guessed.
"""

import csv
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from maskedclip import __version__
from maskedclip.config import Config, flat, load
from maskedclip.data.storage.shard_writer import MANIFEST
from maskedclip.engine.provenance import EXCLUSIONS
from maskedclip.finetune.measured_rows import measured_rows
from maskedclip.metrics.known_patients import drawn_in_words, drawn_lines
from maskedclip.metrics.results import DAGGER, remark, seen_line, written
from maskedclip.metrics.scores import metrics_of
from maskedclip.metrics.seen_images import in_words
from maskedclip.models import BUILTIN
from maskedclip.pretrain.methods import METHODS
from maskedclip.report.collect import run_directories
from maskedclip.report.repeats import pretraining
from maskedclip.shards.check import REPORT_FILE
from maskedclip.shards.downloads.cards import card_names, read_card
from maskedclip.weights.source_run import FeatureCheck, SourceRun, read_json

UNKNOWN = "not known"
CHECK = "check"  # folder of a run where check_shards' report is expected
_LIBRARY = {"timm": "timm", "hf": "transformers", "open_clip": "open_clip", "onnx": "onnx"}
_LICENCE = {"emilyalsentzer/Bio_ClinicalBERT": "MIT", BUILTIN: "as this project: Apache-2.0"}
_SHOWN = ("seed", "init_from", "method", "model.", "optim.", "data.paired_batch",
          "data.unpaired_batch", "data.leave_out_tests", "data.crop_area",
          "engine.precision")  # fmt: skip


class Dataset(NamedTuple):
    """One source of a run's images."""

    directory: str  # as the run names it
    use: str  # paired or unpaired
    title: str
    samples: str
    licence: str
    citation: str
    note: str  # where the facts are from, if not from the shards that the run read


def card(
    source: SourceRun,
    to: str,
    code: Sequence[str],
    checks: Sequence[FeatureCheck],
    notes: Sequence[str],
) -> str:
    """Return the card as Markdown with the front matter of the Hugging Face hub.

    Args:
        to: the target of the export.
        code: opens and uses it.
        checks: how far the opened features were from the run's.
        notes: what a user of it should know.
    """
    sources = datasets(source)
    sections = {
        "Open it": [
            *fenced(code, "bash" if code[0].startswith("python ") else "python"),
            "",
            *(f"- {remark}" for remark in notes),
        ],
        "Is it the run?": equality_lines(checks),
        "Data and licences": _data(source, sources),
        "Method": _method(source),
        "Measured": measured_lines(_results(source)),
        "Leakage": _leakage(source, sources),
        "What it cost": [f"{_gpu_hours(source)}."],
        "Intended use": INTENDED_USE,
        "Limits": _LIMITS,
        "Made by": _made_by(source),
    }
    size = f"ViT {source.header['size']}, patch {source.patch_size}, {source.image_size} pixels"
    if source.positions == "rotary":
        size += ", rotary positions"
    if source.registers:
        size += f", {source.registers} register tokens"
    lines = [*_front_matter(to), "", f"# {source.name}", "", f"An image encoder ({size}) "
             f"pre-trained on fundus photographs with maskedclip {__version__}."]  # fmt: skip
    for title, body in sections.items():
        lines += ["", f"## {title}", "", *body]
    return "\n".join(lines) + "\n"


INTENDED_USE = [
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


def fenced(lines: Sequence[str], kind: str) -> list[str]:
    return [f"```{kind}", *lines, "```"]


def equality_lines(checks: Sequence[FeatureCheck]) -> list[str]:
    if not checks:
        return ["Not compared: the other library was not installed where this was written."]
    rows = [(check.what, f"{check.difference:.1e}") for check in checks]
    return [
        "Opened again by the other library and given drawn images, the largest absolute "
        "difference from what the run gives:",
        "",
        *markdown_table(("of", "difference"), rows),
    ]


def _data(source: SourceRun, sources: Sequence[Dataset]) -> list[str]:
    lines = [
        "The run states no licence for its weights. What may be done with them depends on the "
        "licences of the data and of the weights that it began from; settle it before publishing.",
        "",
    ]
    if not sources:
        return [*lines, f"Data: {UNKNOWN}; the weights lie without the run's config.json."]
    rows = [
        (f"`{e.directory}`: {e.title}", e.use, e.samples, e.licence, e.citation, e.note)
        for e in sources
    ]
    lines += markdown_table(("dataset", "used", "samples", "licence", "to cite", "note"), rows)
    initial = source.config.get("init_from")
    begun = f"`{initial}`, licence {UNKNOWN}" if initial else "random weights"
    lines += ["", f"Began from: {begun}."]
    if source.tensors("text."):
        text = str(source.header["text"])
        lines.append(f"Text tower: `{text}`, licence: {_LICENCE.get(text, UNKNOWN)}.")
    return lines


def _method(source: SourceRun) -> list[str]:
    config = source.config
    if not config:
        rows = [(name, str(value)) for name, value in source.header.items()]
        why = f"config.json: {UNKNOWN}; the header of the weights says:"
        return [why, "", *markdown_table(("field", "value"), rows)]
    run_config = load(source.run / "config.json", Config)
    method = METHODS[run_config.method]
    losses = ", ".join(f"{name} ({weight:g})" for name, weight in method.terms(run_config).items())
    last = list(_json_lines(source.run / "metrics.jsonl"))[-1:]
    end = f"{last[0]['step']:,} steps, loss {last[0]['loss']:.4g}" if last else UNKNOWN
    shown = {k: v for k, v in flat(config).items() if k.startswith(_SHOWN + method.fields)}
    return [
        f"Losses and their weights: {losses}. Ended after: {end}.",
        "",
        *markdown_table(
            ("field", "value"), [(f"`{k}`", str(v) or "none") for k, v in shown.items()]
        ),
    ]


def measured_lines(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    if not rows:
        return [f"Nothing: the run has no results.jsonl. Scores are {UNKNOWN}."]
    by_kind: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        by_kind.setdefault(str(row.get("kind") or "class"), []).append(row)
    tables = [line for kind, own in by_kind.items() for line in ["", *_measured(kind, own)]]
    notes = sorted({f"- {row['dataset']}: {line}" for row in rows if (line := remark(row))})
    notes += sorted({f"- {line}" for row in rows if (line := seen_line(row))})
    drawn = drawn_lines((f"{row['dataset']} {row['task']}", drawn_in_words(row)) for row in rows)
    few = ((f"{row['dataset']} {row['task']}", str(row.get("few_images") or "")) for row in rows)
    notes += [f"- {line}" for line in [*drawn, *drawn_lines(few)]]
    return [
        "In per cent, with 95 % intervals that draw patients (images, where it says so):",
        *tables,
        *(["", *notes] if notes else []),
    ]


def _measured(kind: str, rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the table of the tasks of a kind; numbers are in their own unit."""
    cells: dict[tuple[str, ...], dict[str, Mapping[str, Any]]] = {}
    for row in rows:
        labels = f"{100 * row['fraction']:.3g} %"
        seen = in_words(row) or UNKNOWN
        cell = (row["dataset"], row["task"], row["protocol"], labels, str(row["seed"]), seen)
        cells.setdefault(cell, {})[row["metric"]] = row
    metrics = metrics_of(kind)
    lines = [
        (*cell, str(max(row["n"] for row in by_metric.values())),
         *(_score(by_metric.get(metric)) for metric in metrics))
        for cell, by_metric in cells.items()
    ]  # fmt: skip
    names = [metric.replace("_", " ") for metric in metrics]
    head = ("dataset", "task", "protocol", "labels", "seed", "seen at", "test images", *names)
    return markdown_table(head, lines)


def _score(row: Mapping[str, Any] | None) -> str:
    if row is None or row["value"] is None:
        return UNKNOWN
    value = written(row["metric"], row["value"]) + (DAGGER if row.get("seen") else "")
    if row["low"] is None:
        return value
    ends = (written(row["metric"], row[end]) for end in ("low", "high"))
    return f"{value} [{', '.join(ends)}]"


def _made_by(source: SourceRun) -> list[str]:
    attempts = _attempts(source)
    if not attempts:
        return [f"Code and versions of the run: {UNKNOWN}; it has no provenance.json."]
    last = attempts[-1]
    git = last.get("git") or {}
    commit = git.get("commit", UNKNOWN)
    changed = ", with changes that were not committed" if git.get("diff_sha256") else ""
    versions = ", ".join(f"{name} {number}" for name, number in last.get("packages", {}).items())
    return [
        f"Commit {commit}{changed}; {versions or UNKNOWN}; started {len(attempts)} time(s).",
        "",
        *_paper(source),
    ]


def _paper(source: SourceRun) -> list[str]:
    if not source.config:
        return [f"Method: {UNKNOWN}; the weights lie without the run's config.json."]
    method = METHODS[load(source.run / "config.json", Config).method]
    title, _, authors = method.paper.rpartition(" (")
    return [f"The method is that of *{title}* ({authors}."]


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [_row(head), "|---" * len(head) + "|", *map(_row, rows)]


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(" ".join(c.split()).replace("|", "\\|") for c in cells) + " |"


def datasets(source: SourceRun) -> list[Dataset]:
    """Return the sources that a run read, in the order of its configuration; none of no run."""
    data = source.config.get("data", {})
    attempts = _attempts(source)
    digests = attempts[-1].get("manifests_sha256", {}) if attempts else {}
    return [
        _dataset(source.run, str(directory), use, digests)
        for use in ("paired", "unpaired")
        if data.get(f"{use}_batch", 1)  # of 0 a step has no image of them
        for directory in data.get(use, ())
    ]


def _attempts(source: SourceRun) -> list[dict[str, Any]]:
    """Return the provenance of each start of a run (provenance.json)."""
    return read_json(source.run / "provenance.json", [])


def _dataset(run: Path, directory: str, use: str, digests: Mapping[str, str]) -> Dataset:
    # a relative path was relative to where the command ran: the run lies below that
    bases = (Path(), *run.resolve().parents)
    paths = (base / directory / MANIFEST for base in bases)
    manifest = next((path for path in paths if path.is_file()), None)
    if manifest is None:
        return _from_card(directory, use)
    facts = read_json(manifest, {})
    digest = hashlib.sha256(manifest.read_bytes()).hexdigest()
    note = "" if digests.get(directory) == digest else "the shards have changed since the run"
    if directory not in digests:
        note = "the run does not say which manifest it read"
    samples = f"{facts['samples']:,}" if "samples" in facts else UNKNOWN
    if excluded := _excluded(manifest.with_name(EXCLUSIONS)):
        samples += f", of which {excluded:,} are excluded"
    title = facts.get("recipe", {}).get("title") or facts.get("name")
    return Dataset(
        directory, use, title or UNKNOWN, samples, facts.get("licence") or UNKNOWN,
        facts.get("citation") or UNKNOWN, note,
    )  # fmt: skip


def _excluded(path: Path) -> int:
    if not path.is_file():
        return 0
    with path.open(newline="") as file:
        return sum(1 for _ in csv.DictReader(file))


def _from_card(directory: str, use: str) -> Dataset:
    """Return what the dataset card of that name states: the shards are no longer there."""
    name = Path(directory).name
    if name not in card_names():
        gone = "the shards are not there any more"
        return Dataset(directory, use, name, UNKNOWN, UNKNOWN, UNKNOWN, gone)
    card = read_card(name)
    return Dataset(
        directory, use, card.title, UNKNOWN, card.licence or UNKNOWN, card.citation or UNKNOWN,
        f"the shards are not there any more; from the card maskedclip/shards/cards/{name}.toml",
    )  # fmt: skip


def _results(source: SourceRun) -> list[dict[str, Any]]:
    """Return the rows of results.jsonl of the run, and of fine-tunings beside it."""
    rows = list(measured_rows(source.run))
    for directory in run_directories([source.run.resolve().parent]):
        origin = pretraining(directory)
        if directory.resolve() != source.run.resolve() and origin:
            rows += measured_rows(directory) if origin[0] == source.run.resolve() else []
    return rows


def _gpu_hours(source: SourceRun) -> str:
    """Return the GPU-hours of a run in words: from the speed of each logged step."""
    data, attempts = source.config.get("data", {}), _attempts(source)
    seconds = _seconds(source.run / "metrics.jsonl", data)
    if not seconds or not attempts:
        return f"{UNKNOWN}: the run has no metrics.jsonl or no provenance.json"
    worlds = {attempt["world"] for attempt in attempts}
    devices = {attempt.get("device") for attempt in attempts}  # older runs do not record it
    if len(worlds) > 1:
        several = ", ".join(map(str, sorted(worlds)))
        return f"{UNKNOWN}: {_hours(seconds)} hours on {several} processes in turn"
    world = int(*worlds)
    wall = f"{_hours(seconds)} hours x {world} process{'es' if world > 1 else ''}"
    if devices == {"cpu"}:
        return f"0 GPU-hours: {wall} on processors"
    if None in devices:
        return f"{UNKNOWN}: {wall}, and the run does not say whether they had GPUs"
    names = ", ".join(sorted(map(str, devices)))
    return f"{_hours(seconds * world)} GPU-hours: {wall} with a GPU each ({names})"


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:,.3g}"


def _seconds(path: Path, data: Mapping[str, Any]) -> float:
    images = data.get("paired_batch", 0) + data.get("unpaired_batch", 0)
    seconds, before = 0.0, 0
    for row in _json_lines(path):
        step, speed = row.get("step", 0), row.get("images_per_s", 0)
        if step > before and speed:
            seconds += (step - before) * images / speed
            before = step
    return seconds


def _json_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the objects of a file of JSON lines; a last line that was cut off is no object."""
    if not path.is_file():
        return
    lines = path.read_text().splitlines()
    for number, line in enumerate(lines, 1):
        try:
            yield json.loads(line)
        except ValueError:
            if number < len(lines):
                raise ValueError(f"{path}: line {number} is not JSON; repair it") from None


def _trained_on(images: Mapping[str, Any]) -> list[str]:
    """Return how many images of which datasets the weights were trained on, and without which."""
    lines = []
    for one in images.get("datasets", ()):
        out = one.get("tests_left_out")
        said = "no test image was left out" if out is None else f"{out:,} test images left out"
        count = UNKNOWN if one["images"] is None else f"{one['images']:,} images"
        lines.append(f"- Trained on {one['name']} ({one['use']}): {count}, {said}.")
    return [*lines, ""] if lines else []


def _leakage(source: SourceRun, sources: Sequence[Dataset]) -> list[str]:
    """Return lines of the report of check_shards that is kept in the run, or how to make it."""
    trained = _trained_on(source.images)
    report = read_json(source.run / CHECK / REPORT_FILE, None)
    if report is None:
        directories = " ".join(entry.directory for entry in sources) or "SHARDS"
        return [
            *trained,
            "Not checked: the run keeps no report. This makes one, which the next export shows:",
            "",
            f"    python tools/check_shards.py {directories} --against TEST_SHARDS "
            f"--out {source.run / CHECK}",
        ]
    checked = ", ".join(f"`{name}`" for name in report.get("datasets", {})) or UNKNOWN
    lines = [
        *trained,
        f"`check_shards` checked {checked}: {report.get('samples', UNKNOWN)} samples.",
    ]
    names = {Path(name).name for name in report.get("datasets", {})}
    if missing := [e.directory for e in sources if Path(e.directory).name not in names]:
        lines.append(f"It did not check {', '.join(f'`{name}`' for name in missing)}.")
    pairs = report.get("pairs", {})
    columns = list(next(iter(pairs.values()), {}))
    rows = [(kind, *(str(counts[name]) for name in columns)) for kind, counts in pairs.items()]
    lines += ["", *markdown_table(("pairs of images", *columns), rows)]
    lines += ["", f"Samples excluded for it: {report.get('dropped', UNKNOWN)}; still to drop: "
              f"{report.get('to_drop', UNKNOWN)}."]  # fmt: skip
    return lines
