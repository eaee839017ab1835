"""What one stored sample must be: a JPEG and a JSON that keep the contract of the shards."""

import json
import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import simplejpeg

from maskedclip.data.storage.shard_writer import EMPTY_METADATA

JPEG_LIMIT, JSON_LIMIT = 1 << 26, 1 << 20  # bytes of a member; what is larger is not read
SIDE_LIMIT = 8192  # pixels; what is larger is not decoded
_SEGMENTS = {0xE1: "EXIF or XMP", 0xE2: "a colour profile", 0xED: "IPTC", 0xFE: "a comment"}


class Metadata(NamedTuple):
    """What the check keeps of a sample's JSON."""

    source: str
    patient: str | None
    split: str | None
    labels: dict[str, str]
    captioned: bool
    width: int
    height: int
    sha256: str


def _text(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


def _count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _hex(digits: int) -> Callable[[Any], bool]:
    return lambda value: (
        isinstance(value, str) and bool(re.fullmatch(rf"[0-9a-f]{{{digits}}}", value))
    )


def _labels(value: Any) -> bool:
    return isinstance(value, dict) and all(_text(k) and _text(v) for k, v in value.items())


# field of the contract: (what it must be, whether it may be null, the words for it)
_FIELDS: dict[str, tuple[Callable[[Any], bool], bool, str]] = {
    "dataset": (_text, False, "text"),
    "source": (_text, False, "text"),
    "patient": (_text, True, "text or null"),
    "eye": (lambda value: value in ("L", "R"), True, "L, R or null"),
    "split": (_text, True, "text or null"),
    "labels": (_labels, False, "texts by text"),
    "categories": (
        lambda value: isinstance(value, list) and all(map(_text, value)),
        False,
        "a list of texts",
    ),
    "report": (_text, True, "text or null"),
    "width": (_count, False, "a number of pixels"),
    "height": (_count, False, "a number of pixels"),
    "sha256": (_hex(64), False, "64 hex digits"),
    "phash": (_hex(16), False, "16 hex digits"),
}
assert _FIELDS.keys() == EMPTY_METADATA.keys()


def metadata_problems(content: bytes, dataset: str) -> Iterator[str]:
    """Yield what is wrong with a sample's JSON."""
    try:
        found = json.loads(content)
    except (ValueError, RecursionError) as error:
        yield f"metadata is not JSON ({' '.join(str(error).split())[:80]})"
        return
    if not isinstance(found, dict):
        yield "metadata is not a JSON object"
        return
    for name, (fits, may_be_null, words) in _FIELDS.items():
        if name not in found:
            yield f"metadata has no {name}"
        elif not (fits(found[name]) or (may_be_null and found[name] is None)):
            yield f"metadata: {name} is not {words}"
    for name in sorted(found.keys() - _FIELDS.keys()):
        yield f"metadata has a field {name[:40]!r} that the format does not know"
    if _text(found.get("dataset")) and found["dataset"] != dataset:
        yield f"metadata is of dataset {found['dataset'][:40]!r}, not of {dataset!r}"


def read_metadata(content: bytes) -> Metadata:
    """Return what is kept of a JSON without problems."""
    found = json.loads(content)
    names = Metadata._fields
    captioned = bool(found["categories"] or found["report"])
    return Metadata(**{name: found[name] for name in names if name in found}, captioned=captioned)


def jpeg_problems(content: bytes, largest: int) -> Iterator[str]:
    """Yield what is wrong with a stored photograph of at most `largest` pixels a side."""
    try:
        height, width, _, _ = simplejpeg.decode_jpeg_header(content)
    except ValueError as error:
        yield f"image is no JPEG ({error})"
        return
    if height != width:
        yield f"image is {width}x{height}, not square"
    if max(height, width) > largest:
        yield f"image is {width}x{height}, larger than {largest}"
    if max(height, width) > SIDE_LIMIT:
        return
    try:
        simplejpeg.decode_jpeg(content, "RGB", strict=True)
    except ValueError as error:
        yield f"image does not decode ({error})"
    yield from (f"image carries {name}" for name in _carried(content))


def _carried(content: bytes) -> Iterator[str]:
    """Yield what a JPEG carries besides the picture: it may tell who the patient is."""
    place = 2
    while place + 4 <= len(content) and content[place] == 0xFF:
        marker = content[place + 1]
        if marker == 0xDA:  # the picture itself begins
            return
        if marker == 0xFF:  # a fill byte
            place += 1
            continue
        if 0xE1 <= marker <= 0xEF or marker == 0xFE:
            yield _SEGMENTS.get(marker, f"a segment of application {marker - 0xE0}")
        place += 2 + int.from_bytes(content[place + 2 : place + 4], "big")
