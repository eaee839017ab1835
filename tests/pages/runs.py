"""Finished runs for tests of the report: real files, written by the code that writes results."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from maskedclip.eval.results import Measured, measure, write_rows

PAPER_TASKS = {
    "aptos2019": ("diabetic_retinopathy", 5),
    "idrid": ("diabetic_retinopathy", 5),
    "messidor2": ("diabetic_retinopathy", 5),
    "glaucoma_fundus": ("glaucoma", 3),
    "origa": ("glaucoma", 2),
    "jsiec": ("disease", 39),
    "retina": ("disease", 4),
}


def predicted(dataset: str, classes: int, skill: float, seed: int, images: int = 60) -> Measured:
    """Return predictions on the dataset's own test images, right more often with more skill."""
    images = max(images, 2 * classes)
    own = np.random.default_rng(sum(dataset.encode()))
    label_B = own.permutation(np.arange(images) % classes)
    noise = np.random.default_rng((seed, round(1000 * skill), len(dataset)))
    logit_BY = noise.normal(size=(images, classes))
    logit_BY[np.arange(images), label_B] += skill
    probability_BY = np.exp(logit_BY) / np.exp(logit_BY).sum(axis=1, keepdims=True)
    keys = [f"{dataset}{i:04d}" for i in range(images)]
    units = [f"patient{i // 2}" for i in range(images)]
    return Measured(keys, units, label_B, probability_BY)


def write_run(
    root: Path,
    method: str,
    dataset: str,
    found: Measured,
    *,
    task: str = "",
    classes: list[str] | None = None,
    fraction: float = 1.0,
    seed: int = 0,
    protocol: str = "finetune",
    shards: Path | None = None,
    weights: Path | str = "random",
) -> Path:
    """Write the directory of a finished fine-tuning and return it."""
    run = root / f"{method}-{dataset}-{fraction:g}-seed{seed}"
    run.mkdir(parents=True, exist_ok=True)
    (run / "config.json").write_text(json.dumps({"weights": str(weights), "dataset": dataset}))
    identity: dict[str, Any] = {
        "run": run.name, "dataset": dataset,
        "task": task or PAPER_TASKS.get(dataset, ("colour", 2))[0],
        "protocol": protocol, "fraction": fraction, "seed": seed,
    }  # fmt: skip
    names = classes or [str(i) for i in range(found.probability_BY.shape[1])]
    where = shards or root / "shards" / dataset
    write_rows(run, measure(identity, names, found, run, method=method, shards=where))
    return run


def write_pretraining(root: Path, name: str, *, bridge_depth: int, mfd: float) -> Path:
    """Write the part of a pre-training's directory that tells which row of Table 2 it is."""
    directory = root / name
    directory.mkdir(parents=True)
    config = {
        "name": name, "model": {"size": "micro", "bridge_depth": bridge_depth},
        "loss": {"mim": 1.0, "clip": 0.01, "mfd": mfd}, "optim": {"steps": 6},
    }  # fmt: skip
    (directory / "config.json").write_text(json.dumps(config))
    (directory / "encoder.safetensors").write_bytes(b"")
    return directory


def write_study(root: Path, fractions: tuple[float, ...] = (0.1, 1.0), seeds: int = 1) -> None:
    """Write the runs of three ablation rows and a random start on the paper's seven tasks."""
    kinds = {"mae_clip": (0, 0.0), "bridge": (4, 0.0), "ours": (4, 0.01)}
    starts = {
        name: write_pretraining(root / "pretraining", name, bridge_depth=depth, mfd=mfd)
        for name, (depth, mfd) in kinds.items()
    }
    for place, method in enumerate(("random", *kinds)):
        for dataset, (_, classes) in PAPER_TASKS.items():
            for fraction in fractions:
                for seed in range(seeds):
                    skill = 0.3 + 0.4 * place + 0.5 * fraction
                    found = predicted(dataset, classes, skill, seed)
                    write_run(
                        root, method, dataset, found, fraction=fraction, seed=seed,
                        weights=starts.get(method, "random"),
                    )  # fmt: skip
