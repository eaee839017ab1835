"""Grids made by hand: run directories as runs leave them, whole or damaged in every way."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from maskedclip.config import Config, FinetuneConfig, save
from maskedclip.grid.manifest import Cell, Grid, Submission, append, write
from maskedclip.metrics.scores import METRICS

STEPS = 8
DAMAGES = (  # of a pre-training: none of these is done
    "nothing", "config", "short", "half a row", "no row", "no encoder", "no model",
    "half an encoder", "an empty encoder", "no safetensors", "temporary", "another run",
)  # fmt: skip


def pretraining(name: str, needs: Sequence[str] = ()) -> Cell:
    """Return the cell of a pre-training of 8 steps."""
    changes = {"name": name, "out": "../..", "optim.steps": STEPS, "data.paired": ["shards/a"]}
    return Cell(name, "pretrain", changes, tuple(needs))


def finetuning(name: str, needs: Sequence[str] = ()) -> Cell:
    changes = {"name": name, "out": "../..", "weights": "random", "dataset": "shards/a"}
    return Cell(name, "finetune", changes | {"task": "disease"}, tuple(needs))


def pretrained(run: Path, damage: str = "") -> None:
    """Write what a pre-training leaves, with one damage or none."""
    if damage == "nothing":
        return
    run.mkdir(parents=True)
    config = replace(Config(), name=run.name, out=str(run.parent))
    config = replace(config, optim=replace(config.optim, steps=STEPS))
    config = replace(config, data=replace(config.data, paired=("shards/a",)))
    if damage == "another run":
        config = replace(config, seed=1)
    save(config, run / "config.json")
    if damage == "config":
        return
    rows = range(1, STEPS if damage == "short" else STEPS + 1)
    lines = [
        json.dumps({"step": i, "epoch": i / 4, "loss": 1 / i, "images_per_s": 720.0}) for i in rows
    ]
    text = "".join(line + "\n" for line in lines)
    if damage == "half a row":
        text = text[: -len(lines[-1]) // 2]
    (run / "metrics.jsonl").write_text("" if damage == "no row" else text)
    checkpoint = run / "checkpoints" / "step-00000004"
    checkpoint.mkdir(parents=True)
    (checkpoint / "manifest.json").write_text("{}")
    _weights(run, damage)


def _weights(run: Path, damage: str) -> None:
    suffix = ".tmp" if damage == "temporary" else ""
    for name in ("encoder.safetensors", "model.safetensors"):
        save_file({"weight": np.ones((4, 4), np.float32)}, run / (name + suffix))
    encoder, model = run / "encoder.safetensors", run / "model.safetensors"
    if damage == "no encoder":
        encoder.unlink()
    if damage == "no model":
        model.unlink()
    if damage == "half an encoder":
        encoder.write_bytes(encoder.read_bytes()[:-20])
    if damage == "an empty encoder":
        encoder.write_bytes(b"")
    if damage == "no safetensors":
        model.write_bytes(b"\0" * 200)


def finetuned(run: Path, metrics: Sequence[str] = METRICS, tail: str = "") -> None:
    """Write what a fine-tuning leaves: its configuration, and a row a metric."""
    run.mkdir(parents=True)
    config = FinetuneConfig(
        name=run.name, out=str(run.parent), weights="random", dataset="shards/a", task="disease"
    )
    save(config, run / "config.json")
    rows = "".join(json.dumps({"metric": metric, "value": 0.5}) + "\n" for metric in metrics)
    (run / "results.jsonl").write_text(rows + tail)


def grid_of(directory: Path, cells: Sequence[Cell], cluster: str = "slurm") -> Grid:
    """Write a grid's manifest and return it."""
    grid = Grid(directory, tuple(cells), {}, cluster)
    write(grid)
    return grid


def submitted(
    grid: Grid, cell: str, job: str, *, attempt: int = 1, time_s: float = 0.0
) -> Submission:
    """Write down that a cell was submitted."""
    one = Submission(cell, job, attempt, time_s, f"logs/{job}_")
    append(grid, [one])
    return one
