"""What a build prints of its splits: sizes, patients, who divided them, and what is rare."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from maskedclip.data.splits import split_file, write_missing_splits
from maskedclip.data.storage.shards import Shards, ShardWriter
from maskedclip.shards.building.prepare_sample import encode
from maskedclip.shards.split_sizes import split_lines

JPEG = encode(np.zeros((8, 8, 3), np.uint8), 90)


def lines(
    directory: Path,
    text: Callable[[int], str],
    patient: Callable[[int], str | None] = lambda n: None,  # noqa: ARG005
    split: Callable[[int], str | None] = lambda n: None,  # noqa: ARG005
    kind: str = "",
) -> list[str]:
    """Return the lines of a dataset of 100 images."""
    facts = {"kinds": {"t": kind}} if kind else {}
    classes = {} if kind == "number" else {"t": ["a", "b"]}
    with ShardWriter(directory, "toy", classes=classes, **facts) as writer:
        for n in range(100):
            own = {"patient": patient(n), "split": split(n), "sha256": str(n)}
            writer.add(f"s{n:03d}", JPEG, {"labels": {"t": text(n)}} | own)
    dataset = Shards(directory)
    write_missing_splits(dataset)
    return split_lines(dataset, "t")


def test_sizes_patients_and_who_divided_them_are_said(tmp_path: Path) -> None:
    found = lines(tmp_path / "d", lambda n: "ab"[n // 2 % 2], lambda n: f"p{n // 2}")
    # ceil(0.3 n) and then ceil(0.2 n) of the 25 patients of each class
    assert found == [
        "train 52 images of 26 patients, val 16 images of 8 patients, test 32 images of "
        "16 patients",
        "test and val drawn here, by patient",
    ]


def test_parts_that_were_published_are_told_from_those_drawn_here(tmp_path: Path) -> None:
    found = lines(
        tmp_path / "d", lambda n: "ab"[n % 2], split=lambda n: "test" if n < 30 else "train"
    )
    assert found == [
        "train 56 images, val 14 images, test 30 images",
        "val drawn here, by image, copies together: no patient is known; test as published",
    ]
    published = lines(
        tmp_path / "e",
        lambda n: "ab"[n % 2],
        lambda n: str(n) if n else None,
        lambda n: ("train", "val", "test")[n % 3],
    )
    assert published[1] == "all as published"
    some = lines(tmp_path / "f", lambda n: "ab"[n % 2], lambda n: str(n) if n > 2 else None)
    assert some[1] == (
        "test and val drawn here, by patient, and 3 images of unknown patients one by one"
    )


def test_each_label_is_counted_and_rare_ones_are_noted(tmp_path: Path) -> None:
    texts = {0: "a|b", 1: "", 2: "a"}
    found = lines(tmp_path / "d", lambda n: "b" if n > 95 else texts[n % 3] if n % 5 else "a",
                  kind="labels")  # fmt: skip
    assert found[0].split(" images")[0].startswith("train ")
    dataset = Shards(tmp_path / "d")
    rows = [line.split(",")[1:3] for line in split_file(dataset.directory, "t").read_text().split()]
    parts = ("train", "val", "test")
    b = "/".join(str(sum("b" in text and part == p for text, part in rows)) for p in parts)
    none = "/".join(str(sum(not text and part == p for text, part in rows)) for p in parts)
    assert f", b {b}; none of them {none}" in found[2]
    assert found[3] == (
        f"note: fewer than 10 test images of a label, so its scores say little: "
        f"b {b.rpartition('/')[2]}"
    )


def test_numbers_have_no_classes_to_note(tmp_path: Path) -> None:
    found = lines(tmp_path / "d", str, lambda n: f"p{n // 2}", kind="number")
    assert found == [
        "train 56 images of 28 patients, val 14 images of 7 patients, test 30 images of "
        "15 patients",
        "test and val drawn here, by patient",
    ]


def test_a_split_file_of_other_samples_is_said(tmp_path: Path) -> None:
    lines(tmp_path / "d", lambda n: "ab"[n % 2])
    path = split_file(tmp_path / "d", "t")
    path.write_text("\n".join(path.read_text().splitlines()[:-1]) + "\n")
    (said,) = split_lines(Shards(tmp_path / "d"), "t")
    assert "are in no row" in said
