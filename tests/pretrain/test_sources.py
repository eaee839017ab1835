import itertools
import json
import shutil
from pathlib import Path

import pytest

from maskedclip.config import Config, override
from maskedclip.data.storage.shards import Shards
from maskedclip.engine.distributed import process_group
from maskedclip.pretrain.loop import claim, pretrain
from maskedclip.pretrain.sources import LOST, UNCAPTIONED, UNSEEN, keep_uncaptioned, read_sources
from tests.streams import stored


def spoil(folder: Path, index: int, member: int) -> None:
    """Change a byte of a sample's JPEG (member 0) or JSON (1)."""
    shards = Shards(folder)
    content = shards.read_members(index)[member]
    tar = folder / shards.shard(index)
    bytes_of_it = bytearray(tar.read_bytes())
    bytes_of_it[bytes_of_it.index(content) + len(content) // 2] ^= 1
    tar.write_bytes(bytes_of_it)


@pytest.fixture
def damaged(small: Config, phantoms: dict[str, Path], tmp_path: Path) -> Config:
    """A run whose unpaired images have one in 24 that cannot be read."""
    copy = shutil.copytree(phantoms["unpaired"], tmp_path / "unpaired")
    spoil(copy, 4, 0)
    return override(small, {"data.unpaired": (str(copy),)})


def test_a_run_that_loses_more_than_its_budget_stops_before_the_step(damaged):
    changes = {"data.paired_batch": 250, "data.unpaired_batch": 250, "data.max_lost": 0.01}
    run = override(damaged, changes)
    with pytest.raises(RuntimeError, match="of the first 1000 samples are lost") as error:
        pretrain(run)
    assert f"unpaired/{Shards(Path(run.data.unpaired[0])).key(4)}" in str(error.value)
    assert "\n" not in str(error.value)
    rows = (run.directory / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(row)["step"] for row in rows] == [1]
    assert (run.directory / LOST).read_text().count("\n") >= 20
    with pytest.raises(RuntimeError, match="of the first 1000"):  # nor does it go on when restarted
        pretrain(run)
    assert len((run.directory / LOST).read_text().splitlines()) == int(
        str(error.value).split(" of the first")[0].split()[-1]
    )
    with process_group():
        claim(override(run, {"data.max_lost": 1.0}))  # with more patience it is the same run


def test_a_run_says_who_was_not_shown_in_its_last_epochs(small):
    run = pretrain(override(small, {"optim.steps": 8}))  # 32 of 24 rows: an epoch and a third
    rows = [json.loads(line) for line in (run / UNSEEN).read_text().splitlines()]
    assert [row["source"] for row in rows] == ["paired"] * 16 + ["unpaired"] * 16
    assert {row["epoch"] for row in rows} == {1}
    assert len({(row["dataset"], row["key"]) for row in rows}) == 32
    assert not (run / LOST).exists()


def test_who_has_a_caption_is_settled_when_the_run_begins(small, tmp_path):
    """Metadata that breaks later would let a sample in, and move all others."""
    stored(tmp_path, "silent", 20, captioned=False)
    config = override(small, {"data.paired": (str(tmp_path / "silent"),)})
    config.directory.mkdir(parents=True)
    with process_group():
        before, _ = read_sources(config)
        keep_uncaptioned(before, config.directory)
        spoil(tmp_path / "silent", 3, 1)
        after, _ = read_sources(config)
        assert after.samples_at(0, 100) == before.samples_at(0, 100)
        (config.directory / UNCAPTIONED).unlink()
        without, _ = read_sources(config)
        assert len(without) == len(before) + 1  # it would keep a slot, to be named in the ledger


def test_weights_and_windows_reach_the_sources(small, phantoms):
    changes = {
        "data.unpaired": (str(phantoms["unpaired"]), str(phantoms["heldout"])),
        "data.unpaired_weights": (3, 1), "data.window": 32,
    }  # fmt: skip
    with process_group():
        _, unpaired = read_sources(override(small, changes))
    places = unpaired.samples_at(0, 1000)
    assert [sum(place.dataset == i for place in places) for i in range(2)] == [750, 250]
    first = sorted([place.sample for place in places if place.dataset == 1][:32])
    assert sum(b - a == 1 for a, b in itertools.pairwise(first)) >= 15  # blocks of two
