"""Train on one dataset, test on another: a fine-tuned network as it is, on the classes it knows."""

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor, nn
from tqdm import tqdm

from maskedclip.config import FinetuneConfig
from maskedclip.config import load as load_config
from maskedclip.data.captions import class_categories
from maskedclip.data.labelled import LabelledSample, Task, labelled
from maskedclip.data.labelled_views import LabelledBatch, preparation, prepared_batches
from maskedclip.data.lost_samples import Ledger
from maskedclip.data.readable_parts import refuse_unreadable
from maskedclip.data.splits import division_of
from maskedclip.data.storage.open_dataset import dataset_sha256
from maskedclip.data.storage.shards import Shards
from maskedclip.engine.whole_file import refuse_unwritable
from maskedclip.evaluate.class_mapping import (
    ClassMapping,
    map_classes,
    shifted_grades,
    without_other_diseases,
)
from maskedclip.evaluate.features import FrozenEncoder
from maskedclip.finetune.epoch import predictions_with
from maskedclip.finetune.run_directory import (
    CONFIG_FILE,
    PROTOCOL,
    photographs_of,
    seen_fields,
)
from maskedclip.metrics import results
from maskedclip.metrics.prediction_files import Predictions
from maskedclip.metrics.scores import metrics_of
from maskedclip.models.classifier import TaskHead
from maskedclip.shards.image_folders import as_shards

logger = logging.getLogger(__name__)
TRANSFER, TRANSFER_WHOLE = "transfer", "transfer-whole"  # protocols: the test split; all images
LOST = "lost_samples_transfer.jsonl"
_VERSION = 1  # raise it where the same weights and images would give other scores
_BATCH, _SHOWN = 64, 8


class TransferTest(NamedTuple):
    """What a fine-tuned network is tested on: images of another dataset, in its own classes."""

    dataset: Shards
    task: Task  # its samples are those that are tested, its classes those of the network
    mapping: ClassMapping
    left_out: dict[str, int]  # images (of labels: labels) of classes that the network has not


def transfer_test(
    encoder: FrozenEncoder, directory: Path, task: str, *, whole: bool, order: Sequence[str] = ()
) -> TransferTest:
    """Return what a fine-tuned network is tested on, and say it.

    Args:
        task: "" for the one that the network learnt, else the dataset's first.
        whole: test on all labelled images, not on the test split alone.
        order: the dataset's classes as grades, where it does not state their order.

    Raises ValueError where fewer than two classes are shared, for a task of another kind, and for
    the dataset that the network was trained on; RuntimeError where its images cannot be read.
    """
    header, dataset = encoder.header, Shards(as_shards(directory))
    _check_other(encoder, dataset)
    test = _test_of(encoder, header, dataset, _task(header, dataset, task, order), whole=whole)
    refuse_unreadable(dataset, test.task, {"test": test.task.samples})
    _say(test, header, dataset)
    return test


def transfer(
    encoder: FrozenEncoder, test: TransferTest, out: Path, *, whole: bool, threads: int
) -> list[dict[str, Any]]:
    """Score a fine-tuned network on a dataset that it was not trained on; return the rows.

    They are in `out` too, and are not measured again. Probabilities are those among the classes
    that both have.
    """
    header, dataset = encoder.header, test.dataset
    identity = _identity(encoder, test, whole=whole)
    inputs = _inputs(encoder, test, identity)
    stored = [row for row in results.read_rows(out) if row.get("inputs") == inputs]
    if results.is_complete(out, stored, metrics_of(test.task.kind), ("predictions",)):
        return stored
    refuse_unwritable("out", out)  # before images are read
    predictions = _predictions(encoder, header, test, out, threads)
    own = _own_row(encoder)
    rows = results.save_and_score(
        identity, test.task.classes, predictions, out,
        method=str(own.get("method") or encoder.name), shards=dataset.directory,
        variant=f"{encoder.info.preparation.image_size}px" if encoder.resized else "",
    )  # fmt: skip
    note = _joined(_note(test), framing_note(header, dataset))
    facts: dict[str, Any] = {
        "inputs": inputs,
        "trained_on": str(header.get("dataset", "")),
        **encoder.shown(),
    }
    facts |= {name: own[name] for name in ("recipe", "unlearnt") if name in own}
    facts |= {"renamed": test.mapping.renamed} if test.mapping.renamed else {}
    facts |= {"left_out": test.left_out} if test.left_out else {}
    facts |= seen_fields(encoder.images, dataset, test.task.samples, predictions.keys)
    rows = [row | facts | {"note": _joined(row["note"], note)} for row in rows]
    results.write_rows(out, rows)
    return rows


def _check_other(encoder: FrozenEncoder, dataset: Shards) -> None:
    config = _config(encoder)
    before = Path(config.dataset) if config else None
    if before is None or not before.exists():
        return
    same = before.resolve() == dataset.directory.resolve()
    if same or dataset_sha256(before) == dataset_sha256(dataset.directory):
        raise ValueError(
            f"{dataset.directory}: {encoder.weights} was fine-tuned on it, and its test split is "
            f"in its results by protocol finetune; name another dataset, or --protocols=logistic"
        )


