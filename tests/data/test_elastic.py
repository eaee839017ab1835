"""Any path of ranks, threads and stops gives the batches and epochs of one process."""

import math
import multiprocessing
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from maskedclip.data.source import Source
from maskedclip.data.storage.shards import Shards
from maskedclip.data.stream import Batch, stream
from tests.streams import (
    VIEW,
    Computed,
    Plan,
    assert_same,
    assert_whole_epochs,
    batches,
    flat,
    stored,
    together,
    tokenize,
)

SIZES = [0, 1, 2, 3, 5, 7, 12, 13, 31, 64]  # one sample, primes, more and fewer than a batch


def random_source(draws: np.random.Generator, name: str, sizes: list[int] = SIZES) -> Source:
    datasets = [
        Computed(f"{name}{i}", int(size))
        for i, size in enumerate(draws.choice(sizes, draws.integers(1, 4)))
    ]
    if not sum(map(len, datasets)):
        datasets.append(Computed(f"{name}more", 1))
    weights: list[float] = []
    if draws.random() < 0.5:
        weights = [float(draws.choice([0.7, 1, 2, 31.5])) if len(d) else 0.0 for d in datasets]
    return Source(
        name, datasets, int(draws.integers(99)), name == "paired",
        window=int(draws.choice([0, 0, 1, 5, 11, 100])), weights=weights,
    )  # fmt: skip


def random_path(
    draws: np.random.Generator, worlds: list[int], steps: int
) -> Iterator[tuple[int, int, int, int]]:
    """Yield lives as (first step, step behind its last, ranks, threads).

    A life goes on from its predecessor's last checkpoint, which may be steps before its end.
    """
    done = 0
    while done < steps:
        stop = int(draws.integers(done + 1, steps + 1))
        yield done, stop, int(draws.choice(worlds)), int(draws.integers(0, 4))
        done = stop if draws.random() < 0.6 else int(draws.integers(done, stop + 1))


def random_worlds(draws: np.random.Generator) -> list[int]:
    choices = [[1, 2], [1, 3], [1, 2, 4], [1, 2, 3, 6], [1, 64]]
    return choices[int(draws.choice(5, p=[0.4, 0.3, 0.2, 0.08, 0.02]))]


def assert_exactly_once(source: Source, shown: list[str]) -> None:
    """Fail unless each epoch of the source, or of each of its datasets, is whole."""
    weighted = len(source._parts) > 1
    everything = {
        dataset.name: [f"{dataset.name}/{dataset.key(i)}" for i in range(len(dataset))]
        for dataset in source.datasets
    }
    unseen = [
        f"{source.datasets[place.dataset].name}/{source.datasets[place.dataset].key(place.sample)}"
        for place in source.unseen(len(shown))
    ]
    if not weighted:
        assert_whole_epochs(shown, flat(everything.values()), unseen)
        return
    for name, keys in everything.items():
        ours, rest = (
            [key for key in some if key.startswith(f"{name}/")] for some in (shown, unseen)
        )
        if keys:
            assert_whole_epochs(ours, keys, rest)
        assert bool(keys) or not ours + rest


def names(source: Source, first: int, rows: int) -> list[str]:
    return [
        f"{source.datasets[place.dataset].name}/{source.datasets[place.dataset].key(place.sample)}"
        for place in source.samples_at(first, rows)
    ]


def test_1000_random_splits_of_the_order_show_each_sample_once_an_epoch():
    for seed in range(1000):
        draws = np.random.default_rng(seed)
        source = random_source(draws, "unpaired")
        worlds = random_worlds(draws)
        size = math.lcm(*worlds) * int(draws.integers(1, 3))
        steps = int(draws.integers(1, 5))
        whole = names(source, 0, steps * size)
        assert_exactly_once(source, whole)
        for step in range(steps):
            world = int(draws.choice(worlds))
            each = size // world
            shares = [names(source, step * size + rank * each, each) for rank in range(world)]
            assert [len(keys) for keys in shares] == [each] * world
            assert flat(shares) == whole[step * size : (step + 1) * size]


