"""TensorBoard event files that are written whole: what does not grow with the steps of a run.

A file's name holds the hashes of what it was made of and of its bytes, so that the same content is
not written twice, and a damaged file is.
"""

import hashlib
import io
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
from tensorboard.plugins.hparams import metadata as hparams_metadata
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from tensorboard.plugins.image import metadata as image_metadata
from tensorboard.summary.writer.record_writer import RecordWriter

from maskedclip.engine.whole_file import write_whole

# before "events.out" of what grows: TensorBoard's own loader reads a directory's files in order
_PREFIX = "events.about.tfevents."
_DIGITS = 16  # of a hash in a name
_HPARAMS_SUCCESS = 1  # Status.STATUS_SUCCESS of its api.proto


def write_whole_events(
    directory: Path, kind: str, inputs: bytes, draw: Callable[[], Iterable[Summary]]
) -> bool:
    """Write a file of summaries at step 0, where there is none of these inputs; return whether.

    Earlier files of this kind are removed when the new one is there.

    Args:
        kind: the end of the file's name.
        inputs: all that decides the summaries.
        draw: returns them; it is called where they are needed.
    """
    digest = hashlib.sha256(inputs).hexdigest()[:_DIGITS]
    earlier = sorted(directory.glob(f"{_PREFIX}*.{kind}"))
    if len(earlier) == 1 and _is_whole(earlier[0], digest):
        return False
    content = _records(draw())
    name = f"{int(time.time()):010d}.{digest}.{_content_hash(content)}"
    path = directory / f"{_PREFIX}{name}.{kind}"
    directory.mkdir(parents=True, exist_ok=True)
    write_whole(path, content)
    for old in earlier:
        if old != path:
            old.unlink(missing_ok=True)
    return True


def _is_whole(path: Path, digest: str) -> bool:
    _, _, inputs, content, _ = path.name.rsplit(".", 4)
    return inputs == digest and content == _content_hash(path.read_bytes())


def _content_hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:_DIGITS]


def _records(summaries: Iterable[Summary]) -> bytes:
    """Return the bytes of an event file."""
    buffer, now = io.BytesIO(), time.time()
    records = RecordWriter(buffer)
    records.write(Event(wall_time=now, file_version="brain.Event:2").SerializeToString())
    for summary in summaries:
        records.write(Event(wall_time=now, step=0, summary=summary).SerializeToString())
    return buffer.getvalue()


def scalar(tag: str, value: float, description: str) -> Summary:
    """Return a scalar in single precision: TensorBoard's fast loader passes over doubles."""
    metadata = SummaryMetadata(summary_description=description)
    return Summary(value=[Summary.Value(tag=tag, simple_value=value, metadata=metadata)])


def text(tag: str, markdown: str, description: str = "") -> Summary:
    """Return a text, which TensorBoard shows as Markdown."""
    from torch.utils.tensorboard.summary import text as of_torch

    summary = of_torch(tag, markdown)
    summary.value[0].tag = tag  # torch adds /text_summary
    summary.value[0].metadata.summary_description = description
    return summary


def image(tag: str, png: bytes, size: tuple[int, int], description: str) -> Summary:
    """Return a picture of size (width, height)."""
    metadata = image_metadata.create_summary_metadata("", description)
    words = [*(str(pixels).encode() for pixels in size), png]
    shape = TensorShapeProto(dim=[TensorShapeProto.Dim(size=len(words))])
    tensor = TensorProto(dtype="DT_STRING", string_val=words, tensor_shape=shape)
    return Summary(value=[Summary.Value(tag=tag, tensor=tensor, metadata=metadata)])


def hparams(values: dict[str, str | float | bool], session: str) -> list[Summary]:
    """Return a row of TensorBoard's HParams; its metrics are the scalars of the same directory.

    No experiment is declared: it would be that of the first directory for all, and hide the others'
    columns.

    Args:
        session: what names the row.
    """
    start = HParamsPluginData(version=hparams_metadata.PLUGIN_DATA_VERSION)
    for name, value in values.items():
        cell = start.session_start_info.hparams[name]
        if isinstance(value, bool):
            cell.bool_value = value
        elif isinstance(value, str):
            cell.string_value = value
        else:
            cell.number_value = value
    start.session_start_info.group_name = session
    end = HParamsPluginData(version=hparams_metadata.PLUGIN_DATA_VERSION)
    end.session_end_info.status = _HPARAMS_SUCCESS
    tagged: list[tuple[str, Any]] = [
        (hparams_metadata.SESSION_START_INFO_TAG, start),
        (hparams_metadata.SESSION_END_INFO_TAG, end),
    ]
    summaries = []
    for tag, content in tagged:
        metadata = SummaryMetadata()
        metadata.plugin_data.plugin_name = hparams_metadata.PLUGIN_NAME
        metadata.plugin_data.content = content.SerializeToString()
        summaries.append(Summary(value=[Summary.Value(tag=tag, metadata=metadata)]))
    return summaries
