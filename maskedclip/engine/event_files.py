"""TensorBoard's event files of a run, in its own directory, so that a run is called by its name.

Every tag says with its first point what it is and in which unit; a layout of the custom scalars
puts curves together that are read together.
"""

import os
import re
import socket
import time
from collections.abc import Mapping
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
from tensorboard.plugins.scalar.metadata import create_summary_metadata
from tensorboard.summary.writer.record_writer import RecordWriter
from torch import Tensor
from torch.utils.tensorboard.summary import custom_scalars, image, text

from maskedclip.engine.curves import LAYOUT, curve_of, tag_of

PATTERN = "events.out.tfevents.*"


class EventFile:
    """One event file: what one start of a run draws, from the point `first_step` on.

    What earlier files have beyond that point is told to be void, so that there is one curve.
    """

    def __init__(self, directory: Path, first_step: int, *, finetuning: bool) -> None:
        self._writer = RecordWriter(_behind_the_others(directory).open("xb"))
        self._finetuning, self._described = finetuning, set[str]()
        start = SessionLog(status=SessionLog.SessionStatus.START)
        self._write(0, Event(file_version="brain.Event:2"))
        self._write(first_step + 1, Event(session_log=start))
        if not finetuning:
            self._write(first_step, Event(summary=layout()))

    def point(self, step: int, row: Mapping[str, object], at: float | None = None) -> None:
        """Draw the numbers of a row, at the time `at` (now)."""
        values = []
        for key, value in row.items():
            curve = curve_of(key, finetuning=self._finetuning)
            tag = tag_of(key, finetuning=self._finetuning)
            if curve is None or not isinstance(value, (int, float)):
                continue
            facts = None
            if tag not in self._described:
                self._described.add(tag or "")
                facts = create_summary_metadata("", curve.words)
            number = TensorProto(
                dtype="DT_FLOAT", float_val=[curve.shown(value)], tensor_shape=TensorShapeProto()
            )  # of a simple_value the data server of TensorBoard drops the description
            values.append(Summary.Value(tag=tag, tensor=number, metadata=facts))
        if values:
            self._write(step, Event(summary=Summary(value=values)), at)

    def image(self, step: int, tag: str, image_CHW: Tensor, words: str = "") -> None:
        """Show a picture, uint8 or in [0, 1]."""
        self._add(step, image(tag, image_CHW, dataformats="CHW"), tag, words)

    def text(self, step: int, tag: str, markdown: str, words: str = "") -> None:
        """Show a text."""
        self._add(step, text(tag, markdown), tag, words)

    def close(self) -> None:
        self._writer.close()

    def _add(self, step: int, summary: Summary, tag: str, words: str) -> None:
        if words and tag not in self._described:
            self._described.add(tag)
            for value in summary.value:
                value.metadata.summary_description = words
        self._write(step, Event(summary=summary))

    def _write(self, step: int, event: Event, at: float | None = None) -> None:
        event.step, event.wall_time = step, time.time() if at is None else at
        self._writer.write(event.SerializeToString())
        self._writer.flush()


def _behind_the_others(directory: Path) -> Path:
    """Return a new file's path that sorts behind those that lie there.

    TensorBoard reads files in the order of their names, which begin with the second. A start in the
    same second, or after the clock was put back, would be read before the one that it goes on from.
    """
    names = (path.name.split(".") for path in directory.glob(PATTERN))
    newest = max((int(name[3]) for name in names if name[3].isdecimal()), default=0)
    second = max(int(time.time()), newest + 1)
    return directory / f"events.out.tfevents.{second:010d}.{socket.gethostname()}.{os.getpid()}"


def layout() -> Summary:
    """Return the custom scalars: a chart for curves that are read together."""
    charts = {
        chart: {
            title: ["Multiline", [f"^{re.escape(str(tag_of(name)))}(/|$)" for name in names]]
            for title, names in titles.items()
        }
        for chart, titles in LAYOUT.items()
    }
    return custom_scalars(charts)


def event_files(directory: Path) -> list[Path]:
    """Return the event files that lie in a directory itself."""
    return sorted(path for path in directory.glob(PATTERN) if os.access(path, os.R_OK))
