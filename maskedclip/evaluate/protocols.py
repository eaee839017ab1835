"""What an encoder knows without fine-tuning: which protocols are run on which labels."""

import logging
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from maskedclip.data.folds import folds_line, folds_of
from maskedclip.data.labelled import LabelledSample, Task, labelled
from maskedclip.data.paper_tasks import chosen
from maskedclip.data.readable_parts import refuse_unreadable
from maskedclip.data.splits import Division, division_of, few_shots, training_share
from maskedclip.data.storage.shards import Shards
from maskedclip.engine.cores import decoding_threads
from maskedclip.evaluate.features import FOLDER, FrozenEncoder, known_indices
from maskedclip.evaluate.measuring import evaluate_tried
from maskedclip.evaluate.predicting import (
    ATTENTIVE,
    LINEAR,
    ZERO_SHOT,
    Benchmark,
    Evaluation,
    class_prompts,
)
from maskedclip.evaluate.projector import write_projector
from maskedclip.evaluate.transfer import TRANSFER, TRANSFER_WHOLE, transfer, transfer_test
from maskedclip.finetune.command import USUAL_PROTOCOLS, EvaluateConfig, check_protocols
from maskedclip.finetune.measured_rows import with_patients
from maskedclip.finetune.result_board import write_board
from maskedclip.finetune.threshold_rows import group_rows, threshold_rows
from maskedclip.metrics import results
from maskedclip.metrics.class_groups import ClassGroup, group_of
from maskedclip.metrics.results import no_order
from maskedclip.metrics.scores import protocols_of_kind
from maskedclip.next_step import next_lines, report_command
from maskedclip.shards.dataset_names import refuse_one_name
from maskedclip.shards.image_folders import as_shards

logger = logging.getLogger(__name__)
SHOTS = "-shot"


