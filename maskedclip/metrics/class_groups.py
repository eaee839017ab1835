"""Classes joined into two: "0,1|2,3,4" makes of grades what is not referable and what is.

The probability of a group is the sum of its classes'.
"""

import difflib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from maskedclip.metrics.prediction_files import Predictions


class ClassGroup(NamedTuple):
    """The classes of either side, as indices, and those of neither."""

    text: str  # as it was given, without spaces around names
    negative: tuple[int, ...]
    positive: tuple[int, ...]
    left_out: tuple[int, ...]

    def names(self, classes: Sequence[str]) -> list[str]:
        """Return what the two groups are called."""
        return [", ".join(classes[y] for y in side) for side in (self.negative, self.positive)]

    def task(self, task: str) -> str:
        return f"{task} ({self.text})"


def sides_of(text: str) -> tuple[list[str], list[str]]:
    """Return the names left and right of the bar; ValueError where there is not one of each."""
    sides = [[name.strip() for name in side.split(",") if name.strip()] for side in text.split("|")]
    if len(sides) != 2 or not all(sides):
        raise ValueError(
            f"group {text!r}: write the negative classes, a bar and the positive ones, such as "
            f"--group='0,1|2,3,4'"
        )
    names = [*sides[0], *sides[1]]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"group {text!r}: {name!r} stands there twice; name it on one side")
    return sides[0], sides[1]


def group_of(text: str, classes: Sequence[str], kind: str = "class") -> ClassGroup:
    """Return the classes that a text joins; ValueError for a name that is no class.

    And where an image may have several labels, or a number: there is nothing to join.
    """
    sides = sides_of(text)
    if kind != "class":
        raise ValueError(f"group {text!r}: the task is not one of classes, one an image")
    for name in (*sides[0], *sides[1]):
        if name not in classes:
            near = difflib.get_close_matches(name, classes, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise ValueError(
                f"group {text!r}: no class {name!r}; {hint}there are {', '.join(classes)}"
            )
    negative, positive = (tuple(classes.index(name) for name in side) for side in sides)
    left_out = tuple(y for y in range(len(classes)) if y not in negative + positive)
    joined = "|".join(",".join(side) for side in sides)
    return ClassGroup(joined, negative, positive, left_out)


def grouped(predictions: Predictions, group: ClassGroup) -> Predictions:
    """Return the predictions of the two groups, for the images of their classes.

    Where classes are left out, so are their images, and probabilities are those of the two groups
    alone, of sum 1.
    """
    sides = (group.negative, group.positive)
    label_of = {label: side for side, labels in enumerate(sides) for label in labels}
    kept = [i for i, label in enumerate(predictions.label_B.tolist()) if label in label_of]
    probability_B2 = np.stack(
        [predictions.probability_BY[kept][:, list(side)].sum(axis=1) for side in sides], axis=1
    )
    if group.left_out:
        total_B1 = probability_B2.sum(axis=1, keepdims=True)
        probability_B2 = np.divide(
            probability_B2, total_B1, out=np.full_like(probability_B2, 0.5), where=total_B1 > 0
        )
    return Predictions(
        [predictions.keys[i] for i in kept],
        [predictions.units[i] for i in kept],
        np.array([label_of[label] for label in predictions.label_B[kept].tolist()], dtype=np.int64),
        probability_B2,
        ordered=True,
        untrained=tuple(
            side for side, labels in enumerate(sides) if {*labels} <= {*predictions.untrained}
        ),
        sources=tuple(predictions.sources[i] for i in kept) if predictions.sources else (),
    )
