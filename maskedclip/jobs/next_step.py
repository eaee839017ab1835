"""The commands that are printed when a run has begun or is done: they run as they stand."""

import json
import os
import socket
from collections.abc import Iterable
from pathlib import Path
from shlex import quote

_PORT = 6006  # TensorBoard's, unless another uses it already: it says which one it took


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


def curves_commands(directory: Path, *, on_cluster: bool = False) -> list[str]:
    """Return how to see the curves of the runs in a directory.

    TensorBoard asks nobody who they are: it listens to its own machine alone, and from another one
    the second command leads there, which is given where one is likely.
    """
    command = f"tensorboard --logdir {quote(str(directory))} --host localhost"
    # within a job: where it was submitted, as people cannot log in to every node
    submitted_at = os.environ.get("SLURM_SUBMIT_HOST")
    if not (on_cluster or submitted_at or os.environ.get("SSH_CONNECTION")):
        return [command]
    host = quote(submitted_at or socket.gethostname())
    return [
        command,
        f"ssh -L {_PORT}:localhost:{_PORT} {host}    # on your own machine, for "
        f"http://localhost:{_PORT}",
    ]


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
