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
from maskedclip.data.folds import folds_line, folds_of
from maskedclip.data.labelled import LabelledSample, Task, labelled
from maskedclip.data.lost_samples import Ledger
from maskedclip.data.paper_tasks import chosen
from maskedclip.data.splits import Division, division_of, few_shots, training_share
from maskedclip.data.storage.shards import Shards
from maskedclip.evaluate import probes
from maskedclip.evaluate.features import FOLDER, JOINT, PATCHES, Features, FrozenEncoder, features
from maskedclip.evaluate.transfer import TRANSFER, TRANSFER_WHOLE, transfer
from maskedclip.finetune.command import USUAL_PROTOCOLS, EvaluateConfig, check_protocols
from maskedclip.finetune.measured_rows import with_patients
from maskedclip.finetune.run_directory import LOADED, seen_fields
from maskedclip.finetune.threshold_rows import group_rows, threshold_rows
from maskedclip.metrics import results
from maskedclip.metrics.class_groups import ClassGroup, group_of
from maskedclip.metrics.operating_points import OPERATING
from maskedclip.metrics.pooled_folds import folds_protocol, pooled, with_spread
from maskedclip.metrics.results import Predictions, no_order
from maskedclip.metrics.scores import chosen_thresholds, metrics_of
from maskedclip.metrics.zero_shot import categories
from maskedclip.shards.downloads.class_words import words_of_class
from maskedclip.shards.image_folders import as_shards

logger = logging.getLogger(__name__)
LOST = "lost_samples_evaluate.jsonl"
ZERO_SHOT, SHOTS, LOGISTIC, RIDGE = "zeroshot", "-shot", "logistic", "ridge"
NORMAL = "normal"  # a key of the dictionary
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
    protocols = options.protocols or usual_protocols(FrozenEncoder(options.weights, options.size))
    evaluate(
        options.weights, datasets, protocols, out,
        fractions=options.fractions, seeds=options.seeds, shots=options.shots,
        threads=options.threads, cache=Path(options.cache) if options.cache else None,
        size=options.size, image_size=options.image_size, classes_order=options.classes_order,
        group=options.group, at_sensitivity=options.at_sensitivity,
        whole=options.whole, folds=options.folds,
    )  # fmt: skip
    alone = tuple(protocols) == (TRANSFER,) and not options.shots
    protocol = TRANSFER_WHOLE if options.whole else TRANSFER
    more = f"_{protocol} --protocol={protocol}" if alone else ""
    sys.stdout.write(f"next: python -m maskedclip.report {out} --out report{more}\n")


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
    classes_order: Sequence[str] = (),
    group: str = "",
    at_sensitivity: float = 0.0,
    whole: bool = False,
    folds: int = 0,
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
        classes_order: the classes as grades, the lowest first, where a dataset does not state it.
        group: classes joined into two, negatives|positives: a task beside the one with all classes.
        at_sensitivity: what the threshold of tasks of two classes reaches on validation images; 0:
            Youden's.
        whole: for the protocol transfer: test on all labelled images.
        folds: of cross-validation by patient, in place of the split; zero-shot is left out.

    Raises ValueError for weights, datasets, tasks, protocols or classes that are not there, and for
    an image size that the patch does not divide.
    """
    check_protocols(protocols)
    encoder = FrozenEncoder(weights, size, image_size)
    encoder.check()
    protocols = _with_folds(_possible(encoder, protocols, shots), folds)
    frozen = [protocol for protocol in protocols if protocol != TRANSFER]
    rows: list[dict[str, Any]] = []
    if TRANSFER in protocols:
        _refuse_thresholds(group, at_sensitivity)
        for path, name in datasets:
            rows += transfer(
                encoder, path, name, out, whole=whole, threads=threads, order=classes_order
            )
    for directory, name in datasets if frozen or shots else ():
        benchmark = _benchmark(directory, name, classes_order)
        joined = _group(group, benchmark.task)
        own, few = for_kind(benchmark.task, frozen, shots)
        tried = _tried(benchmark, folds, own, fractions, seeds, few)
        new = _evaluate_tried(encoder, tried, out, cache or out / FOLDER, threads)
        rows += _with_thresholds(out, new, joined, at_sensitivity)
    sys.stdout.write(results.table([with_patients(out, row) for row in rows]))
    return rows


def _benchmark(directory: Path, name: str, classes_order: Sequence[str]) -> Benchmark:
    dataset = Shards(as_shards(directory))
    task = labelled(dataset, name, classes_order)
    if not task.ordered and task.kind == "class":
        logger.warning("%s: %s", directory, no_order(task.classes))
    return Benchmark(dataset, task, division_of(dataset, task))


def _tried(
    benchmark: Benchmark,
    folds: int,
    protocols: Sequence[str],
    fractions: Sequence[float],
    seeds: int,
    shots: Sequence[int],
) -> list[tuple[Benchmark, list[Evaluation]]]:
    """Return the evaluations of the split, or of each fold."""
    return [
        (one, list(evaluations_of(one.division, protocols, fractions, seeds, shots)))
        for one in _folds_of(benchmark, folds)
    ]


def _folds_of(benchmark: Benchmark, folds: int) -> list[Benchmark]:
    """Return the benchmark with each fold's division, or as it is where there are no folds."""
    if not folds:
        return [benchmark]
    task = benchmark.task
    logger.info("%s: %s", benchmark.dataset.directory, folds_line(task, folds))
    return [benchmark._replace(division=Division(p, {})) for p in folds_of(task, folds)]


