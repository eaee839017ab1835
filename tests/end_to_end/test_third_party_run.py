"""Third-party tars in place of our shards: a run, and one that is resumed."""

import json
import shutil
from pathlib import Path

import pytest

from maskedclip.config import Config, override
from maskedclip.pretrain.loop import pretrain
from maskedclip.pretrain.preflight import prepare


@pytest.fixture
def third_party(phantoms: dict[str, Path], tmp_path: Path) -> dict[str, Path]:
    """Return the phantoms as tars alone: their JSON says what ours says."""
    directories = {}
    for name in ("paired", "unpaired"):
        directories[name] = tmp_path / "third_party" / name
        directories[name].mkdir(parents=True)
        for tar in phantoms[name].glob("*.tar"):
            shutil.copy(tar, directories[name])
    return directories


def losses(run: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_a_run_on_the_tars_alone_is_the_run_on_the_datasets(
    small: Config, third_party: dict[str, Path], tmp_path: Path
) -> None:
    changes = {
        "data.paired": (str(third_party["paired"]),),
        "data.unpaired": (str(third_party["unpaired"]),),
    }
    config = override(small, {**changes, "out": str(tmp_path / "foreign_runs")})
    prepare(config)
    assert losses(pretrain(config)) == losses(pretrain(small))


def test_a_run_does_not_go_on_with_tars_that_hold_something_else(
    small: Config, third_party: dict[str, Path]
) -> None:
    config = override(small, {"data.paired": (str(third_party["paired"] / "paired-000000.tar"),)})
    pretrain(config)
    pretrain(config)
    other = third_party["paired"] / "paired-000001.tar"
    other.replace(third_party["paired"] / "paired-000000.tar")
    with pytest.raises(ValueError, match=r"read .* with another"):
        pretrain(config)
