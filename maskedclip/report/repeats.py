"""What is a repeat of what: runs of one name that were made otherwise have rows of their own."""

import json
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from maskedclip.config import Config, FinetuneConfig, load
from maskedclip.pretrain.run_identity import learnt
from maskedclip.report.result import Result

# fields in which the fine-tunings of one cell differ, and those with no effect on what is learnt
_OF_A_REPEAT = (
    "name", "out", "seed", "weights", "dataset", "task", "fraction", "split", "threads", "compile",
    "hang_minutes", "i_trust_this_directory",
)  # fmt: skip
_SHOWN = 3  # fields in a method's name

Settings = Mapping[str, Any]


def made_otherwise_apart(results: Sequence[Result]) -> tuple[list[Result], list[str]]:
    """Return the results so that no two of one cell were made otherwise, and a line a method.

    Of runs of one method whose pre-trainings differ in more than the seed, and of fine-tunings of
    one cell that do, each carries its values of these fields in the method's name. Runs without a
    readable config.json are taken as they are called.
    """
    pretrained = {run: made(run) for run in {one.directory for one in results}}
    finetuned = {run: _finetuned(run) for run in pretrained}
    results, lines = _apart(results, pretrained, lambda one: one.method)
    results, more = _apart(results, finetuned, lambda one: one.cell)
    return results, lines + more


def _apart(
    results: Sequence[Result],
    settings: Mapping[Path, Settings | None],
    group: Callable[[Result], Hashable],
) -> tuple[list[Result], list[str]]:
    groups: dict[Hashable, list[Result]] = {}
    for one in results:
        if settings[one.directory] is not None:
            groups.setdefault(group(one), []).append(one)
    names: dict[int, str] = {}
    lines: dict[str, None] = {}
    for own in groups.values():
        each = [settings[one.directory] or {} for one in own]
        if not (fields := differing(each)):
            continue
        for one, its in zip(own, each, strict=True):
            names[id(one)] = f"{one.method}, {_words(fields, its, each)}"
        lines[
            f"{own[0].method}: its runs differ in {', '.join(fields)}, not in their seed alone; "
            f"they have rows of their own"
        ] = None
    named = [replace(one, method=names[id(one)]) if id(one) in names else one for one in results]
    return named, list(lines)


def differing(each: Iterable[Settings]) -> list[str]:
    """Return the fields whose values are not the same in all of these settings."""
    first, *others = [*each] or [{}]
    return [name for name in first if any(other[name] != first[name] for other in others)]


def _words(fields: Sequence[str], own: Settings, every: Iterable[Settings]) -> str:
    """Return the first fields with their values; a number too, where others share these."""
    shown = fields[:_SHOWN]
    words = ", ".join(f"{name}={_text(own[name])}" for name in shown)
    alike: list[Settings] = []
    for each in every:
        if all(each[name] == own[name] for name in shown) and each not in alike:
            alike.append(each)
    return words if len(alike) == 1 else f"{words} ({alike.index(own) + 1} of {len(alike)})"


def _text(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple | list) else str(value)


def made(run: Path) -> Settings | None:
    """Return what decides what a run's pre-training has learnt, but for its seed.

    None where that is not known: of another version, or no pre-training of ours.
    """
    if (found := pretraining(run)) is None:
        return None
    try:
        fields = learnt(load(found[0] / "config.json", Config))
    except (OSError, ValueError, TypeError):
        return None
    for name in ("init_from", "model.text"):  # the same weights at another place
        fields[name] = Path(fields[name]).name
    return {name: value for name, value in fields.items() if name != "seed"}


def _finetuned(run: Path) -> Settings | None:
    try:
        fields = asdict(load(run / "config.json", FinetuneConfig))
    except (OSError, ValueError, TypeError):
        return None
    return {name: value for name, value in fields.items() if name not in _OF_A_REPEAT}


def pretraining(run: Path) -> tuple[Path, dict[str, Any]] | None:
    """Return (directory, config.json) of the pre-training that a run's weights come from.

    None where that is not known: other weights, or their directory is no longer there.
    """
    config = _config(run)
    if config is None or "weights" not in config:
        return (run, config) if config is not None else None
    weights = Path(str(config["weights"]))
    # a relative path was relative to where the command ran: the run lies below that
    for base in (Path(), *run.parents):
        directory = base / weights
        if directory.is_file():
            directory = directory.parent
        pretrained = _config(directory) if directory.is_dir() else None
        if pretrained is not None:
            return directory.resolve(), pretrained
    return None


def _config(directory: Path) -> dict[str, Any] | None:
    try:
        config = json.loads((directory / "config.json").read_text())
    except (OSError, ValueError):
        return None  # no run of ours, or a damaged one: nothing is known of it
    return config if isinstance(config, dict) else None
