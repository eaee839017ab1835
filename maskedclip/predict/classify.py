"""Predict with a fine-tuned network: read images, compute what is missing, write the table."""

import hashlib
import logging
import shlex
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from maskedclip.config import FinetuneConfig
from maskedclip.config import load as load_config
from maskedclip.data.photographs.decoding import UnreadableImage
from maskedclip.data.storage.shard_writer import MANIFEST
from maskedclip.data.storage.shards import DamagedSample, read_manifest
from maskedclip.data.threaded_loading import rows_in_order
from maskedclip.engine.cores import decoding_threads
from maskedclip.engine.distributed import autocast, compute_type
from maskedclip.engine.visible_gpus import inference_device
from maskedclip.finetune.run_directory import CONFIG_FILE, photographs_of
from maskedclip.inference import Model, load
from maskedclip.metrics.cells import safe_path, safe_text
from maskedclip.metrics.file_lock import locked
from maskedclip.models.checkpoints.files import locate_classifier, read_header
from maskedclip.models.classifier import TaskHead
from maskedclip.next_step import explain_commands, next_lines
from maskedclip.predict.command import PredictConfig
from maskedclip.predict.photographs import (
    FolderPictures,
    Picture,
    PictureSource,
    failure,
    pictures_of,
)
from maskedclip.predict.table import KeptRows, write_csv
from maskedclip.shards.make import ShardRequest

logger = logging.getLogger(__name__)
_VERSION = 1  # raise it where the same weights and images would give other values
NO_LABEL = "none of them"  # as the counts have images of no label
_AHEAD = 2  # batches prepared ahead of the one in use


class PredictingHead(NamedTuple):
    """What the outputs of a network mean, and what is called from them."""

    classes: tuple[str, ...]  # or labels; of a number its name
    task: TaskHead
    thresholds: tuple[float, ...] = ()  # of labels: called from here on

    @classmethod
    def of(cls, file: Path, header: dict[str, Any]) -> "PredictingHead":
        """Return the head of a fine-tuned network; ValueError where a file has none."""
        if "classes" not in header:
            raise ValueError(
                f"{file}: has no classes, so no fine-tuned network; name a fine-tuned run"
            )
        classes, task = tuple(header["classes"]), TaskHead.of(header)
        thresholds = tuple(header.get("thresholds") or [0.5] * len(classes))
        return cls(classes, task, thresholds if task.kind == "labels" else ())

    def called(self, values: Sequence[float]) -> list[str]:
        """Return the likeliest class, the labels at or above their thresholds; no number is one."""
        if self.task.kind == "number":
            return []
        if self.task.kind == "labels":
            sure = zip(self.classes, values, self.thresholds, strict=True)
            return [name for name, value, threshold in sure if value >= threshold]
        return [self.classes[int(np.argmax(values))]]

    @property
    def heading(self) -> list[str]:
        """The columns; a class that is called like one of the others would hide it from readers."""
        if self.task.kind == "number":
            return ["path", *(f"{n} (predicted)" if n == "path" else n for n in self.classes)]
        names = [f"probability of {n}" if n in ("path", "class") else n for n in self.classes]
        return ["path", "class", *names]


class Predicted(NamedTuple):
    """What a table holds."""

    total: int
    images: Counter[str]  # by class, of labels each one
    unreadable: list[tuple[str, str]]  # path and reason
    computed: int  # rows that were not there before


def run(options: PredictConfig) -> Path:
    """Predict, print the counts by class and the next command; return the table's path."""
    file, source = locate_classifier(options.run), Path(options.folder)
    out = Path(options.out)
    header, _ = read_header(file)
    head = PredictingHead.of(file, header)
    pictures = pictures_of(source, _photographs(file, header))
    for line in pictures.remarks:
        logger.warning("%s: %s", source, line)
    out.parent.mkdir(parents=True, exist_ok=True)
    kept = KeptRows(out.with_suffix(".rows.jsonl"))
    if out.exists() and not kept.path.exists():
        raise ValueError(
            f"{out}: is there, and {kept.path.name}, by which it would go on, is not; choose "
            f"another --out, or remove it"
        )
    try:
        with locked(kept.path, wait=False, without="do not run this twice at a time"):
            found = _predict_all(options, file, head, pictures, kept)
    except BlockingIOError:
        raise RuntimeError(f"{out}: another process is writing it; wait for it") from None
    sys.stdout.write(_summary(out, found, head))
    sys.stdout.write(next_lines(*_next(options, file, pictures)))
    return out


