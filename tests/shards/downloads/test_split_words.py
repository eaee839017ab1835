"""Columns of splits: train, val and test are taken, all else is refused with how to say it."""

from pathlib import Path

import pytest

from maskedclip.shards.downloads.cards import read_card
from maskedclip.shards.downloads.folder_or_csv import Columns, read_csv
from maskedclip.shards.make_command import remark_lines
from tests.downloads.drawing import draw, write


def splits(root: Path, words: str, column: str = "usage") -> list[str | None]:
    """Return the splits of images that a table words so, parted by |."""
    rows = [f"{number}.jpg,{word}\n" for number, word in enumerate(words.split("|"))]
    draw(root / "img", *(f"{number}.jpg" for number in range(len(rows))))
    table = write(root, "t.csv", "image,usage\n" + "".join(rows))
    found = read_csv(read_card("csv"), root / "img", table, Columns("image", split=column))
    return [record.split for record in found.records]


def test_a_column_that_holds_splits_and_is_not_named_is_said(tmp_path: Path) -> None:
    rows = ["Training,B,x", "train,A,y", "test,,x", ",A,z", "Validation,C,x"]
    draw(tmp_path / "img", *(f"{number}.jpg" for number in range(5)))
    lines = "".join(f"{number}.jpg,{row}\n" for number, row in enumerate(rows))
    file = write(tmp_path, "t.csv", "image,Data Set,dx,test\n" + lines)
    columns = Columns("image", "dx", "dx")
    found = read_csv(read_card("csv"), tmp_path / "img", file, columns)
    assert remark_lines(found.remarks)[-1] == (
        "columns that look like splits: data set (train 2, val 1, test 1): "
        "--split_column='data set' takes it; without it test and val are drawn here"
    )
    columns = columns._replace(split="data set")
    found = read_csv(read_card("csv"), tmp_path / "img", file, columns)
    assert "columns_that_look_like_splits" not in found.remarks


def test_train_val_and_test_are_taken_however_they_are_written(tmp_path: Path) -> None:
    words = "TRAIN|Training Set|valid|Validation_set|test-images|off-site test||n/a"
    assert splits(tmp_path, words) == [
        "train", "train", "val", "val", "test", "test", None, None,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("words", "held"),
    [
        ("Public|Private|Private", r"holds Private \(2\), Public \(1\), which are none of train"),
        ("0|1|2|3|4|0", r"holds 0 \(2\), 1 \(1\), .* which are none of"),
        ("True|False", r"True \(1\), False \(1\)"),
        ("train|test|dev", r"holds dev \(1\), which are none of .*'usage:dev=train,...'"),
        ("|".join(f"2019-03-{day}" for day in range(10, 20)), r"2019-03-15 \(1\) and 4 more"),
    ],
)
def test_what_is_no_split_is_refused_with_what_the_column_holds(
    words: str, held: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=held) as raised:
        splits(tmp_path, words)
    assert "\n" not in str(raised.value)


def test_the_user_says_what_words_mean_beside_the_column(tmp_path: Path) -> None:
    words = "Public|private|Usage=x|train"
    column = "Usage:Public=val,Private=test,Usage=x=none"
    assert splits(tmp_path, words, column) == ["val", "test", "train"]  # none takes no part
    folds = "usage: 0=test, 1=val, 2=train, 3=train"
    assert splits(tmp_path, "0|1|2|3", folds) == ["test", "val", "train", "train"]
    with pytest.raises(ValueError, match=r"'0=out' gives no split; write WORD=train"):
        splits(tmp_path, "0|1", "usage:0=out")
    with pytest.raises(ValueError, match="no row has 7; it has 0, 1"):
        splits(tmp_path, "0|1", "usage:0=test,1=train,7=val")
