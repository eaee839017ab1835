"""What an encoder knows without fine-tuning: probes on its frozen features, and its text tower."""

import hashlib
import json
import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from maskedclip.data.captions import prompts
from maskedclip.data.expert_dictionary import EXPERT
from maskedclip.data.labelled import LabelledSample, Task, labelled
from maskedclip.data.lost_samples import Ledger
from maskedclip.data.paper_tasks import chosen
from maskedclip.data.splits import Division, division_of, few_shots, training_share
from maskedclip.data.storage.shards import Shards
from maskedclip.evaluate import probes
from maskedclip.evaluate.features import FOLDER, JOINT, PATCHES, Features, FrozenEncoder, features
from maskedclip.finetune.command import EvaluateConfig, check_protocols
from maskedclip.finetune.run_directory import LOADED, seen_by
from maskedclip.metrics import results
from maskedclip.metrics.results import Predictions, no_order
from maskedclip.metrics.scores import METRICS
from maskedclip.metrics.zero_shot import categories
from maskedclip.shards.downloads.folder_or_csv import words_of_class
from maskedclip.shards.image_folders import as_shards

logger = logging.getLogger(__name__)
LOST = "lost_samples_evaluate.jsonl"
ZERO_SHOT, SHOTS = "zeroshot", "-shot"
_VERSION = 2  # raise it where the same features would give other scores


class Benchmark(NamedTuple):
    """A task of a dataset, its samples divided into train, val and test."""

    dataset: Shards
    task: Task
    division: Division


class Evaluation(NamedTuple):
    """One evaluation: a protocol, and the labels that it learns from."""

    protocol: str
    fraction: float  # of the training labels
    seed: int
    train: list[LabelledSample]


def run(options: EvaluateConfig) -> None:
    """Run all evaluations that `options` asks for, and print them with the next command."""
    datasets, missing = chosen(options.datasets, options.task, Path(options.shards))
    for line in missing:
        sys.stderr.write(f"{line}\n")
    if options.out:
        out = Path(options.out)
    elif Path(options.weights).is_dir():
        out = Path(options.weights)
    else:
        out = Path("runs") / FrozenEncoder(options.weights, options.size).name
    evaluate(
        options.weights, datasets, options.protocols, out,
        fractions=options.fractions, seeds=options.seeds, shots=options.shots,
        threads=options.threads, cache=Path(options.cache) if options.cache else None,
        size=options.size, image_size=options.image_size,
    )  # fmt: skip
    sys.stdout.write(f"next: python -m maskedclip.report {out} --out report\n")


def evaluate(  # noqa: PLR0913 (one keyword an option of the command)
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
    image_size: int = 0,
) -> list[dict[str, Any]]:
    """Evaluate frozen weights on the test split of each dataset; return the rows, also in `out`.

    Prints them as a table. Zero-shot is left out, with a warning, where weights have no text tower
    and other protocols are asked for.

    Args:
        datasets: (directory, task), the task "" for the first of the dataset.
        seeds: how many draws of each fraction and number of shots.
        cache: directory of the features; `out`/features where not given.
        size: of the encoder where weights is "random".
        image_size: of the images; 0: as the weights were trained.

    Raises ValueError for weights, datasets, tasks or protocols that are not there, and for an image
    size that the patch does not divide.
    """
    check_protocols(protocols)
    encoder = FrozenEncoder(weights, size, image_size)
    encoder.check()
    protocols = _possible(encoder, protocols, shots)
    rows: list[dict[str, Any]] = []
    for directory, name in datasets:
        dataset = Shards(as_shards(directory))
        task = labelled(dataset, name)
        if not task.ordered:
            logger.warning("%s: %s", directory, no_order(task.classes))
        benchmark = Benchmark(dataset, task, division_of(dataset, task))
        evaluations = list(evaluations_of(benchmark.division, protocols, fractions, seeds, shots))
        rows += _evaluate_all(encoder, benchmark, evaluations, out, cache or out / FOLDER, threads)
    sys.stdout.write(results.table(rows))
    return rows


def _possible(encoder: FrozenEncoder, protocols: Sequence[str], shots: Sequence[int]) -> list[str]:
    if ZERO_SHOT not in protocols or encoder.reads_text:
        return list(protocols)
    if len(protocols) == 1 and not shots:
        raise ValueError(
            f"{encoder.weights}: no text tower, so no zero-shot; use --protocols=logistic,knn"
        )
    logger.warning("%s: no text tower; zero-shot is left out", encoder.weights)
    return [name for name in protocols if name != ZERO_SHOT]


