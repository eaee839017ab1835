"""Training state to the disk and back, written asynchronously while training goes on.

A checkpoint exists only if it is whole: its files are fsynced and hashed, then it gets its name.

    checkpoints/step-00012000/   DCP files and manifest.json with the sha256 of each
    checkpoints/step-*.tmp       what a killed run was writing or removing; gone at the next save

DCP's own metadata is a pickle, and the manifest beside it can be rewritten by whoever may write
there: it is read without running anything (checkpoint_metadata.py), and only where nobody else can
have written it (checkpoint_origin.py).
"""

import hashlib
import json
import logging
import os
import secrets
import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from pickle import UnpicklingError
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

from maskedclip.engine.checkpoint_metadata import METADATA, Planner, Reader
from maskedclip.engine.checkpoint_origin import (
    CONFIG,
    MANIFEST,
    RUN,
    check_origin,
    close_to_others,
    of_another,
    run_of,
)
from maskedclip.engine.checkpoint_room import free_space
from maskedclip.engine.run_lease import RunLease, Superseded

logger = logging.getLogger(__name__)
T = TypeVar("T")


class Checkpoints:
    """Saves a run in `folder`, and keeps the newest `keep`; every rank makes the same calls.

    with Checkpoints(folder, keep=3, asynchronous=True) as checkpoints:
        checkpoints.save(step, model, teacher, optimizer)

    A save that fails is a warning and leaves older checkpoints alone. Leaving the block without an
    error is `finish`; with one, it only waits for what is being written.
    """

    def __init__(
        self,
        folder: Path,
        keep: int,
        *,
        asynchronous: bool,
        lease: RunLease | None = None,
        config: Mapping[str, Any] | None = None,
    ) -> None:
        """asynchronous: write in a thread, from a copy in host memory as large as the state.

        lease: that of this attempt; nothing is published once another attempt has taken it.
        config: the fields that decide what is learnt, for `restore` to compare.
        """
        self._folder, self._keep, self._lease = folder, keep, lease
        self._config = dict(config or {})
        self._run = ""  # known at the first save
        self._asynchronous = asynchronous
        # its own group, so that the thread's collectives stay apart from those of training
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
        self._verified: dict[Path, str | None] = {}  # results of `verify`; None: whole

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self.finish()
        finally:
            self._thread.shutdown()
            self._stager.close()
            dist.destroy_process_group(self._group)

    def save(
        self, step: int, model: nn.Module, teacher: nn.Module | None, optimizer: Optimizer
    ) -> None:
        """Save the state after `step` steps, once the save before it is done.

        An asynchronous one returns once a copy is taken: later changes do not reach the disk.
        Raises Superseded (asynchronous: at the next call) where another attempt holds the lease.
        """
        self.wait()
        state = _state(model, teacher, optimizer)
        if self._asynchronous:
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

    def ignore_failure(self) -> None:
        """Wait, and forget a failed save: for a run at its end, which needs no checkpoint."""
        self.wait()
        self._fault = None

    def _write(self, step: int, state: Any) -> str | None:
        """Publish a state when all ranks have written it; return what has failed, or None."""
        rank, target = dist.get_rank(), directory_of(self._folder, step)
        # two attempts at once never write into one directory
        token = f".{self._lease.token}" if self._lease else ""
        temporary = target.with_name(f"{target.name}{token}.tmp")
        try:
            self._on_rank_0(step, lambda: clear(self._folder, temporary))
            # sync_and_hash calls fsync
            writer = dcp.FileSystemWriter(temporary, sync_files=False)
            dcp.save(state, storage_writer=writer, process_group=self._group)
            hashes = self._on_all(lambda: sync_and_hash(temporary, rank))
            sha256 = {name: digest for of_rank in hashes for name, digest in of_rank.items()}
            self._on_rank_0(step, lambda: self._publish(temporary, target, step, sha256))
        except (OSError, dcp.api.CheckpointException) as error:  # on every rank, whichever failed
            self._on_rank_0(step, lambda: None)  # where a later start has cleared it away
            why, free = _reason(error), self._on_all(lambda: free_space(target))[0]
            fault = f"{target}: the checkpoint cannot be written ({why}; {free})"
            if rank == 0:
                # what cannot be removed now is removed, or named, by the next save
                shutil.rmtree(temporary, ignore_errors=True)
                logger.warning("%s; the run goes on, and tries again at the next save", fault)
            return fault
        if rank == 0:
            self._verified[target] = None  # it was hashed and fsynced just now
            try:
                remove_older(self._folder, self._keep, self._verified)
            except OSError as error:
                logger.warning("%s: older checkpoints cannot be removed (%s)", target, error)
        return None

    def _publish(self, temporary: Path, target: Path, step: int, sha256: Mapping[str, str]) -> None:
        self._run = self._run or run_of(newest_first(self._folder))
        facts = {"step": step, RUN: self._run, CONFIG: self._config}
        publish(temporary, target, facts, sha256)

    def _on_rank_0(self, step: int, action: Callable[[], None]) -> None:
        """Run `action` on rank 0 while the threads of all wait; OSError on all if it raised one.

        Raises Superseded on all instead where another attempt holds the lease.
        """

        def unless_superseded() -> str:
            other = self._lease.other_holder() if self._lease else ""
            if not other:
                action()
            return other

        if other := self._on_all(unless_superseded if dist.get_rank() == 0 else str)[0]:
            raise Superseded(self._folder.parent, step, other)

    def _on_all(self, action: Callable[[], T]) -> list[T]:
        """Run `action` on every rank and return all results; OSError on all if one raised it."""
        mine: tuple[T | None, str | None]
        try:
            mine = action(), None
        except OSError as error:
            mine = None, f"rank {dist.get_rank()}: {error}"
        answers: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(answers, mine, group=self._group)
        for _, fault in answers:
            if fault is not None:
                raise OSError(fault)
        return [result for result, _ in answers]


