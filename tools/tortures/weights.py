"""Damaged files of weights, ours and those of other libraries, beside their own readers."""

import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

import timm
import torch
from safetensors.torch import load_file
from tortures.damages import damaged
from tortures.trials import (
    OURS,
    Tensors,
    Trial,
    Verdict,
    compared,
    of_an_anchor,
    refused,
)

import maskedclip
from maskedclip.models.classifier import read_classifier, write_classifier
from maskedclip.models.pretrained import load_encoder
from maskedclip.weights.export import export
from maskedclip.weights.source_run import read_source
from tests.untrained import exported

NUMBER = 10_000
SECONDS = 30.0  # of a trial; one that takes longer hangs


class File(NamedTuple):
    """A file of weights, how it is loaded here, and what it holds."""

    path: Path
    load: Callable[[Path], Tensors]
    content: bytes
    ours: Tensors
    theirs: Tensors


@contextmanager
def trials(folder: Path) -> Iterator[Trial]:
    """Exports of ours in four forms, a fine-tuned network, and a .pth as MAE has it."""
    files = [described(path, load) for path, load in written(folder)]

    def trial(rng: random.Random, number: int) -> Mapping[str, Verdict]:
        file = files[number % len(files)]
        content = damaged(file.content, rng)
        file.path.write_bytes(content)
        try:
            anchor = "safetensors" if file.path.suffix == ".safetensors" else "torch.load"
            return {
                OURS: loaded(file),
                anchor: of_an_anchor(
                    lambda: plain(file.path), lambda found: compared(found, file.theirs)
                ),
            }
        finally:
            file.path.write_bytes(file.content)

    yield trial


def encoder(path: Path) -> Tensors:
    return load_encoder(path, global_pool="token")[0].state_dict()


def network(path: Path) -> Tensors:
    return maskedclip.load(path).network.state_dict()


def classifier(path: Path) -> Tensors:
    return read_classifier(path)[0].state_dict()


def written(folder: Path) -> Iterator[tuple[Path, Callable[[Path], Tensors]]]:
    run = folder / "run"
    exported(run)
    yield run / "encoder.safetensors", encoder
    yield run / "model.safetensors", network
    model, _ = load_encoder(run, num_classes=2)
    write_classifier(model, folder / "finetuned.safetensors", ["healthy", "ill"], {"task": "d"})
    yield folder / "finetuned.safetensors", classifier
    exported(folder / "mim", terms=("mim",))
    export(folder / "mim", "retfound", folder / "retfound")
    for to in ("timm", "hf"):
        (folder / to).mkdir()
        import_module(f"maskedclip.weights.to_{to}").write(
            read_source(folder / "mim"), folder / to, folder / to
        )
    for to in ("timm", "hf", "retfound"):
        yield (
            next(p for p in (folder / to).iterdir() if p.suffix in (".safetensors", ".pth")),
            encoder,
        )
    mae = timm.models.VisionTransformer(
        img_size=64, embed_dim=128, depth=2, num_heads=2, num_classes=0
    )
    torch.save({"model": mae.state_dict(), "epoch": 3}, folder / "mae.pth")
    yield folder / "mae.pth", encoder


def described(path: Path, load: Callable[[Path], Tensors]) -> File:
    return File(path, load, path.read_bytes(), load(path), plain(path))


def plain(path: Path) -> Tensors:
    """Return the tensors as the library that made the form reads it."""
    if path.suffix == ".safetensors":
        # copies: safetensors maps the file, whose bytes are about to change
        return {name: value.clone() for name, value in load_file(path).items()}
    content = torch.load(path, map_location="cpu", weights_only=True)
    return content["model"]


def loaded(file: File) -> Verdict:
    try:
        found = file.load(file.path)
    except ValueError as error:
        return refused(error, file.path.name)
    return compared(found, file.ours)
