"""metrics.jsonl and TensorBoard, written by rank 0; a resumed run leaves no fold in its curves."""

import json
import math
import sys
import time
from pathlib import Path

from torch import Tensor
from torch.utils.tensorboard import SummaryWriter


class Recorder:
    """Rows of a run from `first_step` on; what an earlier life logged beyond it is taken back."""

    def __init__(self, directory: Path, first_step: int) -> None:
        self._path = directory / "metrics.jsonl"
        rows = self._path.read_text().splitlines() if self._path.exists() else []
        kept = [row for row in rows if _step(row) <= first_step]
        temporary = self._path.with_suffix(".tmp")
        temporary.write_text("".join(row + "\n" for row in kept))
        temporary.replace(self._path)
        self._board = SummaryWriter(str(directory / "tensorboard"), purge_step=first_step + 1)

    def close(self) -> None:
        self._board.close()

    def record(self, step: int, row: dict[str, float | None]) -> None:
        """Append one object to metrics.jsonl and a point to each curve."""
        with self._path.open("a") as file:
            file.write(json.dumps({"step": step} | row) + "\n")
        for name, value in row.items():
            if value is not None:
                group = "loss" if name.startswith("loss") else "train"
                self._board.add_scalar(f"{group}/{name}", value, step)

    def picture(self, name: str, image_CHW: Tensor, step: int) -> None:
        self._board.add_image(name, image_CHW, step)


def _step(row: str) -> float:
    """Return the step of a line, infinity where a killed run left half of one."""
    try:
        return int(json.loads(row)["step"])
    except (ValueError, KeyError, TypeError):
        return math.inf


class Progress:
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
