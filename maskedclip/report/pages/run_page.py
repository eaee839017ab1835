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

from maskedclip.data.captions import class_categories
from maskedclip.data.labelled_views import sample_image
from maskedclip.data.storage.shards import DamagedSample, Shards
from maskedclip.metrics.confusion import confusion
from maskedclip.metrics.prediction_files import Predictions
from maskedclip.metrics.results import file_name
from maskedclip.report.collect import disagreements, progress, read
from maskedclip.report.pages import charts, page_charts
from maskedclip.report.pages.html import render
from maskedclip.report.pages.run_statistics import (
    ClassCurve,
    LabelScores,
    Mistake,
    class_curves,
    label_scores,
    reliability,
    reliability_of_labels,
    worst,
    worst_of_labels,
    worst_of_numbers,
)
from maskedclip.report.result import Result, budget_text

_LONG_NAMES = {
    "auroc": "ROC: area under the curve, mean over classes against the rest",
    "average_precision": "PRC: average precision, mean over classes against the rest",
}
_LABEL_NAMES = {
    "auroc": "ROC: area under the curve, mean over labels",
    "average_precision": "PRC: average precision, mean over labels",
    "macro_f1": "macro F1, at the thresholds below",
    "micro_f1": "micro F1, at the thresholds below",
    "odir_score": "ODIR score: mean of kappa, F1 and AUROC of all answers, at 0.5",
    "mae": "MAE: mean absolute error, in the number's unit",
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
                label = dataset.metadata(index_of[key])["labels"].get(
                    result.group_of or result.task
                )
                answer = classes[mistake.label] if result.kind == "class" else mistake.answer
                joined = result.group_of and label in answer.split(", ")
                if not joined and not _same(result, label, answer):
                    raise LookupError(f"{key} has another label in {result.shards}")
                by_key[key] = _data_address(sample_image(dataset, index_of[key]))
            except (LookupError, DamagedSample) as error:
                lost.append(str(error.args[0] if isinstance(error, LookupError) else error))
        note = ""
        if lost:
            note = f"{len(lost)} of {len(mistakes)} pictures cannot be had: {lost[0]}."
        return Photographs(by_key, note)


def _same(result: Result, stored: str | None, answer: str) -> bool:
    """Return whether a dataset still says what predictions were scored against."""
    if stored is None or result.kind == "class":
        return stored == result.renamed.get(answer, answer)
    if result.kind == "labels":
        own = {result.renamed.get(label, label) for label in answer.split("|")}
        if result.transferred:  # labels that the network did not learn are left out
            return own - {""} <= {*stored.split("|")}
        return own == {*stored.split("|")}
    try:
        return float(stored) == float(answer)
    except ValueError:
        return False


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


class WrittenPages(NamedTuple):
    """The results that have a page, a line for each fault in others, and each label's scores."""

    results: set[Result]
    problems: list[str]
    labels: dict[Result, list[LabelScores]]
    of_one_class: list[str]  # a line for each result whose predictions are all of one class


def write_pages(results: Sequence[Result], pages: Path, most: int) -> WrittenPages:
    """Write a page a result.

    Args:
        most: photographs on a page; 0: none.
    """
    reader = PhotographReader() if most else None
    written: set[Result] = set()
    problems: list[str] = []
    labels: dict[Result, list[LabelScores]] = {}
    of_one_class: list[str] = []
    named = [result for result in results if result.predictions]  # older rows name none
    for result in progress(named, "pages"):
        try:
            predictions, classes = read(result)
        except ValueError as error:
            problems.append(" ".join(str(error).split()))
            continue
        problems += disagreements(result, predictions)
        if remark := of_one_class_in_words(predictions, classes):
            of_one_class.append(f"{result.title}: {remark}")
        mistakes = _worst(predictions, classes, most or _MISTAKES)
        photographs = Photographs({}, "No pictures: they were not asked for (--pictures).")
        if reader is not None:
            photographs = reader.read(result, mistakes, classes)
        if result.kind == "labels":
            labels[result] = label_scores(classes, predictions)
        page = run_page(
            result, predictions, _with_meaning(result.task, classes), mistakes, photographs,
            run_address=address(result.directory, pages),
            predictions_address=address(result.directory / result.predictions, pages),
            by_label=labels.get(result, ()),
        )  # fmt: skip
        (pages / page_name(result)).write_text(page, encoding="utf-8")
        written.add(result)
    return WrittenPages(written, problems, labels, of_one_class)


def of_one_class_in_words(found: Predictions, classes: Sequence[str]) -> str:
    """Return what to say where all images are predicted as one class, else ""."""
    if found.kind != "class" or len(found.label_B) < 2:
        return ""
    predicted = np.unique(found.probability_BY.argmax(axis=1))
    if len(predicted) > 1:
        return ""
    (name,) = (classes[int(label)] for label in predicted)
    share = float((found.label_B == predicted[0]).mean())
    return (
        f"all {len(found.label_B)} test images are predicted as {name}, which {share:.0%} of them "
        f"are: F1, accuracy and kappa say nothing of the other classes; ROC and PRC are of the "
        f"order of the probabilities alone."
    )


def _worst(found: Predictions, classes: Sequence[str], most: int) -> list[Mistake]:
    if found.kind == "labels":
        return worst_of_labels(classes, found, most)
    if found.kind == "number":
        return worst_of_numbers(found, most)
    return worst(found.keys, found.label_B, found.probability_BY, most)


def _with_meaning(task: str, classes: Sequence[str]) -> list[str]:
    """Return the classes with the meaning of their grades, where that is known."""
    meanings = class_categories(task, classes)
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
    by_label: Sequence[LabelScores] = (),
) -> str:
    """Return the page of a result, as HTML."""
    shared: dict[str, object] = {
        "result": result, "budget": budget_text(result.budget),
        "names": _LONG_NAMES if result.kind == "class" else _LABEL_NAMES,
        "run_address": run_address, "predictions_address": predictions_address,
        "of_one_class": of_one_class_in_words(predictions, classes),
        "mistakes": mistakes, "photographs": photographs, "classes": classes,
        "sources": dict(zip(predictions.keys, predictions.sources, strict=False)),
    }  # fmt: skip
    if predictions.kind == "number":
        value_B, predicted_B = predictions.label_B, predictions.probability_BY[:, 0]
        return render(
            "run", scatter=charts.scatter_chart(value_B, predicted_B, result.task), **shared
        )
    if predictions.kind == "labels":
        of_curves = _drawn([one.curve for one in by_label if one.trained])
        answered = predictions.label_B, predictions.probability_BY, predictions.untrained
        bins, mean_error = reliability_of_labels(*answered)
        return render(
            "run", label_scores=by_label, bins=bins, calibration_error=mean_error,
            reliability=page_charts.reliability_chart(bins, of_labels=True),
            **of_curves, **shared,
        )  # fmt: skip
    label_B, probability_BY = predictions.label_B, predictions.probability_BY
    curves = class_curves(classes, label_B, probability_BY)
    bins, error = reliability(label_B, probability_BY)
    count_YY = confusion(len(classes), label_B, probability_BY)
    return render(
        "run",
        counts=[(row.tolist(), int(row.sum())) for row in count_YY], curves=curves, bins=bins,
        calibration_error=error, reliability=page_charts.reliability_chart(bins),
        **_drawn(curves, mirrored=len(curves) == 2), **shared,
    )  # fmt: skip


def _drawn(curves: Sequence[ClassCurve], *, mirrored: bool = False) -> dict[str, object]:
    """Return the charts of the curves, and how many of them are in colour."""
    coloured, backdrop = _split(curves, mirrored=mirrored)
    drawn = {}
    if coloured:
        drawn = {
            "roc": page_charts.roc_chart(coloured, backdrop),
            "precision_recall": page_charts.precision_recall_chart(coloured, backdrop),
            "legend": page_charts.curve_legend([curve.name for curve in coloured]),
        }
    return {
        "drawn": drawn, "coloured": len(coloured), "of_curves": len(coloured) + len(backdrop),
    }  # fmt: skip


def _split(
    curves: Sequence[ClassCurve], *, mirrored: bool
) -> tuple[list[ClassCurve], list[ClassCurve]]:
    """Return the curves to draw in colour, the lowest if there are many, and all others."""
    defined = [curve for curve in curves if curve.roc_K2 is not None]
    if mirrored:
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
