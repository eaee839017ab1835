"""Checkpoints of several ranks: of one moment, agreed on by all, elastic, and killed at will."""

import json
import os
import random
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from maskedclip.config import Config, override
from maskedclip.engine.checkpoint import Checkpoints, newest, restore
from maskedclip.engine.distributed import process_group, whole
from maskedclip.pretrain.loop import pretrain
from tests.engine.test_checkpoint import names, no_room, numbers, state, train
from tests.ranks.processes import on_ranks, start_ranks


def save_one_rank_late(rank: int, folder: Path) -> None:
    with process_group(), Checkpoints(folder / "kept", 3, asynchronous=True) as checkpoints:
        ours = state(0)
        saved = numbers(*ours)
        if rank == 1:
            dist.barrier()  # of the training's group: rank 0 has left its save, which waits for us
        checkpoints.save(1, *ours)
        with torch.no_grad():
            for tensor in (*ours[0].parameters(), *ours[1].parameters()):
                tensor.add_(1)
        if rank == 0:
            assert not (folder / "kept" / "step-00000001").exists()
            dist.barrier()
        checkpoints.save(2, *ours)
        assert (folder / "kept" / "step-00000001").exists()  # the second waited for the first
        checkpoints.wait()
        if rank == 0:
            (folder / "kept" / "step-00000002" / "manifest.json").unlink()
        assert restore(folder / "kept", *ours) == 1
        for x, y in zip(numbers(*ours), saved, strict=True):
            assert x.equal(y)


def test_a_save_waits_for_no_rank_and_is_of_the_moment_it_was_asked_for(tmp_path):
    on_ranks(2, save_one_rank_late, tmp_path)


def fail_on_rank_1(rank: int, folder: Path) -> None:
    with process_group():
        checkpoints = Checkpoints(folder / "kept", 3, asynchronous=True)
        ours = state(0)
        checkpoints.save(1, *ours)
        checkpoints.wait()
        with no_room(0 if rank == 1 else 10**6):
            checkpoints.save(2, *ours)
            checkpoints.wait()
        dist.barrier()  # rank 0 has removed what was half written
        assert names(folder / "kept") == [1]
        checkpoints.save(3, *ours)
        checkpoints.finish()
        assert names(folder / "kept") == [1, 3]
        with no_room(0 if rank == 1 else 10**6):
            checkpoints.save(4, *ours)
            with pytest.raises(RuntimeError) as error:
                checkpoints.finish()
        (folder / str(rank)).write_text(str(error.value))


def test_one_rank_without_room_fails_the_save_of_all_in_the_same_words(tmp_path):
    on_ranks(2, fail_on_rank_1, tmp_path)
    ours, theirs = ((tmp_path / str(rank)).read_text() for rank in range(2))
    assert ours == theirs
    assert "step-00000004: the checkpoint cannot be written (rank 1: " in ours
    assert names(tmp_path / "kept") == [1, 3]


def save_and_go_on(rank: int, folder: Path) -> None:
    with process_group(), Checkpoints(folder / "kept", 3, asynchronous=True) as checkpoints:
        ours = state(0)
        checkpoints.save(5, *ours)
        saved = numbers(*ours)
        train(ours[0], ours[2])
        trained = numbers(*ours)
        if rank == 0:
            torch.save((saved, trained), folder / "expected")


def resume_and_go_on(_rank: int, folder: Path) -> None:
    with process_group():
        ours = state(1)
        assert restore(folder / "kept", *ours) == 5
        saved, trained = torch.load(folder / "expected")
        for x, y in zip(numbers(*ours), saved, strict=True):
            assert x.equal(y)
        train(ours[0], ours[2])
        for x, y in zip(numbers(*ours), trained, strict=True):
            torch.testing.assert_close(x, y)


def test_a_checkpoint_of_four_ranks_is_resumed_by_one_two_and_three(tmp_path):
    on_ranks(4, save_and_go_on, tmp_path)
    for world in (1, 2, 3):
        on_ranks(world, resume_and_go_on, tmp_path)


def losses(run: Path) -> list[list[float]]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [[row[term] for term in ("loss", "grad_norm", "logit_scale")] for row in rows]


