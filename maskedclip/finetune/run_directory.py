"""A fine-tuning as files: the labels that it reads, its directory, and its results."""

import json
import logging
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, fields, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from torch import nn

from maskedclip.config import FinetuneConfig, load, save
from maskedclip.data.captions import class_categories
from maskedclip.data.labelled import LabelledSample, Task, labelled
from maskedclip.data.pretraining_images import PretrainingImages, write_images
from maskedclip.data.splits import division_of, split_file, training_share
from maskedclip.data.storage.open_dataset import dataset_sha256
from maskedclip.data.storage.shards import Shards
from maskedclip.engine.event_files import event_files
from maskedclip.engine.provenance import attempts_in, check_data, provenance, record
from maskedclip.engine.run_lease import is_later_restart
from maskedclip.engine.whole_file import write_whole
from maskedclip.finetune.recipes import paper
from maskedclip.finetune.threshold_rows import threshold_rows
from maskedclip.metrics import results
from maskedclip.metrics.file_lock import locked
from maskedclip.metrics.prediction_files import Predictions
from maskedclip.metrics.result_record import damaged, read_record, write_record
from maskedclip.metrics.scores import metrics_of
from maskedclip.models.checkpoints.architectures import Architecture, check_image_size
from maskedclip.models.checkpoints.files import (
    FINETUNED,
    RANDOM,
    locate,
    name_of,
    read_checkpoint,
    weights_sha256,
)
from maskedclip.models.checkpoints.formats import Preparation
from maskedclip.models.checkpoints.verified import is_intact
from maskedclip.models.classifier import TaskHead, write_classifier
from maskedclip.models.pretrained import (
    EncoderInfo,
    LoadReport,
    encoder_info,
    random_info,
    recognise,
)
from maskedclip.pretrain.about_run import show_about
from maskedclip.pretrain.trained_images import images_behind, trained_dataset
from maskedclip.shards.image_folders import as_shards

logger = logging.getLogger(__name__)
LOADED = "loaded.json"  # the tensors of the weights: matched, missing, unexpected
LOST, CONFIG_FILE, STATES = "lost_samples.jsonl", "config.json", "checkpoints"
PROVENANCE, LOCK = "provenance.json", ".lock"
FOLDS_FILE = "folds.json"  # of a directory whose runs are folds
PROTOCOL = "finetune"
# fields with no effect on what is learnt; those that name files
_FREE = ("out", "threads", "compile", "dataset", "hang_minutes", "i_trust_this_directory")
_FILES = ("weights", "split")


class Labels(NamedTuple):
    """The labelled samples of train (the fraction asked for), val and test."""

    dataset: Shards
    task: Task
    parts: dict[str, list[LabelledSample]]

    @property
    def untrained(self) -> tuple[int, ...]:
        """Classes of which no image trains: what is predicted for them has no meaning."""
        return self.task.untrained(self.parts["train"])

    @property
    def head(self) -> TaskHead:
        """What the network's outputs mean; numbers are standardised by the training split."""
        if self.task.kind != "number":
            return TaskHead(self.task.kind)
        value_B = self.task.answers(self.parts["train"])
        return TaskHead("number", float(value_B.mean()), float(value_B.std()) or 1.0)


def read_labels(config: FinetuneConfig) -> Labels:
    """Return the dataset's labelled samples, `fraction` of the training ones.

    A folder of images is made into shards first, where that is not yet done.
    """
    dataset = Shards(as_shards(Path(config.dataset)))
    task = labelled(dataset, config.task, config.classes_order)
    division = division_of(dataset, task, Path(config.split) if config.split else None)
    share = training_share(division, config.fraction, config.seed)
    check_kind(config, task)
    return Labels(dataset, task, division.parts | {"train": share})


def check_kind(config: FinetuneConfig, task: Task) -> None:
    """Raise ValueError where the balance, or what selects an epoch, has no meaning for the task."""
    if config.balance != "none" and task.kind != "class":
        raise ValueError(
            f"balance {config.balance}: {task.name} has not one class an image; use --balance=none"
        )
    if config.selection == "retfound" and task.kind != "class":
        raise ValueError(
            f"{config.dataset}: selection retfound is of classes, and {task.name} is of kind "
            f"{task.kind}; use --selection=auroc (of numbers it is the mean absolute error)"
        )


