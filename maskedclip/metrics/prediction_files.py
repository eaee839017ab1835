"""The predictions behind scores: a CSV of probabilities, and one of the patient of each image."""

import csv
import io
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from maskedclip.metrics.cells import csv_row, given_text, safe_path, safe_text
from maskedclip.metrics.few_images import few_images
from maskedclip.metrics.known_patients import counted

_JOIN = "|"  # between the labels of an image, as in shards
_SOURCE = "source"  # a column, before that of the label


class Predictions(NamedTuple):
    """The images of a test split, and the probabilities that were predicted for them."""

    keys: list[str]
    units: list[str]  # what the bootstrap draws: the patient where known
    label_B: np.ndarray  # of kind "labels" rows of 0 and 1, label_BY; of kind "number" the numbers
    probability_BY: np.ndarray  # of kind "number" one column, the numbers that were predicted
    ordered: bool | None = None  # whether the classes are grades in their order; None: not known
    untrained: tuple[int, ...] = ()  # classes without training images
    kind: str = "class"
    thresholds: tuple[float, ...] = ()  # of kind "labels", chosen on validation; none: 0.5
    sources: tuple[str, ...] = ()  # paths in the download, as the shards have them; none: not known


def write_predictions(
    path: Path,
    classes: Sequence[str],
    keys: Iterable[str],
    label_B: np.ndarray,
    probability_BY: np.ndarray,
    sources: Sequence[str] = (),
) -> None:
    """Write a CSV of id, source, label and one probability a class: the scores follow from it.

    Rows of labels are written joined by "|", and numbers (floats) as they are. Without sources
    there is no such column, as in tables of before 2026-11-28.
    """
    if label_B.ndim == 2:
        texts = [
            _JOIN.join(classes[y] for y in np.flatnonzero(row_Y).tolist()) for row_Y in label_B
        ]
    elif label_B.dtype.kind == "f":
        texts = [repr(float(value)) for value in label_B]
    else:
        texts = [classes[label] for label in label_B]
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with temporary.open("w", newline="", encoding="utf-8") as file:
        heading = map(safe_text, classes)
        file.write(csv_row(["id", *([_SOURCE] if sources else []), "label", *heading]))
        paths = map(safe_path, sources)
        named = zip(keys, paths, strict=True) if sources else ((key,) for key in keys)
        for names, text, probability_Y in zip(named, texts, probability_BY, strict=True):
            numbers = (repr(float(p)) for p in probability_Y)
            file.write(csv_row([*names, safe_text(text), *numbers]))
    temporary.replace(path)


def write_test_split(path: Path, classes: Sequence[str], predictions: Predictions) -> None:
    """Write the predictions, and beside them NAME.units.csv of id and unit."""
    write_predictions(
        path, classes, predictions.keys, predictions.label_B, predictions.probability_BY,
        predictions.sources,
    )  # fmt: skip
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with temporary.open("w", newline="", encoding="utf-8") as file:
        rows = zip(predictions.keys, predictions.units, strict=True)
        file.writelines(map(csv_row, [("id", "unit"), *rows]))
    temporary.replace(path.with_suffix(".units.csv"))


def read_predictions(
    path: Path, kind: str = "class"
) -> tuple[list[str], list[str], np.ndarray, np.ndarray]:
    """Return (ids, classes, label_B, probability_BY) of what `write_predictions` wrote.

    Raises ValueError, in one line, where the file is not there or is no such table.
    """
    keys, _, classes, label_B, probability_BY = _read_all(path, kind)
    return keys, classes, label_B, probability_BY


def _read_all(
    path: Path, kind: str
) -> tuple[list[str], tuple[str, ...], list[str], np.ndarray, np.ndarray]:
    """Return (ids, sources, classes, label_B, probability_BY); no sources of older tables."""
    header, lines = _read_table(path)
    sources: tuple[str, ...] = ()
    if header[1:3] == [_SOURCE, "label"]:
        sources = tuple(line.pop(1) for line in lines)
        del header[1]
    classes = [given_text(cell) for cell in header[2:]]
    try:
        label_B = _answers([given_text(line[1]) for line in lines], classes, kind)
        probability_BY = np.array([[float(value) for value in line[2:]] for line in lines])
    except ValueError as error:
        raise ValueError(f"{path}: no table of predictions ({error}); measure again") from None
    return [line[0] for line in lines], sources, classes, label_B, probability_BY


