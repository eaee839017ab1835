"""Cross-validation: every image is tested once, by a network that saw no image of its patient."""

import logging
from collections import Counter, defaultdict
from dataclasses import replace

from maskedclip.data.labelled import LabelledSample, Task, divide, groups_of
from maskedclip.data.order import number

logger = logging.getLogger(__name__)


def folds_of(task: Task, folds: int, *, seed: int = 0) -> list[dict[str, list[LabelledSample]]]:
    """Return the samples of train, val and test of each fold.

    Patients (groups of `groups_of`) are dealt out in a drawn order, class by class; one of several
    classes counts as its rarest. Of what a fold does not test, val is parted off by the usual rule.
    A published test split takes no part, a published val is divided with the rest.

    Raises ValueError where there are too few patients, or an image has several labels.
    """
    if task.kind == "labels":
        raise ValueError(f"folds: images of {task.name} have several labels; leave --folds out")
    samples = [sample for sample in task.samples if sample.split != "test"]
    group_of = groups_of(task)
    fold_of = _dealt(samples, group_of, folds, seed)
    if len(fold_of) < folds:
        raise ValueError(
            f"folds {folds}: there are {len(fold_of)} patients (images, where none is known); use "
            f"fewer folds"
        )
    divided = []
    for fold in range(folds):
        own = [
            replace(sample, split="test" if fold_of[group_of[sample.key]] == fold else None)
            for sample in samples
        ]
        divided.append(divide(task._replace(samples=own), seed=seed + fold))
    return divided


def folds_line(task: Task, folds: int) -> str:
    """Return what is divided into folds, in a sentence."""
    published = Counter(sample.split for sample in task.samples)
    images = len(task.samples) - published["test"]
    text = f"{folds} folds of {images} images, divided by patient (by image where none is known)"
    if published["test"]:
        text += f"; the {published['test']} images of the published test split take no part"
    return f"{text}; splits/{task.name}.csv is not used"


def _dealt(
    samples: list[LabelledSample], group_of: dict[str, str], folds: int, seed: int
) -> dict[str, int]:
    count = Counter(sample.label for sample in samples)
    labels: defaultdict[str, set[int]] = defaultdict(set)
    for sample in samples:
        labels[group_of[sample.key]].add(sample.label)
    strata: defaultdict[int, list[str]] = defaultdict(list)
    for group, seen in labels.items():
        strata[min(seen, key=lambda label: (count[label], label))].append(group)
    order = [
        group
        for label in sorted(strata)
        for group in sorted(strata[label], key=lambda one: (number("fold", seed, one), one))
    ]
    return {group: place % folds for place, group in enumerate(order)}
