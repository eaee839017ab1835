"""Dataset cards: what a dataset is and how its files are read, a TOML file each (shards/cards/)."""

import difflib
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from maskedclip.casting import did_you_mean
from maskedclip.data.label_kinds import SEPARATOR

CARDS = Path(__file__).resolve().parents[1] / "cards"  # package data: pip installs them
FACTS = ("patient", "eye", "split")  # what a path or a row may state besides classes


class PathRule(NamedTuple):
    """What the path of an image states; an image that no rule of its card matches is left out.

    `pattern` is searched, whatever the case, in "/" and the path under the root. Its groups are
    patient, eye, split or a task; `split` and `labels` hold for every image that it matches.
    """

    pattern: str
    split: str = ""
    labels: Mapping[str, str] = {}


class LabelTable(NamedTuple):
    """A label file and its columns; a list of columns means the first that is not empty.

    `file` is a pattern as in PathRule; its group `split` is a split, and its groups stand for
    their names in braces in `inside`, the part that the path of a labelled image must hold.
    """

    file: str
    image: str | Sequence[str]
    image_pattern: str = ""  # its first group is the name; a cell without it names no image
    labels: Mapping[str, str | Sequence[str]] = {}
    several: Mapping[str, Sequence[str]] = {}  # of a task, columns of 0 and 1: its classes
    patient: str = ""
    eye: str | Mapping[str, str] = ""  # a column, or for L and R the one that is filled
    split: str = ""
    split_column: str = ""
    inside: str = ""
    sheet: str = ""  # of an xlsx; the first if not given

    @property
    def wanted(self) -> list[str | Sequence[str]]:
        """The columns that the file must have."""
        flags = [column for columns in self.several.values() for column in columns]
        return [self.image, *self.labels.values(), *flags]

    @property
    def tasks(self) -> set[str]:
        """The tasks whose labels it states."""
        return {*self.labels, *self.several}


class Lookalike(NamedTuple):
    """A dataset that is easily confused with this one; its files under a root are an error."""

    file: str  # a pattern as in PathRule, after the name of the root
    title: str
    columns: Sequence[str] = ()  # that the file must have to be recognised


@dataclass(frozen=True, kw_only=True)
class DatasetCard:
    """One dataset: what it is, and how its files are read."""

    name: str
    title: str
    role: str  # paired, unpaired or downstream: what the paper uses it for
    licence: str
    citation: str
    obtain: str
    reader: str = "card"  # card, odir, stare, folder, csv or phantom
    images: int = 0  # as published; 0 where that is up to the user
    marker: tuple[str, ...] = ()  # globs of paths by which the download is recognised
    paths: tuple[PathRule, ...] = ()
    tables: tuple[LabelTable, ...] = ()
    values: Mapping[str, Mapping[str, str]] = field(default_factory=dict)  # task, written, class
    classes: Mapping[str, Mapping[str, str]] = field(default_factory=dict)  # task, class, category
    ordered: tuple[str, ...] = ()  # tasks whose classes above are grades, the lowest first
    findings: Mapping[str, Mapping[str, str]] = field(default_factory=dict)  # task, category, class
    # task, category ("*" is any other), label: an image has those of all of its categories
    labels: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    exclude: tuple[str, ...] = ()  # globs of folders: decoys and copies
    nearest: bool = False  # only the images nearest the root: deeper ones repeat them
    lookalikes: tuple[Lookalike, ...] = ()
    expected: tuple[Mapping[str, Any], ...] = ()  # counts of every published form
    overlaps: tuple[str, ...] = ()  # globs of folders in which other datasets contain its images
    template: str = ""  # of captions, with [CLS]; empty: of a fundus photograph
    # category -> descriptions, beside those of the expert dictionary
    dictionary: Mapping[str, Sequence[str]] = field(default_factory=dict)
    # round: looked for and cut out; whole: images of no round field (B-scans, films) stay whole.
    # It stands last: above, the name is that of dataclasses
    field: str = "round"

    @property
    def captions(self) -> dict[str, Any]:
        """What a manifest holds of its captions; nothing where they are the usual ones."""
        own = {"template": self.template, "dictionary": dict(self.dictionary)}
        return {"captions": own} if self.template or self.dictionary else {}

    @property
    def several(self) -> set[str]:
        """The tasks with a column a label: an image has any number of them."""
        return {task for table in self.tables for task in table.several}