def _refuse_thresholds(group: str, at_sensitivity: float) -> None:
    if group or at_sensitivity:
        raise ValueError(
            "--group and --at_sensitivity have no threshold of validation images in the protocol "
            "transfer; leave them out, or name other --protocols"
        )


def _with_thresholds(
    out: Path, rows: Sequence[dict[str, Any]], group: ClassGroup | None, at_sensitivity: float
) -> list[dict[str, Any]]:
    """Return the rows, those of the classes that are joined, and of both the sensitivity."""
    every: list[dict[str, Any]] = []
    for predictions in dict.fromkeys(row["predictions"] for row in rows):
        own = [row for row in rows if row["predictions"] == predictions]
        for task in (own, group_rows(out, own[0], group) if group else []):
            points = threshold_rows(out, task[0], at_sensitivity) if task else []
            results.write_rows(out, points)
            every += [*task, *points]
    return every


def usual_protocols(encoder: FrozenEncoder) -> tuple[str, ...]:
    """Return the protocols of a command that names none: a fine-tuned network is tested itself."""
    return (TRANSFER,) if encoder.header.get("classes") else USUAL_PROTOCOLS


def _with_folds(protocols: Sequence[str], folds: int) -> list[str]:
    """Return the protocols that train, for cross-validation; the others are left out and named."""
    if not folds:
        return list(protocols)
    own = [name for name in protocols if name not in (ZERO_SHOT, TRANSFER)]
    if others := [name for name in protocols if name not in own]:
        logger.warning("%s: trains nothing, left out of %d folds", ", ".join(others), folds)
    if not own:
        raise ValueError(f"folds {folds}: {', '.join(others)} trains nothing; leave --folds out")
    return own


def _possible(encoder: FrozenEncoder, protocols: Sequence[str], shots: Sequence[int]) -> list[str]:
    if TRANSFER in protocols and not encoder.header.get("classes"):
        raise ValueError(
            f"{encoder.weights}: no fine-tuned network, so no transfer; name a fine-tuned run, or "
            f"use --protocols=logistic,knn"
        )
    if ZERO_SHOT not in protocols or encoder.reads_text:
        return list(protocols)
    if len(protocols) == 1 and not shots:
        raise ValueError(
            f"{encoder.weights}: no text tower, so no zero-shot; use --protocols=logistic,knn"
        )
    logger.warning("%s: no text tower; zero-shot is left out", encoder.weights)
    return [name for name in protocols if name != ZERO_SHOT]


