"""The training loop of every method: pretrain -> train -> `method.step`."""

import logging
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from maskedclip.config import Config, save
from maskedclip.data.source import Source
from maskedclip.data.storage.open_dataset import dataset_sha256
from maskedclip.engine.alarms import Alarms
from maskedclip.engine.checkpoint import Checkpoints, restore
from maskedclip.engine.checkpoint_room import free_space, refuse_without_room
from maskedclip.engine.distributed import barrier, compute_type, process_group
from maskedclip.engine.goodput import SAVING
from maskedclip.engine.hang_watch import HangWatch
from maskedclip.engine.mfu import peak_flops
from maskedclip.engine.optimizer import warmup_cosine
from maskedclip.engine.preemption import Preempted, Preemption
from maskedclip.engine.provenance import check_data, provenance, record
from maskedclip.engine.replicas import check_replicas
from maskedclip.engine.run_lease import RunLease
from maskedclip.engine.step_guard import StepGuard
from maskedclip.engine.step_log import StepLog
from maskedclip.models.checkpoints.files import ENCODER, MODEL, export
from maskedclip.models.checkpoints.verified import is_intact
from maskedclip.pretrain.about_run import first_captions, show_about, uses_of
from maskedclip.pretrain.due import Looks, due
from maskedclip.pretrain.faults import Faults
from maskedclip.pretrain.methods import method_of
from maskedclip.pretrain.methods.protocol import At, Method
from maskedclip.pretrain.monitor import Monitor
from maskedclip.pretrain.preflight import warn_of_tests
from maskedclip.pretrain.probe import best_so_far, read_probed, say_probed
from maskedclip.pretrain.reference import show_reference
from maskedclip.pretrain.run_identity import learnt, refuse_another
from maskedclip.pretrain.sources import (
    Batches,
    keep_tested,
    keep_uncaptioned,
    length,
    list_unseen,
    read_sources,
    staged,
)
from maskedclip.pretrain.trained_images import keep_images

logger = logging.getLogger(__name__)


def pretrain(config: Config) -> Path:
    """Train from the run's newest verified checkpoint to its last step; return its directory.

    Every rank calls it. Raises ValueError for shards that are not there, a directory of another run
    or what the method cannot do, RuntimeError where the loss is not finite, more samples are lost
    than data.max_lost allows, or the disk cannot take a checkpoint; Preempted where a signal
    asked to stop.
    """
    run = config.directory
    # longer than the hang watch, which reports more, waits before the first step
    timeout = timedelta(minutes=10 + 4 * config.engine.hang_minutes)
    with process_group(timeout) as device:
        kind = method_of(config)
        sources, probed = read_sources(config), read_probed(config, kind)
        method = kind(config, device)  # refuses weights, so before the run has a directory
        claim(config)
        keep_uncaptioned(sources[0], run)
        if dist.get_rank() == 0:
            uses = uses_of(config.data, config.log.probe)
            show_about(run, uses, first_captions(sources[0], config.data))
            show_reference(config)
        keep_tested(sources, config)
        images = keep_images(config, sources)
        warn_of_tests(config, sources, images)
        if probed is not None and dist.get_rank() == 0:
            say_probed(probed, images)
        lease = RunLease(run)
        lease.take()  # from here on an earlier attempt publishes no checkpoint
        done = restore(
            run / "checkpoints", method.model, method.teacher, method.optimizer,
            config=learnt(config), trusted=config.i_trust_this_directory,
        )  # fmt: skip
        total = length(config, *sources)[1]
        if done < total:
            refuse_without_room(run / "checkpoints", method.model, method.teacher)
        with staged(config, sources):
            monitor = Monitor(config, method, sources, probed, device)
            train(config, method, sources, done, device, lease, monitor)
            lease.check(total)
            weights = method.exported()  # of all ranks: none reads a sample any more
        if dist.get_rank() == 0:
            list_unseen(config, *sources, total)
            export_or_say(weights, method.shape(config), run, images.facts())
            if probed is not None and (line := best_so_far(run, total, probed)):
                logger.info("%s", line)
    return run


