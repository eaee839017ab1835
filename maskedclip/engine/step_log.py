"""metrics.jsonl, TensorBoard and a progress line: sums stay on the device between log steps."""

import json
import math
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from maskedclip.engine.run_lease import RunLease

T = TypeVar("T")


class Recorder:
    """metrics.jsonl and TensorBoard of one process.

    What an earlier attempt logged beyond `first_step` is removed, so that no step stands twice.
    """

    def __init__(self, directory: Path, first_step: int) -> None:
        self._path = directory / "metrics.jsonl"
        rows = self._path.read_text().splitlines() if self._path.exists() else []
        kept = [row for row in rows if _step(row) <= first_step]
        temporary = self._path.with_suffix(".tmp")
        temporary.write_text("".join(row + "\n" for row in kept))
        temporary.replace(self._path)
        self._tensorboard = SummaryWriter(str(directory / "tensorboard"), purge_step=first_step + 1)

    def close(self) -> None:
        self._tensorboard.close()

    def record(self, step: int, row: Mapping[str, float | None]) -> None:
        """Append one object to metrics.jsonl and a point to each curve."""
        with self._path.open("a") as file:
            file.write(json.dumps({"step": step, **row}) + "\n")
        for name, value in row.items():
            if value is not None:
                group = "loss" if name.startswith("loss") else "train"
                self._tensorboard.add_scalar(f"{group}/{name}", value, step)

    def image(self, name: str, image_CHW: Tensor, step: int) -> None:
        self._tensorboard.add_image(name, image_CHW, step)


def _step(row: str) -> float:
    """Return the step of a line, infinity where a killed run left half of one."""
    try:
        return int(json.loads(row)["step"])
    except (ValueError, KeyError, TypeError):
        return math.inf


class ProgressLine:
    """A line of loss, images/s and time left: rewritten on a terminal, appended in a log file."""

    def __init__(self, first_step: int, total: int) -> None:
        self._first, self._total = first_step, total
        self._start = time.monotonic()

    def show(self, step: int, loss: float, images_per_s: float) -> None:
        done = step - self._first
        seconds = (time.monotonic() - self._start) / max(1, done) * (self._total - step)
        line = (
            f"step {step}/{self._total}  loss {loss:.4f}  {images_per_s:.0f} images/s  "
            f"{time.strftime('%H:%M:%S', time.gmtime(seconds))} left"
        )
        end = "\r" if sys.stderr.isatty() and step < self._total else "\n"
        sys.stderr.write(line + end)
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
    ) -> None:
        """images are those of a step, peak_flops is that of all ranks together.

        The lease has been taken.
        """
        self._lease, self._epoch_steps, self._images = lease, epoch_steps, images
        self._peak_flops = peak_flops
        first = dist.get_rank() == 0
        self._recorder = Recorder(directory, done) if first else None
        self._progress = ProgressLine(done, total) if first else None
        self.reset()

    def reset(self) -> None:
        """Forget the steps since the last row."""
        self._sums: dict[str, Tensor] = {}
        self._steps, self._wait_s, self._since = 0, 0.0, time.monotonic()
        self._flops = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._recorder is not None:
            self._recorder.close()

    def wait_for(self, get: Callable[[], T]) -> T:
        """Return get(), its time counted as waiting for data."""
        start = time.monotonic()
        result = get()
        self._wait_s += time.monotonic() - start
        return result

    def add(self, values: dict[str, Tensor], flops: float) -> None:
        """Add one step's values and its operations, without a host sync."""
        self._flops += flops
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, 0) + value.float().sum()
        self._steps += 1

    def write(self, step: int, lr: float) -> None:
        """Write the means after `step` steps; this waits for the device.

        Raises Superseded on all ranks where a later attempt has taken the lease: rows and
        checkpoints of two attempts would mix.
        """
        self._lease.check(step)
        means = (torch.stack(list(self._sums.values())) / self._steps).tolist()
        row: dict[str, Any] = dict(zip(self._sums, means, strict=True))
        seconds = time.monotonic() - self._since
        row["epoch"] = step / self._epoch_steps
        row["lr"] = lr
        row["images_per_s"] = self._steps * self._images / seconds
        row["data_wait"] = self._wait_s / seconds  # share of the time
        row["mfu"] = self._flops / seconds / self._peak_flops
        if self._recorder is not None and self._progress is not None:
            self._recorder.record(step, row)
            self._progress.show(step, row["loss"], row["images_per_s"])
        self.reset()

    def image(self, step: int, image_CHW: Tensor) -> None:
        """Show an image in TensorBoard: input of the encoder, reconstruction, original."""
        if self._recorder is not None:
            self._recorder.image("seen, reconstruction, original", image_CHW, step)