def _config(encoder: FrozenEncoder) -> FinetuneConfig | None:
    path = encoder.file.parent / CONFIG_FILE
    return load_config(path, FinetuneConfig) if path.is_file() else None


def _own_row(encoder: FrozenEncoder) -> dict[str, Any]:
    """Return a row of the run's own test, which says what its method is called."""
    rows = results.read_rows(encoder.file.parent)
    return next((row for row in rows if str(row.get("protocol")).startswith(PROTOCOL)), {})


def _test_of(
    encoder: FrozenEncoder, header: dict[str, Any], dataset: Shards, task: Task, *, whole: bool
) -> TransferTest:
    """Return the test images in the network's classes; ValueError where they do not fit."""
    kind, where = header.get("kind", "class"), f"{dataset.directory}: task {task.name}"
    if task.kind != kind:
        raise ValueError(f"{where} is of kind {task.kind}, and {encoder.weights} learnt a {kind}")
    samples = task.samples if whole else _test_samples(dataset, task)
    if kind == "number":
        kept = task._replace(samples=samples)
        return TransferTest(dataset, kept, ClassMapping({}, (), ()), {})
    learnt = list(header["classes"])
    if shifted_grades(learnt, task.classes):
        raise ValueError(
            f"{where} has the grades {_listed(task.classes)}, and {encoder.weights} learnt "
            f"{_listed(learnt)}: as many, from another number, so that equal numbers may be other "
            f"grades; build the dataset with the numbers that were learnt"
        )
    mapping = map_classes(learnt, task.classes, *_meanings(header, dataset, task))
    own_task = str(header.get("task") or "")
    mapping, on_trust = without_other_diseases(mapping, own_task, task.name)
    least = 2 if kind == "class" else 1
    if len(mapping.pairs) < least:
        raise ValueError(
            f"{where} has the classes {_listed(task.classes)}, and {encoder.weights} learnt "
            f"{_listed(learnt)}: {len(mapping.pairs)} of them are the same, {least} are needed; "
            f"name another --task, or build the dataset with those names"
        )
    if on_trust:
        logger.warning(
            "%s: %s learnt %s; that it means the same by %s is taken on trust", where,
            encoder.weights, own_task, _listed(on_trust),
        )  # fmt: skip
    return _in_our_classes(dataset, task, samples, mapping)


def _task(header: dict[str, Any], dataset: Shards, name: str, classes_order: Sequence[str]) -> Task:
    """Return the task that is named, else the one that the network learnt, else the first."""
    if not name:
        try:
            return labelled(dataset, str(header.get("task") or ""), classes_order)
        except ValueError:
            pass
    task = labelled(dataset, name, classes_order)
    if task.name != header.get("task"):
        logger.info(
            "%s: task %s is scored by a network that learnt %s", dataset.directory, task.name,
            header.get("task"),
        )  # fmt: skip
    return task


def _test_samples(dataset: Shards, task: Task) -> list[LabelledSample]:
    try:
        samples = division_of(dataset, task).parts["test"]
    except ValueError as error:
        raise ValueError(f"{error}; --whole tests on all its labelled images") from None
    if not any(sample.split == "test" for sample in task.samples):
        logger.warning(
            "%s publishes no test split: tested on the %d of its %d labelled images that its split "
            "file or the rule parts off; --whole takes all", dataset.directory, len(samples),
            len(task.samples),
        )  # fmt: skip
    return samples


def _meanings(header: dict[str, Any], dataset: Shards, task: Task) -> tuple[list[str], list[str]]:
    """Return what the classes of both sides are called in captions."""
    published = dataset.manifest.get("classes", {}).get(task.name)
    theirs = class_categories(task.name, task.classes, published)
    ours = header.get("meanings") or class_categories(str(header.get("task")), header["classes"])
    return list(ours), theirs


def _in_our_classes(
    dataset: Shards, task: Task, samples: Sequence[LabelledSample], mapping: ClassMapping
) -> TransferTest:
    """Return the samples that the mapping covers, their labels counted in the network's classes."""
    classes = tuple(mapping.pairs.values())
    new = {
        task.classes.index(theirs): classes.index(ours) for theirs, ours in mapping.pairs.items()
    }
    lost: Counter[str] = Counter()
    kept = []
    for sample in samples:
        own = task.labels_of(sample)
        lost.update(task.classes[label] for label in own if label not in new)
        if task.kind == "labels":
            kept.append(replace(sample, labels=tuple(sorted(new[y] for y in own if y in new))))
        elif sample.label in new:
            kept.append(replace(sample, label=new[sample.label]))
    order = [task.classes.index(theirs) for theirs in mapping.pairs]
    ordered = len(classes) < 3 or (task.ordered and order in (sorted(order), sorted(order)[::-1]))
    own_task = Task(task.name, classes, kept, task.lost, ordered, task.kind)
    return TransferTest(dataset, own_task, mapping, dict(sorted(lost.items())))