def resolved(config: FinetuneConfig, labels: Labels, *, to_come: bool = False) -> FinetuneConfig:
    """Return the configuration with its task, name, image size and shards filled in.

    Args:
        to_come: whether the weights are not there yet; the image size has to be given then.
    """
    if to_come and not config.image_size:
        raise ValueError(f"{config.weights}: not there yet; give --image_size")
    size = config.image_size if to_come else preparation_of(config).image_size
    config = replace(config, task=labels.task.name, image_size=size)
    name = config.name or run_name(config)
    return replace(config, name=name, dataset=str(labels.dataset.directory))


def preparation_of(config: FinetuneConfig) -> Preparation:
    """Return the preprocessing that the weights expect, at the configured image size.

    Raises ValueError, before anything is read or queued, where the patch does not divide it.
    """
    info = encoder_info_of(config)
    size = config.image_size or info.preparation.image_size
    check_image_size(size, info.architecture)
    return info.preparation._replace(image_size=size)


def architecture_of(config: FinetuneConfig) -> Architecture:
    """Return the shape of the encoder that is fine-tuned."""
    return encoder_info_of(config).architecture


def encoder_info_of(config: FinetuneConfig) -> EncoderInfo:
    """Return what is known of the encoder that is fine-tuned."""
    if config.weights == RANDOM:
        return random_info(config.size)
    file = locate(config.weights, or_random=True)
    facts = file.stat()
    return _recognised(config.weights, file.resolve(), facts.st_mtime_ns, facts.st_size)


@lru_cache(maxsize=64)  # the cells of a study share their weights
def _recognised(weights: str, _file: Path, _changed: int, _size: int) -> EncoderInfo:
    return recognise(read_checkpoint(weights)).info


def run_name(config: FinetuneConfig) -> str:
    """Return a run's name, made of what usually differs between fine-tunings."""
    dataset = Path(config.dataset).resolve().name
    labels, seed = f"{config.fraction:g}", f"seed{config.seed}"
    recipe = "" if config.recipe == paper().recipe else config.recipe
    balance = "" if config.balance == "none" else config.balance
    trained = "" if config.encoder in ("trained", config.recipe) else config.encoder
    return results.file_name(
        encoder_name(config), dataset, config.task, labels, seed, recipe, trained, balance
    )


def encoder_name(config: FinetuneConfig) -> str:
    """Return the name of a run's encoder in tables: its weights, or random and the size."""
    random = config.weights == RANDOM
    return name_of(f"{RANDOM}_{config.size}" if random else config.weights)


@contextmanager
def lock_run(run: Path) -> Iterator[None]:
    """Lock a run's directory, made if missing; RuntimeError where another process has it.

    Not where that is an earlier start of this very job, on a node that SLURM has lost: it gives way
    by the lease. On a file system without locks there is a warning instead.
    """
    with ExitStack() as stack:
        try:
            stack.enter_context(
                locked(run / LOCK, wait=False, without="do not run it twice at a time")
            )
        except BlockingIOError:
            if not is_later_restart(run):
                raise RuntimeError(
                    f"{run}: another process is fine-tuning there; wait for it, or use another "
                    f"--name"
                ) from None
            logger.warning(
                "%s: an earlier start of this job still has its lock, not its lease", run
            )
        yield


