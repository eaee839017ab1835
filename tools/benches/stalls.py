"""The stream of pre-training from a storage that hangs now and then."""

import os
import random
import statistics
import threading
import time

import torch
from benches.loader import PREFETCH, READERS, our_batches, rate, shards_of
from benches.turns import OtherWork, called

from maskedclip.data.storage.retrying_files import Storage
from maskedclip.data.storage.shards import Shards

SHARE, SECONDS = 0.01, 0.2  # of the reads that hang, and how long


def stalls(size: str = "512", rounds: int = 15, root: str = "") -> dict[str, float | str | None]:
    """Return the speed with and without stalls, in turn, and what is lost by them."""
    torch.set_num_threads(1)
    cores, batch = len(os.sched_getaffinity(0)), 32 if int(size) > 1024 else 64
    draws, reads, hung = random.Random(0), [], []

    def pread(descriptor: int, size: int, offset: int) -> bytes:
        reads.append(1)
        if in_stream.is_set() and draws.random() < SHARE:
            hung.append(1)
            time.sleep(SECONDS)
        return os.pread(descriptor, size, offset)

    in_stream = threading.Event()
    with shards_of(size, root) as directory:
        plain, hanging = Shards(directory), Shards(directory, Storage(pread=pread))
        in_stream.set()
        reads.clear()
        streams = [our_batches(shards, batch, cores, "fine") for shards in (plain, hanging)]
        without, with_stalls = [], []
        others = OtherWork()
        for _ in range(rounds):
            # what the readers had ahead is used up before: they had time to get over all stalls
            for speeds, batches in zip((without, with_stalls), streams, strict=True):
                speeds.append(rate(batches, batch, stored=PREFETCH + READERS * 64 // batch + 1))
        share = others.share()
        for batches in streams:
            batches.close()
    ratios = [a / b for a, b in zip(with_stalls, without, strict=True)]
    return {
        "images_per_s": statistics.median(with_stalls),
        "images_per_s_without": statistics.median(without),
        **called(share, ratio=ratios),
        "share_of_reads": len(hung) / len(reads),
        "seconds_each": SECONDS,
    }
