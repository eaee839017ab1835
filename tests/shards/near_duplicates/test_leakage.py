"""Of two copies the one that is worth less goes, and never one that is tested on."""

from pathlib import Path

import pytest

from maskedclip.shards.checks.dataset import CheckedDataset
from maskedclip.shards.checks.shard import MemberSpan, Metadata, StoredSample
from maskedclip.shards.near_duplicates.leakage import (
    CheckedSample,
    Pair,
    exact_pairs,
    kept_samples,
    near_pairs,
    patient_pairs,
    with_unclear,
)
from maskedclip.shards.near_duplicates.search import NearDuplicate

PLACE = MemberSpan(0, 1, 2)


def dataset(
    name: str, samples: list[StoredSample], excluded: frozenset[str] = frozenset()
) -> CheckedDataset:
    keys = frozenset(sample.key for sample in samples)
    return CheckedDataset(Path(name), name, [], samples, keys, excluded)


def stored(
    key: str,
    split: str | None = "train",
    file: str = "",
    patient: str | None = None,
    **labels: str,
) -> StoredSample:
    metadata = Metadata(f"{key}.jpg", patient, split, labels, True, 9, 9, file or key)
    return StoredSample(key, "s.tar", PLACE, 9, metadata)


def pair(one: StoredSample, other: StoredSample, kind: str = "exact") -> Pair:
    where = dataset("d", [one, other])
    return Pair(kind, CheckedSample(where, one, False), CheckedSample(where, other, False))


def losers(found: Pair) -> list[str]:
    return [member.sample.key for member in found.losers]


@pytest.mark.parametrize(
    ("one", "other", "loser"),
    [
        ("train", "test", "a"),
        ("test", "train", "b"),
        ("val", "test", "a"),
        ("train", "validation", "a"),
        (None, "val", "a"),
        ("train", "on-site test", "a"),
        ("train", "train", "b"),
        ("val", "val", "b"),
        (None, None, "b"),
        ("test", "test", None),
    ],
)
def test_train_goes_before_val_before_test_and_test_never(
    one: str | None, other: str | None, loser: str | None
) -> None:
    assert losers(pair(stored("a", one), stored("b", other))) == ([loser] if loser else [])


def test_where_labels_disagree_in_training_both_go() -> None:
    one, other = stored("a", grade="3"), stored("b", grade="4")
    assert pair(one, other).labels_agree is False
    assert losers(pair(one, other)) == ["a", "b"]
    assert losers(pair(one, stored("b", "test", grade="4"))) == ["a"]
    assert pair(one, stored("b", other="4")).labels_agree is None
    assert losers(pair(one, stored("b", grade="3", other="1"))) == ["b"]


def test_a_sample_without_a_split_is_one_of_train_and_in_no_second_split() -> None:
    unsplit, train, test = (
        stored(k, s, patient="p") for k, s in zip("abc", (None, "train", "test"), strict=True)
    )
    assert pair(unsplit, train).relation == "within a split"
    assert pair(unsplit, test).relation == "across splits"
    (samples,) = kept_samples([dataset("ours", [unsplit, train])], False)
    assert list(patient_pairs(samples)) == []


def test_unclear_and_patient_pairs_lose_nobody() -> None:
    for kind in ("unclear", "patient"):
        assert losers(pair(stored("a"), stored("b", "test"), kind)) == []


def test_an_unclear_pair_across_splits_loses_its_training_side_where_that_is_asked_for() -> None:
    across = pair(stored("a"), stored("b", "test"), "unclear")
    within = pair(stored("a"), stored("b"), "unclear")
    patient = pair(stored("a"), stored("b", "test"), "patient")
    assert [losers(found) for found in with_unclear([across, within, patient])] == [["a"], [], []]


def test_a_copy_of_what_is_tested_on_goes_whatever_its_split() -> None:
    ours = dataset("ours", [stored("a", "test", "same"), stored("b", "train", "other")])
    theirs = dataset("theirs", [stored("x", "train", "same"), stored("y", "test", "same")])
    sets = kept_samples([ours], False) + kept_samples([theirs], True)
    (found,) = exact_pairs(sets)
    assert found.relation == "with --against"
    assert [member.name for member in found.losers] == ["ours/a"]


def test_copies_in_two_directories_are_named_and_left_to_the_user() -> None:
    sets = kept_samples(
        [dataset("a", [stored("x", file="f")]), dataset("b", [stored("y", file="f")])], False
    )
    (found,) = exact_pairs(sets)
    assert (found.relation, found.losers) == ("between directories", ())


def test_of_many_equal_files_one_is_kept() -> None:
    samples = [
        stored(key, split, "f")
        for key, split in zip("abcd", ["train", "test", "val", "train"], strict=True)
    ]
    found = list(exact_pairs(kept_samples([dataset("d", samples)], False)))
    assert {f.one.sample.key for f in found} == {"b"}
    assert sorted(key for f in found for key in losers(f)) == ["a", "c", "d"]


def test_what_is_excluded_already_is_no_longer_found() -> None:
    samples = [stored("a", "train", "f"), stored("b", "test", "f")]
    sets = kept_samples([dataset("d", samples, frozenset({"a"}))], False)
    assert list(exact_pairs(sets)) == []


def test_a_near_pair_of_equal_files_is_not_named_twice() -> None:
    (found,) = kept_samples(
        [dataset("d", [stored("a", file="f"), stored("b", file="f"), stored("c")])], False
    )
    copies = [NearDuplicate(0, k, True, "", 0.9, 0, False, 1) for k in (1, 2)]
    copies.append(NearDuplicate(1, 2, False, "too little detail", 0.2, 0, False, 1))
    pairs = list(near_pairs(copies, found, found))
    assert [(p.kind, p.one.sample.key, p.other.sample.key) for p in pairs] == [
        ("near", "a", "c"),
        ("unclear", "b", "c"),
    ]


def test_a_patient_in_two_splits_is_named_once_a_split() -> None:
    samples = [stored(f"p{i}", "train", patient="p") for i in range(3)]
    samples += [stored("t1", "test", patient="p"), stored("t2", "test", patient="p")]
    samples += [stored("q", "train", patient="q"), stored("n", "test"), stored("m", "train")]
    (found,) = kept_samples([dataset("d", samples)], False)
    (one,) = patient_pairs(found)
    assert (one.one.sample.key, one.other.sample.key, one.relation) == ("t1", "p0", "across splits")
