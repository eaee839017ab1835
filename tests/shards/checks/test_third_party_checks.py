"""check_shards on third-party tars, on one tar, and on folders that hold such datasets."""

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from maskedclip.data.storage.shards import Shards, ShardWriter
from maskedclip.shards.building.prepare_sample import encode
from maskedclip.shards.check_command import main
from maskedclip.shards.phantoms.phantom import draw
from tests.tars import END, member, plain_tar

EYES = [draw(number, 128).image_HWC for number in range(6)]


def photograph(number: int, turns: int = 0) -> bytes:
    """Return an eye in a wide black frame, as a camera writes it."""
    framed_HWC = np.zeros((150, 200, 3), np.uint8)
    framed_HWC[10:138, 40:168] = np.rot90(EYES[number], turns)
    file = io.BytesIO()
    Image.fromarray(framed_HWC).save(file, "JPEG", quality=92)
    return file.getvalue()


def sample(key: str, image: bytes, split: str = "train", grade: int = 0) -> dict[str, bytes]:
    facts = {"labels": {"grade": grade}, "split": split, "patient": f"p-{key}"}
    return {f"{key}.jpg": image, f"{key}.json": json.dumps(facts).encode()}


def write_tar(path: Path, *samples: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(plain_tar({name: c for one in samples for name, c in one.items()}))
    return path


def run(place: Path, capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    code = 0
    try:
        main([*map(str, words), f"--out={place / 'out'}", "--workers=1"])
    except SystemExit as stop:
        code = int(stop.code or 0)
    said = capsys.readouterr()
    return code, said.out, said.err


def pairs(place: Path) -> set[tuple[str, str, str]]:
    with (place / "out" / "pairs.csv").open(newline="") as file:
        return {(row["kind"], row["key_a"], row["key_b"]) for row in csv.DictReader(file)}


def test_copies_within_tars_are_found_and_dropped_from_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tars = tmp_path / "tars"
    write_tar(tars / "a-0.tar", *(sample(f"k{i}", photograph(i)) for i in range(4)))
    write_tar(
        tars / "a-1.tar",
        sample("same", photograph(1), "test", 1),
        sample("turned", photograph(2, turns=1), "test"),
    )
    code, out, _ = run(tmp_path, capsys, tars, "--drop")
    assert code == 1
    assert "tars: 6 samples (test 2, train 4), 0 damaged" in out
    assert "grade: 0 5, 1 1" in out
    assert pairs(tmp_path) == {("exact", "same", "k1"), ("near", "k2", "turned")}
    kept = Shards(tars)
    assert {kept.key(i) for i in kept.excluded} == {"k1", "k2"}
    assert run(tmp_path, capsys, tars)[0] == 0


def test_a_framed_photograph_in_a_tar_is_a_copy_of_a_cropped_one_in_shards_of_ours(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ours = tmp_path / "ours"
    with ShardWriter(ours, "ours") as writer:
        for number in (3, 4):
            facts = {"dataset": "ours", "source": "s", "width": 128, "height": 128}
            hashes = {"sha256": f"{number:064x}", "phash": f"{number:016x}"}
            writer.add(f"o{number}", encode(EYES[number], 92), facts | hashes)
    one_tar = write_tar(tmp_path / "x.tar", *(sample(f"k{i}", photograph(i)) for i in (0, 3)))
    code, _, _ = run(tmp_path, capsys, ours, "--against", one_tar)
    assert (code, pairs(tmp_path)) == (1, {("near", "o3", "k3")})


def test_samples_that_a_reader_cannot_have_are_damage_by_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = member("1.jpg", photograph(1)[:1000]) + member("2.jpg", photograph(2))
    content += member("3.jpg", b"<html>") + member("4.png", b"png") + member("2.jpg", b"again")
    (tmp_path / "x.tar").write_bytes(content + END)
    code, out, _ = run(tmp_path, capsys, tmp_path / "x.tar")
    assert code == 1
    assert "x.tar: 5 samples (none 1), 4 damaged" in out
    assert "DAMAGED x.tar 1: its image: does not decode" in out
    assert "DAMAGED x.tar 3: its image: not an image" in out
    assert "DAMAGED x.tar 4: its image is png" in out
    assert "the key '2' is there before" in out
    assert "make the damaged tars again" in out


def test_of_a_folder_of_datasets_each_is_checked_and_those_of_against_are_not_twice(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(3):
        path = tmp_path / "n" / f"0000{number}" / "a.tar"
        write_tar(path, sample(f"k{number}", photograph(number)), sample("z", photograph(5)))
    _, out, _ = run(tmp_path, capsys, tmp_path / "n", "--against", tmp_path / "n" / "00002")
    assert [line.partition(":")[0][-7:] for line in out.splitlines() if " samples (" in line] == [
        "n/00000", "n/00001", "n/00002"
    ]  # fmt: skip
    assert pairs(tmp_path) == {("exact", "z", "z")}


def test_a_dataset_within_the_folder_of_another_is_no_damage(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for place, number in ((tmp_path / "a", 1), (tmp_path / "a" / "more", 2)):
        with ShardWriter(place, "a") as writer:
            facts = {"dataset": "a", "source": "s", "width": 128, "height": 128}
            hashes = {"sha256": f"{number:064x}", "phash": f"{number:016x}"}
            writer.add(f"k{number}", encode(EYES[number], 92), facts | hashes)
    code, out, _ = run(tmp_path, capsys, tmp_path / "a")
    assert (code, out.count(" samples ("), "DAMAGED" in out) == (0, 2, False)


def test_drop_of_one_tar_is_refused_before_anything_is_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_tar(tmp_path / "x.tar", sample("k", photograph(0)))
    code, _, err = run(tmp_path, capsys, path, "--drop")
    assert (code, len(err.splitlines())) == (2, 1)
    assert f"exclude.csv stands in a folder; name {tmp_path}, not {path}" in err
