"""A disk that is full costs rows and points, which are named, and not the run."""

import json
import logging
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator

from maskedclip.config import Config
from maskedclip.data.lost_samples import Ledger
from maskedclip.data.storage.shards import DamagedSample
from maskedclip.engine.provenance import record
from maskedclip.engine.step_log import Recorder
from maskedclip.models.checkpoints.sealed import save_sealed
from maskedclip.pretrain.loop import pretrain

# TensorBoard's own thread, which says so beside us
pytestmark = pytest.mark.filterwarnings("ignore:Exception in thread")


@contextmanager
def full(path: Path) -> Iterator[None]:
    """Let no file of this process grow beyond ten bytes more than this one has."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 10, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)


def steps(run: Path) -> list[int]:
    return [json.loads(row)["step"] for row in (run / "metrics.jsonl").read_text().splitlines()]


def test_rows_that_find_no_room_are_named_and_those_after_them_are_whole(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    recorder = Recorder(tmp_path, 0)
    row = {f"loss_{name}": 0.5 for name in "abcdefgh"}
    for step in range(1, 9):
        recorder.record(step, row)
    with full(tmp_path / "metrics.jsonl"), caplog.at_level(logging.WARNING):
        for step in (9, 10):
            recorder.record(step, row)
            recorder._draw(step, lambda writer: writer.flush())
    recorder.record(11, row)
    recorder.close()
    assert steps(tmp_path) == [*range(1, 9), 11]
    for lost in ("the row of step 9 is lost", "the row of step 10 is lost", "points up to step"):
        assert lost in caplog.text
    curve = EventAccumulator(str(tmp_path), {"tensors": 0}).Reload().Tensors("losses/loss_a")
    drawn = [event.step for event in curve]
    assert drawn[:8] == list(range(1, 9))
    assert drawn[-1] == 11


def test_a_run_that_starts_on_a_full_disk_takes_its_later_rows_back(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path, 0)
    for step in range(1, 6):
        recorder.record(step, {"loss": 0.5})
    recorder.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 6, "lo')
    (tmp_path / "empty").touch()
    with full(tmp_path / "empty"):
        Recorder(tmp_path, 3).close()
    assert steps(tmp_path) == [1, 2, 3]


def test_damaged_samples_that_find_no_room_are_listed_when_there_is_some(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "lost_samples.jsonl"
    ledger = Ledger(path, "clinic")
    ledger.add([DamagedSample("a.tar", "1", "crc")])
    with full(path), caplog.at_level(logging.WARNING):
        ledger.add([DamagedSample("a.tar", "2", "crc")])
    assert "not written yet" in caplog.text
    ledger.add([DamagedSample("a.tar", "3", "crc")])
    assert [json.loads(line)["key"] for line in path.read_text().splitlines()] == ["1", "2", "3"]


def test_a_start_that_is_not_in_the_provenance_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "provenance.json"
    record({"host": "a"}, path)
    with full(path), caplog.at_level(logging.WARNING):
        record({"host": "b" * 100}, path)
    assert "this start is not in it" in caplog.text
    assert json.loads(path.read_text()) == [{"host": "a"}]


def test_weights_that_find_no_room_are_named_and_leave_nothing_behind(tmp_path: Path) -> None:
    path = tmp_path / "encoder.safetensors"
    save_sealed({"a": torch.zeros(3)}, path)
    before = path.read_bytes()
    with full(path), pytest.raises(OSError, match="File too large") as error:
        save_sealed({"a": torch.zeros(3000)}, path)
    assert error.value.filename == str(path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_an_export_that_fails_is_one_line_and_the_same_command_goes_on(small: Config) -> None:
    run = small.directory
    (run / "model.safetensors" / "in the way").mkdir(parents=True)
    with pytest.raises(RuntimeError, match=r"cannot be written .*run the same command") as error:
        pretrain(small)
    assert str(run / "model.safetensors") in str(error.value)
    (run / "model.safetensors" / "in the way").rmdir()
    (run / "model.safetensors").rmdir()
    rows = (run / "metrics.jsonl").read_bytes()
    pretrain(small)
    assert (run / "model.safetensors").is_file()
    assert (run / "metrics.jsonl").read_bytes() == rows
    assert not list(run.glob(".*"))
