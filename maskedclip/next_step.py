"""What to do next, as every command prints it: commands that run as they stand, when pasted."""

import json
import os
import shlex
import socket
from collections.abc import Iterable, Mapping
from pathlib import Path
from shlex import quote

from maskedclip.models.checkpoints.files import read_header

LEAST = 160  # images of a source: with fewer than ten batches they are soon known by heart
_PORT = 6006  # TensorBoard's, unless another uses it already: it says which one it took
_ENCODER = "encoder.safetensors"  # of a finished run
_TUNED = "finetuned.safetensors"  # of a fine-tuning


def next_lines(*commands: str) -> str:
    """Return one command or several to choose from, a line each, ending in a line break."""
    return "".join(f"{'   or: ' if i else 'next: '}{line}\n" for i, line in enumerate(commands))


def report_command(runs: Iterable[str | Path], out: str = "report", protocol: str = "") -> str:
    """Return how results are reported, in a directory `out`."""
    words = ["python", "-m", "maskedclip.report", *map(str, runs), "--out", out]
    return shlex.join([*words, *([f"--protocol={protocol}"] if protocol else [])])


def pretrain_command(
    paired: Mapping[Path, int], unpaired: Mapping[Path, int], *, tested: bool
) -> str:
    """Return how a small model is pre-trained on shards, one that needs no GPU and no hub.

    "" where they have fewer than LEAST images.

    Args:
        paired: shards with captions, and how many images can be trained on; where these are too
            few, MAE learns from images alone.
        unpaired: shards without; where these are too few, images of the paired ones join them.
        tested: test images are among them, and are to stay out.
    """
    if sum(paired.values()) < LEAST:
        paired, unpaired = {}, {**paired, **unpaired}
    elif sum(unpaired.values()) < LEAST:
        unpaired = {**paired, **unpaired}
    if sum(unpaired.values()) < LEAST:
        return ""
    words = ["python", "launchers/submit_pretrain.py", "maskedclip_vitt" if paired else "mae"]
    words += [f"--data.paired={','.join(map(str, paired))}"] if paired else []
    words += [f"--data.unpaired={','.join(map(str, unpaired))}"]
    words += [f"--data.paired_batch={16 if paired else 0}", "--data.unpaired_batch=16"]
    words += [] if paired else ["--model.size=tiny"]
    return shlex.join([*words, *(["--data.leave_out_tests"] if tested else [])])


def too_few(directories: Iterable[Path], images: int) -> str:
    """Return in words why no pre-training on so few images is proposed."""
    names = ",".join(map(str, directories))
    return (
        f"{images} images to train on are too few for a pre-training of their own: name them "
        f"beside other shards, as in --data.unpaired={quote(names)},shards/more"
    )


def tune_command(dataset: Path, task: str = "", split: Path | None = None) -> str:
    """Return how labelled shards are fine-tuned on: the newest run here, or random weights."""
    runs = [path for path in Path("runs").glob(f"*/{_ENCODER}") if path.is_file()]
    newest = max(runs, key=lambda path: path.stat().st_mtime, default=None)
    words = ["python", "-m", "maskedclip.finetune"]
    words += [str(newest.parent)] if newest else ["random", "--size=tiny"]
    words += ["--dataset", str(dataset), *(["--task", task] if task else [])]
    return shlex.join([*words, *([f"--split={split}"] if split else [])])


def evaluate_command(weights: Path) -> str:
    """Return how weights are measured, on labelled shards where there are some here."""
    dataset = _labelled_in([Path("shards")], without=())
    if not dataset:
        return "python -m maskedclip.evaluate --help"
    return f"python -m maskedclip.evaluate {quote(str(weights))} --datasets {quote(dataset)}"


def tuned_commands(run: Path, dataset: Path) -> list[str]:
    """Return what a fine-tuned network is good for; of folds, which leave none, nothing."""
    if not (run / _TUNED).is_file():
        return []
    own, images = quote(str(run)), quote(str(dataset))
    is_shards = (dataset / "manifest.json").is_file()  # not a folder of images
    return [
        *(explain_commands(run / _TUNED, own, "--dataset", images) if is_shards else []),
        f"python -m maskedclip.predict {own} {images} --out predictions.csv",
        f"python tools/export_weights.py {own} --to timm",
    ]


def explain_commands(file: Path, *words: str) -> list[str]:
    """Return how maps of a fine-tuned network are drawn; nothing where they are not.

    They are of the attention of ViTs with added positions: not of rotary ones, nor of ResNets.

    Args:
        file: the network's.
        words: of the command, each quoted.
    """
    header, _ = read_header(file)
    if header.get("network", {}).get("family", "vit") != "vit":
        return []
    return [" ".join(["python -m maskedclip.explain", *words])]


def finetune_command(run: Path, measured: Iterable[str], trained_on: Iterable[str]) -> str:
    """Return how a run is fine-tuned: on labelled shards that are there, else where that is told.

    Args:
        measured: datasets with labels on which the run was measured; the first is taken.
        trained_on: its shards; of their neighbours those with classes are taken otherwise.
    """
    paths = [Path(path) for path in trained_on]
    beside = dict.fromkeys(path.parent for path in paths)
    dataset = next(iter(measured), "") or _labelled_in(beside, without=paths)
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


def _labelled_in(folders: Iterable[Path], without: Iterable[Path]) -> str:
    left_out = {path.resolve() for path in without}
    for folder in folders:
        for manifest in sorted(folder.glob("*/manifest.json")):
            if manifest.parent.resolve() not in left_out and _has_classes(manifest):
                return str(manifest.parent)
    return ""


def _has_classes(manifest: Path) -> bool:
    try:
        content = json.loads(manifest.read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and bool(content.get("classes"))
