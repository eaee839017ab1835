"""What a finished run is measured beside: the weights it began from, on the same test images."""

import re
import shlex
from pathlib import Path

import pytest
from PIL import Image

from maskedclip.config import Config, override
from maskedclip.jobs.job import Job
from maskedclip.metrics.results import read_rows
from maskedclip.pretrain.loop import pretrain
from maskedclip.pretrain.preflight import prepare
from maskedclip.shards.make import ShardRequest, build
from tests.pretrain.test_dinov2 import shrunk


@pytest.fixture
def compared(small: Config, phantoms: dict[str, Path]) -> Config:
    """A run of 3 steps that is measured beside its start."""
    changes = {
        "after.datasets": (str(phantoms["heldout"]),), "after.beside_start": True,
        "after.protocols": ("logistic",), "optim.steps": 3,
    }  # fmt: skip
    return override(small, changes)


def measured(config: Config, capsys: pytest.CaptureFixture[str]) -> tuple[Path, str]:
    run = pretrain(config)
    capsys.readouterr()
    Job(config).measure(run)
    return run, capsys.readouterr().out


def test_a_run_is_measured_beside_untrained_weights_and_one_that_goes_on_beside_its_start(
    compared: Config, capsys: pytest.CaptureFixture[str]
) -> None:
    first, out = measured(compared, capsys)
    assert "logistic: AUROC" in out
    assert "against the untrained encoder, on the same 12 images" in out
    with Image.open(first / "summary.png") as picture:
        assert picture.width > 800

    again = override(compared, {"name": "again", "init_from": str(first)})
    second, out = measured(again, capsys)
    assert "against the weights it began from, on the same 12 images" in out
    before = {row["metric"]: row["value"] for row in read_rows(first)}
    start = {row["metric"]: row["value"] for row in read_rows(second.with_name("again-start"))}
    assert start == before  # of the first run, whose weights the second began from


def test_a_run_measured_by_words_alone_is_compared_by_logistic_regression(
    compared: Config, capsys: pytest.CaptureFixture[str]
) -> None:
    run, _ = measured(override(compared, {"after.protocols": ("zeroshot",)}), capsys)
    assert {row["protocol"] for row in read_rows(run.with_name("small-start"))} == {"logistic"}
    assert (run / "summary.png").is_file()


def test_a_run_that_neither_decodes_nor_reads_has_a_summary_of_one_row_and_its_losses(
    compared: Config, capsys: pytest.CaptureFixture[str]
) -> None:
    after = {f"after.{name}": getattr(compared.after, name)
             for name in ("datasets", "beside_start", "protocols")}  # fmt: skip
    run, _ = measured(shrunk(compared, **after), capsys)
    with Image.open(run / "summary.png") as picture:
        assert picture.width > 2 * picture.height


def drawn(built: Path) -> Path:
    build(ShardRequest(dataset="phantom", out=built, name="phantom", size=48, count=12, seed=5))
    return built


def test_a_task_that_the_measured_dataset_lacks_is_said_before_training(
    small: Config, tmp_path: Path
) -> None:
    built = drawn(tmp_path / "phantom")
    config = override(small, {"after.datasets": (str(built),), "after.task": "elsewhere"})
    with pytest.raises(ValueError, match=r"after\.task 'elsewhere': .* has .*disease"):
        prepare(config)


def test_where_the_recipes_dataset_is_not_there_the_runs_own_labelled_shards_are_named(
    small: Config, tmp_path: Path
) -> None:
    own = drawn(tmp_path / "my eyes")
    changes = {"data.paired": (str(own),), "after.datasets": ("shards/odir5k",)}
    with pytest.raises(ValueError, match="no such directory") as refused:
        prepare(override(small, changes | {"after.task": "diseases"}))
    (given,) = re.findall(r"as --after\.datasets=(.*) --after\.task=(\w+) ", str(refused.value))
    directory, task = shlex.split(given[0])[0], given[1]
    after = {"after.datasets": (directory,), "after.task": task}
    prepare(override(small, changes | after))


def test_a_text_tower_that_is_missing_is_said_before_phantoms_are_drawn(
    small: Config, tmp_path: Path
) -> None:
    undrawn = tmp_path / "phantom_paired"
    changes = {"data.paired": (str(undrawn),), "data.draw_phantoms": 8, "model.text": "no/bert"}
    with pytest.raises(ValueError, match=r"model\.text no/bert is not on this machine"):
        prepare(override(small, changes))
    assert not undrawn.exists()


def test_phantoms_of_which_a_step_has_no_image_are_neither_drawn_nor_recorded(
    small: Config, tmp_path: Path
) -> None:
    undrawn = tmp_path / "phantom_unpaired"
    changes = {"data.unpaired": (str(undrawn),), "data.draw_phantoms": 8, "optim.steps": 2}
    config = override(small, changes | {"data.unpaired_batch": 0, "loss.mim": 0.0})
    prepare(config)
    run = pretrain(config)
    assert not undrawn.exists()
    assert str(undrawn) not in (run / "provenance.json").read_text()


def test_a_run_whose_weights_are_refused_leaves_no_directory(small: Config) -> None:
    with pytest.raises(ValueError, match="nowhere"):
        pretrain(override(small, {"init_from": "nowhere.pth"}))
    assert not small.directory.exists()
