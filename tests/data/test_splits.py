import csv
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from maskedclip.data.labelled import divide, labelled, share_of
from maskedclip.data.splits import (
    FRACTIONS,
    SEEDS,
    division_of,
    few_shots,
    read_split,
    split_file,
    training_share,
    write_missing_splits,
    write_split,
)
from maskedclip.data.storage.exclusions import Exclusion, write_exclusions
from maskedclip.data.storage.shards import Shards, ShardWriter
from maskedclip.shards.building.prepare_sample import encode

JPEG = encode(np.zeros((8, 8, 3), np.uint8), 90)


def dataset(directory: Path, grades: list[str], **facts: Any) -> Shards:
    with ShardWriter(directory, "toy", classes={"grade": sorted(set(grades))}) as writer:
        for number, grade in enumerate(grades):
            own = {name: make(number) for name, make in facts.items()}
            writer.add(
                f"s{number:05d}", JPEG, {"labels": {"grade": grade}, "sha256": str(number)} | own
            )
    return Shards(directory)


def keys(samples: Any) -> set[str]:
    return {sample.key for sample in samples}


def sizes(counts: dict[str, int], directory: Path) -> list[list[int]]:
    shards = dataset(directory, [name for name, count in counts.items() for _ in range(count)])
    parts = divide(labelled(shards))
    classes = [Counter(s.label for s in parts[name]) for name in ("train", "val", "test")]
    return [[count[label] for label in range(len(counts))] for count in classes]


@pytest.mark.parametrize(
    ("counts", "train", "val", "test"),
    [
        ([1805, 370, 999, 193, 295], [1010, 207, 559, 108, 164], [253, 52, 140, 27, 42],
         [542, 111, 300, 58, 89]),  # APTOS2019
        ([1017, 270, 347, 75, 35], [568, 151, 193, 41, 19], [143, 38, 49, 11, 5],
         [306, 81, 105, 23, 11]),  # MESSIDOR2
        ([788, 289, 467], [440, 161, 260], [111, 41, 66], [237, 87, 141]),  # Glaucoma_fundus
        ([300, 100, 101, 100], [168, 56, 56, 56], [42, 14, 14, 14], [90, 30, 31, 30]),  # Retina
    ],
)  # fmt: skip
def test_the_rule_gives_retfounds_released_sizes(
    counts: list[int], train: list[int], val: list[int], test: list[int], tmp_path: Path
) -> None:
    named = {str(label): count for label, count in enumerate(counts)}
    assert sizes(named, tmp_path / "d") == [train, val, test]


def test_idrids_test_set_is_kept_and_validation_is_a_fifth_of_each_class(tmp_path: Path) -> None:
    grades = [str(g) for g, n in enumerate([134, 20, 136, 74, 49]) for _ in range(n)]
    grades += [str(g) for g, n in enumerate([34, 5, 32, 19, 13]) for _ in range(n)]
    shards = dataset(tmp_path / "d", grades, split=lambda n: "train" if n < 413 else "test")
    parts = divide(labelled(shards))
    found = {name: [Counter(s.label for s in part)[g] for g in range(5)] for name, part in
             parts.items()}  # fmt: skip
    assert found == {
        "train": [107, 16, 108, 59, 39],
        "val": [27, 4, 28, 15, 10],
        "test": [34, 5, 32, 19, 13],
    }


def test_a_split_that_was_written_is_read_back(tmp_path: Path) -> None:
    shards = dataset(tmp_path / "d", ["a", "b", "b"] * 30)
    task = labelled(shards)
    assert list(write_missing_splits(shards)) == ["grade"]
    path = split_file(shards.directory, "grade")
    found = read_split(path, task)
    assert found.parts == divide(task)
    for fraction in FRACTIONS:
        for seed in range(SEEDS):
            assert training_share(found, fraction, seed) == share_of(
                found.parts["train"], fraction, seed
            )
    before = path.read_bytes()
    write_split(path, task, divide(task))
    assert path.read_bytes() == before


def test_the_fractions_of_the_file_are_nested_and_stratified(tmp_path: Path) -> None:
    shards = dataset(tmp_path / "d", ["a"] * 500 + ["b"] * 100)
    write_missing_splits(shards)
    found = division_of(shards, labelled(shards))
    train = Counter(sample.label for sample in found.parts["train"])
    for seed in range(SEEDS):
        shares = [training_share(found, fraction, seed) for fraction in FRACTIONS]
        for smaller, larger in pairwise(shares):
            assert keys(smaller) < keys(larger)
        for fraction, share in zip(FRACTIONS, shares, strict=True):
            assert Counter(sample.label for sample in share) == {
                label: max(1, round(fraction * count)) for label, count in train.items()
            }


def test_another_seed_divides_otherwise_and_keeps_patients_together(tmp_path: Path) -> None:
    shards = dataset(tmp_path / "d", ["a", "b"] * 60, patient=lambda n: f"p{n // 4}")
    task = labelled(shards)
    one, two = divide(task, seed=0), divide(task, seed=1)
    assert keys(one["test"]) != keys(two["test"])
    for parts in (one, two):
        patients = [{sample.patient for sample in samples} for samples in parts.values()]
        assert sum(map(len, patients)) == len(set.union(*patients)) == 30


