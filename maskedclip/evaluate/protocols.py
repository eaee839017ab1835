"""What an encoder knows without fine-tuning: probes on its frozen features, and its texts."""

import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from maskedclip.data.labelled import Sample, labelled
from maskedclip.data.lost_samples import Ledger
from maskedclip.data.paper_tasks import chosen
from maskedclip.data.splits import division_of
from maskedclip.data.storage.shards import Shards
from maskedclip.evaluate import probes
from maskedclip.evaluate.cells import (
    ZERO_SHOT,
    Cell,
    Held,
    cells_of,
    class_prompts,
    identity_of,
    inputs_of,
    is_there,
    needed,
)
from maskedclip.evaluate.feature_cache import FOLDER, Features, features
from maskedclip.evaluate.frozen_encoder import JOINT, PATCHES, Frozen
from maskedclip.finetune.command import EvaluateConfig, check_protocols
from maskedclip.finetune.run_directory import LOADED, seen_by
from maskedclip.metrics import results
from maskedclip.metrics.results import Predictions
from maskedclip.shards.image_folders import as_shards

logger = logging.getLogger(__name__)
LOST = "lost_samples_evaluate.jsonl"


def evaluate(
    weights: Path | str,
    datasets: Sequence[tuple[Path, str]],
    protocols: Sequence[str],
    out: Path,
    *,
    fractions: Sequence[float] = (1.0,),
    seeds: int = 1,
    shots: Sequence[int] = (),
    threads: int = 2,
    cache: Path | None = None,
    size: str = "large",
) -> list[dict[str, Any]]:
    """Measure frozen weights on the test split of each dataset; return the rows, also in `out`.

    Prints them as a table. Zero-shot is left out, with a warning, where weights have no text tower
    and other protocols are asked for.

    Args:
        datasets: (directory, task), the task "" for the first of the dataset.
        seeds: how many draws of each fraction and number of shots.
        cache: directory of the features; `out`/features where not given.
        size: of the encoder where weights is "random".

    Raises ValueError for weights, datasets, tasks or protocols that are not there.
    """
    check_protocols(protocols)
    frozen = Frozen(weights, size)
    protocols = _possible(frozen, protocols, shots)
    rows: list[dict[str, Any]] = []
    for directory, task in datasets:
        dataset = Shards(as_shards(directory))
        found = labelled(dataset, task)
        held = Held(dataset, found, division_of(dataset, found))
        cells = list(cells_of(held.division, protocols, fractions, seeds, shots))
        rows += _measured(frozen, held, cells, out, cache or out / FOLDER, threads)
    sys.stdout.write(results.table(rows))
    return rows


def _possible(frozen: Frozen, protocols: Sequence[str], shots: Sequence[int]) -> list[str]:
    if ZERO_SHOT not in protocols or frozen.reads_text:
        return list(protocols)
    if len(protocols) == 1 and not shots:
        raise ValueError(
            f"{frozen.weights}: no text tower, so no zero-shot; use --protocols=logistic,knn"
        )
    logger.warning("%s: no text tower; zero-shot is left out", frozen.weights)
    return [name for name in protocols if name != ZERO_SHOT]


def _measured(
    frozen: Frozen, held: Held, cells: Sequence[Cell], out: Path, cache: Path, threads: int
) -> list[dict[str, Any]]:
    """Return the rows of all cells: those that are there, and those that are missing, computed."""
    before: dict[str, list[dict[str, Any]]] = {}
    for row in results.read_rows(out):
        before.setdefault(row.get("inputs", ""), []).append(row)
    facts = frozen.facts(held.dataset)
    inputs = {inputs_of(facts, frozen, held, cell): cell for cell in cells}
    missing = [cell for key, cell in inputs.items() if not is_there(out, before.get(key, ()))]
    found: Features | None = None
    if missing:
        found = features(frozen, held.dataset, needed(held, missing), cache, threads)
        if frozen.report:
            out.mkdir(parents=True, exist_ok=True)
            (out / LOADED).write_text(json.dumps(frozen.report.facts(), indent=1) + "\n")
        Ledger(out / LOST, held.dataset.name).add([*held.task.lost, *found.lost])
    rows: list[dict[str, Any]] = []
    for number, (key, cell) in enumerate(inputs.items(), 1):
        if found is None or is_there(out, before.get(key, ())):
            rows += before[key]
            continue
        new, chosen_on_validation = _one(frozen, held, cell, found, out)
        seen = seen_by(frozen.info, held.dataset)
        new = [row | {"chosen": chosen_on_validation, "inputs": key, "seen": seen} for row in new]
        results.write_rows(out, new)
        rows += new
        logger.info(
            "%s %d/%d: %s, %.3g %% of the labels, seed %d: %s", held.dataset.name, number,
            len(cells), cell.protocol, 100 * cell.fraction, cell.seed, chosen_on_validation or "-",
        )  # fmt: skip
    return rows


def _one(
    frozen: Frozen, held: Held, cell: Cell, found: Features, out: Path
) -> tuple[list[dict[str, Any]], str]:
    """Measure a cell: write its predictions, and return its rows and what was chosen for it."""
    if cell.protocol == ZERO_SHOT:
        samples, image_BD = found.of(held.division.parts["test"], JOINT)
        probability_BY, knob = _zero_shot(frozen, held, image_BD), ""
    else:
        samples, test_BD = found.of(held.division.parts["test"], PATCHES)
        train, validation = (
            (rows, _labels(kept))
            for kept, rows in (
                found.of(part, PATCHES) for part in (cell.train, held.division.parts["val"])
            )
        )
        number = len(held.task.classes)
        if cell.protocol == "linear":
            probe = probes.linear(train, validation, test_BD, number, seed=cell.seed)
        elif cell.protocol == "knn":
            probe = probes.nearest(train, validation, test_BD, number)
        else:
            probe = probes.logistic(train, validation, test_BD, number)
        probability_BY = probe.probability_BY
        knob = f"{probe.chosen}, validation AUROC {100 * probe.validation_auroc:.1f}"
    measured = Predictions(
        [sample.key for sample in samples],
        [sample.unit for sample in samples],
        _labels(samples),
        probability_BY,
    )
    rows = results.save_and_score(
        identity_of(frozen, held, cell), held.task.classes, measured, out,
        method=frozen.name, shards=held.dataset.directory,
    )  # fmt: skip
    return rows, knob


def _zero_shot(frozen: Frozen, held: Held, image_BD: np.ndarray) -> np.ndarray:
    class_YD = frozen.model.class_embeddings(class_prompts(held))
    return frozen.model.zero_shot(torch.from_numpy(image_BD), class_YD).numpy()


def _labels(samples: Sequence[Sample]) -> np.ndarray:
    return np.array([sample.label for sample in samples], dtype=np.int64)


def run(options: EvaluateConfig) -> None:
    """Measure all cells that `options` asks for, and print them with the next command."""
    given = Path(options.weights)
    datasets, missing = chosen(options.datasets, options.task, Path(options.shards))
    for line in missing:
        sys.stderr.write(f"{line}\n")
    frozen = Frozen(options.weights, options.size)
    out = (
        Path(options.out)
        if options.out
        else given
        if given.is_dir()
        else Path("runs") / frozen.name
    )
    evaluate(
        options.weights, datasets, options.protocols, out,
        fractions=options.fractions, seeds=options.seeds, shots=options.shots,
        threads=options.threads, cache=Path(options.cache) if options.cache else None,
        size=options.size,
    )  # fmt: skip
    sys.stdout.write(f"next: python -m maskedclip.report {out} --out report\n")
