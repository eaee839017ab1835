"""Small phantom shards and a run short enough for a test."""

import multiprocessing
import os
import signal
from pathlib import Path

import pytest
import simplejpeg
import torch

from maskedclip.config import Config, override
from maskedclip.data.storage.shards import ShardWriter
from maskedclip.recipes import demo
from maskedclip.shards.phantoms.phantom import draw

# spinning threads of two test processes on two cores would wait for each other's time slices
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
torch.set_num_threads(1)  # also of fixtures that come before the first test: other sums, other bits

# What the processes that tests fork have imported already: seconds for each of 70 ranks.
# The first test that forks one starts the server for all others, so that this stands here alone.
multiprocessing.set_forkserver_preload(
    ["torch._dynamo", "maskedclip.pretrain.loop", "maskedclip.grid.study"]
)


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _signals():
    """Restore what a run that leaves to be queued again ignores until its process ends."""
    numbers = (signal.SIGUSR2, signal.SIGTERM, signal.SIGHUP)
    before = [signal.getsignal(number) for number in numbers]
    yield
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


@pytest.fixture(autouse=True)
def _no_profiles(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory):
    """Keep the cluster profiles of whoever runs the tests out of them."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.getbasetemp() / "config"))


@pytest.fixture(scope="session")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return small_phantoms(tmp_path_factory.mktemp("shards"))


def small_phantoms(root: Path) -> dict[str, Path]:
    """Write directories of 24 phantoms for each source and 60 held out, at 48 pixels."""
    for number, (name, count) in enumerate({"paired": 24, "unpaired": 24, "heldout": 60}.items()):
        with ShardWriter(root / name, name, samples_per_shard=10) as writer:
            for i in range(count):
                phantom = draw(1000 * number + i, 48)
                metadata = {
                    "dataset": name,
                    "categories": list(phantom.categories),
                    "labels": phantom.labels,
                    "split": ("train", "train", "train", "val", "test")[i % 5],
                    "width": 48,
                    "height": 48,
                }
                writer.add(f"{i:06d}", simplejpeg.encode_jpeg(phantom.image_HWC), metadata)
    return {path.name: path for path in root.iterdir()}


@pytest.fixture
def small(phantoms: dict[str, Path], tmp_path: Path) -> Config:
    """A run of 6 steps that takes a second or two."""
    return a_small_run(phantoms, tmp_path)


def a_small_run(phantoms: dict[str, Path], root: Path) -> Config:
    """Return the run of `small`, written below `root`."""
    changes = {
        "name": "small",
        "out": str(root / "runs"),
        "data.paired": (str(phantoms["paired"]),),
        "data.unpaired": (str(phantoms["unpaired"]),),
        "data.paired_batch": 4,
        "data.unpaired_batch": 4,
        "data.draw_phantoms": 0,
        "data.threads": 0,
        "model.image_size": 32,
        "model.bridge_depth": 1,
        "model.feature_decoder_depth": 1,
        "optim.steps": 6,
        "engine.precision": "fp32",
        "engine.log_every": 1,
        "engine.save_every": 3,
        "engine.pictures_every": 3,
        "after.datasets": (),
    }
    return override(demo(), changes)
