"""One record to one sample: decode, crop to the field of view, compress; in worker processes."""

import hashlib
import io
import multiprocessing
import os
import signal
import sys
import threading
import types
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from itertools import islice
from multiprocessing.context import ForkServerContext, ForkServerProcess
from typing import Any, NamedTuple, TypeVar

import cv2
import numpy as np
import simplejpeg
from PIL import Image

from maskedclip.data.control_characters import CONTROL
from maskedclip.data.label_kinds import number_text
from maskedclip.data.photographs.decoding import FORMATS, Remarks, UnreadableImage, decode
from maskedclip.data.photographs.field_of_view import Box, find_field, reduced, square_field
from maskedclip.data.photographs.image_file import read_image_file
from maskedclip.data.storage.first_bytes import not_the_file
from maskedclip.shards.building.decoder_lines import decoder_lines
from maskedclip.shards.building.quality import Quality, quality_of
from maskedclip.shards.downloads.files import odd_name, printable
from maskedclip.shards.downloads.records import Record
from maskedclip.shards.phantoms.phantom import draw


class PreparedSample(NamedTuple):
    """One photograph ready to be written, and facts that are counted but not stored."""

    key: str
    jpeg: bytes
    metadata: dict[str, Any]
    quality: Quality | None = None  # None for what is drawn
    carried: tuple[str, ...] = ()
    remarks: Remarks = ()  # on how the file was decoded


class Rejected(NamedTuple):
    """A file that is no readable photograph."""

    source: str
    reason: str


def keyed_hash(text: str, key: bytes) -> str:
    """Return 16 hex digits that stand for `text` without revealing it."""
    content = text.encode("utf-8", "surrogateescape")
    return hashlib.blake2b(content, key=key, digest_size=8).hexdigest()


def prepare_photograph(
    record: Record,
    *,
    name: str,
    size: int,
    quality: int,
    key: bytes,
    anonymise: bool,
    whole: bool = False,
) -> PreparedSample | Rejected:
    """Read, crop and compress one image file; Rejected, with the reason, where it is unusable.

    whole: keep all of the image, which has no round field of view.
    """
    code = keyed_hash(record.source, key)
    source = code if anonymise else record.source
    if odd := odd_name(record.source):
        return Rejected(source if anonymise else printable(source), odd)
    named = (*record.labels, *record.labels.values(), *record.categories)
    if any(CONTROL.search(text) for text in named):
        return Rejected(source, "a label of it has control characters; correct the table")
    content, lines = b"", []
    try:
        content = read_image_file(record.path)
        with decoder_lines(content) as lines:
            photograph = field_photograph(content, size, whole=whole)
            pages = further_pages(content)
    except UnreadableImage as error:
        more = f" ({'; '.join(lines)})" if lines else ""
        return Rejected(source, why_unreadable(content, error) + more)
    metadata = {
        "dataset": name,
        "source": source,
        "patient": keyed_hash(f"{name}/{record.patient}", key) if record.patient else None,
        "eye": record.eye,
        "split": record.split,
        "labels": record.labels,
        "categories": list(record.categories),
        "report": record.report,
        "width": photograph.width,
        "height": photograph.height,
        "sha256": hashlib.sha256(content).hexdigest(),
        "phash": perceptual_hash(photograph.image_HWC),
    }
    jpeg = encode(photograph.image_HWC, quality)
    return PreparedSample(
        code,
        jpeg,
        metadata,
        quality_of(photograph.small_HWC),
        photograph.carried,
        photograph.remarks + pages + tuple(("decoder_warnings", line) for line in lines),
    )


PHANTOM_KINDS = {"findings": "labels", "vertical_cup_to_disc": "number"}


def prepare_phantom(
    record: Record,
    *,
    name: str,
    size: int,
    quality: int,
    key: bytes,
    anonymise: bool,
    findings: bool = False,
) -> PreparedSample:
    """Draw the phantom whose number ends the record's source; two in a row are one patient.

    Args:
        findings: label it with what is drawn and its cup-to-disc ratio too (PHANTOM_KINDS).
    """
    number = int(record.source.rpartition("/")[2])
    phantom = draw(number, size)
    pair = number // 2
    code = keyed_hash(record.source, key)
    more = {
        "findings": phantom.findings,
        "vertical_cup_to_disc": number_text(round(phantom.cup_to_disc_ratio, 4)),
    }
    metadata = {
        "dataset": name,
        "source": code if anonymise else record.source,
        "patient": keyed_hash(f"{name}/{pair}", key),
        "eye": phantom.eye,
        "split": {3: "val", 4: "test"}.get(pair % 5, "train"),
        "labels": phantom.labels | (more if findings else {}),
        "categories": list(phantom.categories),
        "report": None,
        "width": size,
        "height": size,
        "sha256": hashlib.sha256(phantom.image_HWC.tobytes()).hexdigest(),
        "phash": perceptual_hash(phantom.image_HWC),
    }
    return PreparedSample(code, encode(phantom.image_HWC, quality), metadata)


SMALLEST_FIELD = 32  # pixels


class FieldPhotograph(NamedTuple):
    """A square of the field of view, and facts of the image that it was cut from."""

    image_HWC: np.ndarray  # uint8, red green blue
    small_HWC: np.ndarray  # the same at 128 pixels or more, to judge its quality
    width: int  # of the original, in pixels
    height: int
    carried: tuple[str, ...]  # kinds of metadata in the file; none of it is kept
    remarks: Remarks  # on how the file was decoded


