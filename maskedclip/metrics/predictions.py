"""The images behind a score, as two CSV files: what was predicted for them, and whose they are."""

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np


class Measured(NamedTuple):
    """Test images and what was predicted for them."""

    keys: list[str]
    units: list[str]  # what the bootstrap draws: the patient where known
    label_B: np.ndarray
    probability_BY: np.ndarray


def write_predictions(
    path: Path,
    classes: Sequence[str],
    keys: Iterable[str],
    label_B: np.ndarray,
    probability_BY: np.ndarray,
) -> None:
    """Write a CSV of id, label and one probability a class: the scores follow from it alone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    with temporary.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["id", "label", *classes])
        for key, label, probability_Y in zip(keys, label_B, probability_BY, strict=True):
            writer.writerow([key, classes[label], *(repr(float(p)) for p in probability_Y)])
    temporary.replace(path)


def write_measured(path: Path, classes: Sequence[str], found: Measured) -> None:
    """Write the predictions, and beside them NAME.units.csv of id and unit."""
    write_predictions(path, classes, found.keys, found.label_B, found.probability_BY)
    temporary = path.with_suffix(".tmp")
    with temporary.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["id", "unit"])
        writer.writerows(zip(found.keys, found.units, strict=True))
    temporary.replace(path.with_suffix(".units.csv"))


def read_predictions(path: Path) -> tuple[list[str], list[str], np.ndarray, np.ndarray]:
    """Return (ids, classes, label_B, probability_BY) of what `write_predictions` wrote.

    Raises ValueError, in one line, where the file is not there or is no such table.
    """
    header, lines = _read_table(path)
    classes = header[2:]
    try:
        label_B = np.array([classes.index(line[1]) for line in lines], dtype=np.int64)
        probability_BY = np.array([[float(value) for value in line[2:]] for line in lines])
    except ValueError as error:
        raise ValueError(f"{path}: no table of predictions ({error}); measure again") from None
    return [line[0] for line in lines], classes, label_B, probability_BY


def read_measured(path: Path) -> tuple[Measured, list[str]]:
    """Return what `write_measured` wrote, and the classes; ValueError where it is not whole."""
    keys, classes, label_B, probability_BY = read_predictions(path)
    _, lines = _read_table(path.with_suffix(".units.csv"))
    if [line[0] for line in lines] != keys:
        raise ValueError(f"{path.with_suffix('.units.csv')}: other ids than {path.name}'s")
    return Measured(keys, [line[1] for line in lines], label_B, probability_BY), classes


def _read_table(path: Path) -> tuple[list[str], list[list[str]]]:
    try:
        header, *lines = csv.reader(io.StringIO(path.read_text("utf-8"), newline=""), strict=True)
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file; measure again") from None
    except (ValueError, csv.Error) as error:  # not UTF-8, empty, or no table
        raise ValueError(f"{path}: is not a CSV ({error}); measure again") from None
    if any(len(line) != len(header) for line in lines) or header[:1] != ["id"]:
        raise ValueError(f"{path}: a row is cut or the heading is lost; measure again")
    return header, lines
