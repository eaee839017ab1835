"""The loop's account: sums stay on the device and are read once a log step."""

import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from maskedclip.engine.recorder import Progress, Recorder
from maskedclip.engine.run_lease import Life

T = TypeVar("T")


class Log:
    """Means over the steps since the last row; rank 0 writes them, every rank takes part."""

    def __init__(
        self,
        directory: Path,
        done: int,
        total: int,
        *,
        life: Life,
        epoch_steps: float,
        images: int,
        peak_flops: float,
    ) -> None:
        """peak_flops is that of all ranks together; images are those of a step; life has begun."""
        self._life, self._epoch_steps, self._images = life, epoch_steps, images
        self._peak_flops = peak_flops
        first = dist.get_rank() == 0
        self._recorder = Recorder(directory, done) if first else None
        self._progress = Progress(done, total) if first else None
        self.start_over()

    def start_over(self) -> None:
        """Forget the steps since the last row."""
        self._sums: dict[str, Tensor] = {}
        self._steps, self._wait_s, self._since = 0, 0.0, time.monotonic()
        self._flops = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._recorder is not None:
            self._recorder.close()

    def waited(self, get: Callable[[], T]) -> T:
        """Return get(), its time counted as waiting for data."""
        start = time.monotonic()
        got = get()
        self._wait_s += time.monotonic() - start
        return got

    def add(self, values: dict[str, Tensor], flops: float) -> None:
        """Add one step's values, without waiting for the device, and its operations."""
        self._flops += flops
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, 0) + value.float().sum()
        self._steps += 1

    def write(self, step: int, lr: float) -> None:
        """Write the means after `step` steps; this waits for the device.

        Raises Replaced on all ranks where a later start of the run has begun: what is written here
        and after it, such as a checkpoint, would mix with what that one writes.
        """
        self._life.check(step)
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
        self.start_over()

    def picture(self, step: int, picture_CHW: Tensor) -> None:
        """Show an image in TensorBoard: seen by the encoder, reconstruction, original."""
        if self._recorder is not None:
            self._recorder.picture("seen, reconstruction, original", picture_CHW, step)