def evaluations_of(
    division: Division,
    protocols: Sequence[str],
    fractions: Sequence[float],
    seeds: int,
    shots: Sequence[int],
) -> Iterator[Evaluation]:
    """Yield the evaluations; where the seed decides nothing there is one, of seed 0."""
    labels = len(division.parts["train"])
    for protocol in protocols:
        if protocol == ZERO_SHOT:
            yield Evaluation(protocol, 0.0, 0, [])
            continue
        for fraction in fractions:
            drawn = fraction < 1 or protocol == "linear"  # which also starts from random weights
            for seed in range(seeds if drawn else 1):
                share = training_share(division, fraction, seed)
                yield Evaluation(protocol, fraction, seed, share)
    for number in shots:
        for seed in range(seeds):
            few = few_shots(division, number, seed)
            yield Evaluation(f"{number}{SHOTS}", round(len(few) / labels, 6), seed, few)


def _evaluate_all(
    encoder: FrozenEncoder,
    benchmark: Benchmark,
    evaluations: Sequence[Evaluation],
    out: Path,
    cache: Path,
    threads: int,
) -> list[dict[str, Any]]:
    """Return the rows of all evaluations, running those that are not in `out` yet."""
    stored: dict[str, list[dict[str, Any]]] = {}
    for row in results.read_rows(out):
        stored.setdefault(row.get("inputs", ""), []).append(row)
    features_key = encoder.cache_key(benchmark.dataset)
    by_inputs = {inputs_of(features_key, encoder, benchmark, e): e for e in evaluations}
    missing = {k: e for k, e in by_inputs.items() if not _is_complete(out, stored.get(k, ()))}
    if missing:
        table = _features(encoder, benchmark, list(missing.values()), out, cache, threads)
    rows: list[dict[str, Any]] = []
    for number, (inputs, evaluation) in enumerate(by_inputs.items(), 1):
        if inputs not in missing:
            rows += _with_images_seen(encoder, stored[inputs], out)
            continue
        predictions, knob = _predict(encoder, benchmark, evaluation, table)
        new = results.save_and_score(
            identity_of(encoder, benchmark, evaluation), benchmark.task.classes, predictions, out,
            method=encoder.name, shards=benchmark.dataset.directory,
            variant=f"{encoder.info.preparation.image_size}px" if encoder.resized else "",
        )  # fmt: skip
        facts = {"chosen": knob, "inputs": inputs} | _images_seen(encoder)
        facts["seen"] = seen_by(encoder.info, benchmark.dataset)
        new = [row | facts for row in new]
        results.write_rows(out, new)
        rows += new
        logger.info(
            "%s %d/%d: %s, %.3g %% of the labels, seed %d: %s", benchmark.dataset.name, number,
            len(evaluations), evaluation.protocol, 100 * evaluation.fraction, evaluation.seed,
            knob or "-",
        )  # fmt: skip
    return rows


def _images_seen(encoder: FrozenEncoder) -> dict[str, Any]:
    """Return the fields of a row that say how the images were shown to the encoder."""
    preparation = encoder.info.preparation
    facts: dict[str, Any] = {"image_size": preparation.image_size, "colours": preparation.colours}
    return facts | ({"resized": True} if encoder.resized else {})


def _with_images_seen(
    encoder: FrozenEncoder, rows: Sequence[dict[str, Any]], out: Path
) -> list[dict[str, Any]]:
    """Return stored rows; those of an older version get how the images were seen, in `out` too."""
    facts = _images_seen(encoder)
    if all("image_size" in row for row in rows):
        return list(rows)
    completed = [row | facts for row in rows]
    results.write_rows(out, completed)
    return completed


def _is_complete(out: Path, rows: Sequence[dict[str, Any]]) -> bool:
    """Return whether every metric of an evaluation is stored, and its predictions."""
    tables = [out / str(row.get("predictions")) for row in rows]
    files = tables + [table.with_suffix(".units.csv") for table in tables]
    return {row["metric"] for row in rows} >= set(METRICS) and all(file.is_file() for file in files)


