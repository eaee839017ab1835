"""The pages of a report that show one measurement each, with photographs from the shards."""

import base64
import hashlib
import io
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote

from PIL import Image
from tqdm import tqdm

from maskedclip.data.labelled_views import picture
from maskedclip.data.storage.shards import DamagedSample, Shards
from maskedclip.metrics.results import Predictions, file_name
from maskedclip.metrics.zero_shot import categories
from maskedclip.report.collect import disagreements, read
from maskedclip.report.pages.measurements import Measurement
from maskedclip.report.pages.run_page import Pictures, Predicted, mistakes, run_page
from maskedclip.report.pages.run_statistics import Mistake

T = TypeVar("T")
_SIDE, _QUALITY = 256, 80  # of a photograph on a page
_LONGEST = 160  # characters of a page's name


class Photographs:
    """Pictures by key, from datasets that are opened once."""

    def __init__(self) -> None:
        self._opened: dict[str, tuple[Shards, dict[str, int]] | str] = {}

    def of(self, run: Measurement, wrong: Sequence[Mistake], classes: Sequence[str]) -> Pictures:
        """Return the pictures of the mistakes; where one cannot be had, the note says why."""
        if not wrong:
            return Pictures({})
        if not run.shards:
            return Pictures({}, "No pictures: the run does not say where its shards are.")
        opened = self._opened.setdefault(run.shards, _open(run.shards))
        if isinstance(opened, str):
            return Pictures({}, f"No pictures: the shards cannot be read ({opened}).")
        dataset, places = opened
        found, lost = {}, []
        for each in wrong:
            try:
                if each.key not in places:
                    raise LookupError(f"{each.key} is not in {run.shards}")
                labels = dataset.metadata(places[each.key])["labels"]
                if labels.get(run.task) != classes[each.label]:
                    raise LookupError(f"{each.key} has another label in {run.shards}")
                found[each.key] = _address(picture(dataset, places[each.key]))
            except (LookupError, DamagedSample) as error:
                lost.append(str(error.args[0] if isinstance(error, LookupError) else error))
        note = ""
        if lost:
            note = f"{len(lost)} of {len(wrong)} pictures cannot be had: {lost[0]}."
        return Pictures(found, note)


def _open(directory: str) -> tuple[Shards, dict[str, int]] | str:
    try:
        dataset = Shards(Path(directory))
    except (ValueError, RuntimeError, OSError) as error:
        return " ".join(str(error).split())
    return dataset, {dataset.key(index): index for index in range(len(dataset))}


def _address(image: Image.Image) -> str:
    image.thumbnail((_SIDE, _SIDE))
    file = io.BytesIO()
    image.save(file, "JPEG", quality=_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()


def write_page(
    run: Measurement,
    predictions: tuple[Predictions, Sequence[str]],
    photographs: Photographs | None,
    pages: Path,
    most: int,
) -> str:
    """Write a measurement's page into `pages` and return its name."""
    measured, classes = predictions
    found = Predicted(
        _worded(run.task, classes), measured.keys, measured.label_B, measured.probability_BY
    )
    wrong = mistakes(found, most or 12)
    pictures = Pictures({}, "No pictures: they were not asked for (--pictures).")
    if photographs is not None:
        pictures = photographs.of(run, wrong, classes)
    addresses = (address(run.directory, pages), address(run.directory / run.predictions, pages))
    name = page_name(run)
    (pages / name).write_text(run_page(run, found, wrong, pictures, addresses), encoding="utf-8")
    return name


def _worded(task: str, classes: Sequence[str]) -> list[str]:
    """Return the classes with what their grades mean, where that is known."""
    words = categories(task, classes)
    return [a if a == b else f"{a}: {b}" for a, b in zip(classes, words, strict=True)]


def page_name(run: Measurement) -> str:
    """Return the file name of a measurement's page; no two have the same."""
    parts = (run.method, run.dataset, run.task, run.protocol)
    name = file_name(*parts, f"{run.fraction:g}", f"seed{run.seed}")
    exact = "-".join((*parts, f"{run.fraction:g}", f"seed{run.seed}"))
    if name == exact and len(name) <= _LONGEST:
        return f"{name}.html"
    # characters were replaced or cut: what tells it from others is added
    return f"{name[:_LONGEST]}-{hashlib.sha256(exact.encode()).hexdigest()[:8]}.html"


def address(path: Path, start: Path) -> str:
    """Return the relative address of a path on pages in `start`, quoted."""
    return quote(Path(os.path.relpath(path.resolve(), start.resolve())).as_posix())


def progress(places: Sequence[T], what: str) -> Iterator[T]:
    """Yield the places while a bar says how long it takes yet; a log gets a line now and then."""
    yield from tqdm(places, desc=what, mininterval=0.1 if sys.stderr.isatty() else 10)


def write_pages(
    measured: Sequence[Measurement], pages: Path, most: int
) -> tuple[set[Measurement], list[str]]:
    """Write a page a measurement; return those that have one, and what is wrong with others."""
    photographs = Photographs() if most else None
    there: set[Measurement] = set()
    problems: list[str] = []
    named = [run for run in measured if run.predictions]  # rows of an older format name none
    for run in progress(named, "pages"):
        try:
            predictions = read(run)
        except ValueError as error:
            problems.append(" ".join(str(error).split()))
            continue
        problems += disagreements(run, predictions[0])
        write_page(run, predictions, photographs, pages, most)
        there.add(run)
    return there, problems
