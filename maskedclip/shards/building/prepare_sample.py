"""One record to one sample: what every worker of a build does."""

import hashlib

from maskedclip.data.photographs import fundus
from maskedclip.data.photographs.decoding import UnreadableImage
from maskedclip.data.photographs.quality import look_of
from maskedclip.shards.building.build import Rejected, Sample
from maskedclip.shards.downloads.records import Record
from maskedclip.shards.phantoms.phantom import draw


def keyed_hash(text: str, key: bytes) -> str:
    """Return 16 hex digits that name `text` without telling it."""
    content = text.encode("utf-8", "surrogateescape")
    return hashlib.blake2b(content, key=key, digest_size=8).hexdigest()


def prepare_photograph(
    record: Record, *, name: str, size: int, quality: int, key: bytes, anonymise: bool
) -> Sample | Rejected:
    """Read, crop and compress one image file; Rejected, with the reason, where it is no good."""
    code = keyed_hash(record.source, key)
    source = code if anonymise else record.source
    try:
        content = record.path.read_bytes()
        photograph = fundus.photograph(content, size)
    except UnreadableImage as error:
        return Rejected(source, str(error))
    except OSError as error:
        return Rejected(source, f"cannot be read: {error.strerror}")
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
        "phash": fundus.perceptual_hash(photograph.image_HWC),
    }
    jpeg = fundus.encode(photograph.image_HWC, quality)
    return Sample(code, jpeg, metadata, look_of(photograph.small_HWC), photograph.carried)


def prepare_phantom(
    record: Record, *, name: str, size: int, quality: int, key: bytes, anonymise: bool
) -> Sample:
    """Draw the phantom whose number ends the record's source; two in a row are one patient."""
    number = int(record.source.rpartition("/")[2])
    phantom = draw(number, size)
    pair = number // 2
    code = keyed_hash(record.source, key)
    metadata = {
        "dataset": name,
        "source": code if anonymise else record.source,
        "patient": keyed_hash(f"{name}/{pair}", key),
        "eye": phantom.eye,
        "split": {3: "val", 4: "test"}.get(pair % 5, "train"),
        "labels": phantom.labels,
        "categories": list(phantom.categories),
        "report": None,
        "width": size,
        "height": size,
        "sha256": hashlib.sha256(phantom.image_HWC.tobytes()).hexdigest(),
        "phash": fundus.perceptual_hash(phantom.image_HWC),
    }
    return Sample(code, fundus.encode(phantom.image_HWC, quality), metadata)
