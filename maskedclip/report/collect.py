"""Finished runs: what they scored on each test split, checked against their own predictions."""

import difflib
import math
import os
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from tqdm import tqdm

from maskedclip.finetune.measured_rows import measured_predictions, measured_rows
from maskedclip.finetune.recipes import BALANCES
from maskedclip.metrics.known_patients import drawn_in_words
from maskedclip.metrics.operating_points import OPERATING
from maskedclip.metrics.pooled_folds import is_one_fold
from maskedclip.metrics.prediction_files import Predictions
from maskedclip.metrics.result_record import RESULTS
from maskedclip.metrics.results import agree, value_of
from maskedclip.metrics.scores import KINDS, Score
from maskedclip.metrics.seen_images import in_words
from maskedclip.models.checkpoints.formats import training_datasets
from maskedclip.report.repeats import made_otherwise_apart
from maskedclip.report.result import Result

T = TypeVar("T")
USUAL_PROTOCOL = "finetune"
_USUAL_RECIPE = "paper"  # of fine-tuning: not written after the method
_TEXTS = ("run", "dataset", "task", "protocol", "metric")
_NUMBERS = ("fraction", "seed", "n")


class Collected(NamedTuple):
    """The results of one protocol, the number of those of others, and what was left out.

    Attributes:
        transfers: fine-tuned networks on other datasets than they learnt, where that is not the
            protocol; they are shown apart.
    """

    protocol: str
    results: list[Result]
    other_protocols: dict[str, int]
    problems: list[str]
    transfers: Sequence[Result] = ()


def collect(roots: Sequence[Path], protocol: str) -> Collected:
    """Return the results by `protocol` under `roots`; "": fine-tuning, or the most common.

    A fold by itself is shown where it is asked for, or there is nothing else.
    A results.jsonl that is damaged is named and left out; of two runs of the same cell and seed the
    first stays. Raises ValueError where there is nothing of that protocol.
    """
    results: list[Result] = []
    problems: list[str] = []
    for directory in run_directories(roots):
        try:
            rows = measured_rows(directory)
        except (ValueError, OSError) as error:
            problems.append(_line(error))
            continue
        own, faults = results_of(directory, rows)
        results += own
        problems += faults
    where = ", ".join(map(str, roots))
    if not results:
        why = f" that can be read: {problems[0]}" if problems else ""
        what = f"{where}: no {RESULTS}{why}"
        raise ValueError(f"{what}; fine-tune or evaluate first (nor a run, whose curves to draw)")
    whole = [result for result in results if not is_one_fold(result.protocol)]
    counts = Counter(result.protocol for result in whole or results)
    usual = USUAL_PROTOCOL if USUAL_PROTOCOL in counts else counts.most_common(1)[0][0]
    protocol = protocol or usual
    chosen = [result for result in results if result.protocol == protocol]
    if not chosen:
        near = difflib.get_close_matches(protocol, counts, n=1) or [usual]
        raise ValueError(
            f"{where}: nothing measured by {protocol!r}; there is {', '.join(sorted(counts))}; "
            f"try --protocol={near[0]}"
        )
    chosen = _by_size([_with_contamination(result) for result in chosen])
    chosen, unlike = made_otherwise_apart(chosen)
    kept, repeated = _without_repeats(chosen)
    others = {name: count for name, count in sorted(counts.items()) if name != protocol}
    apart = [r for r in results if r.transferred and r.protocol != protocol]
    return Collected(protocol, kept, others, problems + unlike + repeated, apart)


def run_directories(roots: Iterable[Path]) -> Iterator[Path]:
    """Yield each directory with results under `roots`, once, in the order of names."""
    known: set[Path] = set()
    for root in roots:
        for folder, folders, files in os.walk(root):
            folders.sort()
            directory = Path(folder).resolve()
            if RESULTS in files and directory not in known:
                known.add(directory)
                yield directory


