"""Features of up to 1,000 images for TensorBoard's projector, with their photographs where allowed.

OUT/projector/ holds for each dataset the features (NAME.bytes, float32), what is known of each
image (NAME.tsv: label, split, id) and a sheet of thumbnails (NAME.png); OUT/projector_config.pbtxt
names them. They are made of features that are kept already: no image is encoded for them.
"""

import hashlib
import io
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image

from maskedclip.data.labelled import LabelledSample
from maskedclip.data.licences import may_be_shown
from maskedclip.data.photographs.decoding import decode
from maskedclip.data.storage.shards import DamagedSample, Shards
from maskedclip.engine.whole_file import write_whole
from maskedclip.evaluate.features import PATCHES, FrozenEncoder, known_features
from maskedclip.evaluate.predicting import Benchmark
from maskedclip.metrics.results import file_name

logger = logging.getLogger(__name__)
FOLDER, CONFIG = "projector", "projector_config.pbtxt"
MOST = 1000  # images
THUMBNAIL = 48  # pixels, square
_DIGITS = 8
_VERSION = 1  # raise it where the same features would be shown otherwise


class ProjectedImage(NamedTuple):
    """An image of the projector, and the part of the split that it is in."""

    sample: LabelledSample
    split: str


def write_projector(
    encoder: FrozenEncoder, benchmark: Benchmark, out: Path, cache: Path, *, images: bool
) -> None:
    """Write the features of a dataset's test images, then of the others, where they are not there.

    Nothing is written where no features are kept. A disk that does not take them is said in a line.

    Args:
        images: show photographs although their licence does not say that anyone may.
    """
    known = known_features(encoder, benchmark.dataset, cache)
    if known is None:
        return
    has = {int(index) for index in known.index_N}
    chosen = [
        ProjectedImage(sample, split)
        for split in ("test", "val", "train")
        for sample in benchmark.division.parts[split]
        if sample.index in has
    ][:MOST]
    manifest, task = benchmark.dataset.manifest, benchmark.task
    thumbnails = images or may_be_shown(manifest)
    facts = [
        _VERSION, encoder.cache_key(benchmark.dataset), thumbnails,
        [(one.sample.key, one.split, task.text(one.sample)) for one in chosen],
    ]  # fmt: skip
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:_DIGITS]
    stem = file_name(encoder.name, benchmark.dataset.name, task.name)
    path = out / FOLDER / f"{stem}-{digest}.bytes"
    try:
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            _, feature_BD = known.of([one.sample for one in chosen], PATCHES)
            write_whole(path.with_suffix(".tsv"), _table(benchmark, chosen))
            if thumbnails:
                write_whole(path.with_suffix(".png"), sheet(benchmark.dataset, chosen))
            write_whole(path, feature_BD.astype("<f4").tobytes())
        for old in (out / FOLDER).glob(f"{stem}-{'?' * _DIGITS}.*"):
            if old.stem != path.stem:
                old.unlink(missing_ok=True)
        _write_config(out)
    except OSError as error:
        logger.warning(
            "%s: TensorBoard's projector lacks %s (%s)",
            out / FOLDER, benchmark.dataset.name, error.strerror or error,
        )  # fmt: skip


def _table(benchmark: Benchmark, chosen: Sequence[ProjectedImage]) -> bytes:
    rows = [("label", "split", "id")]
    rows += [(benchmark.task.text(one.sample), one.split, one.sample.key) for one in chosen]
    lines = ("\t".join(" ".join(cell.split()) or "-" for cell in row) for row in rows)
    return "".join(f"{line}\n" for line in lines).encode()


def sheet(dataset: Shards, chosen: Sequence[ProjectedImage]) -> bytes:
    """Return a PNG of thumbnails, row by row; a damaged image is grey."""
    across = int(np.ceil(np.sqrt(len(chosen))))
    sheet_HWC = np.full((across * THUMBNAIL, across * THUMBNAIL, 3), 128, np.uint8)
    for number, one in enumerate(chosen):
        row, column = (THUMBNAIL * at for at in divmod(number, across))
        try:
            image_HWC = decode(dataset.image(one.sample.index), THUMBNAIL).image_HWC
        except (DamagedSample, ValueError):  # it is named where its features were computed
            continue
        small_HWC = cv2.resize(image_HWC, (THUMBNAIL, THUMBNAIL), interpolation=cv2.INTER_AREA)
        sheet_HWC[row : row + THUMBNAIL, column : column + THUMBNAIL] = small_HWC
    buffer = io.BytesIO()
    Image.fromarray(sheet_HWC).save(buffer, "PNG")
    return buffer.getvalue()


def _write_config(out: Path) -> None:
    """Write the list of all that lies in OUT/projector, and say the same as a text of OUT."""
    from maskedclip.engine.whole_events import text, write_whole_events

    entries, lines = [], ["| features | images | photographs |", "|---|---|---|"]
    for path in sorted((out / FOLDER).glob("*.bytes")):
        table, picture = path.with_suffix(".tsv"), path.with_suffix(".png")
        rows = table.read_bytes().count(b"\n") - 1
        name = path.stem[: -_DIGITS - 1]
        fields = [
            f'  tensor_name: "{name}"', f'  tensor_path: "{FOLDER}/{path.name}"',
            f"  tensor_shape: {rows}", f"  tensor_shape: {path.stat().st_size // 4 // rows}",
            f'  metadata_path: "{FOLDER}/{table.name}"',
        ]  # fmt: skip
        if picture.is_file():
            size = f"single_image_dim: {THUMBNAIL}"
            fields.append(f'  sprite {{ image_path: "{FOLDER}/{picture.name}" {size} {size} }}')
        entries.append("\n".join(["embeddings {", *fields, "}\n"]))
        shown = "shown" if picture.is_file() else "not shown: no licence says that they may be"
        lines.append(f"| {name} | {rows} | {shown} |")
    write_whole(out / CONFIG, "".join(entries))
    words = "\n".join(lines)  # an event file, too, makes a run of OUT: the projector lists runs
    write_whole_events(
        out, FOLDER, words.encode(), lambda: [text("about/projector", words, "see Projector")]
    )
