"""Training state to the disk and back: written aside while training goes on."""

import logging
import shutil
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar, cast

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_state_dict,
    set_model_state_dict,
    set_state_dict,
)
from torch.optim import Optimizer

from maskedclip.engine.checkpoint_files import (
    bring_to_disk,
    clear,
    directory_of,
    newest,
    publish,
    remove_older,
)
from maskedclip.engine.preemption import Replaced
from maskedclip.engine.run_lease import Life

logger = logging.getLogger(__name__)
T = TypeVar("T")


class Checkpoints:
    """Saves a run in `folder`, and keeps the newest `keep`; every rank makes the same calls.

    with Checkpoints(folder, keep=3, aside=True) as checkpoints:
        checkpoints.save(step, model, teacher, optimizer)

    A save that fails is named in a warning and leaves older checkpoints alone. Leaving the block
    without an error is `finish`; with one, it only waits for what is being written.
    """

    def __init__(self, folder: Path, keep: int, *, aside: bool, life: Life | None = None) -> None:
        """aside: write in a thread, from a copy in the processor's memory as large as the state.

        life: the start of the run that saves; what another has signed meanwhile it leaves alone.
        """
        self._folder, self._keep, self._aside, self._life = folder, keep, aside, life
        # its own group, for the thread's exchanges to stay apart from those of training
        self._group = cast(dist.ProcessGroup, dist.new_group(backend="gloo"))
        cuda = torch.cuda.is_available()
        self._stager = DefaultStager(
            StagingOptions(
                use_pinned_memory=cuda,
                use_non_blocking_copy=cuda,
                use_shared_memory=False,
                use_async_staging=False,
            )
        )
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._writing: Future[str | None] | None = None
        self._fault: str | None = None  # of the last save, the same on every rank
        self._known: dict[Path, str | None] = {}  # what verify said; None: whole

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if error is None:
                self.finish()
        finally:
            self._thread.shutdown()
            self._stager.close()
            dist.destroy_process_group(self._group)

    def save(
        self, step: int, model: nn.Module, teacher: nn.Module | None, optimizer: Optimizer
    ) -> None:
        """Save the state after `step` steps, once the save before it is done.

        Aside, it returns with a copy taken: what is changed afterwards does not reach the disk.
        Raises Replaced (aside: from the next call) where another start of the run has it now.
        """
        self.wait()
        state = _state(model, teacher, optimizer)
        if self._aside:
            self._writing = self._thread.submit(self._write, step, self._stager.stage(state))
        else:
            self._fault = self._write(step, state)

    def wait(self) -> None:
        """Return when nothing is being written, as is needed before `restore`."""
        if self._writing is not None:
            self._fault = self._writing.result()
            self._writing = None

    def finish(self) -> None:
        """Wait, and raise RuntimeError on every rank if the last save has failed."""
        self.wait()
        if self._fault is not None:
            raise RuntimeError(
                f"{self._fault}; make room or give write permission, then run the same command: "
                f"it goes on from the last whole checkpoint"
            )

    def forgive(self) -> None:
        """Wait, and let a failed save be: for a run at its end, which needs no checkpoint."""
        self.wait()
        self._fault = None

    def _write(self, step: int, state: Any) -> str | None:
        """Publish a state when all ranks have written it; return what has failed, or None."""
        rank, target = dist.get_rank(), directory_of(self._folder, step)
        # two lives at once never write into one directory
        token = f".{self._life.token}" if self._life else ""
        temporary = target.with_name(f"{target.name}{token}.tmp")
        try:
            self._first(step, lambda: clear(self._folder, temporary))
            # bring_to_disk calls fsync
            writer = dcp.FileSystemWriter(temporary, sync_files=False)
            dcp.save(state, storage_writer=writer, process_group=self._group)
            parts = self._together(lambda: bring_to_disk(temporary, rank))
            sha256 = {name: digest for part in parts for name, digest in part.items()}
            self._first(step, lambda: publish(temporary, target, step, sha256))
        except (OSError, dcp.api.CheckpointException) as error:  # on every rank, whichever failed
            why, free_mb = _reason(error), self._together(lambda: _free_mb(target))[0]
            fault = f"{target}: the checkpoint cannot be written ({why}; {free_mb:.0f} MB free)"
            if rank == 0:
                # what cannot be removed now is removed, or named, by the next save
                shutil.rmtree(temporary, ignore_errors=True)
                logger.warning("%s; the run goes on, and tries again at the next save", fault)
            return fault
        if rank == 0:
            self._known[target] = None  # it was hashed and brought to the disk here and now
            try:
                remove_older(self._folder, self._keep, self._known)
            except OSError as error:
                logger.warning("%s: older checkpoints cannot be removed (%s)", target, error)
        return None

    def _first(self, step: int, action: Callable[[], None]) -> None:
        """Run `action` on rank 0 while the threads of all wait; OSError on all if it raised one.

        Raises Replaced on all instead where another start of the run has it now.
        """

        def unless_replaced() -> str:
            other = self._life.replaced() if self._life else ""
            if not other:
                action()
            return other

        if other := self._together(unless_replaced if dist.get_rank() == 0 else str)[0]:
            raise Replaced(self._folder.parent, step, other)

    def _together(self, action: Callable[[], T]) -> list[T]:
        """Run `action` on every rank and return what each did; OSError on all if one raised it."""
        mine: tuple[T | None, str | None]
        try:
            mine = action(), None
        except OSError as error:
            mine = None, f"rank {dist.get_rank()}: {error}"
        found: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(found, mine, group=self._group)
        for _, fault in found:
            if fault is not None:
                raise OSError(fault)
        return [result for result, _ in found]


def _reason(error: OSError | dcp.api.CheckpointException) -> str:
    """Return in one line what the storage did; what is no fault of it is raised again."""
    if isinstance(error, OSError):
        return str(error)
    rank, (cause, _) = next(iter(error.failures.items()))
    if not isinstance(cause, OSError | RuntimeError):
        raise error
    return f"rank {rank}: {cause}".splitlines()[0]


def _free_mb(target: Path) -> float:
    # torch's own words for a full disk do not say that it is full
    there = next(path for path in target.absolute().parents if path.exists())
    return shutil.disk_usage(there).free / 1e6


def _state(model: nn.Module, teacher: nn.Module | None, optimizer: Optimizer) -> dict[str, Any]:
    weights, moments = get_state_dict(model, optimizer)
    state = {"model": weights, "optimizer": moments}
    return state if teacher is None else state | {"teacher": get_model_state_dict(teacher)}


def restore(folder: Path, model: nn.Module, teacher: nn.Module | None, optimizer: Optimizer) -> int:
    """Load the newest verified checkpoint into all that is there; return its step, 0 for none."""
    found: list[Any] = [newest(folder) if dist.get_rank() == 0 else None]
    dist.broadcast_object_list(found)
    if found[0] is None:
        return 0
    state = _state(model, teacher, optimizer)
    dcp.load(state, storage_reader=dcp.FileSystemReader(found[0]))
    set_state_dict(
        model, optimizer, model_state_dict=state["model"], optim_state_dict=state["optimizer"]
    )
    if teacher is not None:
        set_model_state_dict(teacher, state["teacher"])
    return int(found[0].name.removeprefix("step-"))


def full_weights(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return all weights on rank 0's CPU (elsewhere an empty dict); every rank calls it."""
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    return cast(dict[str, torch.Tensor], get_model_state_dict(model, options=options))