def elastic(seed: int) -> None:
    """Compare one random path of lives with the uninterrupted run, to the byte."""
    draws = np.random.default_rng(seed)
    worlds = random_worlds(draws)
    sizes = [math.lcm(*worlds) * int(draws.integers(1, 3)) for _ in range(2)]
    unpaired = random_source(draws, "unpaired") if draws.random() < 0.8 else None
    plan = Plan(random_source(draws, "paired"), unpaired, (sizes[0], sizes[1] if unpaired else 0))
    steps = int(draws.integers(1, 1 + max(1, 24 // sum(plan.batch_sizes))))
    whole = batches(plan, 0, steps)
    for first, stop, world, threads in random_path(draws, worlds, steps):
        for ours, alone in zip(
            batches(plan, first, stop - first, world, threads), whole[first:stop], strict=True
        ):
            assert_same(ours, alone)
    paired = plan.batch_sizes[0]
    assert_exactly_once(plan.paired, [key for batch in whole for key in batch.keys[:paired]])
    if unpaired:
        assert_exactly_once(unpaired, [key for batch in whole for key in batch.keys[paired:]])


def test_40_random_paths_give_the_bytes_of_the_uninterrupted_run():
    for seed in range(40):
        elastic(seed)


@pytest.mark.slow
def test_1500_random_paths_give_the_bytes_of_the_uninterrupted_run():
    for seed in range(1000, 2500):
        elastic(seed)


def plan_of(place: Path, seed: int) -> Plan:
    """Return a mixture of stored datasets, with weights and windows by `seed`."""
    paired, unpaired = (
        [Shards(place / name) for name in names] for names in (("p", "pp"), ("u", "uu", "v"))
    )
    weights, window = ((), (3, 1), (0.5, 0.7))[seed % 3], (0, 5, 9)[seed // 3 % 3]
    return Plan(
        Source("paired", paired, seed, True, window=window, weights=weights),
        Source(
            "unpaired", unpaired, seed, False, window=window, weights=(5, 2, 1)[: 3 * (seed % 2)]
        ),
        (12, 24),
    )


def rank_of_a_life(place: Path, out: Path, seed: int, first: int, world: int, threads: int) -> None:
    """Write one rank's share of each step to a file of its own, without end: it will be killed."""
    rank = int(multiprocessing.current_process().name)
    endless = stream(
        *plan_of(place, seed), VIEW, tokenize,
        first_step=first, rank=rank, world=world, readers=2, threads=threads, prefetch=2,
    )  # fmt: skip
    for step, batch in enumerate(endless, first):
        temporary = out / f"{step}-{rank}.tmp"
        torch.save(batch._asdict(), temporary)
        temporary.rename(out / f"{step}-{rank}")


def live_and_die(out: Path, stop: int, world: int, arguments: tuple) -> list[Batch]:
    """Run a life in `world` processes, kill -9 all once `stop` is reached; return its batches."""
    context = multiprocessing.get_context("forkserver")
    out.mkdir()
    ranks = [
        context.Process(target=rank_of_a_life, args=arguments, name=str(rank))
        for rank in range(world)
    ]
    for rank in ranks:
        rank.start()
    steps, end = range(arguments[3], stop), time.monotonic() + 60
    while not all((out / f"{stop - 1}-{rank}").exists() for rank in range(world)):
        assert time.monotonic() < end
        assert all(rank.exitcode is None for rank in ranks)
        time.sleep(0.01)
    for rank in ranks:
        rank.kill()
        rank.join()
    shares = [
        [Batch(**torch.load(out / f"{step}-{rank}", weights_only=True)) for rank in range(world)]
        for step in steps
    ]
    return [together(of_a_step, 12 // world) for of_a_step in shares]


def killed_and_resumed(place: Path, out: Path, seed: int) -> None:
    draws = np.random.default_rng(seed)
    whole = batches(plan_of(place, seed), 0, 12)
    path = [(0, 3, 1, 0), (2, 6, 2, 1), (6, 9, 3, 2), (8, 12, 4, 3)]
    if seed:
        path = list(random_path(draws, [1, 2, 3, 4, 6], 12))
    for number, (first, stop, world, threads) in enumerate(path):
        arguments = (place, out / str(number), seed, first, world, threads)
        found = live_and_die(out / str(number), stop, world, arguments)
        for ours, alone in zip(found, whole[first:stop], strict=True):
            assert_same(ours, alone)
    plan = plan_of(place, seed)
    assert_exactly_once(plan.paired, [key for batch in whole for key in batch.keys[:12]])
    assert_exactly_once(plan.unpaired, [key for batch in whole for key in batch.keys[12:]])


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shards")
    for name, samples in {"p": 9, "pp": 4, "u": 20, "uu": 13, "v": 1}.items():
        stored(folder, name, samples)
    return folder


@pytest.mark.parametrize("seed", [0, 1])
def test_processes_that_are_killed_and_started_in_other_numbers_go_on_to_the_byte(
    seed, place, tmp_path
):
    killed_and_resumed(place, tmp_path, seed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2, 22))
def test_20_paths_of_killed_processes_go_on_to_the_byte(seed, place, tmp_path):
    killed_and_resumed(place, tmp_path, seed)