def run(options: EvaluateConfig, protocols: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Run all evaluations that `options` asks for, print them and what is next; return the rows.

    Args:
        protocols: none where shots alone are asked for; None: those of `options`, or where it has
            none the usual ones of the encoder.
    """
    datasets, missing = chosen(options.datasets, options.task, Path(options.shards))
    for line in missing:
        sys.stderr.write(f"{line}\n")
    refuse_one_name("datasets", [directory for directory, _ in datasets])
    if options.out:
        out = Path(options.out)
    elif Path(options.weights).is_dir():
        out = Path(options.weights)
    else:
        out = Path("runs") / FrozenEncoder(options.weights, options.size).name
    encoder = FrozenEncoder(options.weights, options.size, options.image_size)
    if protocols is None:
        protocols = options.protocols or usual_protocols(encoder)
    rows = evaluate_as_asked(encoder, datasets, protocols, out, options)
    alone = tuple(protocols) == (TRANSFER,) and not options.shots
    protocol = TRANSFER_WHOLE if options.whole else TRANSFER
    command = (
        report_command([out], f"report_{protocol}", protocol) if alone else report_command([out])
    )
    sys.stdout.write(next_lines(command))
    return rows


def evaluate_as_asked(
    encoder: FrozenEncoder,
    datasets: Sequence[tuple[Path, str]],
    protocols: Sequence[str],
    out: Path,
    options: EvaluateConfig,
) -> list[dict[str, Any]]:
    """Evaluate an encoder with the options of the command, but for its weights, data and place."""
    return evaluate(
        encoder, datasets, protocols, out,
        fractions=options.fractions, seeds=options.seeds, seed=options.seed, shots=options.shots,
        threads=options.threads, cache=Path(options.cache) if options.cache else None,
        classes_order=options.classes_order,
        group=options.group, at_sensitivity=options.at_sensitivity,
        whole=options.whole, folds=options.folds, images=options.images,
    )  # fmt: skip


def evaluate(  # noqa: PLR0913 (one keyword an option of the command)
    weights: Path | str | FrozenEncoder,
    datasets: Sequence[tuple[Path, str]],
    protocols: Sequence[str],
    out: Path,
    *,
    fractions: Sequence[float] = (1.0,),
    seeds: int = 1,
    seed: int = 0,
    shots: Sequence[int] = (),
    threads: int | None = None,
    cache: Path | None = None,
    size: str = "large",
    image_size: int = 0,
    classes_order: Sequence[str] = (),
    group: str = "",
    at_sensitivity: float = 0.0,
    whole: bool = False,
    folds: int = 0,
    images: bool = False,
) -> list[dict[str, Any]]:
    """Evaluate frozen weights on the test split of each dataset; return the rows, also in `out`.

    Prints them as a table; all are read before one is measured. Zero-shot is left out, with a
    warning, where weights read no text. Raises ValueError for weights, datasets, tasks, protocols
    or classes that are not there, and for an image size that the patch does not divide.

    Args:
        datasets: (directory, task), the task "" for the first of the dataset.
        seeds: draws of each fraction and number of shots, from `seed`, which undrawn ones have.
        threads: that decode; by the cores of this process where not given.
        cache, size, image_size: as the fields of EvaluateConfig.
        classes_order: the classes as grades, the lowest first, where a dataset does not state it.
        group: classes joined into two, negatives|positives: a task beside the one with all classes.
        at_sensitivity: that thresholds of two classes reach on validation images; 0: Youden's.
        whole: for the protocol transfer: test on all labelled images.
        folds: of cross-validation by patient, in place of the split; zero-shot is left out.
        images: photographs in TensorBoard's projector whatever their licence says.
    """
    check_protocols(protocols)
    threads, kept = decoding_threads(threads), cache or out / FOLDER
    encoder = _frozen(weights, size, image_size)
    protocols = _with_folds(_possible(encoder, protocols, shots), folds)
    frozen = [name for name in protocols if name != TRANSFER]
    tests = []
    for one in datasets if TRANSFER in protocols else ():
        _refuse_thresholds(group, at_sensitivity)
        tests.append(transfer_test(encoder, *one, whole=whole, order=classes_order))
    planned, drawn = [], range(seed, seed + seeds)
    for one in datasets if frozen or shots else ():
        benchmark = _benchmark(*one, classes_order)
        tried = _tried(encoder, benchmark, folds, frozen, fractions, drawn, shots)
        planned.append((benchmark, _group(group, benchmark.task), _readable(encoder, tried, kept)))
    rows = [r for test in tests for r in transfer(encoder, test, out, whole=whole, threads=threads)]
    for benchmark, joined, tried in planned:
        new = evaluate_tried(encoder, tried, out, kept, threads)
        write_projector(encoder, benchmark, out, kept, images=images)
        rows += _with_thresholds(out, new, joined, at_sensitivity)
    write_board(out)
    sys.stdout.write(results.table([with_patients(out, row) for row in rows]))
    return rows


def _frozen(weights: Path | str | FrozenEncoder, size: str, image_size: int) -> FrozenEncoder:
    """Return the encoder of weights, or the one that is given."""
    if not isinstance(weights, FrozenEncoder):
        weights = FrozenEncoder(weights, size, image_size)
    weights.check()
    return weights


def _benchmark(directory: Path, name: str, classes_order: Sequence[str]) -> Benchmark:
    dataset = Shards(as_shards(directory))
    task = labelled(dataset, name, classes_order)
    if not task.ordered and task.kind == "class":
        logger.warning("%s: %s", directory, no_order(task.classes))
    return Benchmark(dataset, task, division_of(dataset, task))


def _tried(
    encoder: FrozenEncoder,
    benchmark: Benchmark,
    folds: int,
    protocols: Sequence[str],
    fractions: Sequence[float],
    seeds: Sequence[int],
    shots: Sequence[int],
) -> list[tuple[Benchmark, list[Evaluation]]]:
    """Return the evaluations of the split, or of each fold, that encoder and task have."""
    own, few = for_kind(benchmark.task, protocols, shots)
    own = _worded(encoder, benchmark, own, few)
    return [
        (one, list(evaluations_of(one.division, own, fractions, seeds, few)))
        for one in _folds_of(benchmark, folds)
    ]


def _readable(
    encoder: FrozenEncoder, tried: list[tuple[Benchmark, list[Evaluation]]], cache: Path
) -> list[tuple[Benchmark, list[Evaluation]]]:
    """Return `tried`; RuntimeError where of a part neither images nor kept features can be read."""
    parts: dict[str, Sequence[LabelledSample]] = {}
    for fold, (benchmark, evaluations) in enumerate(tried, 1):
        of = f" of fold {fold}" if len(tried) > 1 else ""
        whole = benchmark.division.parts
        parts |= {f"{name}{of}": whole[name] for name in ("test", "val")}
        for one in evaluations:
            few = f" ({len(one.train)} labels, seed {one.seed})"
            share = few if len(one.train) < len(whole["train"]) else ""
            parts |= {f"train{of}{share}": one.train} if one.train else {}
    dataset, task = tried[0][0].dataset, tried[0][0].task
    try:
        refuse_unreadable(dataset, task, parts)
    except RuntimeError:
        refuse_unreadable(dataset, task, parts, known_indices(encoder, dataset, cache))
    return tried


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
    """Return the protocols that an encoder can serve; what is left out is said.

    Raises ValueError where that is all of them, or transfer.
    """
    reasons = unserved(encoder, protocols)
    if TRANSFER in reasons or (len(reasons) == len(protocols) and not shots):
        name = TRANSFER if TRANSFER in reasons else next(iter(reasons))
        raise ValueError(
            f"{encoder.weights}: {reasons[name]}, so no {name}; use --protocols=logistic,knn"
        )
    for name, reason in reasons.items():
        logger.warning("%s: %s; %s is left out", encoder.weights, reason, name)
    return [name for name in protocols if name not in reasons]


def unserved(encoder: FrozenEncoder, protocols: Sequence[str]) -> dict[str, str]:
    """Return why an encoder cannot serve some of the protocols."""
    reasons = {}
    if not encoder.reads_text:
        reasons[ZERO_SHOT] = "no text tower"
    if not encoder.has_tokens:
        reasons[ATTENTIVE] = "pooled features of several encoders, no patch tokens"
    if not encoder.header.get("classes"):
        reasons[TRANSFER] = "no fine-tuned network"
    return {name: reasons[name] for name in protocols if name in reasons}


def _worded(
    encoder: FrozenEncoder, benchmark: Benchmark, protocols: list[str], shots: Sequence[int]
) -> list[str]:
    """Return the protocols without zero-shot where the encoder reads another language, said so.

    Raises ValueError where nothing is left.
    """
    if ZERO_SHOT not in protocols:
        return protocols
    try:
        encoder.check_language(class_prompts(benchmark, encoder.prompts))
    except ValueError as error:
        if len(protocols) == 1 and not shots:
            raise ValueError(f"{encoder.weights}: {error}") from None
        logger.warning(
            "%s: %s: %s; zero-shot is left out", encoder.weights, benchmark.dataset.name, error
        )
        return [name for name in protocols if name != ZERO_SHOT]
    return protocols


def for_kind(
    task: Task, protocols: Sequence[str], shots: Sequence[int]
) -> tuple[list[str], Sequence[int]]:
    """Return the protocols and shots that a kind of task has; what is left out is said.

    Logistic regression becomes ridge regression where the task is a number, and the reverse.
    """
    own = protocols_of_kind(task.kind, protocols)
    if task.kind != "number":
        return own, shots
    left_out = [name for name in protocols if not protocols_of_kind(task.kind, [name])]
    left_out += [f"{number}{SHOTS}" for number in shots]
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
    seeds: Sequence[int],
    shots: Sequence[int],
) -> Iterator[Evaluation]:
    """Yield the evaluations; where the seed decides nothing there is one, of the first seed."""
    labels = len(division.parts["train"])
    for protocol in protocols:
        if protocol == ZERO_SHOT:
            yield Evaluation(protocol, 0.0, seeds[0], [])
            continue
        for fraction in fractions:
            # these also start from random weights
            drawn = fraction < 1 or protocol in (LINEAR, ATTENTIVE)
            for seed in seeds if drawn else seeds[:1]:
                share = training_share(division, fraction, seed)
                yield Evaluation(protocol, fraction, seed, share)
    for number in shots:
        for seed in seeds:
            few = few_shots(division, number, seed)
            yield Evaluation(f"{number}{SHOTS}", round(len(few) / labels, 6), seed, few)


def _group(group: str, task: Task) -> ClassGroup | None:
    return group_of(group, task.classes, task.kind) if group else None
