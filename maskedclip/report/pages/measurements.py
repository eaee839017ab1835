"""What one run measured on one test split, as rows of results.jsonl say it."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

NAMES = {
    "auroc": "ROC",
    "average_precision": "PRC",
    "quadratic_kappa": "quadratic kappa",
    "macro_f1": "macro F1",
    "balanced_accuracy": "balanced accuracy",
    "calibration_error": "calibration error (ECE)",
}
USUAL = "paper"  # recipe of fine-tuning that goes without saying
TABLED = ("auroc", "average_precision")  # the columns of a task, as in the paper
_TEXTS = ("run", "dataset", "task", "protocol", "metric")
_NUMBERS = ("fraction", "seed", "n")


class Score(NamedTuple):
    """A value with its 95 % interval, 0 to 1; None where it is not defined, and the note why."""

    value: float | None
    low: float | None
    high: float | None
    note: str = ""


@dataclass(frozen=True, eq=False)
class Measurement:
    """All metrics of one test split by one run."""

    directory: Path  # of the run
    method: str
    run: str
    dataset: str
    task: str
    protocol: str
    fraction: float
    seed: int
    n: int  # images
    scores: Mapping[str, Score]
    predictions: str = ""  # path in the run directory; empty where its rows name none
    shards: str = ""  # the dataset's directory when it was measured
    # form of weights that were trained on images of this dataset; None: the rows do not say
    seen: str | None = None

    @property
    def cell(self) -> tuple[Any, ...]:
        """What one cell of a table is made of; several seeds share it."""
        return self.method, self.dataset, self.task, self.protocol, self.budget

    @property
    def budget(self) -> float | str:
        """How many labels were learnt from: a share, or as many a class as the protocol says."""
        return self.protocol if self.protocol.endswith("-shot") else self.fraction

    @property
    def title(self) -> str:
        words = [self.method, self.dataset, self.task, self.protocol, budget_words(self.budget)]
        return ", ".join([*words, f"seed {self.seed}"])


def budget_words(budget: float | str) -> str:
    """Return a share of labels in per cent, or the labels a class of an N-shot protocol."""
    if isinstance(budget, str):
        return f"{budget.removesuffix('-shot')} a class"
    return f"{100 * budget:g} %" if budget else "none"


def measurements(directory: Path, rows: Iterable[Any]) -> tuple[list[Measurement], list[str]]:
    """Return what the rows of a run say, and a line for each row that says nothing.

    Rows without `method` are of a time when the run was it. Another recipe of fine-tuning than the
    usual one is another method.
    """
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    problems: list[str] = []
    for number, row in enumerate(rows, 1):
        fault = _fault(row)
        if fault:
            problems.append(f"{directory / 'results.jsonl'}: row {number}: {fault}; left out")
            continue
        method = str(row.get("method") or row["run"])
        recipe = str(row.get("recipe") or USUAL)
        method += "" if recipe == USUAL else f", {recipe}"
        place = (method, *(row[name] for name in (*_TEXTS[:4], "fraction", "seed")))
        groups.setdefault(place, []).append(row)
    found = []
    for (method, run, dataset, task, protocol, fraction, seed), group in groups.items():
        scores = {
            row["metric"]: Score(
                row["value"], row.get("low"), row.get("high"), str(row.get("note") or "")
            )
            for row in group
        }
        last = group[-1]
        found.append(
            Measurement(
                directory, method, run, dataset, task, protocol, float(fraction), int(seed),
                int(last["n"]), scores, str(last.get("predictions") or ""),
                str(last.get("shards") or ""),
                None if last.get("seen") is None else str(last["seen"]),
            )
        )  # fmt: skip
    return found, problems


def _fault(row: Any) -> str:
    if not isinstance(row, dict):
        return f"found {type(row).__name__}, not an object"
    for name in _TEXTS:
        if not isinstance(row.get(name), str):
            return f"{name} is {row.get(name)!r}, not text"
    for name in _NUMBERS:
        if not _is_number(row.get(name)):
            return f"{name} is {row.get(name)!r}, not a number"
    if "value" not in row:
        return "no value"
    for name in ("value", "low", "high"):
        if row.get(name) is not None and not _is_number(row[name]):
            return f"{name} is {row[name]!r}, not a number"
    return ""


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
