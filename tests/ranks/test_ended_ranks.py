"""A rank that ends by an error: the others end too, soon, and in its words."""

import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch.distributed as dist

from maskedclip.config import Config, override
from maskedclip.engine.distributed import process_group
from maskedclip.engine.hang_watch import HangWatch
from maskedclip.pretrain.loop import pretrain
from maskedclip.pretrain.methods import METHODS
from maskedclip.pretrain.methods.maskedclip import MaskedClipMethod
from tests.jobs.test_torchrun import flags
from tests.ranks.processes import on_ranks, start_ranks

WITHIN_S = 30.0


class FailingMethod(MaskedClipMethod):
    """Raises on rank 1, in its fourth step."""

    def step(self, batch, at, guard):
        if at.step == 3 and dist.get_rank() == 1:
            raise RuntimeError("this rank's card has fallen off the bus")
        return super().step(batch, at, guard)


def fail_in_a_step(rank: int, config: Config, out: Path) -> None:
    METHODS["maskedclip"] = FailingMethod
    begun = time.monotonic()
    with pytest.raises(RuntimeError) as error:
        pretrain(config)
    assert not dist.is_initialized()
    (out / str(rank)).write_text(f"{time.monotonic() - begun:.1f} s: {error.value}")


def test_an_error_of_one_rank_in_a_step_ends_the_other_in_its_words(small, tmp_path):
    on_ranks(2, fail_in_a_step, small, tmp_path)
    theirs, own = ((tmp_path / str(rank)).read_text().split(" s: ") for rank in range(2))
    assert own[1] == "this rank's card has fallen off the bus"
    assert theirs[1] == "rank 1 of 2: this rank's card has fallen off the bus"
    assert max(float(theirs[0]), float(own[0])) < WITHIN_S
    assert sorted(path.name for path in (small.directory / "checkpoints").iterdir()) == [
        "step-00000003"
    ]


def fail_alike(rank: int) -> None:
    with process_group():
        time.sleep(0.5 * (1 - rank))
        raise ValueError(f"no such folder, said by rank {rank}")


def raise_alike(rank: int, out: Path) -> None:
    with pytest.raises(ValueError, match="no such folder") as error:
        fail_alike(rank)
    (out / str(rank)).write_text(str(error.value))


def test_ranks_that_end_alike_keep_their_own_words(tmp_path):
    on_ranks(2, raise_alike, tmp_path)
    said = [(tmp_path / str(rank)).read_text() for rank in range(2)]
    assert said == [f"no such folder, said by rank {rank}" for rank in range(2)]


def end_without_a_word(rank: int) -> None:
    with process_group():
        dist.barrier()
        if rank == 1:
            os._exit(0)
        dist.barrier()


def kill_one(rank: int, out: Path) -> None:
    with pytest.raises(RuntimeError) as error:
        end_without_a_word(rank)
    (out / "0").write_text(str(error.value))


def test_a_rank_that_was_killed_is_named_as_a_lost_connection(tmp_path):
    on_ranks(2, kill_one, tmp_path)
    said = (tmp_path / "0").read_text()
    assert said.startswith("rank 0 of 2: Connection closed by another rank, which was killed")
    assert len(said.splitlines()) == 1


def wait_on_the_device(rank: int, out: Path, minutes: float) -> None:
    """Rank 0 sleeps where a GPU's rank waits for NCCL: it sees no connection close."""
    with (out / f"stderr-{rank}").open("w") as stderr:
        os.dup2(stderr.fileno(), 2)
    with process_group(), HangWatch(out / "hang", minutes) as watch:
        watch.beat(1)
        if rank == 1:
            raise ValueError("shards/clinic: not on this node")
        time.sleep(600)


@pytest.mark.slow
@pytest.mark.parametrize("minutes", [10.0, 0.0])
def test_a_rank_that_waits_for_the_device_ends_in_the_words_of_the_one_that_failed(
    minutes, tmp_path
):
    started = start_ranks(2, wait_on_the_device, tmp_path, minutes)
    waits, fails = started.processes
    fails.join(90)  # torch is imported first, in a minute of a busy machine
    waits.join(WITHIN_S)
    codes = [process.exitcode for process in started.processes]
    assert codes == [2, 1]  # 1 is that of torch's own processes for an exception
    said = (tmp_path / "stderr-0").read_text()
    assert said == "rank 1 of 2: shards/clinic: not on this node\n"
    assert (tmp_path / "hang").exists() == bool(minutes)


@pytest.mark.slow
@pytest.mark.parametrize("failing", [0, 1])
def test_a_node_without_the_data_ends_the_whole_run_in_one_line(small, tmp_path, failing):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    nodes = [tmp_path / f"node-{rank}" for rank in range(2)]
    for rank, node in enumerate(nodes):
        node.mkdir()
        for name in ("paired", "unpaired"):
            if rank != failing:
                shutil.copytree(Path(getattr(small.data, name)[0]), node / name)
    config = override(small, {"data.paired": ("paired",), "data.unpaired": ("unpaired",)})
    ranks = [
        subprocess.Popen(
            [sys.executable, "-m", "maskedclip.pretrain", "demo", *flags(config)],
            cwd=node,
            env=os.environ | {
                "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2",
                "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1",
            },
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank, node in enumerate(nodes)
    ]  # fmt: skip
    said = [process.communicate(timeout=120)[1] for process in ranks]
    assert [process.returncode for process in ranks] == [2, 2]
    line = said[failing].strip()
    assert line.startswith("paired: ")
    assert said[1 - failing].strip() == f"rank {failing} of 2: {line}"