def _say(test: TransferTest, header: dict[str, Any], dataset: Shards) -> None:
    """Say once what is tested, which classes are which, and what is left out."""
    logger.info(
        "%s: %d images, by a network that was fine-tuned on %s", dataset.name,
        len(test.task.samples), header.get("dataset") or "an unknown dataset",
    )  # fmt: skip
    for theirs, ours in test.mapping.renamed.items():
        logger.info("%s: class %r is taken for %r", dataset.name, theirs, ours)
    if note := _note(test):
        logger.warning("%s: %s", dataset.name, note)
    if line := framing_note(header, dataset):
        logger.warning("%s: %s", dataset.name, line)


def framing_note(header: Mapping[str, Any], dataset: Shards) -> str:
    """Return how images are cut otherwise than those of training, "" where they are not.

    Also where the weights, from before it was kept, do not say how those were.
    """
    if "photographs" not in header:
        return ""
    here = _framing(photographs_of(dataset.manifest))
    trained = _framing(header["photographs"])
    return f"its images are {here}, those of training {trained}" if here != trained else ""


def _framing(photographs: Mapping[str, int] | None) -> str:
    if photographs is None:
        return "as others made them, cut or not"
    return "whole" if photographs.get("whole") else "cut to the field of view"


def _note(test: TransferTest) -> str:
    """Return what has no counterpart, in words."""
    what = "labels" if test.task.kind == "labels" else "images"
    parts = []
    if test.mapping.theirs:
        counts = ", ".join(
            f"{name} ({test.left_out.get(name, 0)} {what})" for name in test.mapping.theirs
        )
        parts.append(f"not learnt and left out: {counts}")
    if test.mapping.ours:
        parts.append(f"learnt, and no class of this dataset: {', '.join(test.mapping.ours)}")
    return "; ".join(parts)


def _joined(first: str, second: str) -> str:
    return "; ".join(text for text in (first, second) if text)


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def _identity(encoder: FrozenEncoder, test: TransferTest, *, whole: bool) -> dict[str, Any]:
    config = _config(encoder)
    return {
        "run": encoder.name,
        "dataset": test.dataset.name,
        "task": test.task.name,
        "protocol": TRANSFER_WHOLE if whole else TRANSFER,
        "fraction": config.fraction if config else 1.0,
        "seed": config.seed if config else 0,
    }


def _inputs(encoder: FrozenEncoder, test: TransferTest, identity: dict[str, Any]) -> str:
    """Return the hash of all that decides the numbers."""
    inputs = [
        _VERSION,
        encoder.cache_key(test.dataset),
        list(identity.items()),
        [test.mapping.pairs, test.task.classes, test.task.ordered],
        [(s.key, s.label, s.labels, s.value, s.unit) for s in test.task.samples],
    ]
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()


class _SharedClasses(nn.Module):
    """A network of which the outputs for some classes alone are asked."""

    def __init__(self, network: nn.Module, columns: Sequence[int]) -> None:
        super().__init__()
        self.network, self.columns = network, list(columns)

    def forward(self, image_BCHW: Tensor) -> Tensor:
        logit_BY: Tensor = self.network(image_BCHW)
        return logit_BY[:, self.columns]


def _predictions(
    encoder: FrozenEncoder, header: dict[str, Any], test: TransferTest, out: Path, threads: int
) -> Predictions:
    learnt, classes = list(header["classes"]), test.task.classes
    number = test.task.kind == "number"
    columns = [0] if number else [learnt.index(name) for name in classes]
    ledger = Ledger(out / LOST, test.dataset.name)
    ledger.add(test.task.lost)
    found = predictions_with(
        _SharedClasses(encoder.model.network, columns), _batches(encoder, test, threads),
        test.task, TaskHead.of(header), ledger,
    )  # fmt: skip
    never = _own_row(encoder).get("untrained") or ()
    thresholds: tuple[float, ...] = ()
    if test.task.kind == "labels" and header.get("thresholds"):
        thresholds = tuple(header["thresholds"][column] for column in columns)
    return found._replace(
        ordered=test.task.ordered,
        untrained=tuple(y for y, name in enumerate(classes) if name in never),
        thresholds=thresholds,
    )


def _batches(encoder: FrozenEncoder, test: TransferTest, threads: int) -> Iterator[LabelledBatch]:
    prepare = preparation(**encoder.info.preparation._asdict())
    samples = test.task.samples
    with tqdm(total=len(samples), desc=f"test on {test.dataset.name}", unit=" images") as bar:
        for views in prepared_batches(
            test.dataset, samples, prepare=prepare, batch=_BATCH, threads=threads
        ):
            yield views
            bar.update(len(views.samples) + len(views.lost))
