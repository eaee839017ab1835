"""What a CSV of ours holds is read back as it was, whatever characters it has."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from maskedclip.data.csv_files import UnixLines, csv_rows
from maskedclip.data.labelled import divide, labelled
from maskedclip.data.splits import division_of, split_file, write_split
from maskedclip.data.storage.sample_metadata import third_party_metadata
from maskedclip.data.storage.shards import Shards, ShardWriter
from maskedclip.metrics.prediction_files import Predictions, read_test_split, write_test_split

ODD = ("mild\r", "a\r\nb", "\nnone", 'x, "y"', " blanks ", "tab\t", "'=1", "\u2028", "plain")


def test_any_text_comes_back_and_rows_end_with_a_line_feed(tmp_path: Path) -> None:
    with (tmp_path / "odd.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(UnixLines(file)).writerows([[text, text] for text in ODD])
    assert csv_rows(tmp_path / "odd.csv") == [[text, text] for text in ODD]
    assert (tmp_path / "odd.csv").read_bytes().endswith(b"\nplain,plain\n")


def test_predictions_of_odd_classes_and_patients_are_read_as_they_were(tmp_path: Path) -> None:
    count = len(ODD)
    probability_BY = np.full((count, count), 1 / count)
    given = Predictions(list(ODD), [f"{text}p" for text in ODD], np.arange(count), probability_BY)
    write_test_split(tmp_path / "a-test.csv", ODD, given)
    found, classes = read_test_split(tmp_path / "a-test.csv")
    assert (classes, found.keys, found.units) == (list(ODD), given.keys, given.units)
    assert found.label_B.tolist() == list(range(count))


def test_a_split_of_a_class_that_ends_in_a_carriage_return_is_read(tmp_path: Path) -> None:
    with ShardWriter(tmp_path / "d", "d") as writer:
        for i in range(20):
            writer.add(f"s{i:02d}", b"jpeg", {"labels": {"grade": ("mild\r", "none")[i % 2]}})
    dataset = Shards(tmp_path / "d")
    task = labelled(dataset)
    parts = divide(task)
    write_split(split_file(dataset.directory, task.name), task, parts)
    assert division_of(dataset, task).parts == parts


@pytest.mark.parametrize("text", ["mild\r\n", "mild \t", " mild"])
def test_a_label_of_other_tars_is_of_one_line(text: str) -> None:
    content = json.dumps({"labels": {"grade": f"very\r{text}"}}).encode()
    found = third_party_metadata("d", "k", [content, b"", f"not\n{text}".encode()])
    assert found["labels"] == {"grade": "very mild", "cls": "not mild"}