def card_names() -> list[str]:
    """Return the names of the cards in the package."""
    return sorted(path.stem for path in CARDS.glob("*.toml"))


def read_card(dataset: str) -> DatasetCard:
    """Return the card of a dataset's name, or of a TOML file; ValueError with the nearest name."""
    path = Path(dataset) if dataset.endswith(".toml") else CARDS / f"{dataset}.toml"
    if not path.is_file():
        if dataset.endswith(".toml"):
            raise ValueError(f"{dataset}: no such card; start from one of {CARDS}")
        if "/" in dataset:
            raise ValueError(f"{dataset}: no such file; a card of your own is a .toml file")
        near = difflib.get_close_matches(dataset.lower(), card_names(), n=1, cutoff=0.4)
        hint = f"did you mean {near[0]}?" if near else f"use one of {', '.join(card_names())}"
        raise ValueError(f"unknown dataset {dataset!r}; {hint}")
    try:
        return _card(tomllib.loads(path.read_text(encoding="utf-8")))
    except (tomllib.TOMLDecodeError, TypeError, ValueError, re.error) as error:
        raise ValueError(f"{path}: {error}; compare it with the cards of {CARDS}") from None


def _known(kind: type, facts: dict[str, Any]) -> dict[str, Any]:
    """Return the facts; ValueError for a key that is no field of `kind`."""
    keys = [*kind.__annotations__]
    for key in facts:
        if key not in keys:
            raise ValueError(f"no key {key!r}; {did_you_mean(key, keys, 'use ' + ', '.join(keys))}")
    return facts


def _compiled(pattern: str) -> None:
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"the pattern {pattern!r}: {error}") from None


def _card(facts: dict[str, Any]) -> DatasetCard:
    """Return the card of a parsed file; TypeError, ValueError or re.error where it is wrong."""
    facts["paths"] = [PathRule(**_known(PathRule, rule)) for rule in facts.pop("path", ())]
    classes = facts.get("classes", {})
    facts["tables"] = [
        LabelTable(
            **table | {"several": {t: [*classes.get(t, ())] for t in table.get("several", ())}}
        )
        for table in facts.pop("table", ())
    ]
    facts["lookalikes"] = [Lookalike(**other) for other in facts.pop("lookalike", ())]
    content: dict[str, Any] = {n: tuple(v) if isinstance(v, list) else v for n, v in facts.items()}
    card = DatasetCard(**_known(DatasetCard, content))
    patterns = [rule.pattern for rule in card.paths] + [table.file for table in card.tables]
    patterns += [table.image_pattern for table in card.tables]
    for pattern in patterns + [other.file for other in card.lookalikes]:
        _compiled(pattern)
    groups = {name for rule in card.paths for name in re.compile(rule.pattern).groupindex}
    tasks = groups.difference(FACTS).union(*(rule.labels for rule in card.paths))
    tasks = tasks.union(*(table.tasks for table in card.tables))
    if card.field not in ("round", "whole"):
        raise ValueError(f"field {card.field!r}: round (it is cut out) or whole")
    if card.template and "[CLS]" not in card.template:
        raise ValueError(f"template {card.template!r} has no [CLS]; put it where the finding goes")
    for task in card.labels:
        if task in card.classes or task in card.findings:
            raise ValueError(f"the task {task!r} has one class and several labels")
    named = {task: {*labels.values()} for task, labels in card.labels.items()}
    named |= {task: {*card.classes.get(task, ())} for task in card.several}
    for task, names in named.items():
        if any(SEPARATOR in label for label in names):
            raise ValueError(f"the task {task} has a label with {SEPARATOR}, which parts labels")
        if task in card.ordered:
            raise ValueError(f"the task {task} has several labels an image, and they are no grades")
    for task in sorted((tasks | {*card.ordered}) - card.classes.keys()):
        raise ValueError(f"no [classes.{task}] for the task {task!r}")
    return card
