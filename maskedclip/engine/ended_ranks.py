"""A rank that ends by an error says why to the others, and lets go of what they wait for.

Where NCCL waits for a rank that is gone, it waits until its timeout, and destroying the process
group waits as well: so the group is aborted. The words of the first rank to end are in the store
where the ranks have met, for those that only see a lost connection.
"""

import threading
import time
from datetime import timedelta

import torch.distributed as dist
from torch.distributed.distributed_c10d import _abort_process_group, _get_default_store

_COUNT, _WORDS = "maskedclip/ended", "maskedclip/ended_by"
_TOGETHER_S = 2.0  # within which ranks that end alike have all come, and others have read the words
_ANSWER = timedelta(seconds=2)
_EVERY_S = 1.0  # between questions whether a rank has ended


def leave(error: BaseException) -> str:
    """Leave the process group after an error; return the words of the rank that ended first.

    They are "" where this rank is the first, or has words of its own. Where all ranks end alike,
    as when they are asked to stop, nobody loses a connection that is still read from.
    """
    if not dist.is_initialized():  # left already
        return ""
    rank, world, store = dist.get_rank(), dist.get_world_size(), _get_default_store()
    alone = words = ""
    if _is_lost(error):
        alone = (
            f"rank {rank} of {world}: Connection closed by another rank, which was killed or whose "
            f"node is gone; the same command goes on from the last checkpoint"
        )
    try:
        if store.add(_COUNT, 1) == 1:
            store.set(_WORDS, alone or f"rank {rank} of {world}: {_one_line(error)}")
            words = alone
        elif alone:
            store.wait([_WORDS], _ANSWER)
            words = store.get(_WORDS).decode()
        together = not alone and _all_come(store, world)
    except RuntimeError:  # rank 0 has ended, and the store with it
        words, together = words or alone, False
    if together:
        dist.destroy_process_group()
        return words
    _abort_process_group()
    if rank == 0:  # the store is in its process
        _all_come(store, world)
    return words


class EndedRanks:
    """Asks whether a rank has ended by an error, in a thread of its own.

    Where the process of rank 0 is stopped, or its node is gone without a word, the store does not
    answer, and who asked waits: so nobody does who has something else to watch.
    """

    def __init__(self) -> None:
        self.words = ""  # of the first of them; "" where none has ended or the store is gone
        self._left = threading.Event()
        if dist.get_world_size() > 1:
            # a store answers one question at a time, and that of training may be a long one
            self._store = _get_default_store().clone()
            self._store.set_timeout(_ANSWER)
            threading.Thread(target=self._ask, name="ended ranks", daemon=True).start()

    def stop(self) -> None:
        """Ask no more."""
        self._left.set()

    def _ask(self) -> None:
        while not self.words and not self._left.wait(_EVERY_S):
            try:
                if self._store.check([_WORDS]):
                    self.words = self._store.get(_WORDS).decode()
            except RuntimeError:  # the store is late, or gone
                continue


def _all_come(store: dist.Store, world: int) -> bool:
    """Return whether all ranks come here soon.

    None may then be far ahead of another: where a run is asked to stop, rank 0 has SLURM queue the
    job again, which kills what is still here. Waiting for a key would print its time-out.
    """
    end = time.monotonic() + _TOGETHER_S
    while store.add(_COUNT, 0) < world:
        if time.monotonic() > end:
            return False
        time.sleep(0.002)
    return True


def _is_lost(error: BaseException) -> bool:
    """Return whether an error says no more than that another rank does not answer."""
    return isinstance(error, dist.DistBackendError | dist.DistNetworkError) or (
        isinstance(error, RuntimeError) and "gloo/" in str(error)
    )


def _one_line(error: BaseException) -> str:
    return " ".join(f"{error}".split()) or type(error).__name__