def _reason(error: OSError | dcp.api.CheckpointException) -> str:
    """Return the storage's error in one line; other errors are raised again."""
    if isinstance(error, OSError):
        return str(error)
    rank, (cause, _) = next(iter(error.failures.items()))
    if not isinstance(cause, OSError | RuntimeError):
        raise error
    return f"rank {rank}: {cause}".splitlines()[0]


def _state(model: nn.Module, teacher: nn.Module | None, optimizer: Optimizer) -> dict[str, Any]:
    weights, moments = get_state_dict(model, optimizer)
    state = {"model": weights, "optimizer": moments}
    return state if teacher is None else state | {"teacher": get_model_state_dict(teacher)}


def restore(
    folder: Path,
    model: nn.Module,
    teacher: nn.Module | None,
    optimizer: Optimizer,
    *,
    config: Mapping[str, Any] | None = None,
    trusted: bool = False,
) -> int:
    """Load the newest verified checkpoint into the networks; return its step, 0 for none.

    Args:
        config: what the manifest's fields of the same names are compared with.
        trusted: whether one is loaded that somebody else owns or may write.

    Raises ValueError on every rank for such a one, for one of another run or configuration, and
    for an index that is none of DCP's.
    """
    path = _chosen(folder, config or {}, trusted=trusted)
    if path is None:
        return 0
    own = [{k: v for k, v in g.items() if k != "params"} for g in optimizer.param_groups]
    state = _state(model, teacher, optimizer)
    # what groups have beside AdamW's settings is the code's, and may have had other names before
    state["optimizer"]["param_groups"] = [
        {k: v for k, v in group.items() if k in ("params", *optimizer.defaults)}
        for group in state["optimizer"]["param_groups"]
    ]
    try:
        dcp.load(state, storage_reader=Reader(path), planner=Planner())
    except dcp.api.CheckpointException as error:
        causes = [cause for cause, _ in error.failures.values()]
        if any(isinstance(cause, UnpicklingError) for cause in causes):
            raise ValueError(
                f"{path}: holds more than tensors and plain values; it is not read. Remove it if "
                f"it is not of this run"
            ) from error
        raise
    set_state_dict(
        model, optimizer, model_state_dict=state["model"], optim_state_dict=state["optimizer"]
    )
    for group, settings in zip(optimizer.param_groups, own, strict=True):
        group.update(settings)
    if teacher is not None:
        set_model_state_dict(teacher, state["teacher"])
    return int(path.name.removeprefix("step-"))


def _chosen(folder: Path, config: Mapping[str, Any], *, trusted: bool) -> Path | None:
    """Return on every rank what rank 0 finds to load; ValueError on every rank for a foreign one.

    Who can have written it comes first: what strangers wrote is not even hashed.
    """
    answer: list[Any] = [None]
    if dist.get_rank() == 0:
        try:
            if not trusted:
                check_origin(newest_first(folder))
            answer = [newest(folder)]
            if answer[0] is not None:
                of_another(answer[0], newest_first(folder), config)
        except ValueError as error:
            answer = [error]
    dist.broadcast_object_list(answer)
    if isinstance(answer[0], ValueError):
        raise answer[0]
    found: Path | None = answer[0]
    return found