def for_kind(
    task: Task, protocols: Sequence[str], shots: Sequence[int]
) -> tuple[list[str], Sequence[int]]:
    """Return the protocols and shots that a kind of task has; what is left out is said.

    Logistic regression becomes ridge regression where the task is a number, and the reverse.
    """
    replaced = {LOGISTIC: RIDGE} if task.kind == "number" else {RIDGE: LOGISTIC}
    own = list(dict.fromkeys(replaced.get(name, name) for name in protocols))
    if task.kind != "number":
        return own, shots
    left_out = [name for name in own if name not in (RIDGE, "knn")]
    left_out += [f"{number}{SHOTS}" for number in shots]
    own = [name for name in own if name in (RIDGE, "knn")]
    if not own:
        raise ValueError(
            f"{task.name} is a number: {', '.join(left_out)} tell classes apart; use "
            f"--protocols=ridge,knn, or --fractions in place of --shots"
        )
    if left_out:
        logger.warning("%s is a number: %s left out", task.name, ", ".join(left_out))
    return own, ()


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


def _group(group: str, task: Task) -> ClassGroup | None:
    return group_of(group, task.classes, task.kind) if group else None


def _evaluate_tried(
    encoder: FrozenEncoder,
    tried: Sequence[tuple[Benchmark, Sequence[Evaluation]]],
    out: Path,
    cache: Path,
    threads: int,
) -> list[dict[str, Any]]:
    """Return the rows of one split, or pooled over the folds."""
    if len(tried) > 1:
        return _evaluate_folds(encoder, tried, out, cache, threads)
    return _evaluate_all(encoder, *tried[0], out, cache, threads)


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
    metrics = metrics_of(benchmark.task.kind)
    missing = {
        k: e for k, e in by_inputs.items() if not _is_complete(out, stored.get(k, ()), metrics)
    }
    if missing:
        table = _features(encoder, benchmark, list(missing.values()), out, cache, threads)
    rows: list[dict[str, Any]] = []
    for number, (inputs, evaluation) in enumerate(by_inputs.items(), 1):
        if inputs not in missing:
            own = [row for row in stored[inputs] if row["metric"] not in OPERATING]
            rows += _with_seen(encoder, benchmark, own, out)
            continue
        predictions, validation, knob = _predict(encoder, benchmark, evaluation, table)
        new = results.save_and_score(
            identity_of(encoder, benchmark, evaluation), benchmark.task.classes, predictions, out,
            method=encoder.name, shards=benchmark.dataset.directory,
            variant=f"{encoder.info.preparation.image_size}px" if encoder.resized else "",
            validation=validation,
        )  # fmt: skip
        facts = {"chosen": knob, "inputs": inputs} | _images_seen(encoder)
        facts |= _seen(encoder, benchmark, predictions.keys)
        new = [row | facts for row in new]
        results.write_rows(out, new)
        rows += new
        logger.info(
            "%s %d/%d: %s, %.3g %% of the labels, seed %d: %s", benchmark.dataset.name, number,
            len(evaluations), evaluation.protocol, 100 * evaluation.fraction, evaluation.seed,
            knob or "-",
        )  # fmt: skip
    return rows


def _evaluate_folds(
    encoder: FrozenEncoder,
    tried: Sequence[tuple[Benchmark, Sequence[Evaluation]]],
    out: Path,
    cache: Path,
    threads: int,
) -> list[dict[str, Any]]:
    """Return the rows of pooled predictions: each image by the fold that tests it.

    Args:
        tried: of each fold its division, and the evaluations, the same of all.
    """
    first = tried[0][0]
    features_key, metrics = encoder.cache_key(first.dataset), metrics_of(first.task.kind)
    stored: dict[str, list[dict[str, Any]]] = {}
    for row in results.read_rows(out):
        stored.setdefault(row.get("inputs", ""), []).append(row)
    rows: list[dict[str, Any]] = []
    table: Features | None = None
    for evaluations in zip(*(own for _, own in tried), strict=True):
        parts = [(bench, one) for (bench, _), one in zip(tried, evaluations, strict=True)]
        hashes = [inputs_of(features_key, encoder, bench, one) for bench, one in parts]
        inputs = hashlib.sha256(json.dumps(hashes).encode()).hexdigest()
        there = stored.get(inputs, ())
        of_now = all("fold_images" in row for row in there)  # not before 2026-11-29
        if of_now and _is_complete(out, there, metrics, ("predictions",)):
            rows += there
            continue
        if table is None:
            table = _features(encoder, first, tried[0][1], out, cache, threads)
        found = [_predict(encoder, bench, one, table) for bench, one in parts]
        tests = [test for test, _, _ in found]
        every = pooled(tests)
        identity = identity_of(encoder, first, evaluations[0])
        identity["protocol"] = folds_protocol(identity["protocol"], len(tried))
        new = results.save_and_score(
            identity, first.task.classes, every, out, method=encoder.name,
            shards=first.dataset.directory,
            variant=f"{encoder.info.preparation.image_size}px" if encoder.resized else "",
        )  # fmt: skip
        facts = {"chosen": "; ".join(knob for _, _, knob in found), "inputs": inputs}
        facts |= _images_seen(encoder) | {"folds": len(tried)}
        facts |= seen_fields(
            encoder.images, first.dataset,
            [sample for bench, _ in parts for sample in bench.division.parts["test"]], every.keys,
        )  # fmt: skip
        new = [with_spread(row | facts, tests, first.task.classes) for row in new]
        results.write_rows(out, new)
        rows += new
    return rows


