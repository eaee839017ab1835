"""The command that is printed when a pre-training is done: it runs as it stands."""

import json
from collections.abc import Iterable
from pathlib import Path
from shlex import quote


def finetune_command(run: Path, measured: Iterable[str], trained_on: Iterable[str]) -> str:
    """Return how a run is fine-tuned: on labelled shards that are there, else where that is told.

    Args:
        measured: datasets with labels on which the run was measured; the first is taken.
        trained_on: its shards; of their neighbours those with classes are taken otherwise.
    """
    dataset = next(iter(measured), "") or _labelled_beside([Path(path) for path in trained_on])
    if not dataset:
        return "python -m maskedclip.finetune --help"
    return f"python -m maskedclip.finetune {quote(str(run))} --dataset {quote(dataset)}"


def _labelled_beside(directories: list[Path]) -> str:
    trained_on = {path.resolve() for path in directories}
    for folder in dict.fromkeys(path.parent for path in directories):
        for manifest in sorted(folder.glob("*/manifest.json")):
            if manifest.parent.resolve() not in trained_on and _has_classes(manifest):
                return str(manifest.parent)
    return ""


def _has_classes(manifest: Path) -> bool:
    try:
        content = json.loads(manifest.read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and bool(content.get("classes"))