def pretrain_on_a_rank(_rank: int, config: Config) -> None:
    pretrain(config)


@pytest.mark.slow
def test_a_run_of_four_ranks_goes_on_with_one_two_and_three_as_if_nothing_had_been(small, tmp_path):
    whole = override(small, {"data.paired_batch": 12, "data.unpaired_batch": 12})
    on_ranks(4, pretrain_on_a_rank, whole)
    for world in (1, 2, 3):
        parted = override(whole, {"out": str(tmp_path / f"{world}")})
        shutil.copytree(whole.directory, parted.directory)
        shutil.rmtree(parted.directory / "checkpoints" / "step-00000006")
        on_ranks(world, pretrain_on_a_rank, parted)
        assert len(losses(parted.directory)) == 6
        for row, expected in zip(losses(parted.directory), losses(whole.directory), strict=True):
            assert row == pytest.approx(expected, rel=1e-5, abs=1e-6)


def save_without_end(_rank: int, folder: Path) -> None:
    """Save again and again, every number of the weights equal to the step."""
    with process_group(), Checkpoints(folder, 2, asynchronous=True) as checkpoints:
        ours = state(0, width=50_000)
        for step in range(restore(folder, *ours) + 1, 10**6):
            with torch.no_grad():
                for tensor in (*ours[0].parameters(), *ours[1].parameters()):
                    tensor.fill_(step)
            checkpoints.save(step, *ours)


def kill_while_saving(folder: Path, after_s: float, world: int) -> int:
    """Start saving, kill all ranks at an instant after a new checkpoint; return the newest step."""
    before = names(folder) if folder.exists() else []
    started = start_ranks(world, save_without_end, folder)
    deadline = time.monotonic() + 60
    while not folder.exists() or len({*names(folder)} - {*before}) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    time.sleep(after_s)
    for pid in started.pids():
        os.kill(pid, signal.SIGKILL)
    with pytest.raises(Exception, match="SIGKILL"):
        started.join()
    path = newest(folder)
    assert path is not None
    with process_group():
        ours = state(1, width=50_000)
        step = restore(folder, *ours)
    assert path == folder / f"step-{step:08d}"
    for tensor in (*ours[0].parameters(), *ours[1].parameters()):
        assert whole(tensor).eq(step).all()
    return step


def test_a_run_killed_while_it_saves_goes_on_from_a_whole_checkpoint(tmp_path):
    generator = random.Random(0)
    steps = [kill_while_saving(tmp_path / "kept", generator.random() / 4, 1) for _ in range(2)]
    assert steps == sorted(set(steps))
    left_over = tmp_path / "kept" / "step-00000001.tmp"
    left_over.mkdir(exist_ok=True)
    with process_group(), Checkpoints(tmp_path / "kept", 2, asynchronous=True) as checkpoints:
        checkpoints.save(10**6, *state(0))
    assert not left_over.exists()
    assert len(names(tmp_path / "kept")) == 2


@pytest.mark.slow
@pytest.mark.parametrize("world", [1, 2])
def test_fifty_kills_while_saving_lose_no_checkpoint(tmp_path, world, caplog):
    generator = random.Random(world)
    for _ in range(50):
        kill_while_saving(tmp_path / "kept", generator.random() / 2, world)
    assert "passed over" not in caplog.text  # none was ever published half


def die_while_others_save(rank: int, folder: Path) -> None:
    with process_group():
        checkpoints = Checkpoints(folder, 3, asynchronous=True)
        ours = state(0)
        checkpoints.save(1, *ours)
        checkpoints.wait()
        if rank == 1:
            while not (folder / "step-00000002.tmp").exists():
                time.sleep(0.01)
            os.kill(os.getpid(), signal.SIGKILL)
        checkpoints.save(2, *ours)
        with pytest.raises(RuntimeError, match="Connection closed"):  # soon, and not as a full disk
            checkpoints.finish()
        (folder / "told").touch()


def test_a_rank_that_dies_is_an_error_of_the_others_not_of_the_disk(tmp_path):
    with pytest.raises(Exception, match="SIGKILL"):
        on_ranks(2, die_while_others_save, tmp_path)
    assert newest(tmp_path) == tmp_path / "step-00000001"
