"""Measure how well an order mixes: `python tools/benches/shuffling.py`; a table on standard output.

100,000 samples lie sorted by label in 100 shards, in the shares of a screening programme's grades.
Each order is measured over 5 epochs:

same shard    share of neighbours in the order that come from one shard
same label    share of neighbours that have one label
longest run   samples of one label in a row, at the most (median of the epochs)
label spread  deviation of the number of samples of the most frequent grade in batches of 256, over
              that of a uniform permutation: 1 is as good, 16 is the worst that there is

`buffer` is webdataset's shuffle(5000) behind shards in a new order each epoch.
"""

import random
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from maskedclip.command import CommandLine, one_line_errors
from maskedclip.data.order import number, ordered

SAMPLES, SHARDS, BATCH, EPOCHS = 100_000, 100, 256, 5
GRADES = (0.73, 0.07, 0.15, 0.03, 0.02)  # shares
SHARD = np.arange(SAMPLES) * SHARDS // SAMPLES
LABEL = np.searchsorted(np.cumsum(GRADES) * SAMPLES, np.arange(SAMPLES), side="right")


def uniform(epoch: int) -> np.ndarray:
    """Return a permutation drawn from all."""
    return np.random.default_rng(epoch).permutation(SAMPLES)


def windowed(window: int) -> Callable[[int], np.ndarray]:
    """Return the order of data.window=`window`."""
    return lambda epoch: ordered(0, SAMPLES, SAMPLES, window, number("shuffling", epoch))


def buffered(epoch: int) -> np.ndarray:
    """Return what a shuffle buffer of webdataset gives."""
    import webdataset

    draws = random.Random(epoch)
    shards = np.arange(SAMPLES).reshape(SHARDS, -1)[draws.sample(range(SHARDS), SHARDS)]
    return np.array(list(webdataset.shuffle(5000, rng=draws)(iter(shards.reshape(-1).tolist()))))


def measured(order: Callable[[int], np.ndarray]) -> dict[str, float]:
    """Return the statistics of the module's docstring; label spread in samples."""
    found: dict[str, list[float]] = {"shard": [], "label": [], "run": [], "spread": []}
    for epoch in range(EPOCHS):
        index_B = order(epoch)
        shard_B, label_B = SHARD[index_B], LABEL[index_B]
        changes = np.flatnonzero(np.diff(label_B, prepend=-1, append=-1))
        batches = label_B[: SAMPLES // BATCH * BATCH].reshape(-1, BATCH)
        found["shard"].append(float((np.diff(shard_B) == 0).mean()))
        found["label"].append(float((np.diff(label_B) == 0).mean()))
        found["run"].append(float(np.diff(changes).max()))
        found["spread"].append(float((batches == 0).sum(axis=1).std()))
    middle = {name: float(np.mean(values)) for name, values in found.items()}
    return middle | {"run": float(np.median(found["run"]))}


def main() -> None:
    """Print the table."""
    CommandLine().read(__doc__)
    orders = {f"data.window={window}": windowed(window) for window in (0, 10_000, 1000)}
    every = {"uniform permutation": uniform, **orders, "buffer of 5,000": buffered}
    print("| order | same shard | same label | longest run | label spread |\n|---|---|---|---|---|")
    spread = measured(uniform)["spread"]
    for name, order in every.items():
        found = measured(order)
        print(
            f"| {name} | {found['shard']:.3%} | {found['label']:.2%} | {found['run']:.0f} "
            f"| {found['spread'] / spread:.2f} |"
        )


if __name__ == "__main__":
    with one_line_errors():
        main()
