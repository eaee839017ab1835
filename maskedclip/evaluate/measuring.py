"""The evaluations of a benchmark: run what is not stored yet, score it, store its rows."""

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from maskedclip.data.labelled import LabelledSample, Task
from maskedclip.data.lost_samples import Ledger
from maskedclip.engine.whole_file import refuse_unwritable
from maskedclip.evaluate.features import Features, FrozenEncoder, features
from maskedclip.evaluate.predicting import (
    ATTENTIVE,
    ZERO_SHOT,
    Benchmark,
    Evaluation,
    class_prompts,
    predict,
    settings_of,
)
from maskedclip.finetune.run_directory import LOADED, seen_fields
from maskedclip.metrics import results
from maskedclip.metrics.operating_points import OPERATING
from maskedclip.metrics.pooled_folds import folds_protocol, pooled, with_spread
from maskedclip.metrics.prediction_files import Predictions
from maskedclip.metrics.results import row_identity
from maskedclip.metrics.scores import metrics_of

logger = logging.getLogger(__name__)
LOST = "lost_samples_evaluate.jsonl"
_VERSION = 2  # raise it where the same features would give other scores


def evaluate_tried(
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
    stored = _stored(out)
    features_key = encoder.cache_key(benchmark.dataset)
    by_inputs = {inputs_of(features_key, encoder, benchmark, e): e for e in evaluations}
    metrics = metrics_of(benchmark.task.kind)
    missing = {
        k: e
        for k, e in by_inputs.items()
        if not results.is_complete(out, stored.get(k, ()), metrics)
    }
    if missing:
        names = {k: identity_of(encoder, benchmark, e) for k, e in missing.items()}
        _say_replaced(encoder, names, out)
        table = _features(encoder, benchmark, list(missing.values()), out, cache, threads)
    rows: list[dict[str, Any]] = []
    for number, (inputs, evaluation) in enumerate(by_inputs.items(), 1):
        if inputs not in missing:
            own = [row for row in stored[inputs] if row["metric"] not in OPERATING]
            rows += _with_seen(encoder, benchmark, own, out)
            continue
        predictions, validation, knob = predict(encoder, benchmark, evaluation, table)
        identity = identity_of(encoder, benchmark, evaluation)
        new = _scored(encoder, benchmark, identity, predictions, out, validation)
        facts = {"chosen": knob, "inputs": inputs} | encoder.shown()
        facts |= _seen(encoder, benchmark, predictions.keys)
        new = [row | facts for row in new]
        results.write_rows(out, new)
        rows += new
        logger.info(
            "%s %d/%d: %s", benchmark.dataset.name, number, len(evaluations),
            _in_words(evaluation, knob),
        )  # fmt: skip
    return rows


def _say_replaced(
    encoder: FrozenEncoder, identities: Mapping[str, dict[str, Any]], out: Path
) -> None:
    """Warn of rows of the same name that other weights, images or settings gave.

    Args:
        identities: of what is to be measured, by the hash of what decides it.
    """
    old = [
        row
        for row in results.read_rows(out)
        for inputs, one in identities.items()
        if row_identity(row) == row_identity(one | {"metric": row["metric"]} | encoder.shown())
        and row.get("inputs") != inputs
    ]
    if old:
        logger.warning(
            "%s: %d rows of %s on %s are replaced: they are of other weights, images or settings, "
            "or of another version; another --out keeps both",
            out, len(old), encoder.name, old[0]["dataset"],
        )  # fmt: skip


def _in_words(evaluation: Evaluation, knob: str) -> str:
    """Return an evaluation for the log; where no label was used, none is spoken of."""
    words = evaluation.protocol
    if evaluation.fraction:
        words += f", {100 * evaluation.fraction:.3g} % of the labels, seed {evaluation.seed}"
    return f"{words}: {knob}" if knob else words


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
    stored = _stored(out)
    rows: list[dict[str, Any]] = []
    table: Features | None = None
    for evaluations in zip(*(own for _, own in tried), strict=True):
        parts = [(bench, one) for (bench, _), one in zip(tried, evaluations, strict=True)]
        hashes = [inputs_of(features_key, encoder, bench, one) for bench, one in parts]
        inputs = hashlib.sha256(json.dumps(hashes).encode()).hexdigest()
        there = stored.get(inputs, ())
        of_now = all("fold_images" in row for row in there)  # not before 2026-11-29
        if of_now and results.is_complete(out, there, metrics, ("predictions",)):
            rows += there
            continue
        identity = identity_of(encoder, first, evaluations[0])
        identity["protocol"] = folds_protocol(identity["protocol"], len(tried))
        _say_replaced(encoder, {inputs: identity}, out)
        if table is None:
            table = _features(encoder, first, tried[0][1], out, cache, threads)
        found = [predict(encoder, bench, one, table) for bench, one in parts]
        tests = [test for test, _, _ in found]
        every = pooled(tests)
        new = _scored(encoder, first, identity, every, out, None)
        facts = {"chosen": "; ".join(knob for _, _, knob in found), "inputs": inputs}
        facts |= encoder.shown() | {"folds": len(tried)}
        facts |= seen_fields(
            encoder.images, first.dataset,
            [sample for bench, _ in parts for sample in bench.division.parts["test"]], every.keys,
        )  # fmt: skip
        new = [with_spread(row | facts, tests, first.task.classes) for row in new]
        results.write_rows(out, new)
        rows += new
    return rows


def _stored(out: Path) -> dict[str, list[dict[str, Any]]]:
    """Return the rows of `out` by the hash of what decided them."""
    stored: dict[str, list[dict[str, Any]]] = {}
    for row in results.read_rows(out):
        stored.setdefault(row.get("inputs", ""), []).append(row)
    return stored


def _scored(
    encoder: FrozenEncoder,
    benchmark: Benchmark,
    identity: dict[str, Any],
    predictions: Predictions,
    out: Path,
    validation: Predictions | None,
) -> list[dict[str, Any]]:
    """Store the predictions; return their rows."""
    return results.save_and_score(
        identity, benchmark.task.classes, predictions, out, method=encoder.name,
        shards=benchmark.dataset.directory,
        variant=f"{encoder.shown()['image_size']}px" if encoder.resized else "",
        validation=validation,
    )  # fmt: skip


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


def _features(
    encoder: FrozenEncoder,
    benchmark: Benchmark,
    evaluations: Sequence[Evaluation],
    out: Path,
    cache: Path,
    threads: int,
) -> Features:
    """Return the features that the evaluations use; note in `out` which samples were lost."""
    refuse_unwritable("out", out)  # before the features are made
    splits = benchmark.division.parts
    train = {sample.index: sample for e in evaluations for sample in e.train}
    samples = [*splits["test"], *splits["val"], *train.values()]
    attends = any(evaluation.protocol == ATTENTIVE for evaluation in evaluations)
    table = features(encoder, benchmark.dataset, samples, cache, threads, with_tokens=attends)
    if encoder.report:
        out.mkdir(parents=True, exist_ok=True)
        (out / LOADED).write_text(json.dumps(encoder.report.facts(), indent=1) + "\n")
    Ledger(out / LOST, benchmark.dataset.name).add([*benchmark.task.lost, *table.lost])
    return table


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
        settings_of(evaluation.protocol),
        features_key,
        list(identity_of(encoder, benchmark, evaluation).items()),
        [benchmark.task.classes, benchmark.task.ordered],
        {name: _facts(benchmark.task, samples) for name, samples in splits.items()},
        class_prompts(benchmark, encoder.prompts, encoder.template)
        if evaluation.protocol == ZERO_SHOT
        else None,
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
