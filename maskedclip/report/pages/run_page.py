"""A page a result: confusion matrix, curves, calibration, and photographs of the worst errors."""

import base64
import hashlib
import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

import numpy as np
from PIL import Image

from maskedclip.data.labelled_views import sample_image
from maskedclip.data.storage.shards import DamagedSample, Shards
from maskedclip.metrics.results import Predictions, file_name
from maskedclip.metrics.zero_shot import categories
from maskedclip.report.collect import Result, budget_text, disagreements, progress, read
from maskedclip.report.pages import charts
from maskedclip.report.pages.html import render
from maskedclip.report.pages.run_statistics import (
    ClassCurve,
    Mistake,
    class_curves,
    confusion,
    reliability,
    worst,
)

_LONG_NAMES = {
    "auroc": "ROC: area under the curve, mean over classes against the rest",
    "average_precision": "PRC: average precision, mean over classes against the rest",
}
_COLOURED = 8  # curves in colour; of more classes the lowest ones
_MISTAKES = 12  # listed where no photographs are asked for
_SIDE, _QUALITY = 256, 80  # of a photograph on a page
_LONGEST = 160  # characters of a page's name


class Photographs(NamedTuple):
    """Photographs by their keys, as data addresses, and why others are not there."""

    by_key: Mapping[str, str]
    note: str = ""


class PhotographReader:
    """Reads photographs by key, from datasets that are opened once."""

    def __init__(self) -> None:
        self._opened: dict[str, tuple[Shards, dict[str, int]] | str] = {}

    def read(
        self, result: Result, mistakes: Sequence[Mistake], classes: Sequence[str]
    ) -> Photographs:
        """Return the photographs of the mistakes; for a missing one the note gives the reason."""
        if not mistakes:
            return Photographs({})
        if not result.shards:
            return Photographs({}, "No pictures: the run does not say where its shards are.")
        opened = self._opened.setdefault(result.shards, _open(result.shards))
        if isinstance(opened, str):
            return Photographs({}, f"No pictures: the shards cannot be read ({opened}).")
        dataset, index_of = opened
        by_key, lost = {}, []
        for mistake in mistakes:
            key = mistake.key
            try:
                if key not in index_of:
                    raise LookupError(f"{key} is not in {result.shards}")
                labels = dataset.metadata(index_of[key])["labels"]
                if labels.get(result.task) != classes[mistake.label]:
                    raise LookupError(f"{key} has another label in {result.shards}")
                by_key[key] = _data_address(sample_image(dataset, index_of[key]))
            except (LookupError, DamagedSample) as error:
                lost.append(str(error.args[0] if isinstance(error, LookupError) else error))
        note = ""
        if lost:
            note = f"{len(lost)} of {len(mistakes)} pictures cannot be had: {lost[0]}."
        return Photographs(by_key, note)


def _open(directory: str) -> tuple[Shards, dict[str, int]] | str:
    try:
        dataset = Shards(Path(directory))
    except (ValueError, RuntimeError, OSError) as error:
        return " ".join(str(error).split())
    return dataset, {dataset.key(index): index for index in range(len(dataset))}


def _data_address(image: Image.Image) -> str:
    image.thumbnail((_SIDE, _SIDE))
    file = io.BytesIO()
    image.save(file, "JPEG", quality=_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()


def write_pages(results: Sequence[Result], pages: Path, most: int) -> tuple[set[Result], list[str]]:
    """Write a page a result; return those that have one, and a line for each fault in others.

    Args:
        most: photographs on a page; 0: none.
    """
    reader = PhotographReader() if most else None
    written: set[Result] = set()
    problems: list[str] = []
    named = [result for result in results if result.predictions]  # older rows name none
    for result in progress(named, "pages"):
        try:
            predictions, classes = read(result)
        except ValueError as error:
            problems.append(" ".join(str(error).split()))
            continue
        problems += disagreements(result, predictions)
        mistakes = worst(
            predictions.keys, predictions.label_B, predictions.probability_BY, most or _MISTAKES
        )
        photographs = Photographs({}, "No pictures: they were not asked for (--pictures).")
        if reader is not None:
            photographs = reader.read(result, mistakes, classes)
        page = run_page(
            result, predictions, _with_meaning(result.task, classes), mistakes, photographs,
            run_address=address(result.directory, pages),
            predictions_address=address(result.directory / result.predictions, pages),
        )  # fmt: skip
        (pages / page_name(result)).write_text(page, encoding="utf-8")
        written.add(result)
    return written, problems


def _with_meaning(task: str, classes: Sequence[str]) -> list[str]:
    """Return the classes with the meaning of their grades, where that is known."""
    meanings = categories(task, classes)
    return [a if a == b else f"{a}: {b}" for a, b in zip(classes, meanings, strict=True)]


def run_page(
    result: Result,
    predictions: Predictions,
    classes: Sequence[str],
    mistakes: Sequence[Mistake],
    photographs: Photographs,
    *,
    run_address: str,
    predictions_address: str,
) -> str:
    """Return the page of a result, as HTML."""
    label_B, probability_BY = predictions.label_B, predictions.probability_BY
    curves = class_curves(classes, label_B, probability_BY)
    coloured, backdrop = _split(curves)
    drawn = {}
    if coloured:
        drawn = {
            "roc": charts.roc_chart(coloured, backdrop),
            "precision_recall": charts.precision_recall_chart(coloured, backdrop),
            "legend": charts.curve_legend([curve.name for curve in coloured]),
        }
    bins, error = reliability(label_B, probability_BY)
    sources = dict(zip(predictions.keys, predictions.sources, strict=False))
    count_YY = confusion(len(classes), label_B, probability_BY)
    return render(
        "run",
        result=result, budget=budget_text(result.budget), classes=classes, names=_LONG_NAMES,
        run_address=run_address, predictions_address=predictions_address,
        counts=[(row.tolist(), int(row.sum())) for row in count_YY], curves=curves,
        coloured=len(coloured), of_curves=len(coloured) + len(backdrop), drawn=drawn, bins=bins,
        calibration_error=error, reliability=charts.reliability_chart(bins), mistakes=mistakes,
        photographs=photographs, sources=sources,
    )  # fmt: skip


def _split(curves: Sequence[ClassCurve]) -> tuple[list[ClassCurve], list[ClassCurve]]:
    """Return the curves to draw in colour, the lowest if there are many, and all others."""
    defined = [curve for curve in curves if curve.roc_K2 is not None]
    if len(curves) == 2:
        defined = defined[1:]  # the other one is its mirror
    lowest = np.argsort([curve.auroc or 0 for curve in defined], kind="stable")[:_COLOURED]
    coloured = [curve for i, curve in enumerate(defined) if i in lowest]
    return coloured, [curve for i, curve in enumerate(defined) if i not in lowest]


def page_name(result: Result) -> str:
    """Return the file name of a result's page; no two are the same."""
    parts = (result.method, result.dataset, result.task, result.protocol)
    name = file_name(*parts, f"{result.fraction:g}", f"seed{result.seed}")
    exact = "-".join((*parts, f"{result.fraction:g}", f"seed{result.seed}"))
    if name == exact and len(name) <= _LONGEST:
        return f"{name}.html"
    # characters were replaced or cut: a hash keeps it apart from others
    return f"{name[:_LONGEST]}-{hashlib.sha256(exact.encode()).hexdigest()[:8]}.html"


def address(path: Path, start: Path) -> str:
    """Return the relative address of a path on pages in `start`, quoted."""
    return quote(Path(os.path.relpath(path.resolve(), start.resolve())).as_posix())