def _photographs(file: Path, header: dict[str, Any]) -> dict[str, int] | None:
    """Return size and quality of the photographs that were trained on; None: images as they are."""
    if "photographs" in header:
        if header["photographs"] is None:
            logger.warning(
                "%s was trained on tars of others: images are taken as they are, without a crop to "
                "the field of view", file,
            )  # fmt: skip
        found: dict[str, int] | None = header["photographs"]
        return found
    before = _dataset_of(file.parent)
    if before and (Path(before) / MANIFEST).is_file():
        return photographs_of(read_manifest(Path(before)))
    usual = ShardRequest(dataset="folder")
    logger.warning(
        "%s does not say how its photographs were stored: taken as %d pixels of field of view, "
        "JPEG quality %d, as make_shards does", file, usual.size, usual.quality,
    )  # fmt: skip
    return {"size": usual.size, "quality": usual.quality}


def _dataset_of(run: Path) -> str:
    """Return the dataset that a run was fine-tuned on, "" where its directory does not say."""
    path = run / CONFIG_FILE
    return load_config(path, FinetuneConfig).dataset if path.is_file() else ""


def _predict_all(
    options: PredictConfig,
    file: Path,
    head: PredictingHead,
    pictures: PictureSource,
    kept: KeptRows,
) -> Predicted:
    """Compute the rows that are missing; write the table and the list of unreadable images."""
    out, device = Path(options.out), inference_device()
    with file.open("rb") as content:
        sha256 = hashlib.file_digest(content, "sha256").hexdigest()
    facts = {
        "weights": {"run": options.run, "sha256": sha256},
        "images": pictures.identity,
        "classes": list(head.classes),
        "kind": head.task.kind,
        "arithmetic": str(compute_type("auto", device)).removeprefix("torch."),
        "version": _VERSION,
    }
    if anew := kept.open(facts):
        logger.warning("%s: begun anew: %s", kept.path, anew)
    missing = [picture for picture in pictures.pictures if kept.values(picture) is None]
    _say_what_is_kept(kept, pictures, missing)
    unreadable: dict[str, str] = {}
    if missing:
        model = load(file)
        with tqdm(
            total=len(pictures.pictures), initial=len(pictures.pictures) - len(missing),
            desc="predict", unit=" images", mininterval=0.1 if sys.stderr.isatty() else 10,
        ) as bar:  # fmt: skip
            for rows, failed in _computed(model, head, pictures, missing, options):
                kept.add(rows)
                unreadable |= failed
                bar.update(len(rows) + len(failed))
    done = [p for p in pictures.pictures if kept.values(p) is not None]
    if not done:
        path, reason = next(iter(unreadable.items()))
        raise RuntimeError(f"{options.folder}: no image can be read: {path}: {reason}")
    count = _write(out, head, done, kept)
    _write_unreadable(out, unreadable)
    return Predicted(len(done), count, sorted(unreadable.items()), len(missing) - len(unreadable))


def _say_what_is_kept(kept: KeptRows, pictures: PictureSource, missing: Sequence[Picture]) -> None:
    """Say what of an earlier command is used, computed again, or no longer there."""
    before = kept.paths
    if not before:
        return
    changed = [picture for picture in missing if picture.path in before]
    gone = before - {picture.path for picture in pictures.pictures}
    text = f"{len(pictures.pictures) - len(missing)} of {len(pictures.pictures)}"
    text = f"{text} images are predicted already"
    if changed:
        text += f"; {len(changed)} changed since and predicted again, such as {changed[0].path}"
    if gone:
        text += f"; {len(gone)} no longer there and left out, such as {min(gone)}"
    logger.info("%s: %s", kept.path, text)


