"""Copies, and pairs that may be copies, stay in one part of every division."""

from pathlib import Path

import numpy as np
import pytest

from maskedclip.data.labelled import divide, groups_of, labelled
from maskedclip.data.splits import write_missing_splits
from maskedclip.data.storage.shards import Shards, ShardWriter
from maskedclip.data.together import Groups, Together, read_together, write_together
from maskedclip.shards.building.prepare_sample import encode

JPEG = encode(np.zeros((8, 8, 3), np.uint8), 90)
SHA = [f"{number:064x}" for number in range(200)]


def dataset(directory: Path, count: int = 120, **own: dict[int, object]) -> Shards:
    """Write samples of two classes and of own files; `own` has what is otherwise, by field."""
    with ShardWriter(directory, "toy", classes={"grade": ["0", "1"]}) as writer:
        for n in range(count):
            facts = {"labels": {"grade": str(n % 2)}, "sha256": SHA[n], "split": None}
            facts |= {name: values[n] for name, values in own.items() if n in values}
            writer.add(f"s{n:03d}", JPEG, facts)
    return Shards(directory)


def part_of(shards: Shards, seed: int = 0) -> dict[str, str]:
    parts = divide(labelled(shards), seed=seed)
    return {sample.key: name for name, samples in parts.items() for sample in samples}


def test_the_pairs_of_together_stand_in_one_part_whatever_the_seed(tmp_path: Path) -> None:
    shards = dataset(tmp_path / "d")
    pairs = [Together(f"s{n:03d}", f"s{n + 60:03d}", "near") for n in range(60)]
    apart = [part_of(shards)[p.one] != part_of(shards)[p.other] for p in pairs]
    assert sum(apart) > 10  # by chance 0.3 * 0.7 + ... of 60
    write_together(shards.directory, pairs)
    for seed in range(5):
        part = part_of(shards, seed)
        assert [p for p in pairs if part[p.one] != part[p.other]] == []
    again = write_missing_splits(shards)["grade"]
    assert isinstance(again, Path)
    part = {row.split(",")[0]: row.split(",")[2] for row in again.read_text().splitlines()[1:]}
    assert [p for p in pairs if part[p.one] != part[p.other]] == []


def test_without_pairs_the_division_is_as_before_and_samples_keep_their_units(
    tmp_path: Path,
) -> None:
    shards = dataset(tmp_path / "d", 40, patient={0: "p", 1: "p"})
    before = divide(labelled(shards))
    assert groups_of(labelled(shards)) == {s.key: s.unit for s in labelled(shards).samples}
    write_together(shards.directory, [])
    assert divide(labelled(shards)) == before
    write_together(shards.directory, [Together("s002", "s003", "unclear")])
    units = {s.key: s.unit for samples in divide(labelled(shards)).values() for s in samples}
    assert units == {s.key: s.unit for s in labelled(shards).samples}


def test_two_patients_that_share_a_file_are_in_one_group(tmp_path: Path) -> None:
    who: dict[int, object] = {n: f"p{n // 2}" for n in range(40)}
    shards = dataset(tmp_path / "d", 40, patient=who, sha256={4: SHA[0], 8: SHA[5]})
    group = groups_of(labelled(shards))  # 0 and 4 are one file, and so are 5 and 8
    joined = {f"s{n:03d}" for n in (0, 1, 4, 5, 8, 9)}  # p0, p2 and p4
    assert {key for key, name in group.items() if name == "p0"} == joined
    assert len(set(group.values())) == 18


def test_an_image_without_a_label_joins_its_two_copies(tmp_path: Path) -> None:
    shards = dataset(tmp_path / "d", 40, labels={7: {"other": "1"}})
    write_together(
        shards.directory, [Together("s006", "s007", "near"), Together("s007", "s008", "unclear")]
    )
    group = groups_of(labelled(shards, "grade"))
    assert "s007" not in group
    assert group["s006"] == group["s008"]
    assert len(set(group.values())) == 38


def test_a_published_split_is_kept_though_it_parts_a_pair(tmp_path: Path) -> None:
    split: dict[int, object] = {n: "test" if n < 30 else "train" for n in range(120)}
    shards = dataset(tmp_path / "d", split=split)
    pairs = [Together("s000", "s031", "near"), Together("s040", "s041", "near")]
    write_together(shards.directory, pairs)
    part = part_of(shards)
    assert {key for key, name in part.items() if name == "test"} == {f"s{n:03d}" for n in range(30)}
    assert part["s040"] == part["s041"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("one,other,why\ns000,zzz,near\n", "the dataset has no sample 'zzz'; remove it"),
        ("one,other\ns000,s001\n", "begins with 'one,other'"),
        ("one,other,why\ns000\n", "row 2 has 1 of 3 fields"),
        ("", "is not a CSV"),
    ],
)
def test_a_file_of_another_dataset_or_a_damaged_one_is_refused(
    tmp_path: Path, text: str, message: str
) -> None:
    shards = dataset(tmp_path / "d", 4)
    (shards.directory / "together.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        labelled(shards)
    assert read_together(tmp_path, None) == []


def test_groups_are_those_of_a_search_through_the_pairs() -> None:
    generator = np.random.default_rng(0)
    pairs = [[str(a) for a in generator.integers(0, 60, 2)] for _ in range(40)]
    groups, reached = Groups(), {str(n): {str(n)} for n in range(60)}
    for pair in pairs:
        groups.join(pair)
        union = reached[pair[0]] | reached[pair[1]]
        for name in union:
            reached[name] = union
    assert {n: groups.of(n) for n in reached} == {n: min(union) for n, union in reached.items()}