def export_or_say(weights: dict[str, Tensor], shape: Any, run: Path, images: Any) -> None:
    """Write the weights; RuntimeError, in one line, where the disk does not take them."""
    try:
        export(weights, shape, run, images)
        for name in (ENCODER, MODEL):  # read once here, where they are cached, not by every status
            is_intact(run / name)
    except OSError as error:
        raise RuntimeError(
            f"{error.filename or run}: the weights cannot be written ({error.strerror or error}; "
            f"{free_space(run / 'model')}); make room, then run the same command: it goes on from "
            f"the last checkpoint"
        ) from error


def train(
    config: Config, method: Method, sources: tuple[Source | None, Source | None], done: int,
    device: torch.device, lease: RunLease, monitor: Monitor,
) -> None:  # fmt: skip
    """Take the steps from `done` to the last, those again that the guard skipped."""
    run, engine = config.directory, config.engine
    epoch_steps, total = length(config, *sources)
    warmup = config.optim.warmup_epochs / config.optim.epochs * total
    guard = StepGuard(method.optimizer, device, spike=engine.spike)
    faults = Faults(run, engine.on_fault, engine.log_every)
    with (
        Preemption() as preemption,  # first, so that the last save is over when handlers are back
        HangWatch(run / "hang", engine.hang_minutes, lease.token) as watch,  # all ranks to the end
        Checkpoints(
            run / "checkpoints", engine.keep, asynchronous=engine.async_checkpoint, lease=lease,
            config=learnt(config),
        ) as checkpoints,
        StepLog(
            run, done, total, lease=lease, peak_flops=_peak_of_all(engine.precision, device),
            epoch_steps=epoch_steps, images=config.data.paired_batch + config.data.unpaired_batch,
            alarms=Alarms(warmup=warmup, least_share=config.log.least_share),
        ) as log,
        Batches(config, sources, method.view(config), method.tokenize, device) as batches,
    ):  # fmt: skip
        step = done
        if step < total:
            batches.seek(step)
        if not step:
            monitor.begin(log)
        while step < total:
            batch = log.wait_for(batches.next)
            # before the copies: the exchange of the ranks would wait for them
            asked = batches.report_lost(step, batch.lost, preemption.request)
            faults.remember(step, batch.keys)
            looks, lr = Looks(config, step, total), warmup_cosine(step, warmup, total)
            at = At(step, total, config.peak_lr * lr, looks.features)
            values = method.step(batches.on_device(batch), at, guard)
            log.add(values, method.step_flops(batch))
            saves = due(step, engine.save_every, total) or bool(asked)
            if (saves or looks.row) and (fault := guard.fault()):  # only what is finite is saved
                guard.resume()
                log.reset(lost=True)
                step = faults.answer(fault)
                batches.seek(step)
                continue
            if saves or looks.row:
                faults.passed(step)
                log.write(step + 1, at.lr, partial(monitor.measure, batch, at, looks))
            monitor.show(log, step + 1, looks)
            step += 1
            if saves:
                with watch.paused(), log.spending(SAVING):
                    save_alike(checkpoints, step, method)
                    if asked or step == total:
                        checkpoints.finish()
                    if asked:
                        raise Preempted(run, step, asked)
            watch.beat(step)


def save_alike(checkpoints: Checkpoints, step: int, method: Method) -> None:
    """Save the state, once all copies of it are seen to be alike."""
    state = method.model, method.teacher, method.optimizer
    check_replicas(step, *state)
    checkpoints.save(step, *state)


def _peak_of_all(precision: str, device: torch.device) -> float:
    return dist.get_world_size() * peak_flops(device, compute_type(precision, device))


def _save_again(config: Config, path: Path) -> None:
    try:
        save(config, path)
    except OSError as error:
        if not path.exists():
            raise
        logger.warning("%s: stays as an earlier start wrote it (%s)", path, error.strerror)


def claim(config: Config) -> None:
    """Write config.json and provenance.json; ValueError where the directory is another run's."""
    path = config.directory / "config.json"
    refuse_another(config)  # by every rank, so that all of them stop
    directories = [Path(name) for names in config.data.read for name in names]
    check_data(config.directory / "provenance.json", directories, dataset_sha256)
    barrier()
    if dist.get_rank() == 0:
        config.directory.mkdir(parents=True, exist_ok=True)
        _save_again(config, path)
        facts = provenance(directories, config.seed, dist.get_world_size(), dataset_sha256)
        record(facts, config.directory / "provenance.json")
