"""The scores of one run on one test split, as tables and pages take them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from maskedclip.metrics.pooled_folds import FOLDS
from maskedclip.metrics.results import seen_words
from maskedclip.metrics.scores import Score

_TRANSFER = "transfer"  # how such protocols begin


@dataclass(frozen=True, eq=False)
class Result:
    """The scores of one run on one test split, as its rows of results.jsonl state them."""

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
    shards: str = ""  # the dataset's directory when it was evaluated
    # datasets of pre-training that hold test images, or the form of third-party weights that were
    # trained on images of this dataset; None: the rows do not say
    seen: str | None = None
    seen_images: int | None = None  # of the test images; None: not known
    seen_note: str = ""  # why not
    # whether the classes are grades in order; None: the rows do not say
    ordered: bool | None = None
    untrained: tuple[str, ...] = ()  # classes without training images
    image_size: int = 0  # pixels, square; 0: the rows do not say
    validation: str = ""  # predictions of the validation split; empty: an older version kept none
    group_of: str = ""  # the task whose classes were joined into two
    images_seen: str = ""  # size and colours in words; empty: the rows do not say
    few_images: str = ""  # the classes with few test images, in words
    unlearnt: str = ""  # that its training ended where constant answers stand, in words
    drawn: str = ""  # by intervals, in words; empty: patients alone, or the rows do not say
    kind: str = "class"  # of the task; or "labels", "number"
    thresholds: tuple[float, ...] = ()  # of labels, chosen on validation
    # of a network tested on another dataset than it learnt: its class -> that dataset's name of it
    renamed: Mapping[str, str] = field(default_factory=dict)

    @property
    def transferred(self) -> bool:
        """Whether a fine-tuned network was tested on another dataset than it learnt."""
        return self.protocol.startswith(_TRANSFER)

    @property
    def cell(self) -> tuple[Any, ...]:
        """What one cell of a table is made of; several seeds share it."""
        return self.method, self.dataset, self.task, self.protocol, self.budget

    @property
    def seen_words(self) -> str:
        """What is known of its test images in pre-training; "" where none of them was."""
        return seen_words(self.seen or "", self.seen_images, self.n, self.seen_note)

    def noted(self, metric: str) -> str:
        """Return what a value leaves out or why there is none, without the values of its folds."""
        if metric not in self.scores:
            return ""
        score = self.scores[metric]
        notes = [score.note.partition(FOLDS)[0].rstrip("; ")]
        if score.low is not None and score.low == score.high:
            notes.append("an interval without width: all resamples give the same value")
        return "; ".join(filter(None, notes))

    @property
    def budget(self) -> float | str:
        """Labels used for training: a share, or as many a class as the protocol says."""
        return self.protocol if self.protocol.endswith("-shot") else self.fraction

    @property
    def title(self) -> str:
        parts = [self.method, self.dataset, self.task, self.protocol, budget_text(self.budget)]
        return ", ".join([*parts, f"seed {self.seed}"])


def budget_text(budget: float | str) -> str:
    """Return a share of labels in per cent, or the labels a class of an N-shot protocol."""
    if isinstance(budget, str):
        return f"{budget.removesuffix('-shot')} a class"
    return f"{100 * budget:g} %" if budget else "none"