def full_weights(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return all weights on rank 0's CPU (elsewhere an empty dict); every rank calls it."""
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    return cast(dict[str, torch.Tensor], get_model_state_dict(model, options=options))


def directory_of(folder: Path, step: int) -> Path:
    """Return the path of the checkpoint of `step`, whether it exists or not."""
    return folder / f"step-{step:08d}"


def newest_first(folder: Path) -> list[Path]:
    """Return all published checkpoints, verified or not, by step."""
    return sorted(folder.glob("step-????????"), reverse=True)


def newest(folder: Path) -> Path | None:
    """Return the newest checkpoint that verifies; for damaged ones there is a warning."""
    for path in newest_first(folder):
        fault = verify(path)
        if fault is None:
            return path
        logger.warning("%s: %s; passed over for an older checkpoint", path, fault)
    return None


def verify(directory: Path) -> str | None:
    """Return what is wrong with a checkpoint, or None."""
    manifest = directory / MANIFEST
    if not manifest.is_file():
        return f"no {MANIFEST}"
    try:
        content = json.loads(manifest.read_text())
        expected: Mapping[str, str] = content["sha256"]
        if directory_of(directory.parent, content["step"]).name != directory.name:
            return f"{MANIFEST} says that it is step {content['step']}"
        present = {path.name for path in directory.iterdir()} - {MANIFEST}
        if missing := sorted(set(expected) ^ present):
            return f"{missing[0]} is missing or was added"
        paths = [directory / name for name in expected]
        if odd := [
            path.name for path in paths if path.exists() and not (path.is_file() or path.is_dir())
        ]:
            return f"{odd[0]} is no file"  # a named pipe would be waited for
        with ThreadPoolExecutor() as pool:  # a file of GB for each rank, and a GB a second a core
            digests = pool.map(_digest, paths)
            for (name, digest), now in zip(expected.items(), digests, strict=True):
                if now != digest:
                    return f"{name} is not what was written (sha256)"
    except OSError as error:  # a bad sector, or a file of another user
        return f"{error.filename} cannot be read ({error.strerror})"
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        return f"{MANIFEST} cannot be read ({error})"
    return None


def clear(folder: Path, temporary: Path) -> None:
    """Remove what killed runs left half written or half removed, and make `temporary`."""
    for leftover in folder.glob("step-*.tmp"):
        # an earlier start may still write there, or its node hold a file: that is no fault of ours
        shutil.rmtree(leftover, ignore_errors=True)
    temporary.mkdir(parents=True)
    close_to_others(temporary)
    _sync(folder.parent)


def sync_and_hash(directory: Path, rank: int) -> dict[str, str]:
    """Fsync the files that DCP wrote on `rank`, and return their sha256 by name.

    Each rank calls it for its own files: they are in the page cache of the node that wrote them.
    """
    paths = [*directory.glob(f"__{rank}_*"), *([directory / METADATA] if rank == 0 else [])]
    for path in paths:
        close_to_others(path)
        _sync(path)
    return {path.name: _digest(path) for path in paths}


def publish(
    temporary: Path, target: Path, facts: Mapping[str, Any], sha256: Mapping[str, str]
) -> None:
    """Write the manifest and give the directory its name, in place of a damaged one."""
    present = {path.name for path in temporary.iterdir()}
    if missing := sorted(present ^ set(sha256)):
        raise OSError(f"{temporary / missing[0]} is not seen alike by all ranks: share the storage")
    manifest = temporary / MANIFEST
    content = {**facts, "sha256": dict(sorted(sha256.items()))}
    manifest.write_text(json.dumps(content, indent=1) + "\n")
    close_to_others(manifest)
    _sync(manifest)
    _sync(temporary)
    before = _aside(target)
    if target.exists():  # damaged, or the run would have gone on from it
        target.rename(before)
    temporary.rename(target)
    _sync(target.parent)
    shutil.rmtree(before, ignore_errors=True)


def remove_older(folder: Path, keep: int, verified: dict[Path, str | None]) -> None:
    """Remove all but the newest `keep` whole checkpoints; damaged ones do not count.

    verified: results of `verify` known to this process. The others are verified once, and only
    when there are more than `keep`.
    """
    paths = newest_first(folder)
    whole = 0
    for path in paths if len(paths) > keep else ():
        if whole == keep:
            # renamed first: a removal that is cut short must not look like a damaged checkpoint
            shutil.rmtree(path.rename(_aside(path)))
            continue
        if path not in verified:
            verified[path] = verify(path)
            if verified[path] is not None:
                logger.warning("%s: %s; not counted among those kept", path, verified[path])
        whole += verified[path] is None


def _aside(path: Path) -> Path:
    """Return where a checkpoint waits to be removed: another name each time."""
    return path.with_name(f"{path.name}.{secrets.token_hex(4)}.old.tmp")


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
