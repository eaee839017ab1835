"""metrics.jsonl, TensorBoard and a progress line: sums stay on the device between log steps."""

import errno
import json
import logging
import math
import os
import resource
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, Self, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from maskedclip.engine.alarms import Alarms
from maskedclip.engine.event_files import EventFile, event_files
from maskedclip.engine.goodput import MEASURING, SAVING, WAITING, Goodput
from maskedclip.engine.run_lease import RunLease
from maskedclip.engine.whole_file import write_whole

logger = logging.getLogger(__name__)
T = TypeVar("T")
POINTS = 250  # of a curve in TensorBoard, as a chart is wide: it would hold 1,000 in memory


class Recorder:
    """metrics.jsonl and TensorBoard's event files of one process.

    What an earlier attempt logged beyond `first_step` is removed, so that no step stands twice. A
    run without event files, of before they lay in its directory, has its curves drawn from its
    rows. A disk that is full costs rows and points, which are named, and not the run.
    """

    def __init__(
        self, directory: Path, first_step: int, *, finetuning: bool = False, spacing: float = 0.0
    ) -> None:
        """Of each curve TensorBoard gets a point each `spacing` steps at most."""
        self._path, self._directory, self._finetuning = (
            directory / "metrics.jsonl", directory, finetuning,
        )  # fmt: skip
        self._spacing, self._slots = spacing, dict[str, int]()
        _keep_until(self._path, first_step)
        self._tensorboard: EventFile | None = None
        older = [] if event_files(directory) else _rows(self._path)

        def begin(events: EventFile) -> None:
            for row in older:
                events.point(row["step"], self._drawn(row["step"], row))

        self._draw(first_step, begin)

    def close(self) -> None:
        if self._tensorboard is not None:
            try:
                self._tensorboard.close()
            except OSError as error:
                logger.warning("%s: last points are lost (%s)", self._directory, error.strerror)

    def record(self, step: int, row: Mapping[str, Any]) -> None:
        """Append one object to metrics.jsonl and a point to each curve."""
        try:
            _append(self._path, json.dumps({"step": step, **row}))
        except OSError as error:
            logger.warning("%s: the row of step %d is lost (%s)", self._path, step, error.strerror)
            if self._tensorboard is None:  # nor would another file of its find room
                return
        drawn = self._drawn(step, row)
        self._draw(step, lambda events: events.point(step, drawn))

    def _drawn(self, step: int, row: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return what of a row is drawn: of each curve the first point of a spacing."""
        slot = int(step // self._spacing) if self._spacing else step
        drawn = {key: value for key, value in row.items() if self._slots.get(key) != slot}
        self._slots |= dict.fromkeys(drawn, slot)
        return drawn

    def image(self, step: int, tag: str, image_CHW: Tensor, words: str) -> None:
        """Show a picture in TensorBoard, and say what it shows."""
        self._draw(step, lambda events: events.image(step, tag, image_CHW, words))

    def text(self, step: int, tag: str, markdown: str, words: str) -> None:
        """Show a text in TensorBoard, and say what it is."""
        self._draw(step, lambda events: events.text(step, tag, markdown, words))

    def _draw(self, step: int, draw: Callable[[EventFile], None]) -> None:
        """Draw with the writer; one that failed is left, and the next file is begun."""
        try:
            if self._tensorboard is None:
                self._tensorboard = EventFile(self._directory, step, finetuning=self._finetuning)
            draw(self._tensorboard)
        except OSError as error:
            logger.warning(
                "%s: TensorBoard's points up to step %d are lost (%s); metrics.jsonl has what it "
                "could take", self._directory, step, error.strerror,
            )  # fmt: skip
            broken, self._tensorboard = self._tensorboard, None
            if broken is not None:
                with suppress(OSError):
                    broken.close()


def _keep_until(path: Path, step: int) -> None:
    """Remove the rows beyond a step, and half a row of a killed run; on a full disk, too."""
    content = path.read_bytes() if path.exists() else b""
    rows = [row for row in content.splitlines(keepends=True) if row.endswith(b"\n")]
    kept = b"".join(row for row in rows if _step(row) <= step)
    if content.startswith(kept) and path.exists():
        os.truncate(path, len(kept))
    else:
        write_whole(path, kept.decode(errors="replace"))


def _rows(path: Path) -> list[dict[str, Any]]:
    """Return the whole rows of a file; nothing where it is not there."""
    content = path.read_bytes() if path.exists() else b""
    return [json.loads(line) for line in content.splitlines() if _step(line) < math.inf]


def rows_until(directory: Path, step: int) -> tuple[list[dict[str, Any]], dict[str, Any] | None]:
    """Return a run's rows up to a step, and its last one, which may lie beyond that."""
    rows = _rows(directory / "metrics.jsonl")
    return [row for row in rows if row["step"] <= step], rows[-1] if rows else None


def _append(path: Path, row: str) -> None:
    """Append a line, whole or not at all."""
    line = f"{row}\n".encode()
    with path.open("ab", buffering=0) as file:
        start, written = file.tell(), 0
        try:
            written = file.write(line)
            if written < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError:
            os.truncate(path, start)
            raise


def _step(row: bytes) -> float:
    """Return the step of a line, infinity where a killed run left half of one."""
    try:
        return int(json.loads(row)["step"])
    except (ValueError, KeyError, TypeError):
        return math.inf


class ProgressLine:
    """One line that a terminal rewrites; in a log file a line a row."""

    def __init__(self, first_step: int, total: int) -> None:
        self._first, self._total = first_step, total
        self._start, self._open = time.monotonic(), False

    def show(self, step: int, loss: float, images_per_s: float, data_wait: float) -> None:
        done = step - self._first
        seconds = (time.monotonic() - self._start) / max(1, done) * (self._total - step)
        line = (
            f"step {step}/{self._total}  loss {loss:.4f}  {images_per_s:.0f} images/s  "
            f"wait {data_wait:.0%}  {timedelta(seconds=round(seconds))} left"
        )
        live = sys.stderr.isatty() and step < self._total
        self._open = live
        # behind a shorter line the rest of the longer one before it is cleared
        self._write(f"\r{line}\033[K" if live else f"{line}\n")

    def end_line(self) -> None:
        """Leave the live line where it is: another one follows."""
        if self._open:
            self._write("\n")
            self._open = False

    def _write(self, text: str) -> None:
        with suppress(OSError):  # a log on a full disk
            sys.stderr.write(text)
            sys.stderr.flush()


class StepLog:
    """Means over the steps since the last row; rank 0 writes them, every rank takes part."""

    def __init__(
        self,
        directory: Path,
        done: int,
        total: int,
        *,
        lease: RunLease,
        epoch_steps: float,
        images: int,
        peak_flops: float,
        alarms: Alarms | None = None,
    ) -> None:
        """images are those of a step, peak_flops is that of all ranks together.

        The lease has been taken.
        """
        self._lease, self._epoch_steps, self._images = lease, epoch_steps, images
        self._peak_flops = peak_flops
        self._spent: dict[str, float] = {}
        self._recorder: Recorder | None = None
        if dist.get_rank() == 0:
            kept, last = rows_until(directory, done)
            before = kept[-1] if kept else None
            self._goodput = Goodput(before, last, time.time())
            self._alarms = alarms or Alarms(warmup=0.0, least_share=0.0)
            for row in kept:  # it goes on where the start before it stopped
                self._alarms.check(row)
            self._recorder = Recorder(directory, done, spacing=total / POINTS)
            self._progress = ProgressLine(done, total)
            self._has_beginning = any(row["step"] == 0 for row in kept)
        self.reset()

    def reset(self, *, lost: bool = False) -> None:
        """Forget the steps since the last row; `lost`: they are taken again."""
        if lost and self._recorder is not None:
            self._goodput.interval(time.time(), {}, lost=True)
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}
        self._steps, self._since, self._flops = 0, time.monotonic(), 0.0
        self._spent = dict.fromkeys((WAITING, MEASURING, SAVING), 0.0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._recorder is not None:
            self._recorder.close()

    @contextmanager
    def spending(self, kind: str) -> Iterator[None]:
        """Count the time of the block as waiting for data, as measuring or as saving."""
        start = time.monotonic()
        yield
        self._spent[kind] += time.monotonic() - start

    def wait_for(self, get: Callable[[], T]) -> T:
        """Return get(), its time counted as waiting for data."""
        with self.spending(WAITING):
            return get()

    def add(self, values: dict[str, Tensor], flops: float) -> None:
        """Add one step's values and its operations, without a host sync."""
        self._flops += flops
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, 0) + value.float().sum()
            self._counts[name] = self._counts.get(name, 0) + 1
        self._steps += 1

    def write_beginning(self, measure: Callable[[], Mapping[str, float]]) -> None:
        """Write what `measure` finds before the first step, where no earlier start has."""
        answer = [self._recorder is not None and self._has_beginning]
        dist.broadcast_object_list(answer)
        if answer[0]:
            return
        with self.spending(MEASURING):
            measured = measure()
        if self._recorder is not None and measured:
            self._recorder.record(0, {"epoch": 0.0, **measured})

    def write(
        self, step: int, lr: float, measure: Callable[[], Mapping[str, float]] = dict
    ) -> None:
        """Write the means after `step` steps, and what `measure` finds; this waits for the device.

        Raises Superseded on all ranks where a later attempt has taken the lease: rows and
        checkpoints of two attempts would mix.
        """
        self._lease.check(step)
        with self.spending(MEASURING):
            measured = measure()
        sums = torch.stack(list(self._sums.values())).tolist()
        row: dict[str, Any] = {
            name: total / self._counts[name] for name, total in zip(self._sums, sums, strict=True)
        }
        # what is measured beside the steps is no part of their speed
        seconds = time.monotonic() - self._since - self._spent[MEASURING]
        row["epoch"] = step / self._epoch_steps
        row["lr"] = lr
        row["images_per_s"] = self._steps * self._images / seconds
        row["data_wait"] = self._spent[WAITING] / seconds  # share of the time
        row["mfu"] = self._flops / seconds / self._peak_flops
        if self._recorder is not None:
            row |= {"memory_gib": peak_memory_gib(), **measured}
            now = time.time()
            self._goodput.interval(now, self._spent)
            row |= self._goodput.row(now)
            self._raise_alarms(step, row)
            self._recorder.record(step, row)
            self._progress.show(step, row["loss"], row["images_per_s"], row["data_wait"])
        self.reset()

    def _raise_alarms(self, step: int, row: dict[str, Any]) -> None:
        """Say the alarms that this row raises, here and in the row."""
        assert self._recorder is not None
        raised = self._alarms.check({"step": step, **row})
        for alarm in raised:
            self._progress.end_line()
            logger.warning("step %d: %s", step, alarm.line)
            self._recorder.text(step, f"alarms/{alarm.name}", alarm.line, "what to do")
        if raised:
            row["alarms"] = {alarm.name: alarm.line for alarm in raised}

    def text(self, step: int, tag: str, markdown: str, words: str) -> None:
        """Show a text in TensorBoard, and say what it is; rank 0 alone does."""
        if self._recorder is not None:
            self._recorder.text(step, tag, markdown, words)

    def image(self, step: int, tag: str, image_CHW: Tensor, words: str) -> None:
        """Show a picture in TensorBoard, and say what it shows; rank 0 alone does."""
        if self._recorder is not None:
            self._recorder.image(step, tag, image_CHW, words)


def peak_memory_gib() -> float:
    """Return the peak of this GPU's memory since the last call, without one of this process."""
    if torch.cuda.is_available():
        peak = torch.cuda.max_memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        return peak / 2**30
    kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kib * 1024 / 2**30
