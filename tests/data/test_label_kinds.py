"""Tasks of several labels an image, and of numbers: read, divided, written and read back."""

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from maskedclip.data.label_kinds import number_text
from maskedclip.data.labelled import Task, divide, labelled, share_of
from maskedclip.data.splits import division_of, few_shots, read_split, write_missing_splits
from maskedclip.data.storage.shards import Shards, ShardWriter
from maskedclip.data.stratified import chosen_units
from maskedclip.finetune.command import check_dataset
from maskedclip.shards.building.prepare_sample import encode
from maskedclip.shards.splits_command import SplitsConfig, make_splits
from tests.tars import plain_tar

JPEG = encode(np.zeros((8, 8, 3), np.uint8), 90)


def findings(directory: Path, texts: list[str], **facts: Any) -> Shards:
    """A dataset whose images have any of the labels N, D, G; two in a row are of one patient."""
    with ShardWriter(
        directory, "toy", classes={"findings": ["N", "D", "G"]}, kinds={"findings": "labels"}
    ) as writer:
        for number, text in enumerate(texts):
            own = {"sha256": f"{number}", "patient": f"p{number // 2}"} | facts
            writer.add(f"s{number:05d}", JPEG, {"labels": {"findings": text}} | own)
    return Shards(directory)


def ages(directory: Path, count: int) -> Shards:
    with ShardWriter(directory, "ages", kinds={"age": "number"}) as writer:
        for number in range(count):
            facts = {"sha256": f"{number}", "patient": f"p{number // 2}"}
            writer.add(f"s{number:05d}", JPEG, {"labels": {"age": f"{number / 2}"}} | facts)
    return Shards(directory)


def images_of(task: Task, samples: Any) -> dict[str, int]:
    counts = Counter(task.classes[label] for sample in samples for label in sample.labels)
    return {name: counts[name] for name in task.classes}


def test_the_labels_of_an_image_are_its_texts_parts_in_the_manifests_order(tmp_path: Path) -> None:
    task = labelled(findings(tmp_path / "d", ["N", "D|G", "", "G"]))
    assert (task.kind, task.classes, task.ordered) == ("labels", ("N", "D", "G"), False)
    assert [sample.labels for sample in task.samples] == [(0,), (1, 2), (), (2,)]
    assert [task.text(sample) for sample in task.samples] == ["N", "D|G", "", "G"]


def test_a_number_is_read_and_written_to_its_last_digit(tmp_path: Path) -> None:
    task = labelled(ages(tmp_path / "d", 4))
    assert (task.kind, task.classes) == ("number", ("age",))
    assert [sample.value for sample in task.samples] == [0.0, 0.5, 1.0, 1.5]
    assert [task.text(sample) for sample in task.samples] == ["0", "0.5", "1", "1.5"]
    for value in (0.1 + 0.2, 1e300, -7.0, math.pi):
        assert float(number_text(value)) == value


def test_answers_are_rows_of_0_and_1_or_numbers(tmp_path: Path) -> None:
    task = labelled(findings(tmp_path / "d", ["N", "D|G", "", "G"]))
    assert task.answers(task.samples).tolist() == [[1, 0, 0], [0, 1, 1], [0, 0, 0], [0, 0, 1]]
    # N: none of the last three; G: all of the last one
    assert task.untrained(task.samples[1:]) == (0,)
    assert task.untrained(task.samples[3:]) == (0, 1, 2)
    numbers = labelled(ages(tmp_path / "ages", 3))
    assert numbers.answers(numbers.samples).tolist() == [0.0, 0.5, 1.0]
    assert numbers.untrained(numbers.samples) == ()