def _features(
    encoder: FrozenEncoder,
    benchmark: Benchmark,
    evaluations: Sequence[Evaluation],
    out: Path,
    cache: Path,
    threads: int,
) -> Features:
    """Return the features that the evaluations use; note in `out` which samples were lost."""
    splits = benchmark.division.parts
    val = [] if all(e.protocol == ZERO_SHOT for e in evaluations) else splits["val"]
    train = {sample.index: sample for e in evaluations for sample in e.train}
    samples = [*splits["test"], *val, *train.values()]
    table = features(encoder, benchmark.dataset, samples, cache, threads)
    if encoder.report:
        out.mkdir(parents=True, exist_ok=True)
        (out / LOADED).write_text(json.dumps(encoder.report.facts(), indent=1) + "\n")
    Ledger(out / LOST, benchmark.dataset.name).add([*benchmark.task.lost, *table.lost])
    return table


def _predict(
    encoder: FrozenEncoder, benchmark: Benchmark, evaluation: Evaluation, table: Features
) -> tuple[Predictions, str]:
    """Return the predictions for the test split, and the knob chosen on validation, "" for none."""
    splits = benchmark.division.parts
    if evaluation.protocol == ZERO_SHOT:
        samples, image_BD = table.of(splits["test"], JOINT)
        class_YD = encoder.model.class_embeddings(class_prompts(benchmark))
        probability_BY = encoder.model.zero_shot(torch.from_numpy(image_BD), class_YD).numpy()
        knob = ""
    else:
        samples, test_BD = table.of(splits["test"], PATCHES)
        train, validation = (
            (feature_BD, _labels(readable))
            for readable, feature_BD in (
                table.of(part, PATCHES) for part in (evaluation.train, splits["val"])
            )
        )
        num_classes = len(benchmark.task.classes)
        if evaluation.protocol == "linear":
            probe = probes.linear(train, validation, test_BD, num_classes, seed=evaluation.seed)
        elif evaluation.protocol == "knn":
            probe = probes.nearest(train, validation, test_BD, num_classes)
        else:
            probe = probes.logistic(train, validation, test_BD, num_classes)
        probability_BY = probe.probability_BY
        knob = f"{probe.chosen}, validation AUROC {100 * probe.validation_auroc:.1f}"
    keys, units = [sample.key for sample in samples], [sample.unit for sample in samples]
    zero_shot = evaluation.protocol == ZERO_SHOT  # which trains on no class, and knows all
    untrained = () if zero_shot else benchmark.task.untrained(evaluation.train)
    label_B, ordered = _labels(samples), benchmark.task.ordered
    return Predictions(keys, units, label_B, probability_BY, ordered, untrained), knob


def _labels(samples: Sequence[LabelledSample]) -> np.ndarray:
    return np.array([sample.label for sample in samples], dtype=np.int64)


def inputs_of(
    features_key: Mapping[str, Any],
    encoder: FrozenEncoder,
    benchmark: Benchmark,
    evaluation: Evaluation,
) -> str:
    """Return the hash of all that decides the numbers of an evaluation."""
    val, test = (benchmark.division.parts[name] for name in ("val", "test"))
    splits = {"train": evaluation.train, "val": val, "test": test}
    inputs = [
        _VERSION,
        features_key,
        list(identity_of(encoder, benchmark, evaluation).items()),
        [benchmark.task.classes, benchmark.task.ordered],
        {name: [(s.key, s.label, s.unit) for s in samples] for name, samples in splits.items()},
        class_prompts(benchmark) if evaluation.protocol == ZERO_SHOT else None,
    ]
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()


def identity_of(
    encoder: FrozenEncoder, benchmark: Benchmark, evaluation: Evaluation
) -> dict[str, Any]:
    """Return the fields of a row's identity, without the metric."""
    return {
        "run": encoder.name,
        "dataset": benchmark.dataset.name,
        "task": benchmark.task.name,
        "protocol": evaluation.protocol,
        "fraction": evaluation.fraction,
        "seed": evaluation.seed,
    }


def class_prompts(benchmark: Benchmark) -> list[list[str]]:
    """Return the captions of each class, of whose embeddings zero-shot takes the mean.

    They are of the dataset's category for the class, else of the dictionary's, else of its name.
    """
    published = benchmark.dataset.manifest.get("classes", {}).get(benchmark.task.name)
    mapping = published if isinstance(published, dict) else None
    names = categories(benchmark.task.name, benchmark.task.classes, mapping)
    return [prompts(name if name in EXPERT else _dictionary_key(name)) for name in names]


def _dictionary_key(name: str) -> str:
    """Return the dictionary's key for a class name such as "2_Cataract", else the name itself."""
    words = words_of_class(name)
    return words[0] if len(words) == 1 and words[0] in EXPERT else name