def field_photograph(content: bytes, size: int, *, whole: bool = False) -> FieldPhotograph:
    """Decode a file, crop its field of view to a square and bring it to `size` pixels at most.

    Raises UnreadableImage with the reason.

    Args:
        whole: all of the image is its field, in a square with black beside it.
    """
    decoded = decode(content, size)
    box = _whole(decoded.image_HWC) if whole else find_field(decoded.image_HWC)
    longer = max(decoded.width, decoded.height)
    if not whole and max(box.height, box.width) < size and max(decoded.image_HWC.shape) < longer:
        decoded = decode(content, longer)  # the field is a small part of a large image
        box = find_field(decoded.image_HWC)
    square_HWC = square_field(decoded.image_HWC, box, size)
    if len(square_HWC) < SMALLEST_FIELD:
        raise UnreadableImage(f"the field of view is only {len(square_HWC)} pixels wide")
    small_HWC = reduced(square_HWC, 128)
    if int(np.ptp(reduced(small_HWC, 64))) < 4:
        raise UnreadableImage("blank: the same value everywhere")
    return FieldPhotograph(square_HWC, small_HWC, *decoded[1:])


def _whole(image_HWC: np.ndarray) -> Box:
    return Box(0, 0, *image_HWC.shape[:2])


def why_unreadable(content: bytes, error: UnreadableImage) -> str:
    """Return why a file gives no photograph: what it is instead, where its first bytes say that."""
    return (not_the_file(content[:64]) if content[:64].strip() else "") or str(error)


def further_pages(content: bytes) -> Remarks:
    """Return a remark on the pages of a TIFF, GIF, WEBP or MPO behind the first, which are lost."""
    several = content[:4] in (b"II*\0", b"MM\0*", b"GIF8") or content[8:12] == b"WEBP"
    if not several and b"MPF\0" not in content[: 1 << 16]:
        return ()
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            pages = getattr(image, "n_frames", 1) - 1
    except (OSError, SyntaxError, ValueError, EOFError):  # broken behind the first, which was read
        return ()
    return (("further_pages_not_read", f"{pages} behind the first"),) if pages else ()


def encode(image_HWC: np.ndarray, quality: int) -> bytes:
    """Return JPEG bytes of halved colour resolution.

    At 512 pixels and quality 95 full resolution would give 45 in place of 42 dB, and cost 40 %
    more bytes and 1.8 times the decoding at every epoch (measured on IDRiD).
    """
    return bytes(
        simplejpeg.encode_jpeg(image_HWC, quality=quality, colorspace="RGB", colorsubsampling="420")
    )


def perceptual_hash(image_HWC: np.ndarray) -> str:
    """Return 64 bits in hex that change little with size and compression (signs of a DCT).

    Of the square inside the round field: the edge of the field is the same in all photographs.
    Two eyes may be 2 bits apart and copies of one photograph 4, so a match has to be verified.
    """
    edge = round(0.15 * len(image_HWC))
    inside_HWC = image_HWC[edge : len(image_HWC) - edge, edge : len(image_HWC) - edge]
    grey_HW = reduced(cv2.cvtColor(inside_HWC, cv2.COLOR_RGB2GRAY), 64)
    grey_HW = cv2.resize(grey_HW, (32, 32), interpolation=cv2.INTER_AREA).astype(np.float32)
    low_HW = cv2.dct(grey_HW)[:8, :8]
    bits = (low_HW > np.median(low_HW)).astype(np.uint8)
    return bytes(np.packbits(bits)).hex()


Given = TypeVar("Given")
Made = TypeVar("Made")

_TOGETHER = 4  # records sent to a process at once: every message costs time on both sides
_AHEAD = 3  # such messages ahead a process: more would only take memory


@contextmanager
def made_in_order(
    make: Callable[[Given], Made], given: Iterable[Given], workers: int
) -> Iterator[Iterator[Made]]:
    """Yield the iterator of `make` over `given`, in order, in `workers` processes; 1: this one."""
    if workers == 1:
        yield map(make, given)
        return
    # Not fork: OpenCV and the progress bar hold threads. Not threads: much of the work is Python's.
    pool = ProcessPoolExecutor(workers, _WorkerContext(), initializer=_start_worker)

    def in_order() -> Iterator[Made]:
        waiting: deque[Future[list[Made]]] = deque()
        source = iter(given)
        while few := list(islice(source, _TOGETHER)):
            waiting.append(pool.submit(_map, make, few))
            if len(waiting) > _AHEAD * workers:
                yield from waiting.popleft().result()
        while waiting:
            yield from waiting.popleft().result()

    try:
        yield in_order()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


@contextmanager
def script_hidden() -> Iterator[None]:
    """Let processes that are started now not run the user's script again.

    multiprocessing imports it in the fork server and in each worker, for functions that it may
    define. Ours are in the package, and a script without `if __name__ == "__main__"` would begin
    anew there: it waited for the lock of its own build, or started workers of its own.
    """
    script = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")  # has no file
    try:
        yield
    finally:
        sys.modules["__main__"] = script


class _WorkerProcess(ForkServerProcess):
    @staticmethod
    def _Popen(process_obj: Any) -> Any:  # noqa: N802 - the name that multiprocessing calls
        with script_hidden():
            return ForkServerProcess._Popen(process_obj)


class _WorkerContext(ForkServerContext):
    Process = _WorkerProcess


def _map(make: Callable[[Given], Made], given: Sequence[Given]) -> list[Made]:
    return [make(one) for one in given]


def _start_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles it, and ends the workers
    threading.Thread(target=_end_with_parent, daemon=True).start()
    cv2.setNumThreads(1)
    os.environ["OMP_NUM_THREADS"] = "1"


def _end_with_parent() -> None:
    """End a worker whose parent was killed: it would wait for work for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
