"""Expected = delivered + listed: no slot of an epoch is without its sample or its reason."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from maskedclip.data.lost_samples import RunLedger, lines_before, write_unseen
from maskedclip.data.rows import Lost
from maskedclip.data.source import Source
from maskedclip.data.storage.shards import Shards, ShardWriter
from maskedclip.data.stream import Batch
from tests.streams import Plan, batches, facts, picture, stored

NAMES = {"paired": ("p", "pp"), "unpaired": ("u", "uu")}
SAMPLES = {"p": 30, "pp": 11, "u": 40, "uu": 23}
BATCH = (12, 24)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    for name, samples in SAMPLES.items():
        stored(folder, name, samples)
    return folder


def damage(folder: Path, draws: np.random.Generator) -> None:
    """Spoil about a fifth of the samples: bits, zeroed blocks, and an end that is missing."""
    for tar in sorted(folder.rglob("*.tar")):
        content = bytearray(tar.read_bytes())
        for _ in range(draws.integers(0, 3)):
            at = int(draws.integers(len(content)))
            if draws.random() < 0.5:
                content[at] ^= 1 << int(draws.integers(8))
            else:
                content[at : at + 512] = bytes(len(content[at : at + 512]))
        if draws.random() < 0.1:
            del content[int(draws.integers(len(content) // 2, len(content))) :]
        tar.write_bytes(content)


def damaged(place: Path) -> set[str]:
    """Return dataset/key of the samples that cannot be read, one by one.

    Of unpaired ones the picture is enough.
    """
    found = set()
    for name in SAMPLES:
        shards = Shards(place / name)
        for index in range(len(shards)):
            try:
                shards.read(index) if name in NAMES["paired"] else shards.image(index)
            except RuntimeError:
                found.add(f"{name}/{shards.key(index)}")
    return found


def plan_of(place: Path, seed: int) -> Plan:
    """Return damaged sources; who has a caption is known from when all could be read."""
    weights = ((), (3, 1))[seed % 2]
    paired, unpaired = (
        Source(
            name, [Shards(place / n) for n in NAMES[name]], seed, name == "paired",
            window=(0, 9)[seed // 2 % 2], weights=weights,
        )
        for name in NAMES
    )  # fmt: skip
    return Plan(paired, unpaired, BATCH)


def assert_accounted(plan: Plan, found: Sequence[Batch], first: int = 0) -> list[Lost]:
    """Fail unless each slot has the sample that its order names or is listed with its substitute.

    Returns what was listed.
    """
    listed: list[Lost] = []
    for step, batch in enumerate(found, first):
        lost = {(entry.source, entry.row): entry for entry in batch.lost}
        assert len(lost) == len(batch.lost)
        assert all(entry.step == step for entry in batch.lost)
        listed += batch.lost
        behind = 0
        for source, size in zip(plan[:2], BATCH, strict=True):
            for row, place in enumerate(source.samples_at(step * size, size)):
                dataset = source.datasets[place.dataset]
                expected, shown = f"{dataset.name}/{dataset.key(place.sample)}", batch.keys[behind]
                entry = lost.pop((source.name, row), None)
                assert (shown if entry is None else f"{entry.dataset}/{entry.key}") == expected
                if entry is not None:
                    assert entry.replaced_by == shown != expected
                    assert entry.shard == dataset.shard(place.sample)
                    assert entry.reason
                behind += 1
        assert not lost
    return listed


def opened(path: Path, first: int, images: int, max_lost: float, writes: bool = True) -> RunLedger:
    return RunLedger(path, lines_before(path, first), images, max_lost, writes=writes)


def run(ledger: RunLedger, found: Sequence[Batch], first: int) -> None:
    for step, batch in enumerate(found, first):
        ledger.add(step, batch.lost)


@pytest.mark.parametrize("seed", range(8))
def test_in_whole_epochs_of_damaged_shards_expected_is_delivered_plus_listed(seed, whole, tmp_path):
    draws = np.random.default_rng(seed)
    place = shutil.copytree(whole, tmp_path / "shards")
    damage(place, draws)
    bad, plan = damaged(place), plan_of(place, seed)
    steps = 11  # over three epochs of the paired samples, four of the unpaired
    world = int(draws.choice([1, 2, 3, 6]))
    found = batches(plan, 0, steps, world, threads=seed % 3)
    listed = assert_accounted(plan, found)
    assert {f"{entry.dataset}/{entry.key}" for entry in listed} == bad
    assert bad
    if seed % 2 == 0:  # without weights an epoch is one of all datasets
        of_first = [entry for entry in listed if entry.source == "paired"]
        whole_epochs = steps * BATCH[0] // len(plan.paired)
        for key in {key for key in bad if key.startswith("p")}:
            times = [f"{entry.dataset}/{entry.key}" for entry in of_first].count(key)
            assert times in (whole_epochs, whole_epochs + 1)

    ledger = opened(tmp_path / "lost.jsonl", 0, sum(BATCH), 1.0)
    run(ledger, found, 0)
    lines = (tmp_path / "lost.jsonl").read_text().splitlines()
    assert [Lost(**json.loads(line)) for line in lines] == sorted(listed)


def test_a_ledger_written_over_stops_and_replays_is_that_of_an_uninterrupted_run(whole, tmp_path):
    place = shutil.copytree(whole, tmp_path / "shards")
    damage(place, np.random.default_rng(3))
    plan, total = plan_of(place, 3), 14
    once, often = tmp_path / "once.jsonl", tmp_path / "often.jsonl"
    run(opened(once, 0, sum(BATCH), 1.0), batches(plan, 0, total), 0)
    assert len(once.read_text().splitlines()) > 20
    lives = [(0, 5, 1), (3, 9, 2), (9, 10, 3), (2, 11, 6), (10, 14, 1), (14, 14, 1)]
    for first, stop, world in lives:
        ledger = opened(often, first, sum(BATCH), 1.0)
        run(ledger, batches(plan, first, stop - first, world), first)
        with often.open("a") as file:
            file.write('{"step": 7, "sour')  # killed while it wrote a line
    opened(often, total, sum(BATCH), 1.0)
    assert often.read_text() == once.read_text()


def lost_one(step: int, row: int = 0) -> Lost:
    return Lost(step, "paired", row, "p", "p-000000.tar", f"{step:04d}", "checksum", "p/0009")


def test_a_run_stops_when_it_has_lost_more_than_its_budget(tmp_path):
    path = tmp_path / "lost.jsonl"
    ledger = opened(path, 0, 100, 0.01)
    for step in range(20):  # one in a hundred is allowed
        ledger.add(step, [lost_one(step)])
    with pytest.raises(RuntimeError) as error:
        ledger.add(20, [lost_one(20), lost_one(20, 1)])
    message = str(error.value)
    assert f"{path}: 22 of the first 2100 samples are lost" in message
    assert "data.max_lost=0.01" in message
    assert message.count("(checksum)") == 10
    assert "p/0000 (checksum), p/0001" in message
    assert "\n" not in message
    assert len(path.read_text().splitlines()) == 22  # the last ones are listed before it stops


def test_a_budget_is_counted_over_all_lives_of_a_run(tmp_path):
    path = tmp_path / "lost.jsonl"
    ledger = opened(path, 0, 100, 0.01)
    for step in range(15):
        ledger.add(step, [lost_one(step)])
    again = opened(path, 12, 100, 0.01)
    for step in range(12, 15):
        again.add(step, [lost_one(step)])
    with pytest.raises(RuntimeError, match="17 of the first 1600"):
        again.add(15, [lost_one(15), lost_one(15, 1)])


def test_a_budget_says_nothing_of_the_first_thousand_samples_and_1_never_stops(tmp_path):
    ledger = opened(tmp_path / "lost.jsonl", 0, 100, 0.0)
    for step in range(9):
        ledger.add(step, [lost_one(step)])
    with pytest.raises(RuntimeError, match="9 of the first 1000"):
        ledger.add(9, [])
    generous = opened(tmp_path / "other.jsonl", 0, 100, 1.0)
    for step in range(20):
        generous.add(step, [lost_one(step, row) for row in range(100)])


def test_a_rank_that_does_not_write_counts_all_the_same(tmp_path):
    path = tmp_path / "lost.jsonl"
    ledger = opened(path, 0, 1000, 0.001, writes=False)
    ledger.add(0, [lost_one(0)])
    with pytest.raises(RuntimeError, match="3 of the first 2000"):
        ledger.add(1, [lost_one(1), lost_one(1, 1)])
    assert not path.exists()


@pytest.mark.parametrize("weights", [(), (3, 1)])
def test_what_the_last_epochs_did_not_show_is_listed(weights, whole, tmp_path):
    shards = [Shards(whole / name) for name in NAMES["paired"]]
    source = Source("paired", shards, 3, True, weights=weights)
    path = tmp_path / "unseen.jsonl"
    assert write_unseen(path, [(source, 100)])["paired"] == len(path.read_text().splitlines())
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    unseen = [f"{row['dataset']}/{row['key']}" for row in rows]
    shown = [
        f"{shards[place.dataset].name}/{shards[place.dataset].key(place.sample)}"
        for place in source.samples_at(0, 100)
    ]
    for name, size in {"p": 30, "pp": 11}.items() if weights else {"": 41}.items():
        mine = [key for key in shown if key.startswith(name and f"{name}/")]
        rest = [key for key in unseen if key.startswith(name and f"{name}/")]
        last = mine[len(mine) // size * size :]
        assert len({*last, *rest}) == len(last) + len(rest) == (size if last else 0)


def test_what_does_not_decode_or_has_no_caption_is_listed_and_replaced(tmp_path):
    """The bytes are those that were written: only the decoder, or the caption, tells."""
    with ShardWriter(tmp_path / "p", "p") as writer:
        for i in range(6):
            writer.add(f"{i:04d}", picture(i), facts(i))
        writer.add("text", b"this is no photograph", facts(0))
        writer.add("uncaptioned", picture(7), {})
    nobody = [np.zeros(0, np.int64)]  # its metadata could not be read when pairs were chosen
    source = Source("paired", [Shards(tmp_path / "p")], 0, True, uncaptioned=nobody)
    found = batches(Plan(source, None, (8, 0)), 0, 3, threads=1)
    for batch in found:
        lost = {entry.key: entry for entry in batch.lost}
        assert set(lost) == {"text", "uncaptioned"}
        assert lost["uncaptioned"].reason == "has no caption"
        assert len(set(batch.keys) | {"p/text", "p/uncaptioned"}) == 8
        for entry in batch.lost:
            assert batch.keys[entry.row] == entry.replaced_by
            assert entry.replaced_by not in ("p/text", "p/uncaptioned")
