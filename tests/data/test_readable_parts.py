"""A part of a split whose images cannot be read is refused before anything is trained on it."""

import re
from collections.abc import Collection
from pathlib import Path

import pytest

from maskedclip.config import FinetuneConfig
from maskedclip.data.labelled import labelled
from maskedclip.data.readable_parts import refuse_unreadable
from maskedclip.data.splits import division_of
from maskedclip.data.storage.shards import Shards
from maskedclip.evaluate.protocols import evaluate
from maskedclip.finetune.cross_validation import cross_validate
from maskedclip.finetune.loop import finetune
from maskedclip.grid.study import OpenedDatasets, check_tunable, tuned_of
from maskedclip.pretrain.measured_after import check_labels
from tests.colours import config_of, two_colours

PARTS = ("train", "val", "test")


def keys_of(dataset: Path, part: str) -> list[str]:
    shards = Shards(dataset)
    return [s.key for s in division_of(shards, labelled(shards)).parts[part]]


def with_damaged(root: Path, part: str) -> FinetuneConfig:
    """Return a fine-tuning on two colours, where all images of a part are cut off."""
    whole = two_colours(root / "whole" / "colours")
    two_colours(root / "colours", damaged=keys_of(whole, part))
    return config_of(root)


def check(dataset: Path) -> None:
    shards = Shards(dataset)
    task = labelled(shards)
    refuse_unreadable(shards, task, division_of(shards, task).parts)


@pytest.mark.parametrize("part", PARTS)
def test_a_fine_tuning_on_a_part_that_cannot_be_read_ends_before_it_trains(
    tmp_path: Path, part: str
) -> None:
    config = with_damaged(tmp_path, part)
    with pytest.raises(RuntimeError, match=rf"colours: task colour: no image of {part} can be"):
        finetune(config)
    assert not (tmp_path / "ours" / "metrics.jsonl").exists()


@pytest.mark.parametrize("part", PARTS)
def test_an_evaluation_on_a_part_that_cannot_be_read_ends_before_it_makes_features(
    tmp_path: Path, part: str
) -> None:
    dataset = Path(with_damaged(tmp_path, part).dataset)
    with pytest.raises(RuntimeError, match=f"no image of {part} can be read"):
        evaluate("random", [(dataset, "")], ("logistic",), tmp_path / "out", size="micro")
    assert not (tmp_path / "out").exists()


def test_what_a_run_is_measured_on_can_be_read_before_it_trains(tmp_path: Path) -> None:
    dataset = Path(with_damaged(tmp_path, "test").dataset)
    with pytest.raises(ValueError, match=f"^{re.escape(str(dataset))}: task colour: no image of"):
        check_labels(dataset, "colour")


def test_a_study_of_fine_tunings_refuses_a_part_that_cannot_be_read(tmp_path: Path) -> None:
    config = with_damaged(tmp_path, "val")
    with pytest.raises(RuntimeError, match="colours: task colour: no image of val can be read"):
        check_tunable(config, (), {})


def test_a_study_goes_on_with_its_other_datasets(tmp_path: Path) -> None:
    config = with_damaged(tmp_path, "val")
    opened: OpenedDatasets = {}
    for _ in range(2):
        assert "no image of val can be read" in tuned_of(config, opened, build=True).unknown


def test_a_fold_that_cannot_be_read_ends_a_cross_validation_before_the_first_trains(
    tmp_path: Path,
) -> None:
    config = with_damaged(tmp_path, "train")
    with pytest.raises(RuntimeError, match=r"no image of \w+ of fold 1 "):
        cross_validate(config, 2)
    assert not (tmp_path / "ours").exists()


@pytest.mark.parametrize(
    ("whole", "refused"), [((61, 60), False), ((61, 63), True)], ids=["of both", "of one"]
)
def test_readable_images_of_one_class_alone_are_refused(
    tmp_path: Path, whole: Collection[int], refused: bool
) -> None:
    damaged = [f"s{i:03d}" for i in range(60, 84) if i not in whole]
    dataset = two_colours(tmp_path / "colours", damaged=damaged)
    if not refused:
        check(dataset)
        return
    with pytest.raises(RuntimeError, match="no image of test but those of green can be read"):
        check(dataset)
