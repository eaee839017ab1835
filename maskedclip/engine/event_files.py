"""TensorBoard's event files of a run, in its own directory, so that a run is called by its name.

Every tag says with its first point what it is and in which unit; a layout of the custom scalars
puts curves together that are read together.
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
from tensorboard.plugins.scalar.metadata import create_summary_metadata
from torch import Tensor
from torch.utils.tensorboard import FileWriter
from torch.utils.tensorboard.summary import custom_scalars, image, text

from maskedclip.engine.curves import LAYOUT, curve_of, tag_of

PATTERN = "events.out.tfevents.*"


class EventFile:
    """One event file: what one start of a run draws, from the point `first_step` on.

    What earlier files have beyond that point is told to be void, so that there is one curve.
    """

    def __init__(self, directory: Path, first_step: int, *, finetuning: bool) -> None:
        self._writer, self._finetuning = FileWriter(str(directory)), finetuning
        self._described: set[str] = set()
        start = SessionLog(status=SessionLog.SessionStatus.START)
        self._writer.add_event(Event(session_log=start), first_step + 1)
        if not finetuning:
            self._writer.add_summary(layout(), first_step)

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
            self._writer.add_summary(Summary(value=values), step, at)

    def image(self, step: int, tag: str, image_CHW: Tensor, words: str = "") -> None:
        """Show a picture, uint8 or in [0, 1]."""
        self._add(step, image(tag, image_CHW, dataformats="CHW"), tag, words)

    def text(self, step: int, tag: str, markdown: str, words: str = "") -> None:
        """Show a text."""
        self._add(step, text(tag, markdown), tag, words)

    def flush(self) -> None:
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()

    def _add(self, step: int, summary: Summary, tag: str, words: str) -> None:
        if words and tag not in self._described:
            self._described.add(tag)
            for value in summary.value:
                value.metadata.summary_description = words
        self._writer.add_summary(summary, step)


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
