"""DINOv2 on the same trainer: its crops, its networks, and short runs of it."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from maskedclip.config import Config, override
from maskedclip.dinov2 import multi_crop, objective, prepared, step_flops
from maskedclip.engine.distributed import process_group
from maskedclip.models.pretrained import load_encoder, read_weights
from maskedclip.plan import plan
from maskedclip.pretrain import pretrain, set_up
from maskedclip.recipes import RECIPES

SHRUNK = {
    "dino.local_crops": 3,
    "dino.local_size": 16,
    "dino.head_width": 32,
    "dino.bottleneck": 16,
    "dino.prototypes": 64,
}


def shrunk(small: Config, **changes: Any) -> Config:
    """Return the short run of the tests with all that makes this method what it is."""
    recipe = RECIPES["dinov2"]()
    flat: dict[str, Any] = {"name": "dinov2", "dino": recipe.dino, "loss": recipe.loss}
    for path in ("data.crop_area", "model.bridge_depth", "optim.betas", "optim.weight_decay"):
        part, name = path.split(".")
        flat[path] = getattr(getattr(recipe, part), name)
    parts = {name: flat.pop(name) for name in ("dino", "loss")}
    from dataclasses import replace

    return override(replace(small, **parts), flat | SHRUNK | {"optim.lr": 1e-3} | changes)


def rows(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_probe(small):
    run = pretrain(shrunk(small))
    for row in rows(run):
        print(row)
