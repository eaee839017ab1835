from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from maskedclip.data.storage.shards import DamagedSample, Shards, ShardWriter
from maskedclip.shards.building.contact_sheet import (
    _TILE,
    _VALUES,
    COLUMNS,
    _font,
    fitted,
    tile,
    without_folders,
    write_contact_sheet,
)
from maskedclip.shards.building.prepare_sample import encode
from maskedclip.shards.building.quality import REASONS

COLOURS = [(200, 90, 40), (90, 200, 40), (40, 90, 200), (200, 200, 40)]


def dataset(directory: Path, count: int, worst: list[dict[str, object]]) -> Shards:
    with ShardWriter(directory, "toy", worst_looking=worst) as writer:
        for number in range(count):
            image_HWC = np.full((64, 64, 3), COLOURS[number % 4], np.uint8)
            facts = {"categories": [f"finding {number}"], "labels": {"grade": str(number)}}
            writer.add(f"s{number:03d}", encode(image_HWC, 95), facts)
    return Shards(directory)


def test_a_sheet_shows_random_samples_and_a_row_of_each_fault(tmp_path: Path) -> None:
    bad = [
        {"key": "s001", "reason": "dark", "value": 0.1},
        {"key": "s002", "reason": "dark", "value": 0.2},
        {"key": "s003", "reason": "blurred", "value": 0.3},
    ]
    plain = dataset(tmp_path / "plain", 5, [])
    write_contact_sheet(plain, tmp_path / "plain.png")
    write_contact_sheet(dataset(tmp_path / "bad", 5, bad), tmp_path / "bad.png")
    without = np.asarray(Image.open(tmp_path / "plain.png")).astype(int)
    with_rows = np.asarray(Image.open(tmp_path / "bad.png")).astype(int)
    rows = (len(with_rows) - len(without)) // 2
    assert len(with_rows) == len(without) + 2 * rows
    np.testing.assert_array_equal(with_rows[: len(without)], without)
    first, second = with_rows[len(without) :][:rows], with_rows[len(without) + rows :]
    tile = with_rows.shape[1] // COLUMNS
    assert np.abs(first[100, tile // 2] - COLOURS[1]).max() < 6
    assert np.abs(first[100, tile + tile // 2] - COLOURS[2]).max() < 6
    assert np.abs(second[100, tile // 2] - COLOURS[3]).max() < 6
    assert (second[100, tile + tile // 2] == 255).all()


def test_the_same_dataset_gives_the_same_bytes(tmp_path: Path) -> None:
    shards = dataset(tmp_path / "toy", 40, [])
    for name in ("one.png", "two.png"):
        write_contact_sheet(shards, tmp_path / name)
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()


def test_a_damaged_sample_is_not_painted_over(tmp_path: Path) -> None:
    shards = dataset(tmp_path / "toy", 3, [])
    tar = next((tmp_path / "toy").glob("*.tar"))
    content = bytearray(tar.read_bytes())
    content[600] ^= 1
    tar.write_bytes(content)
    with pytest.raises(DamagedSample):
        write_contact_sheet(shards, tmp_path / "sheet.png")


def test_all_labels_of_an_image_are_shown(tmp_path: Path) -> None:
    sheets = []
    for name, text in (("one", "DR"), ("two", "DR|AMD"), ("none", "")):
        with ShardWriter(tmp_path / name, "toy", kinds={"f": "labels"}) as writer:
            jpeg = encode(np.full((64, 64, 3), COLOURS[0], np.uint8), 95)
            writer.add("s", jpeg, {"categories": ["a word"], "labels": {"f": text}})
        write_contact_sheet(Shards(tmp_path / name), tmp_path / f"{name}.png")
        sheets.append((tmp_path / f"{name}.png").read_bytes())
    assert len(set(sheets)) == 3  # the first category alone was the same in all of them


def test_words_below_a_photograph_are_whole_and_of_a_long_report_the_rest_is_marked() -> None:
    words = "proliferative diabetic retinopathy"
    assert fitted(words) == ["proliferative diabetic", "retinopathy"]
    report = fitted("many words of a long report " * 20)
    assert len(report) == 5
    assert report[-1].endswith(" ...")


def test_no_folder_is_shown_that_may_be_called_after_a_patient(tmp_path: Path) -> None:
    name = "left_eye_of_2019_0123456789_macula_centred.jpg"
    source = f"Patients/Jane Doe/{name}"
    with ShardWriter(tmp_path / "toy", "toy", worst_looking=[]) as writer:
        jpeg = encode(np.full((64, 64, 3), COLOURS[0], np.uint8), 95)
        writer.add("s", jpeg, {"categories": ["drusen"], "labels": {}, "source": source})
    shown = tile(Shards(tmp_path / "toy"), 0, "brightness 0.100")
    assert shown.lines == (f".../{name}", "s", "brightness 0.100", "drusen")
    assert without_folders(name) == name


def test_the_name_of_a_file_is_shown_whole_in_lines_that_fit_and_a_value_has_its_name() -> None:
    name = ".../left_eye_of_2019_0123456789_macula_centred.jpg"
    lines = fitted(name)
    assert "".join(lines) == name
    assert all(_font().getlength(line) <= _TILE for line in lines)
    assert set(_VALUES) == set(REASONS)
