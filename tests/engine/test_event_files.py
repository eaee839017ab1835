"""Event files as TensorBoard reads them."""

import json
import time
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.plugins.custom_scalar.layout_pb2 import Layout
from tensorboard.util import tensor_util

from maskedclip.engine.curves import CHARTS, CURVES, FINETUNING, FINETUNING_CURVES, LAYOUT, curve_of
from maskedclip.engine.event_files import event_files
from maskedclip.engine.step_log import Recorder

ROW = {
    "loss": 2.0, "data_wait": 0.25, "grad_norm/encoder": 3.0, "goodput/saving": 0.1, "epoch": 0.1,
    "alarms": ["spike"],
}  # fmt: skip


def read(root: Path) -> EventMultiplexer:
    return EventMultiplexer().AddRunsFromDirectory(str(root)).Reload()


def points(read: EventMultiplexer, run: str, tag: str) -> dict[int, float]:
    events = read.Tensors(run, tag)
    steps = [event.step for event in events]
    assert len(set(steps)) == len(steps), "no step stands twice"
    return {event.step: float(tensor_util.make_ndarray(event.tensor_proto)) for event in events}


def recorded(directory: Path, first: int, steps: list[int], *, finetuning: bool = False) -> None:
    directory.mkdir(exist_ok=True)
    recorder = Recorder(directory, first, finetuning=finetuning)
    for step in steps:
        recorder.record(step, ROW | {"loss": float(step)})
    recorder.close()


def test_a_run_is_called_by_its_name_and_its_tags_say_what_they_are(tmp_path: Path) -> None:
    recorded(tmp_path / "mine", 0, [1, 2])
    found = read(tmp_path)
    assert list(found.Runs()) == ["mine"]
    tags = set(found.Runs()["mine"]["tensors"]) - {"custom_scalars__config__"}
    assert tags == {
        "losses/loss", "throughput/data_wait", "optimiser/grad_norm/encoder", "goodput/saving",
    }  # fmt: skip
    assert points(found, "mine", "throughput/data_wait") == {1: 25.0, 2: 25.0}
    words = found.SummaryMetadata("mine", "throughput/data_wait").summary_description
    assert words == "waiting for the next batch [% of the time]"


def test_however_often_a_run_is_started_it_has_one_curve(tmp_path: Path) -> None:
    recorded(tmp_path / "mine", 0, [1, 2, 3, 4, 5])
    recorded(tmp_path / "mine", 3, [4, 5, 6, 7])
    recorded(tmp_path / "mine", 2, [3])
    assert points(read(tmp_path), "mine", "losses/loss") == {1: 1.0, 2: 2.0, 3: 3.0}


def test_a_start_is_read_behind_the_earlier_ones_though_the_clock_was_put_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.time()
    for first, seconds in enumerate((now + 7200, now, now - 3600)):
        with monkeypatch.context() as clock:
            clock.setattr(time, "time", lambda seconds=seconds: seconds)
            recorded(tmp_path / "mine", first, [first + 1, first + 2])
    assert points(read(tmp_path), "mine", "losses/loss") == {
        step: float(step) for step in (1, 2, 3, 4)
    }


def test_a_run_of_before_event_files_lay_in_its_directory_has_all_of_its_curve(
    tmp_path: Path,
) -> None:
    rows = [{"step": step, "loss": float(step), "lr": 0.1} for step in (1, 2, 3)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recorded(tmp_path, 2, [3, 4])
    assert points(read(tmp_path), ".", "losses/loss") == {1: 1.0, 2: 2.0, 3: 3.0, 4: 4.0}
    assert points(read(tmp_path), ".", "optimiser/lr").keys() == {1, 2}


def test_a_fine_tuning_shares_no_tag_with_a_pre_training(tmp_path: Path) -> None:
    recorded(tmp_path / "pretrained", 0, [1])
    (tmp_path / "finetuned").mkdir()
    recorder = Recorder(tmp_path / "finetuned", 0, finetuning=True)
    recorder.record(5, {"epoch": 1, "loss": 1.0, "lr": 0.1, "val_auroc": 0.7, "val_new": 0.5})
    recorder.close()
    runs = read(tmp_path).Runs()
    tuned = set(runs["finetuned"]["tensors"])
    assert tuned == {f"fine-tuning/{name}" for name in ("loss", "lr", "val_auroc", "val_new")}
    assert not tuned & set(runs["pretrained"]["tensors"])


def test_each_curve_is_drawn_in_one_chart_of_its_group() -> None:
    named = {
        chart: [name for names in titles.values() for name in names]
        for chart, titles in LAYOUT.items()
    }
    assert set(named) | {FINETUNING} == set(CHARTS)
    for chart, names in named.items():
        assert sorted(names) == sorted(curve.name for curve in CURVES if curve.chart == chart)
    assert all(curve.chart == FINETUNING for curve in FINETUNING_CURVES)


def test_the_layout_of_the_custom_scalars_finds_the_tags(tmp_path: Path) -> None:
    recorded(tmp_path / "mine", 0, [1])
    (event,) = read(tmp_path).Tensors("mine", "custom_scalars__config__")
    layout = Layout()
    layout.ParseFromString(event.tensor_proto.string_val[0])
    charts = {chart.title: chart for group in layout.category for chart in group.chart}
    assert list(charts["gradient norm"].multiline.tag) == ["^optimiser/grad_norm(/|$)"]
    assert list(charts["what the time went to"].multiline.tag) == ["^goodput(/|$)"]


def test_a_term_that_nobody_described_is_drawn_among_the_losses() -> None:
    curve = curve_of("loss_uniformity")
    assert curve is not None
    assert curve.chart == "losses"
    assert curve_of("epoch") is None


@pytest.mark.parametrize("content", [b"", b'{"step": 1, "lo'])
def test_a_directory_without_a_whole_row_begins_anew(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "metrics.jsonl").write_bytes(content)
    recorded(tmp_path, 0, [1])
    assert len(event_files(tmp_path)) == 1
    assert points(read(tmp_path), ".", "losses/loss") == {1: 1.0}


def test_a_long_run_draws_some_of_its_rows_and_what_is_rarely_measured_whole(
    tmp_path: Path,
) -> None:
    run = tmp_path / "run"
    for first, last in ((0, 120), (120, 200)):  # restarted
        run.mkdir(exist_ok=True)
        recorder = Recorder(run, first, spacing=10.0)
        for step in range(first + 2, last + 1, 2):
            rare = {"feature_rank": 9.0} if step % 14 == 0 else {}
            recorder.record(step, {"loss": float(step)} | rare)
        recorder.close()
    found = read(tmp_path)
    steps = list(points(found, "run", "losses/loss"))
    assert steps == [2, *range(10, 121, 10), 122, *range(130, 201, 10)]
    assert list(points(found, "run", "features/feature_rank")) == list(range(14, 201, 14))  # rare
    assert len((run / "metrics.jsonl").read_text().splitlines()) == 100  # which has them all