def finished(config: FinetuneConfig, run: Path) -> bool:
    """Return whether the run has its results; ValueError where the directory is another run's.

    Another run has another configuration, or other weights, data or split; files that were moved
    are the same.
    """
    path = run / CONFIG_FILE
    if (run / FOLDS_FILE).exists():
        raise ValueError(f"{run} holds the folds of a cross-validation; choose another --name")
    if not path.exists():
        return False
    try:
        before = load(path, FinetuneConfig)
    except ValueError as error:
        raise ValueError(f"{run} holds another kind of run ({error}); use --name") from error
    attempts = attempts_in(run / PROVENANCE) or [{}]
    recorded, current = attempts[-1], identities(config)
    # files are compared by their content, where that was recorded
    free = [*_FREE, *(_FILES if current.keys() <= recorded.keys() else ())]
    pairs = ((f.name, getattr(before, f.name), getattr(config, f.name)) for f in fields(config))
    changed = [f"{name} {old!r}, now {new!r}" for name, old, new in pairs if old != new]
    if changed := [line for line in changed if line.partition(" ")[0] not in free]:
        raise ValueError(
            f"{run} holds a fine-tuning with {'; '.join(changed)}; choose another --name or --out"
        )
    check_data(run / PROVENANCE, [Path(config.dataset)], dataset_sha256)
    for name, sha256 in current.items():
        if recorded.get(name, sha256) != sha256:
            raise ValueError(
                f"{run} holds a fine-tuning with other {name.removesuffix('_sha256')} (sha256 "
                f"{str(recorded[name])[:12]}, now {str(sha256)[:12]}); choose another --name or "
                f"--out"
            )
    rows = results.read_rows(run)
    kind = str(rows[0].get("kind") or "class") if rows else "class"
    if not {row["metric"] for row in rows} >= set(metrics_of(kind)):
        return False
    if wrong := damaged_results(run):
        logger.warning("%s: damaged: %s; it is run again", run, ", ".join(wrong))
    return not wrong


def learnt(config: FinetuneConfig) -> dict[str, Any]:
    """Return the fields that decide what a fine-tuning learns, but for the files that it reads."""
    return {k: v for k, v in asdict(config).items() if k not in (*_FREE, *_FILES)}


def damaged_results(run: Path) -> list[str]:
    """Return the files of a fine-tuning that are not what their sha256 says.

    Weights that are not there count for nothing: many are removed when they are scored.
    """
    record = read_record(run)
    wrong = [] if record is None else damaged(run, record)
    weights = run / FINETUNED
    return wrong + ([FINETUNED] if weights.is_file() and is_intact(weights) is False else [])


def check_classes(config: FinetuneConfig, run: Path, labels: Labels) -> None:
    """Raise ValueError where the states of a run are of other classes, or of another order.

    The columns of the head would be read as other classes. Runs of before this was recorded had
    the classes of the manifest where it names all, else in the order of text or of numbers.
    """
    if not any((run / STATES).glob("*")) or labels.task.kind == "number":
        return
    recorded = (attempts_in(run / PROVENANCE) or [{}])[-1].get("classes")
    classes = list(labels.task.classes)
    if recorded is None and labels.task.kind == "class":
        named = labels.dataset.manifest.get("classes", {}).get(labels.task.name, ())
        recorded = [name for name in named if name in classes]
        if len(recorded) < len(classes):
            recorded = sorted(classes)
            with suppress(ValueError):  # numbers were in their order
                recorded.sort(key=float)
    if recorded is not None and recorded != classes:
        raise ValueError(
            f"{run}: begun with the classes {', '.join(recorded)}, and {config.dataset} has "
            f"{', '.join(classes)}; choose another --name"
        )


def claim(
    config: FinetuneConfig, run: Path, report: LoadReport, classes: Sequence[str], *, resumed: bool
) -> None:
    """Write the configuration and provenance; without a state to resume, remove old files first."""
    if not resumed:
        for name in (LOST, "metrics.jsonl", FINETUNED):
            (run / name).unlink(missing_ok=True)
        for path in event_files(run):
            path.unlink()
        for name in ("predictions", "tensorboard", STATES):  # tensorboard: until 2026-11-29
            shutil.rmtree(run / name, ignore_errors=True)
    save(config, run / CONFIG_FILE)
    write_whole(run / LOADED, json.dumps(report.facts(), indent=1) + "\n")
    facts = provenance([Path(config.dataset)], config.seed, 1, dataset_sha256)
    record(facts | identities(config) | {"classes": list(classes)}, run / PROVENANCE)
    show_about(run, {config.dataset: "labels"})


def identities(config: FinetuneConfig) -> dict[str, str | None]:
    """Return the hashes of the weights, None for random ones, and of the split, None by rule."""
    own = split_file(Path(config.dataset), config.task)
    split = Path(config.split) if config.split else own
    return {
        "weights_sha256": None if config.weights == RANDOM else _sha256(locate(config.weights)),
        "split_sha256": _sha256(split) if split.is_file() else None,
    }


