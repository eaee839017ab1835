"""Copies that names state stay with their original: no split parts them, and they are counted."""

from collections import defaultdict
from pathlib import Path

import pytest

from maskedclip.shards.downloads.copies_in_names import original_stem, with_copies
from maskedclip.shards.downloads.patient_names import by_pattern, recognised, with_patients
from maskedclip.shards.downloads.records import Record, Sources
from maskedclip.shards.image_folders import as_shards
from maskedclip.shards.make_command import remark_lines
from tests.downloads.drawing import draw

HASH = "0123456789abcdef0123456789abcdef"
FORMS = (
    "{x}_flip", "{x}_hflip", "{x}_flipped_2", "{x}_flip_horizontal", "{x}-vertical-flip",
    "{x}_aug1", "{x}_aug_0_2", "{x}_augmented", "aug_{x}", "aug_0_{x}", "flip_{x}", "{x}_rot90",
    "{x}_rotated_15", "rot90_{x}", "{x}_mirror", "{x}_flip_rot180", "Copy of {x}", "CopyOf{x}",
    "{x} - Copy", "{x} - Copy (2)", "{x} copy", "{x} copy 2", "Copy (2) of {x}", "{x}_flip - Copy",
    f"{{x}}_jpg.rf.{HASH}",
)  # fmt: skip


def sources(*names: str, split: str | None = None) -> Sources:
    return Sources(
        [
            Record(n, Path(n), split=split, labels={"dr": n.split("/")[-2]} if "/" in n else {})
            for n in names
        ],
        {},
    )


def groups(found: Sources) -> set[frozenset[str]]:
    own: defaultdict[str, set[str]] = defaultdict(set)
    for record in found.records:
        if record.patient:
            own[record.patient].add(record.source)
    return {*map(frozenset, own.values())}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("original", ["X17", "0012_OD", "IDRiD_003"])
def test_a_copy_is_known_by_its_name(form: str, original: str) -> None:
    copy = form.format(x=original)
    if copy == "CopyOf0012_OD":
        assert original_stem(copy) == "0012_OD"
    found = with_copies(sources(f"a/{original}.jpg", f"a/{copy}.jpg", "a/other.jpg"))
    assert groups(found) == {frozenset({f"a/{original}.jpg", f"a/{copy}.jpg"})}
    assert found.remarks["copies_in_names"][0].startswith("1 of 1 originals, by their names, such")


@pytest.mark.parametrize(
    "name",
    ["01_rot", "P12_Aug_2020", "august_12", "Rotterdam_3", "12_left", "flip", "20051020_1"],
)
def test_other_names_are_their_own(name: str) -> None:
    assert original_stem(name) == name
    assert groups(with_copies(sources(f"a/{name}.jpg", "a/P12.jpg", "a/01.jpg"))) == set()


@pytest.mark.parametrize("form", ["{x}_blur", "{x}_clahe", "{x}_bright1.2", "{x}_crop2", "{x} (1)"])
def test_weaker_words_say_a_copy_only_where_the_original_is_there(form: str) -> None:
    copy = f"a/{form.format(x='X17')}.jpg"
    assert groups(with_copies(sources("a/X17.jpg", copy))) == {frozenset({"a/X17.jpg", copy})}
    assert groups(with_copies(sources("a/X18.jpg", copy))) == set()


def test_one_name_of_two_endings_or_cases_is_one_picture() -> None:
    names = ["a/1.jpg", "a/1.png", "a/IMG2.jpg", "a/img2.jpg", "a/3.jpg", "b/1.jpg"]
    assert groups(with_copies(sources(*names))) == {frozenset(names[:2]), frozenset(names[2:4])}


def test_a_series_of_numbers_in_brackets_is_no_copy_of_its_first() -> None:
    assert (
        groups(with_copies(sources("a/X.jpg", *(f"a/X ({n}).jpg" for n in range(1, 60))))) == set()
    )


def test_copies_of_an_original_that_is_not_there_are_one_within_their_class() -> None:
    names = [f"{c}/7_{word}.jpg" for c in ("dr", "no") for word in ("flip", "rot90")]
    assert groups(with_copies(sources(*names))) == {frozenset(names[:2]), frozenset(names[2:])}


def test_equal_names_of_two_classes_are_two_originals() -> None:
    names = [f"{c}/{name}.jpg" for c in ("dr", "no") for name in ("7", "7_flip")]
    assert groups(with_copies(sources(*names))) == {frozenset(names[:2]), frozenset(names[2:])}


def test_the_original_may_lie_in_another_folder_of_its_class_and_split_and_it_is_said() -> None:
    here = sources("train/dr/7.jpg", split="train").records
    there = sources("test/dr/7_aug1.jpg", split="test").records
    found = with_copies(Sources([*here, *there], {}))
    assert groups(found) == {frozenset({"train/dr/7.jpg", "test/dr/7_aug1.jpg"})}
    lines = remark_lines(found.remarks)
    assert (
        "WARNING: 2 images and copies of them stand in more than one split; kept as they are"
        in lines
    )


def test_names_that_do_not_say_of_which_image_are_counted_and_make_no_group() -> None:
    found = with_copies(sources(*(f"a/dr_aug_{n}.jpg" for n in range(300)), "a/aug_0_3412.jpg"))
    assert groups(found) == set()
    (line,) = remark_lines(found.remarks)
    assert line.startswith(
        "WARNING: 301 images, such as a/dr_aug_0.jpg: copies, and their names do"
    )


def test_a_copy_is_of_the_patient_of_its_original() -> None:
    names = [f"{n:04d}_{s}.jpg" for n in range(20) for s in ("OD", "OS")]
    copies = [
        "aug_0_0003_OD.jpg",
        "0004_OS_flip.jpg",
        f"0005_OD_jpg.rf.{HASH}.jpg",
        "flip_0006_OS.jpg",
    ]
    found = with_copies(with_patients(sources(*names, *copies), "", False))
    patient = {record.source: record.patient for record in found.records}
    assert [patient[copy] for copy in copies] == ["0003", "0004", "0005", "0006"]
    assert len(groups(found)) == 20
    assert recognised([*names, *copies], False)[copies[0]].patient == "0003"
    assert by_pattern(copies, r"(.+)_O[DS]")[copies[0]].patient == "0003"


def test_no_drawn_split_parts_a_picture_from_its_copies(tmp_path: Path) -> None:
    from maskedclip.data.labelled import divide, labelled
    from maskedclip.data.storage.shards import Shards

    names = [
        f"{c}/{n}{word}.png" for c in ("dr", "no") for n in range(12) for word in ("", "_flip")
    ]
    draw(tmp_path / "own", *names)
    parts = divide(labelled(Shards(as_shards(tmp_path / "own"))))
    of = {s.source.replace("_flip", ""): {*()} for part in parts.values() for s in part}
    for name, samples in parts.items():
        for sample in samples:
            of[sample.source.replace("_flip", "")].add(name)
    assert len(of) == 24
    assert all(len(own) == 1 for own in of.values())