def _answers(texts: Sequence[str], classes: Sequence[str], kind: str) -> np.ndarray:
    if kind == "number":
        return np.array([float(text) for text in texts], dtype=np.float64)
    index = {name: label for label, name in enumerate(classes)}
    unknown = ValueError("a label that is no column")
    if kind == "class":
        if not index.keys() >= {*texts}:
            raise unknown
        return np.array([index[text] for text in texts], dtype=np.int64)
    label_BY = np.zeros((len(texts), len(classes)), dtype=np.int64)
    for row, text in enumerate(texts):
        labels = text.split(_JOIN) if text else []
        if not index.keys() >= {*labels}:
            raise unknown
        label_BY[row, [index[label] for label in labels]] = 1
    return label_BY


def patients_of(run: Path, row: Mapping[str, Any]) -> dict[str, int]:
    """Return the fields `patients` and `with_patient` of a row that an older version wrote.

    Nothing where its predictions cannot be read.
    """
    try:
        path = (run / str(row.get("predictions"))).with_suffix(".units.csv")
        return _patients_in(path, path.stat().st_mtime_ns)
    except (ValueError, OSError):  # what needs the predictions says what is wrong with them
        return {}


def few_images_of(run: Path, row: Mapping[str, Any]) -> str:
    """Return which classes of a row's test split have few images, counted in its predictions.

    "" where there are none, the task is a number, or the predictions cannot be read.
    """
    kind = str(row.get("kind") or "class")
    try:
        path = run / str(row.get("predictions"))
        return "" if kind == "number" else _few_in(path, kind, path.stat().st_mtime_ns)
    except (ValueError, OSError):  # what needs the predictions says what is wrong with them
        return ""


@lru_cache(maxsize=1024)  # the rows of a test split share it
def _few_in(path: Path, kind: str, _changed: int) -> str:
    header, lines = _read_table(path)
    column = header.index("label")
    texts = [line[column] for line in lines]
    if kind == "labels":
        texts = [one for text in texts for one in text.split(_JOIN)]
    return few_images(header[column + 1 :], Counter(texts), "classes" if kind == "class" else kind)


@lru_cache(maxsize=1024)  # the rows of a test split share it
def _patients_in(path: Path, _changed: int) -> dict[str, int]:
    _, lines = _read_table(path)
    return counted([line[0] for line in lines], [line[1] for line in lines])


def read_test_split(path: Path, kind: str = "class") -> tuple[Predictions, list[str]]:
    """Return what `write_test_split` wrote, and the classes; ValueError where it is not whole."""
    keys, sources, classes, label_B, probability_BY = _read_all(path, kind)
    _, lines = _read_table(path.with_suffix(".units.csv"))
    if [line[0] for line in lines] != keys:
        raise ValueError(f"{path.with_suffix('.units.csv')}: other ids than {path.name}'s")
    units = [line[1] for line in lines]
    found = Predictions(keys, units, label_B, probability_BY, kind=kind, sources=sources)
    return found, classes


def _read_table(path: Path) -> tuple[list[str], list[list[str]]]:
    try:
        text = path.read_bytes().decode()  # read_text would make LF of the CR within a cell
        header, *lines = csv.reader(io.StringIO(text, newline=""), strict=True)
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file; measure again") from None
    except (ValueError, csv.Error) as error:  # not UTF-8, empty, or no table
        raise ValueError(f"{path}: is not a CSV ({error}); measure again") from None
    if any(len(line) != len(header) for line in lines) or header[:1] != ["id"]:
        raise ValueError(f"{path}: a row is cut or the heading is lost; measure again")
    return header, lines
