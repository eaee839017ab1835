"""Files of a run that two starts write at once, or that a kill or a full disk breaks off."""

import errno
import json
import os
import stat
import threading
from pathlib import Path

import pytest
import torch

from maskedclip.engine.whole_file import (
    read_json,
    refuse_unwritable,
    remove_leftovers,
    write_whole,
)
from maskedclip.models.checkpoints.sealed import save_sealed


def test_two_writers_of_one_file_are_not_in_each_others_way(tmp_path: Path) -> None:
    path, faults = tmp_path / "config.json", []

    def write(number: int) -> None:
        try:
            for _ in range(50):
                write_whole(path, f'{{"writer": {number}}}')
        except OSError as error:
            faults.append(error)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == []
    assert json.loads(path.read_text())["writer"] in range(4)
    assert [p.name for p in tmp_path.iterdir()] == ["config.json"]


def test_a_disk_that_is_full_is_named_and_leaves_the_file_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "config.json"
    write_whole(path, "before")

    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left") as error:
        write_whole(path, "after")
    assert error.value.filename == str(path)
    assert path.read_text() == "before"
    assert [p.name for p in tmp_path.iterdir()] == ["config.json"]


def test_half_a_file_is_named_with_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "provenance.json"
    path.write_text('[{"git": nu')
    with pytest.raises(ValueError, match=r"provenance.json: is not whole JSON \(.*\); remove it"):
        read_json(path, "remove it")


def test_what_killed_starts_were_writing_is_removed_and_nothing_else(tmp_path: Path) -> None:
    left = [
        ".config.json.0123abcd.tmp", ".encoder.safetensors.k2_3abcd.tmp/encoder.safetensors",
        ".tmpA1b2C3", "checkpoints/step-00000010.0a.tmp/__0_0.distcp",
        "checkpoints/step-00000005.0b.old.tmp/__0_0.distcp", "hang/rank-0.0c.txt",
        "predictions/.a-b-finetune-1-seed0-test.csv.4711.tmp",
    ]  # fmt: skip
    kept = [
        "config.json",
        ".results.jsonl.4711.tmp",
        "predictions/.a-b-knn-1-seed0-test.csv.7.tmp",
        "checkpoints/step-00000010/manifest.json",
    ]
    for name in (*left, *kept):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "hang" / "rank-1.0c.txt").write_text("stacks")
    remove_leftovers(tmp_path)
    found = {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()}
    assert found == {*kept, "hang/rank-1.0c.txt"}


def test_weights_are_readable_for_whom_the_umask_says(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        save_sealed({"a": torch.zeros(3)}, tmp_path / "encoder.safetensors", {"size": "tiny"})
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "encoder.safetensors").stat().st_mode) == 0o640
    assert [p.name for p in tmp_path.iterdir()] == ["encoder.safetensors"]


def test_a_folder_that_cannot_be_written_is_refused_by_its_flag_and_others_are_left_alone(
    tmp_path: Path,
) -> None:
    refuse_unwritable("out", tmp_path / "new" / "runs")
    refuse_unwritable("out", tmp_path)
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "runs"):
        with pytest.raises(ValueError, match=r"^--cache .*/file is a file; choose another --cache"):
            refuse_unwritable("cache", path)
    with pytest.raises(ValueError, match=r"^--out /proc/runs: /proc cannot be written"):
        refuse_unwritable("out", Path("/proc/runs"))