def _computed(
    model: Model,
    head: PredictingHead,
    pictures: PictureSource,
    missing: Sequence[Picture],
    options: PredictConfig,
) -> Iterator[tuple[list[tuple[Picture, list[float]]], dict[str, str]]]:
    """Yield the values of each batch, and the reasons of those that cannot be read."""

    def prepared(picture: Picture, _: Picture) -> tuple[Picture, Tensor | str]:
        try:
            return picture, model.prepare(pictures.image(picture))
        except (UnreadableImage, DamagedSample, OSError) as error:
            return picture, failure(error)

    batch = options.batch
    steps = [missing[first : first + batch] for first in range(0, len(missing), batch)]
    rows = rows_in_order(
        steps, lambda picture: picture, prepared,
        readers=1, threads=decoding_threads(options.threads), prefetch=_AHEAD,
    )  # fmt: skip
    for made in rows:
        whole = [(picture, image) for picture, image in made if isinstance(image, Tensor)]
        failed = {picture.path: text for picture, text in made if isinstance(text, str)}
        values = _values(model, head, [image for _, image in whole])
        yield [(p, row) for (p, _), row in zip(whole, values, strict=True)], failed


@torch.no_grad()
def _values(model: Model, head: PredictingHead, images: Sequence[Tensor]) -> list[list[float]]:
    """Return the values as fine-tuning writes them to predictions/*.csv: in the same arithmetic."""
    if not images:
        return []
    with autocast(model.device):
        logit_BY = model.network(torch.stack(list(images)).to(model.device))
    found: list[list[float]] = head.task.answers(logit_BY).cpu().tolist()
    return found


def _write(
    out: Path, head: PredictingHead, done: Sequence[Picture], kept: KeptRows
) -> Counter[str]:
    """Write the table, in the order of the paths; return the images by class."""
    count: Counter[str] = Counter()
    rows = []
    for picture in done:
        values = kept.values(picture) or []
        names = head.called(values)
        count.update(names)
        called = [] if head.task.kind == "number" else [safe_text("|".join(names))]
        rows.append([safe_path(picture.path), *called, *(repr(v) for v in values)])
        if head.task.kind == "labels" and not names:
            count[NO_LABEL] += 1
    write_csv(out, [safe_text(name) for name in head.heading], rows)
    return count


def _write_unreadable(out: Path, unreadable: dict[str, str]) -> None:
    path = unreadable_of(out)
    if unreadable:
        rows = [[safe_path(name), safe_text(why)] for name, why in sorted(unreadable.items())]
        write_csv(path, ["path", "reason"], rows)
    else:
        path.unlink(missing_ok=True)  # of an earlier command


def unreadable_of(out: Path) -> Path:
    """Return the file that lists what could not be read."""
    return out.with_suffix(".unreadable.csv")


def _summary(out: Path, found: Predicted, head: PredictingHead) -> str:
    lines = [f"{out}: {found.total} images, {found.computed} of them computed now"]
    names = [] if head.task.kind == "number" else list(head.classes)
    names += [NO_LABEL] if head.task.kind == "labels" else []
    width = max(map(len, names), default=0)
    lines += [
        f"  {name:{width}}  {found.images[name]:6d}  {found.images[name] / found.total:6.1%}"
        for name in names
    ]
    if found.unreadable:
        path, reason = found.unreadable[0]
        lines.append(
            f"not read: {len(found.unreadable)}, in {unreadable_of(out)}, such as {path}: {reason}"
        )
    return "\n".join(lines) + "\n"


def _next(options: PredictConfig, file: Path, pictures: PictureSource) -> list[str]:
    """Return the command that shows where the network looked, if it can be shown."""
    run = shlex.quote(options.run)
    if not isinstance(pictures, FolderPictures):
        return explain_commands(file, run, "--dataset", shlex.quote(options.folder))
    first = shlex.quote(str(pictures.file(pictures.pictures[0])))
    crop = ["--field_of_view"] if pictures.crops else []
    return explain_commands(file, run, "--images", first, *crop)
