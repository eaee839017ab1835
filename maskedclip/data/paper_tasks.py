"""The seven downstream tasks of the paper's tables, as cards over the shards of make_shards.

A card says which shard directory a column is measured on, by which label, and how it is divided.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from maskedclip.data.storage.shard_writer import MANIFEST

_SCORES = ("auroc", "average_precision")  # ROC and PRC of the tables
_RULE = (
    "of RETFound's release where that is built, else by its rule, "
    "30 % of each class to test and 20 % of the rest to val"
)
PAPER_WORD = "paper"


class TaskCard(NamedTuple):
    """One column of Tables 1 and 2."""

    name: str  # as the tables head it
    shards: str  # folder, and the recipe of make_shards that builds it
    task: str  # label
    classes: int
    split: str  # where the division comes from
    metrics: tuple[str, ...] = _SCORES


PAPER = (
    TaskCard("APTOS", "aptos2019", "diabetic_retinopathy", 5, _RULE),
    TaskCard(
        "IDRiD",
        "idrid",
        "diabetic_retinopathy",
        5,
        "the published test set; val is 20 % of each class of the published training set",
    ),
    TaskCard("MESSIDOR-2", "messidor2", "diabetic_retinopathy", 5, _RULE),
    TaskCard("GF", "glaucoma_fundus", "glaucoma", 3, _RULE),
    TaskCard(
        "ORIGA",
        "origa",
        "glaucoma",
        2,
        "none is published, nor in RETFound's release: by RETFound's rule",
    ),
    TaskCard("JSIEC", "jsiec", "disease", 39, _RULE),
    TaskCard("Retina", "retina", "disease", 4, _RULE),
)


def present(root: Path) -> tuple[list[TaskCard], list[TaskCard]]:
    """Return the cards whose shards are finished under `root`, and those that are missing."""
    built = [card for card in PAPER if (root / card.shards / MANIFEST).is_file()]
    return built, [card for card in PAPER if card not in built]


def make_command(card: TaskCard, root: Path) -> str:
    """Return the command that builds a card's shards under `root`."""
    return f"python tools/make_shards.py {card.shards} --root DOWNLOAD --out {root / card.shards}"


def chosen(
    datasets: Iterable[str], task: str, root: Path
) -> tuple[list[tuple[Path, str]], list[str]]:
    """Return (directory, task) of each dataset, and a line for each of the paper's that is missing.

    Args:
        datasets: directories; the word "paper" stands for the seven under `root`, each with the
            task of its card.
        task: of the directories that are named; "" for the first of each.

    Raises ValueError where "paper" is named and none of the seven is there.
    """
    pairs: list[tuple[Path, str]] = []
    lines: list[str] = []
    for name in datasets:
        if name != PAPER_WORD:
            pairs.append((Path(name), task))
            continue
        built, missing = present(root)
        if not built:
            raise ValueError(
                f"--shards {root}: none of the paper's datasets is there; build one, such as "
                f"{make_command(missing[0], root)}"
            )
        pairs += [(root / card.shards, card.task) for card in built]
        lines += _missing(missing, root)
    return pairs, lines


def _missing(cards: Sequence[TaskCard], root: Path) -> list[str]:
    return [f"{card.name} is not there: {make_command(card, root)}" for card in cards]
