"""Classes are in the order of their grades where that is known, else natural; kappa needs it."""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from maskedclip.data.class_order import in_order, is_ordered
from maskedclip.data.labelled import classes_of, labelled
from maskedclip.data.storage.shards import Shards, ShardWriter
from maskedclip.shards.building.prepare_sample import encode
from maskedclip.shards.downloads.cards import card_names, read_card

GRADES = [  # each the lowest first
    ["1", "2", "10"],
    ["0", "0.5", "1"],
    ["-1", "0", "3"],
    ["grade 1", "grade 2", "grade 10"],
    ["DR0", "DR2", "DR11"],
    ["none", "mild", "moderate", "severe"],
    ["No_DR", "Mild", "Moderate", "Severe", "Proliferate_DR"],
    ["NoDR", "MildDR", "ModerateDR", "SevereDR", "ProliferativeDR"],
    ["anodr", "bmilddr", "cmoderatedr", "dseveredr", "eproliferativedr"],
    ["anormal_control", "bearly_glaucoma", "cadvanced_glaucoma"],
    ["normal", "suspect", "glaucoma"],
    ["Healthy", "Glaucoma suspect", "Glaucoma"],
    ["no AMD", "early AMD", "intermediate AMD", "late AMD"],
    ["normal", "Mild Non-Proliferative DR", "severe NPDR", "very severe NPDR", "PDR"],
    ["normal", "NPDR", "PDR"],
    ["0_normal", "1_mild", "2_moderate", "10_severe"],
    ["Reject", "Usable", "Good"],
    ["low risk", "medium risk", "high risk"],
    ["negative", "possible", "positive"],
]
NO_GRADES = [
    ["cataract", "glaucoma", "normal", "retina disease"],
    ["1_normal", "2_cataract", "3_glaucoma"],
    ["class 1", "class 2", "class 3"],
    ["normal", "mild myopia", "severe glaucoma"],  # two diseases
    ["dry AMD", "normal", "wet AMD"],
    ["early", "initial", "none"],  # two words for one step
    ["cataract", "mild", "normal"],
    ["a", "b", "c"],
    ["léger", "normal", "sévère"],
]


@pytest.mark.parametrize("grades", GRADES, ids=",".join)
def test_grades_are_put_into_their_order(grades: list[str]) -> None:
    for seed in range(5):
        mixed = random.Random(seed).sample(grades, len(grades))
        assert in_order(mixed) == tuple(grades)
        assert is_ordered(mixed) == (mixed in (grades, grades[::-1]))


@pytest.mark.parametrize("names", NO_GRADES, ids=",".join)
def test_names_that_are_no_grades_stay_in_natural_order(names: list[str]) -> None:
    assert in_order(names[::-1]) == tuple(sorted(names))
    assert not is_ordered(in_order(names))


def test_numbers_inside_of_names_count_as_numbers() -> None:
    assert in_order(["b2", "b10", "10.1 x", "2.0 x", "a"]) == ("2.0 x", "10.1 x", "a", "b2", "b10")


def test_two_classes_need_no_order_and_stay_in_that_of_their_text() -> None:
    assert in_order(["no glaucoma", "glaucoma"]) == ("glaucoma", "no glaucoma")
    assert is_ordered(["glaucoma", "no glaucoma"])


def test_a_card_of_grades_is_ordered_and_one_of_diseases_is_not() -> None:
    found = {
        (name, task): is_ordered(list(classes))
        for name in card_names()
        for task, classes in read_card(name).classes.items()
    }
    assert {key for key, ordered in found.items() if not ordered} == {
        ("fives", "disease"), ("hrf", "disease"), ("jsiec", "disease"), ("retina", "disease"),
        ("rfmid", "findings"),
    }  # fmt: skip


def test_an_order_that_is_stated_is_kept_and_one_of_text_is_not() -> None:
    names = {"worse", "bad", "good as new"}
    stated = {"classes": {"t": ["good as new", "bad", "worse"]}, "ordered": ["t"]}
    assert classes_of(stated, "t", names) == (("good as new", "bad", "worse"), True)
    by_card = {"classes": {"t": ["worse", "bad", "good as new"]}}  # a list of classes, no grades
    assert classes_of(by_card, "t", names) == (("worse", "bad", "good as new"), False)
    by_text = {"classes": {"t": ["1", "10", "2"]}}  # as builds of before wrote it
    assert classes_of(by_text, "t", {"1", "10", "2"}) == (("1", "2", "10"), True)
    assert classes_of({}, "t", {"severe", "none", "mild"}) == (("none", "mild", "severe"), True)


def written(directory: Path, labels: Sequence[str], splits: Sequence[str]) -> Shards:
    generator = np.random.default_rng(0)
    with ShardWriter(directory, directory.name) as writer:
        for i, (label, split) in enumerate(zip(labels, splits, strict=True)):
            image_HWC = generator.integers(0, 256, (40, 40, 3), dtype=np.uint8)
            facts: dict[str, Any] = {"labels": {"t": label}, "split": split, "sha256": str(i)}
            writer.add(f"s{i}", encode(image_HWC, 90), facts)
    return Shards(directory)


def test_a_task_says_whether_its_classes_are_grades_and_which_are_not_trained(
    tmp_path: Path,
) -> None:
    task = labelled(written(tmp_path / "d", ["mild", "none", "severe"], ["train", "train", "test"]))
    assert (task.classes, task.ordered) == (("none", "mild", "severe"), True)
    assert task.untrained([one for one in task.samples if one.split == "train"]) == (2,)