def test_each_label_has_its_share_of_test_and_validation_by_patient(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    drawn = rng.random((400, 3)) < [0.5, 0.3, 0.05]
    texts = ["|".join(name for name, has in zip("NDG", row, strict=True) if has) for row in drawn]
    task = labelled(findings(tmp_path / "d", texts))
    parts = divide(task)
    all_of, test, val = (images_of(task, s) for s in (task.samples, parts["test"], parts["val"]))
    for name in task.classes:
        assert abs(test[name] - math.ceil(0.3 * all_of[name])) <= 1
        assert abs(val[name] - math.ceil(0.2 * (all_of[name] - test[name]))) <= 1
    patients = [{sample.patient for sample in part} for part in parts.values()]
    assert sum(map(len, patients)) == len(set.union(*patients)) == 200
    assert divide(task) == parts
    assert divide(task, seed=1) != parts


def test_iterative_stratification_deals_the_rarest_label_first() -> None:
    # 2 of the 4 images with r, 10 of all 20 with f, though every r has f too
    images = {f"u{i:02d}": [("r", "f") if i < 4 else ("f",)] for i in range(20)}
    chosen = chosen_units(images, 0.5, lambda unit: int(unit[1:]))
    assert sum("r" in images[unit][0] for unit in chosen) == 2
    assert len(chosen) == 10


def test_a_label_of_one_patient_stays_in_training(tmp_path: Path) -> None:
    task = labelled(findings(tmp_path / "d", ["G", "G", *["N", "", "D", "D"] * 10]))
    parts = divide(task)
    assert images_of(task, parts["train"])["G"] == 2


def test_numbers_are_divided_by_patient(tmp_path: Path) -> None:
    task = labelled(ages(tmp_path / "d", 100))
    parts = divide(task)
    assert {name: len(part) for name, part in parts.items()} == {"train": 56, "val": 14, "test": 30}
    assert not {s.patient for s in parts["train"]} & {s.patient for s in parts["test"]}


def test_splits_of_new_kinds_are_written_and_read_back(tmp_path: Path) -> None:
    for dataset in (findings(tmp_path / "f", ["N", "D|G", "", "D"] * 20), ages(tmp_path / "a", 80)):
        (path,) = write_missing_splits(dataset).values()
        assert isinstance(path, Path)
        task = labelled(dataset)
        assert read_split(path, task).parts == divide(task)
        assert path.read_text().count(",train,") == len(divide(task)["train"])


def test_fractions_and_few_shots_hold_every_label_and_are_nested(tmp_path: Path) -> None:
    dataset = findings(tmp_path / "d", ["N", "D|G", "", "D"] * 50)
    task = labelled(dataset)
    few, more = share_of(task.samples, 0.1, 0), share_of(task.samples, 0.5, 0)
    assert {s.key for s in few} < {s.key for s in more}
    assert images_of(task, few) == {"N": 5, "D": 10, "G": 5}
    shots = few_shots(division_of(dataset, task), 3, 0)
    assert min(images_of(task, shots).values()) == 3
    assert sum(not s.labels for s in shots) == 3


def test_what_cannot_be_divided_says_why(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no label that some have and others have not"):
        divide(labelled(findings(tmp_path / "d", ["N"] * 20)))
    same = findings(tmp_path / "e", ["", "N"])
    with pytest.raises(ValueError, match="left for"):
        divide(labelled(same))


def test_make_splits_counts_each_label(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dataset = findings(tmp_path / "d", ["N", "D|G", "", "D"] * 20)
    ages(tmp_path / "a", 80)
    make_splits(dataset.directory, SplitsConfig())
    make_splits(tmp_path / "a", SplitsConfig(seed=3))
    lines = [line.split() for line in capsys.readouterr().out.splitlines() if line]
    assert ["D", "22", "6", "12"] in [line[:4] for line in lines]
    assert ["all", "44", "12", "24"] in [line[:4] for line in lines]


def test_lists_of_third_party_tars_are_labels_and_other_lists_are_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    labels = [["b", "a"], "a", [], ["nan"], [1], None, ["c"]]
    members = {}
    for number, label in enumerate(labels):
        facts = {"labels": {"f": label, "g": "x|y"}}
        members |= {f"{number}.jpg": JPEG, f"{number}.json": json.dumps(facts).encode()}
    (tmp_path / "x.tar").write_bytes(plain_tar(members))
    task = labelled(Shards(tmp_path / "x.tar"), "f")
    assert (task.kind, task.classes) == ("labels", ("a", "b", "c"))
    assert {s.key: task.text(s) for s in task.samples} == {"0": "a|b", "1": "a", "2": "", "6": "c"}
    assert "1 samples have a f that is neither a text nor a list of texts" in caplog.text
    whole = labelled(Shards(tmp_path / "x.tar"), "g")
    assert (whole.kind, whole.classes) == ("class", ("x|y",))
    assert "the class 'x|y' of g is taken as one" in caplog.text


def test_an_unknown_kind_is_refused(tmp_path: Path) -> None:
    with ShardWriter(tmp_path / "d", "toy", kinds={"box": "boxes"}) as writer:
        writer.add("s", JPEG, {"labels": {"box": "1"}})
    with pytest.raises(ValueError, match="unknown kind 'boxes'; read it with a newer"):
        labelled(Shards(tmp_path / "d"))


def test_finetune_knows_tasks_of_every_kind(tmp_path: Path) -> None:
    kinds, classes = {"age": "number"}, {"grade": ["a", "b"]}
    with ShardWriter(tmp_path / "d", "toy", kinds=kinds, classes=classes) as writer:
        writer.add("s", JPEG, {"labels": {"age": "1", "grade": "a"}})
    for task in ("age", "grade"):
        check_dataset(tmp_path / "d", task)
    with pytest.raises(ValueError, match="no task 'ages'; did you mean age"):
        check_dataset(tmp_path / "d", "ages")