def test_fine_tuning_takes_the_file_that_it_is_given(tmp_path: Path) -> None:
    shards = dataset(tmp_path / "d", ["a", "b"] * 40)
    task = labelled(shards)
    assert division_of(shards, task).parts == divide(task)  # by rule, where there is no file
    write_split(tmp_path / "other.csv", task, divide(task, seed=5))
    assert division_of(shards, task, tmp_path / "other.csv").parts == divide(task, seed=5)
    write_split(split_file(shards.directory, "grade"), task, divide(task, seed=6))
    assert division_of(shards, task).parts == divide(task, seed=6)


def test_an_excluded_sample_leaves_its_split_and_no_other_moves(tmp_path: Path) -> None:
    shards = dataset(tmp_path / "d", ["a", "b"] * 40)
    write_missing_splits(shards)
    before = division_of(shards, labelled(shards)).parts
    gone = before["train"][0].key
    write_exclusions(shards.directory, [Exclusion(gone, "a copy", "toy/x")])
    again = Shards(shards.directory)
    after = division_of(again, labelled(again)).parts
    assert keys(after["train"]) == keys(before["train"]) - {gone}
    assert (after["val"], after["test"]) == (before["val"], before["test"])


def change(path: Path, row: int, column: int, word: str) -> None:
    with path.open(newline="") as file:
        rows = list(csv.reader(file))
    rows[row][column] = word
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)


@pytest.mark.parametrize(
    ("row", "column", "word", "message"),
    [
        (0, 0, "id", "begins with 'id,class"),
        (1, 0, "nobody", "row 2 is of no sample"),
        (1, 1, "c", "row 2 is of no sample"),
        (1, 2, "holdout", "row 2 is of no sample"),
        (2, 0, "s00000", "row 3 is of no sample"),  # a second time
    ],
)
def test_a_file_that_is_no_split_of_the_dataset_is_refused(
    row: int, column: int, word: str, message: str, tmp_path: Path
) -> None:
    shards = dataset(tmp_path / "d", ["a", "b"] * 20)
    write_missing_splits(shards)
    path = split_file(shards.directory, "grade")
    change(path, row, column, word)
    with pytest.raises(ValueError, match=message):
        division_of(shards, labelled(shards))


def test_a_sample_without_a_row_and_a_missing_file_are_told(tmp_path: Path) -> None:
    shards = dataset(tmp_path / "d", ["a", "b"] * 20)
    write_missing_splits(shards)
    path = split_file(shards.directory, "grade")
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-2]))
    with pytest.raises(ValueError, match=r"2 samples, s00038 the first, are in no row"):
        division_of(shards, labelled(shards))
    with pytest.raises(ValueError, match="no such file"):
        division_of(shards, labelled(shards), tmp_path / "none.csv")


@pytest.mark.parametrize("part", ["train", "val", "test"])
def test_a_file_that_leaves_a_split_no_samples_is_refused_before_anything_learns_from_it(
    part: str, tmp_path: Path
) -> None:
    shards = dataset(tmp_path / "d", ["a", "b"] * 20)
    task, path = labelled(shards), tmp_path / "own.csv"
    parts = divide(task)
    other = "val" if part == "train" else "train"
    write_split(path, task, {**parts, other: parts[other] + parts[part], part: []})
    with pytest.raises(ValueError, match=rf"own.csv: task grade: 0 samples .* left for {part}"):
        division_of(shards, task, path)


def test_a_split_whose_test_samples_are_all_excluded_is_refused(tmp_path: Path) -> None:
    shards = dataset(tmp_path / "d", ["a", "b"] * 20)
    write_missing_splits(shards)
    tested = division_of(shards, labelled(shards)).parts["test"]
    write_exclusions(shards.directory, [Exclusion(s.key, "a copy", "toy/x") for s in tested])
    again = Shards(shards.directory)
    with pytest.raises(ValueError, match=r"grade.csv: task grade: 0 samples .* left for test"):
        division_of(again, labelled(again))


def test_a_task_that_cannot_be_divided_says_why(tmp_path: Path) -> None:
    found = write_missing_splits(dataset(tmp_path / "d", ["a"] * 20))
    assert "two classes are needed" in str(found["grade"])
    assert not (tmp_path / "d" / "splits").exists()


def test_few_shots_are_so_many_of_each_class_and_nested(tmp_path: Path) -> None:
    shards = dataset(tmp_path / "d", ["a"] * 60 + ["b"] * 40 + ["c"] * 6)
    division = division_of(shards, labelled(shards))
    train = Counter(sample.label for sample in division.parts["train"])
    shares = [few_shots(division, shots, 0) for shots in (1, 4, 16)]
    for shots, share in zip((1, 4, 16), shares, strict=True):
        assert Counter(sample.label for sample in share) == {
            label: min(shots, count) for label, count in train.items()
        }
    for smaller, larger in pairwise(shares):
        assert keys(smaller) < keys(larger)
    assert keys(few_shots(division, 4, 1)) != keys(shares[1])