def _images_seen(encoder: FrozenEncoder) -> dict[str, Any]:
    """Return the fields of a row that say how the images were shown to the encoder."""
    preparation = encoder.info.preparation
    facts: dict[str, Any] = {"image_size": preparation.image_size, "colours": preparation.colours}
    return facts | ({"resized": True} if encoder.resized else {})


def _seen(encoder: FrozenEncoder, benchmark: Benchmark, keys: list[str]) -> dict[str, Any]:
    test = benchmark.division.parts["test"]
    return seen_fields(encoder.images, benchmark.dataset, test, keys)


def _with_seen(
    encoder: FrozenEncoder, benchmark: Benchmark, rows: list[dict[str, Any]], out: Path
) -> list[dict[str, Any]]:
    """Return stored rows; those that do not say how many test images were seen say it now."""
    if all(isinstance(row.get("seen_images"), int) for row in rows):
        return rows
    seen = _seen(encoder, benchmark, results.predictions_of(out, rows[0])[0].keys)
    new = [row | seen for row in rows]
    if new != rows:
        results.write_rows(out, new)
    return new


def _is_complete(
    out: Path,
    rows: Sequence[dict[str, Any]],
    metrics: Sequence[str],
    names: Sequence[str] = ("predictions", "validation"),
) -> bool:
    """Return whether every metric of an evaluation is stored, and its predictions.

    Those of the validation split, too, which older versions did not keep.
    """
    tables = [out / str(row.get(name)) for row in rows for name in names]
    files = tables + [table.with_suffix(".units.csv") for table in tables]
    return {row["metric"] for row in rows} >= set(metrics) and all(file.is_file() for file in files)


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
    train = {sample.index: sample for e in evaluations for sample in e.train}
    samples = [*splits["test"], *splits["val"], *train.values()]
    table = features(encoder, benchmark.dataset, samples, cache, threads)
    if encoder.report:
        out.mkdir(parents=True, exist_ok=True)
        (out / LOADED).write_text(json.dumps(encoder.report.facts(), indent=1) + "\n")
    Ledger(out / LOST, benchmark.dataset.name).add([*benchmark.task.lost, *table.lost])
    return table


def _predict(
    encoder: FrozenEncoder, benchmark: Benchmark, evaluation: Evaluation, table: Features
) -> tuple[Predictions, Predictions, str]:
    """Return the predictions for test and validation, and the knob chosen on the latter or ""."""
    splits, task = benchmark.division.parts, benchmark.task
    kind = JOINT if evaluation.protocol == ZERO_SHOT else PATCHES
    samples, test_BD = table.of(splits["test"], kind)
    val_samples, val_BD = table.of(splits["val"], kind)
    if evaluation.protocol == ZERO_SHOT:
        probability_BY, knob = _zero_shot(encoder, benchmark, test_BD), ""
        validation_BY = _zero_shot(encoder, benchmark, val_BD)
        # it trains on no class, and knows all; labels are left out that no words stand for
        untrained = without_words(benchmark)
        thresholds: tuple[float, ...] = ()
        if task.kind == "labels":
            thresholds = chosen_thresholds(task.answers(val_samples), validation_BY, untrained)
    else:
        readable, train_BD = table.of(evaluation.train, PATCHES)
        train, validation = (
            (train_BD, task.answers(readable)), (val_BD, task.answers(val_samples)),
        )  # fmt: skip
        probe = _probe(evaluation, train, validation, test_BD, len(task.classes))
        probability_BY, thresholds = probe.probability_BY, probe.thresholds
        validation_BY = probe.validation_BY
        untrained = task.untrained(evaluation.train)
        metric = metrics_of(task.kind)[0]
        score = results.written(metric, probe.validation_score)
        knob = f"{probe.chosen}, validation {metric.upper()} {score}"
    test, val = (
        Predictions(
            [sample.key for sample in own], [sample.unit for sample in own], task.answers(own),
            found_BY, task.ordered, untrained, task.kind, thresholds,
            tuple(sample.source for sample in own),
        )
        for own, found_BY in ((samples, probability_BY), (val_samples, validation_BY))
    )  # fmt: skip
    return test, val, knob


