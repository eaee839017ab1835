"""The stream of pre-training from a storage that hangs now and then, and with it staged."""

import os
import random
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from benches.loader import PREFETCH, READERS, our_batches, rate, shards_of
from benches.turns import OtherWork, called

from maskedclip.data.storage.retrying_files import Storage, open_plain
from maskedclip.data.storage.shards import Shards
from maskedclip.data.storage.staging import Staging, TarUse

SHARE, SECONDS = 0.01, 0.2  # of the reads that hang, and how long


def stalls(size: str = "512", rounds: int = 15, root: str = "") -> dict[str, float | str | None]:
    """Return the speed without stalls, with them, and with them staged, in turn."""
    torch.set_num_threads(1)
    cores, batch = len(os.sched_getaffinity(0)), 32 if int(size) > 1024 else 64
    with shards_of(size, root) as directory, tempfile.TemporaryDirectory() as place:
        storage = Hanging(Path(place))
        hanging = Storage(open=storage.open, pread=storage.pread)
        plain, slow, local = (Shards(directory, one) for one in (Storage(), hanging, hanging))
        storage.hangs.set()
        streams = [our_batches(shards, batch, cores, "fine") for shards in (plain, slow, local)]
        speeds: list[list[float]] = [[], [], []]
        with staged(local, place) as seconds:
            others = OtherWork()
            for _ in range(rounds):
                # what the readers had ahead is used up before: they had time to get over all stalls
                for mine, batches in zip(speeds, streams, strict=True):
                    mine.append(rate(batches, batch, stored=PREFETCH + READERS * 64 // batch + 1))
            share = others.share()
            for batches in streams:
                batches.close()
    without, with_stalls, from_copies = speeds
    ratios = [a / b for a, b in zip(with_stalls, without, strict=True)]
    of_staged = [a / b for a, b in zip(from_copies, without, strict=True)]
    return {
        "images_per_s": statistics.median(with_stalls),
        "images_per_s_without": statistics.median(without),
        "images_per_s_staged": statistics.median(from_copies),
        **called(share, ratio=ratios, ratio_staged=of_staged),
        "share_of_reads": storage.hung / storage.reads,
        "seconds_each": SECONDS,
        "seconds_to_stage": seconds,
    }


class Hanging:
    """A storage of which one read in a hundred takes longer, but for what is below one folder."""

    def __init__(self, local: Path) -> None:
        self.hangs, self.hung, self.reads = threading.Event(), 0, 0
        self._draws, self._local = random.Random(0), local
        self._open_there: set[int] = set()

    def open(self, path: Path) -> int:
        descriptor = open_plain(path)
        there = self._open_there
        (there.add if self._local in path.parents else there.discard)(descriptor)
        return descriptor

    def pread(self, descriptor: int, size: int, offset: int) -> bytes:
        if self.hangs.is_set() and descriptor not in self._open_there:
            self.reads += 1
            if self._draws.random() < SHARE:
                self.hung += 1
                time.sleep(SECONDS)
        return os.pread(descriptor, size, offset)


@contextmanager
def staged(shards: Shards, place: str) -> Iterator[float]:
    """Give the seconds that it took to copy all tars; they are read from there meanwhile."""
    tars = [TarUse(shards, number) for number in range(len(shards.manifest["shards"]))]
    staging, start = Staging(place, Path("bench"), tars, says=True), time.perf_counter()
    staging.start()
    staging.wait()
    yield time.perf_counter() - start
    staging.close(remove=True)