def _sha256(path: Path) -> str:
    facts = path.stat()
    return _digest(path.resolve(), facts.st_mtime_ns, facts.st_size)


@lru_cache(maxsize=64)  # the cells of a study share their weights
def _digest(path: Path, _changed: int, _size: int) -> str:
    return weights_sha256(path)


def write_results(
    config: FinetuneConfig,
    run: Path,
    labels: Labels,
    model: nn.Module,
    predictions: Predictions,
    validation: Predictions,
    protocol: str = PROTOCOL,
    unlearnt: str = "",
) -> None:
    """Write weights, predictions, and last the rows, which mark the run as finished.

    Args:
        predictions: of the test split; `validation` of the other, on which thresholds are chosen.
        protocol: of the rows, of a fold its own.
        unlearnt: where nothing was learnt, the words for it that stand beside all its scores.
    """
    task, name = labels.task, labels.dataset.name
    predictions = predictions._replace(ordered=task.ordered, untrained=labels.untrained)
    header: dict[str, Any] = {
        "task": task.name,
        "dataset": name,
        "photographs": photographs_of(labels.dataset.manifest),
        **labels.head.facts,
    }
    published = labels.dataset.manifest.get("classes", {}).get(task.name)
    named = class_categories(task.name, task.classes, published)
    if named != list(task.classes):
        header["meanings"] = named  # what tells a class from that of another dataset's same name
    if task.kind == "labels":
        header["thresholds"] = list(predictions.thresholds)
    before = images_behind(config.weights, encoder_info(model))
    index_N = np.array([s.index for part in ("train", "val") for s in labels.parts[part]], np.int64)
    own = trained_dataset(labels.dataset, index_N, "finetune", f"{name} (fine-tuning)")
    images = before + PretrainingImages((own,))
    write_images(run, images)
    write_classifier(model, run / FINETUNED, task.classes, header, images.facts())
    is_intact(run / FINETUNED)  # read once here, where it is cached, and not by every status
    identity = {
        "run": config.name,
        "dataset": name,
        "task": task.name,
        "protocol": protocol,
        "fraction": config.fraction,
        "seed": config.seed,
    }
    rows = results.save_and_score(
        identity, task.classes, predictions, run, method=encoder_name(config),
        shards=labels.dataset.directory, validation=validation,
    )  # fmt: skip
    facts = _made(config, model) | ({"unlearnt": unlearnt} if unlearnt else {})
    facts |= seen_fields(before, labels.dataset, labels.parts["test"], predictions.keys)
    rows = [row | facts for row in rows]
    write_record(run, rows)  # not of the thresholds, which people choose again
    results.write_rows(run, [*threshold_rows(run, rows[0]), *rows])


def _made(config: FinetuneConfig, model: nn.Module) -> dict[str, Any]:
    """Return the fields of a row that say how its network was trained, and what it is shown."""
    shown = encoder_info(model).preparation
    return {
        "recipe": config.recipe,
        **({} if config.balance == "none" else {"balance": config.balance}),
        **({} if config.encoder == "trained" else {"encoder": config.encoder}),
        "image_size": shown.image_size,
        "colours": shown.colours,
    }


def photographs_of(manifest: Mapping[str, Any]) -> dict[str, int] | None:
    """Return the size and JPEG quality that make_shards brought photographs to, uncropped: None.

    With `whole` of images that were not cut to a round field of view.

    None is of datasets that others made: their images are what they are.
    """
    settings = manifest.get("settings", {})
    if not {"size", "quality"} <= settings.keys():
        return None
    found = {"size": int(settings["size"]), "quality": int(settings["quality"])}
    return found | ({"whole": 1} if manifest.get("field") == "whole" else {})


def seen_fields(
    images: PretrainingImages, dataset: Shards, samples: Iterable[LabelledSample], keys: list[str]
) -> dict[str, Any]:
    """Return the fields of a row that say how many of its test images weights were trained on.

    Args:
        images: what the weights were trained on.
        samples: of the test split; those of `keys` are counted, which the scores are of.
    """
    index_of = {sample.key: sample.index for sample in samples}
    indices = [index_of[key] for key in keys if key in index_of]
    return images.seen(dataset, indices).fields()