def _probe(
    evaluation: Evaluation,
    train: probes.Labelled,
    validation: probes.Labelled,
    test_BD: np.ndarray,
    num_classes: int,
) -> probes.Probe:
    if evaluation.protocol == "linear":
        return probes.linear(train, validation, test_BD, num_classes, seed=evaluation.seed)
    if evaluation.protocol == "knn":
        return probes.nearest(train, validation, test_BD, num_classes)
    if evaluation.protocol == RIDGE:
        return probes.ridge(train, validation, test_BD)
    return probes.logistic(train, validation, test_BD, num_classes)


def _zero_shot(encoder: FrozenEncoder, benchmark: Benchmark, image_BD: np.ndarray) -> np.ndarray:
    """Return the probability of each class, or of each label against its absence."""
    image = torch.from_numpy(image_BD)
    embedded_YD = encoder.model.class_embeddings(class_prompts(benchmark))
    if benchmark.task.kind == "class":
        return encoder.model.zero_shot(image, embedded_YD).numpy()
    half = len(embedded_YD) // 2
    pairs = zip(embedded_YD[:half], embedded_YD[half:], strict=True)
    columns = [encoder.model.zero_shot(image, torch.stack(pair))[:, 0] for pair in pairs]
    return torch.stack(columns, dim=1).numpy()


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
        {name: _facts(benchmark.task, samples) for name, samples in splits.items()},
        class_prompts(benchmark) if evaluation.protocol == ZERO_SHOT else None,
    ]
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()


def _facts(task: Task, samples: Sequence[LabelledSample]) -> list[tuple[str, int | str, str]]:
    """Return what the numbers follow from; the hash of a task of classes is as it always was."""
    if task.kind == "class":
        return [(sample.key, sample.label, sample.unit) for sample in samples]
    return [(sample.key, task.text(sample), sample.unit) for sample in samples]


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

    They are of the dataset's category for the class, else of the dictionary's, else of its name. Of
    a task of labels those of each one's absence stand behind them, in the same order.
    """
    keys = _dictionary_keys(benchmark)
    if benchmark.task.kind == "labels":
        keys += [absence(key) for key in keys]
    return [prompts(key) for key in keys]


def _dictionary_keys(benchmark: Benchmark) -> list[str]:
    published = benchmark.dataset.manifest.get("classes", {}).get(benchmark.task.name)
    mapping = published if isinstance(published, dict) else None
    names = categories(benchmark.task.name, benchmark.task.classes, mapping)
    return [name if name in EXPERT else _dictionary_key(name) for name in names]


def without_words(benchmark: Benchmark) -> tuple[int, ...]:
    """Return the labels, such as "other", that the dictionary has no words for; of classes none."""
    if benchmark.task.kind != "labels":
        return ()
    keys = _dictionary_keys(benchmark)
    return tuple(label for label, key in enumerate(keys) if key not in EXPERT)


def absence(category: str) -> str:
    """Return what the dictionary calls the absence of a category, else a normal fundus."""
    if category == NORMAL:
        return "a disease"
    negated = f"no {category}"
    return negated if negated in EXPERT else NORMAL


def _dictionary_key(name: str) -> str:
    """Return the dictionary's key for a class name such as "2_Cataract", else the name itself."""
    words = words_of_class(name)
    return words[0] if len(words) == 1 and words[0] in EXPERT else name
