"""Tars of other makers in place of datasets of ours: a run, and one that goes on."""

import json
import shutil
from pathlib import Path

import pytest

from maskedclip.config import Config, override
from maskedclip.pretrain.loop import pretrain
from maskedclip.pretrain.preflight import prepare


@pytest.fixture
def foreign(phantoms: dict[str, Path], tmp_path: Path) -> dict[str, Path]:
    """Return the phantoms as tars alone: their JSON says what ours says."""
    places = {}
    for name in ("paired", "unpaired"):
        places[name] = tmp_path / "foreign" / name
        places[name].mkdir(parents=True)
        for tar in phantoms[name].glob("*.tar"):
            shutil.copy(tar, places[name])
    return places


def losses(run: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_a_run_on_the_tars_alone_is_the_run_on_the_datasets(
    small: Config, foreign: dict[str, Path], tmp_path: Path
) -> None:
    changes = {
        "data.paired": (str(foreign["paired"]),),
        "data.unpaired": (str(foreign["unpaired"]),),
    }
    config = override(small, {**changes, "out": str(tmp_path / "foreign_runs")})
    prepare(config)
    assert losses(pretrain(config)) == losses(pretrain(small))


def test_a_run_does_not_go_on_with_tars_that_hold_something_else(
    small: Config, foreign: dict[str, Path]
) -> None:
    config = override(small, {"data.paired": (str(foreign["paired"] / "paired-000000.tar"),)})
    pretrain(config)
    pretrain(config)
    other = foreign["paired"] / "paired-000001.tar"
    other.replace(foreign["paired"] / "paired-000000.tar")
    with pytest.raises(ValueError, match=r"read .* with another"):
        pretrain(config)