def results_of(directory: Path, rows: Iterable[Any]) -> tuple[list[Result], list[str]]:
    """Return the results in the rows of a run, and a line for each row that is invalid.

    Rows without `method`, of an older format, have their run as method. Another recipe of
    fine-tuning than the usual one is another method.
    """
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    problems: list[str] = []
    for number, row in enumerate(rows, 1):
        if isinstance(row, dict) and row.get("metric") in OPERATING:
            continue  # chosen again from the predictions, by the threshold that is asked for
        fault = _fault(row)
        if fault:
            problems.append(f"{directory / RESULTS}: row {number}: {fault}; left out")
            continue
        if row.get("trained_on"):  # tested on another dataset: a column of its own
            row = row | {"dataset": f"{row['dataset']} (trained on {row['trained_on']})"}
        method = str(row.get("method") or row["run"])
        recipe = str(row.get("recipe") or _USUAL_RECIPE)
        method += "" if recipe == _USUAL_RECIPE else f", {recipe}"
        encoder = str(row.get("encoder") or recipe)
        method += "" if encoder == recipe else f", {encoder}"
        method += f", {BALANCES[balance]}" if (balance := row.get("balance")) in BALANCES else ""
        split = (method, *(row[name] for name in (*_TEXTS[:4], "fraction", "seed")))
        split = (*split, row.get("image_size"))
        groups.setdefault(split, []).append(row)
    results = []
    for (method, run, dataset, task, protocol, fraction, seed, _), group in groups.items():
        scores = {
            row["metric"]: Score(
                row["value"], row.get("low"), row.get("high"), int(row["n"]),
                note=str(row.get("note") or ""),
            )
            for row in group
        }  # fmt: skip
        last = group[-1]
        results.append(
            Result(
                directory, method, run, dataset, task, protocol, float(fraction), int(seed),
                int(last["n"]), scores, str(last.get("predictions") or ""),
                str(last.get("shards") or ""),
                None if last.get("seen") is None else str(last["seen"]),
                last.get("seen_images"), str(last.get("seen_note") or ""),
                last.get("ordered"), tuple(map(str, last.get("untrained") or ())),
                int(last.get("image_size") or 0), str(last.get("validation") or ""),
                str(last.get("group_of") or ""), in_words(last),
                drawn=drawn_in_words(last), few_images=str(last.get("few_images") or ""),
                unlearnt=str(last.get("unlearnt") or ""),
                kind=str(last.get("kind") or "class"),
                thresholds=tuple(last.get("thresholds") or ()),
                renamed={ours: theirs for theirs, ours in (last.get("renamed") or {}).items()},
            )
        )  # fmt: skip
    return results, problems


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
    return _fault_of_kind(row)


def _fault_of_kind(row: dict[str, Any]) -> str:
    kind, thresholds = row.get("kind") or "class", row.get("thresholds") or []
    if kind not in KINDS:
        return f"kind is {kind!r}, not known"
    if not isinstance(thresholds, list) or not all(map(_is_number, thresholds)):
        return f"thresholds is {thresholds!r}, not numbers"
    return ""


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _with_contamination(result: Result) -> Result:
    """Return it with the known training data of its weights, where the rows do not state them."""
    if result.seen is None and result.dataset in training_datasets(result.method):
        return replace(result, seen=result.method)
    return result


def _by_size(results: Sequence[Result]) -> list[Result]:
    """Return them so that methods carry the size of their images, where sizes differ."""
    if len({result.image_size for result in results if result.image_size}) < 2:
        return list(results)
    return [
        replace(one, method=f"{one.method}, {one.image_size} px") if one.image_size else one
        for one in results
    ]


def _without_repeats(results: Sequence[Result]) -> tuple[list[Result], list[str]]:
    kept: dict[tuple[Any, ...], Result] = {}
    problems = []
    for result in results:
        first = kept.setdefault((*result.cell, result.fraction, result.seed), result)
        if first is not result:
            problems.append(
                f"{result.directory}: {result.title} is there twice; that of {first.directory} is "
                f"shown, give only one of them"
            )
    return list(kept.values()), problems


def read(result: Result) -> tuple[Predictions, list[str]]:
    """Return the predictions behind a result, and the classes; ValueError where there are none."""
    row: dict[str, Any] = {"predictions": result.predictions, "untrained": result.untrained}
    row |= {"ordered": result.ordered, "kind": result.kind, "thresholds": list(result.thresholds)}
    return measured_predictions(result.directory, row)


def disagreements(result: Result, predictions: Predictions) -> list[str]:
    """Return a line for each value of the rows that the predictions do not reproduce."""
    problems = []
    for metric, score in result.scores.items():
        try:
            again = value_of(metric, predictions)
        except (KeyError, ValueError) as error:
            problems.append(f"{result.directory / RESULTS}: {metric}: {_line(error)}")
            continue
        if not agree(again, score.value):
            problems.append(
                f"{result.directory / result.predictions}: gives {metric} {again}, and {RESULTS} "
                f"says {score.value}; measure again"
            )
    return problems


def progress(items: Sequence[T], what: str) -> Iterator[T]:
    """Yield the items behind a progress bar; a log file gets a line now and then."""
    yield from tqdm(
        items, desc=what, unit=f" {what}", mininterval=0.1 if sys.stderr.isatty() else 10
    )


def _line(error: Exception) -> str:
    return " ".join(str(error).split())
