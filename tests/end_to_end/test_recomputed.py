"""Every number of a run comes again from its directory alone, moved and without its shards."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from maskedclip.data.storage.shards import ShardWriter
from maskedclip.evaluate.protocols import evaluate
from maskedclip.finetune.loop import finetune
from maskedclip.metrics.operating_points import OPERATING
from maskedclip.metrics.results import read_rows, recomputed, table
from maskedclip.metrics.scores import METRICS
from maskedclip.shards.building.prepare_sample import encode
from tests.colours import config_of, two_colours

PROTOCOLS = {"finetune", "logistic", "knn", "linear", "2-shot"}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Return the directories of a fine-tuning and of probes, elsewhere than they were written."""
    root = tmp_path_factory.mktemp("runs")
    two_colours(root / "colours")
    finetune(replace(config_of(root), epochs=1, warmup_epochs=0))
    evaluate(
        "random",
        [(root / "colours", "colour")],
        ("logistic", "knn", "linear"),
        root / "probes",
        fractions=(0.5, 1.0),
        shots=(2,),
        seeds=2,
        size="micro",
    )
    kept = tmp_path_factory.mktemp("copied")
    runs = [Path(shutil.move(root / name, kept / name)) for name in ("ours", "probes")]
    shutil.rmtree(root)
    return runs


def test_every_value_interval_and_count_comes_again(runs: list[Path]) -> None:
    rows = [(run, row) for run in runs for row in read_rows(run)]
    assert {row["protocol"] for _, row in rows} == PROTOCOLS
    assert {row["metric"] for _, row in rows} == {*METRICS, *OPERATING}
    for run, row in rows:
        again = recomputed(run, row)
        expected = tuple(row[name] for name in ("value", "low", "high", "n"))
        assert again[:4] == pytest.approx(expected, rel=1e-12, abs=1e-12)
        assert None not in expected


def test_no_two_measurements_share_their_predictions(runs: list[Path]) -> None:
    for run in runs:
        rows = read_rows(run)
        assert len({row["predictions"] for row in rows}) == len(rows) / len({*METRICS, *OPERATING})


def test_a_test_split_of_one_class_is_measured_as_far_as_it_can_be(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    generator = np.random.default_rng(0)
    with ShardWriter(tmp_path / "red", "red") as writer:
        for i in range(60):
            jpeg = encode(generator.integers(0, 256, (40, 40, 3), dtype=np.uint8), 90)
            colour = ("red", "green")[i % 2 if i < 50 else 0]
            facts = {
                "labels": {"colour": colour},
                "split": "train" if i < 50 else "test",
                "sha256": str(i),
            }
            writer.add(f"s{i:02d}", jpeg, facts)
    config = replace(config_of(tmp_path), dataset=str(tmp_path / "red"), epochs=1, warmup_epochs=0)
    run = finetune(config)
    rows = {row["metric"]: row for row in read_rows(run)}
    assert (rows["auroc"]["value"], rows["auroc"]["n"]) == (None, 10)
    assert rows["auroc"]["note"] == "undefined: all 10 test images are of one class, red"
    assert rows["balanced_accuracy"]["value"] is not None
    assert rows["auroc"]["note"] in caplog.text
    line = table(list(rows.values())).splitlines()[1]
    assert line.split()[:7] == ["red", "colour", "finetune", "100%", "0", "-", "-"]
    assert finetune(config) == run  # finished, although a metric is undefined
    assert all(recomputed(run, row).value == row["value"] for row in rows.values())


def test_a_changed_probability_is_noticed(runs: list[Path], tmp_path: Path) -> None:
    run = Path(shutil.copytree(runs[0], tmp_path / "run"))
    row = next(row for row in read_rows(run) if row["metric"] == "calibration_error")
    path = run / row["predictions"]
    lines = path.read_text().splitlines()
    key, source, label, *_ = lines[1].split(",")
    lines[1] = f"{key},{source},{label},0.01,0.99"
    path.write_text("\n".join(lines) + "\n")
    assert recomputed(run, row).value != pytest.approx(row["value"], abs=1e-6)
