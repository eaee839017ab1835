"""Finished runs for tests of the report: real files, written by the code that writes results."""

import json
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from maskedclip.metrics.prediction_files import Predictions
from maskedclip.metrics.results import save_and_score, write_rows

PAPER_TASKS = {
    "aptos2019": ("diabetic_retinopathy", 5),
    "idrid": ("diabetic_retinopathy", 5),
    "messidor2": ("diabetic_retinopathy", 5),
    "glaucoma_fundus": ("glaucoma", 3),
    "origa": ("glaucoma", 2),
    "jsiec": ("disease", 39),
    "retina": ("disease", 4),
}


def predicted(dataset: str, classes: int, skill: float, seed: int, images: int = 60) -> Predictions:
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
    return Predictions(keys, units, label_B, probability_BY)


class Place(NamedTuple):
    """Where a run stands in the tables."""

    method: str
    dataset: str
    fraction: float = 1.0
    seed: int = 0
    protocol: str = "finetune"
    task: str = ""  # empty: the paper's


def write_run(
    root: Path,
    place: Place,
    found: Predictions,
    *,
    classes: Sequence[str] = (),
    shards: Path | None = None,
    weights: Path | str = "random",
) -> Path:
    """Write the directory of a finished run and return it."""
    run = root / f"{place.method}-{place.dataset}-{place.fraction:g}-seed{place.seed}"
    run.mkdir(parents=True, exist_ok=True)
    (run / "config.json").write_text(json.dumps({"weights": str(weights)}))
    identity: dict[str, Any] = {
        "run": run.name, "dataset": place.dataset,
        "task": place.task or PAPER_TASKS[place.dataset][0], "protocol": place.protocol,
        "fraction": place.fraction, "seed": place.seed,
    }  # fmt: skip
    names = classes or [str(i) for i in range(found.probability_BY.shape[1])]
    where = shards or root / "shards" / place.dataset
    write_rows(run, save_and_score(identity, names, found, run, method=place.method, shards=where))
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


def write_study(
    root: Path,
    *,
    fractions: Sequence[float] = (0.1, 1.0),
    seeds: int = 1,
    datasets: Sequence[str] = tuple(PAPER_TASKS),
) -> None:
    """Write the runs of a random start and the three ablation rows, each better than the last."""
    kinds = {"mae_clip": (0, 0.0), "bridge": (4, 0.0), "ours": (4, 0.01)}
    starts = {
        name: write_pretraining(root / "pretraining", name, bridge_depth=depth, mfd=mfd)
        for name, (depth, mfd) in kinds.items()
    }
    places = product(enumerate(("random", *kinds)), datasets, fractions, range(seeds))
    for (rank, method), dataset, fraction, seed in places:
        skill = 0.3 + 0.6 * rank + 0.5 * fraction
        found = predicted(dataset, PAPER_TASKS[dataset][1], skill, seed)
        place = Place(method, dataset, fraction, seed)
        write_run(root, place, found, weights=starts.get(method, "random"))
