"""The photograph, the patient and the eye of a DICOM file, by pydicom where that is installed.

Nothing else of the header is kept, and no error tells what stands in it: names of people do. The
pixels are taken as they are stored, over the whole range of Bits Stored: window and rescale are
for looking at, and are not applied.
"""

import logging
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from io import BytesIO
from typing import Any, BinaryIO, NamedTuple

import numpy as np

DICOM_ENDINGS = (".dcm", ".dicom")
INSTALL = "pip install -e '.[dicom]'"
PREAMBLE = 132  # bytes, of which the last four say that this is DICOM
# values a pixel of each photometric interpretation that is read
_SAMPLES = {
    "MONOCHROME1": 1, "MONOCHROME2": 1, "PALETTE COLOR": 1, "RGB": 3, "YBR_FULL": 3,
    "YBR_FULL_422": 3, "YBR_RCT": 3, "YBR_ICT": 3,
}  # fmt: skip
# others of the standard, which may be named: nothing else of a file is ever quoted
_REFUSED = {"YBR_PARTIAL_422", "YBR_PARTIAL_420", "HSV", "ARGB", "CMYK", "XYB"}
_JPEG = ("1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51")  # baseline and extended
_JPEG_2000 = ("1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.91")
_DEFLATED = "1.2.840.10008.1.2.1.99"
_FACTS = ("PatientID", "ImageLaterality", "Laterality")
_quiet_lock = threading.Lock()


class NoPicture(ValueError):  # noqa: N818 - it is not the code that erred
    """A DICOM file that gives no photograph; the message is the reason, without the file."""


class DicomPicture(NamedTuple):
    """The one frame of a file: a JPEG of 8 bits as it is, or its values."""

    jpeg: bytes  # b"" where the values are given
    value_HWC: np.ndarray | None  # of 0 .. 2**bits - 1, of one or three colours
    bits: int
    negative: bool  # whether its lowest value is white
    remarks: tuple[tuple[str, str], ...]


def has_pydicom() -> bool:
    """Return whether DICOM files can be read here."""
    return find_spec("pydicom") is not None


def is_dicom(head: bytes) -> bool:
    """Return whether a file that begins so is DICOM."""
    return head[PREAMBLE - 4 : PREAMBLE] == b"DICM"


def read_picture(content: bytes, pixel_limit: int) -> DicomPicture:
    """Return the photograph of a DICOM file; NoPicture where it has none, or several."""
    if not has_pydicom():
        raise NoPicture(f"a DICOM file, which needs pydicom: {INSTALL}")
    with _quiet():
        try:
            return _picture(content, pixel_limit)
        except NoPicture:
            raise
        except Exception as error:  # whatever pydicom raises, it may quote the header
            raise NoPicture(f"a damaged DICOM file ({type(error).__name__})") from None


def patient_and_eye(file: BinaryIO) -> tuple[str, str]:
    """Return the PatientID and the laterality of a DICOM file; "" for what it does not state."""
    from pydicom import dcmread

    with _quiet():
        try:
            _refuse_packed(file)
            header = dcmread(file, stop_before_pixels=True, specific_tags=[*_FACTS])
            patient, of_image, of_series = (str(header.get(name) or "").strip() for name in _FACTS)
        except Exception:  # the build rejects the file, with the reason
            return "", ""
    return patient, of_image or of_series


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep what pydicom logs and warns of to itself: it quotes values of the header."""
    logger = logging.getLogger("pydicom")
    with _quiet_lock, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        was, nowhere = (logger.disabled, logger.propagate), logging.NullHandler()
        logger.addHandler(nowhere)  # of its children too, which would print otherwise
        logger.disabled, logger.propagate = True, False
        try:
            yield
        finally:
            logger.disabled, logger.propagate = was
            logger.removeHandler(nowhere)


def _picture(content: bytes, pixel_limit: int) -> DicomPicture:
    from pydicom import dcmread

    _refuse_packed(BytesIO(content))
    dataset = dcmread(BytesIO(content))
    syntax = dataset.file_meta.TransferSyntaxUID
    if not syntax.is_transfer_syntax:
        raise NoPicture("a private or unknown transfer syntax is not read")
    _check(dataset, pixel_limit)
    bits, form = dataset.BitsStored, dataset.PhotometricInterpretation
    negative, remarks = form == "MONOCHROME1", _remarks(dataset)
    if syntax in _JPEG and dataset.BitsAllocated == bits == 8 and form != "PALETTE COLOR":
        return DicomPicture(_jpeg(dataset), None, 8, negative, remarks)
    value_HWC, bits, guessed = _values(dataset, bits)
    return DicomPicture(b"", value_HWC, bits, negative, remarks + guessed)


def _refuse_packed(file: BinaryIO) -> None:
    """Raise NoPicture for a packed header: a few bytes may unpack to any number."""
    from pydicom.filereader import read_dataset

    file.seek(PREAMBLE)
    about_file = read_dataset(file, False, True, stop_when=lambda tag, _vr, _size: tag.group != 2)
    file.seek(0)
    if about_file.get("TransferSyntaxUID") == _DEFLATED:
        raise NoPicture("its header is packed (Deflated Explicit VR), which is not read")


def _check(dataset: Any, pixel_limit: int) -> None:
    """Raise NoPicture for what is not read."""
    if not dataset.get("PixelData"):
        raise NoPicture("a DICOM file without a picture, or cut short before it")
    frames = int(dataset.get("NumberOfFrames") or 1)
    if frames != 1:
        raise NoPicture(f"{frames} frames; export the photograph as a file of one")
    rows, columns = int(dataset.Rows), int(dataset.Columns)
    if rows * columns > pixel_limit:
        raise NoPicture(f"{columns}x{rows} is over the limit of {pixel_limit:,} pixels")
    form, bits = dataset.PhotometricInterpretation, dataset.BitsStored
    if _SAMPLES.get(form) != dataset.SamplesPerPixel:
        known = form if form in _SAMPLES.keys() | _REFUSED else "an unknown one"
        raise NoPicture(
            f"{known} of {int(dataset.SamplesPerPixel)} values a pixel is a photometric "
            f"interpretation that is not read"
        )
    if form.startswith("YBR") and bits != 8:
        raise NoPicture(f"{form} of {int(bits)} bits is not read, of 8 it is")
    if dataset.get("PixelRepresentation"):
        raise NoPicture("pixel values with a sign (Pixel Representation 1) are not read")
    if not 0 < bits <= dataset.BitsAllocated or dataset.get("HighBit", bits - 1) != bits - 1:
        raise NoPicture("its bits do not begin at the lowest (High Bit is not Bits Stored - 1)")


def _remarks(dataset: Any) -> tuple[tuple[str, str], ...]:
    """Return what a viewer would have applied to a grey picture, and is not applied here."""
    if not dataset.PhotometricInterpretation.startswith("MONOCHROME"):
        return ()
    whole = 2**dataset.BitsStored
    width = dataset.get("WindowWidth")
    stated = {
        "window": width is not None and width not in (whole, whole - 1),
        "table of values": "VOILUTSequence" in dataset or "ModalityLUTSequence" in dataset,
        "rescale": float(dataset.get("RescaleSlope") or 1) < 0,
    }
    names = [name for name, present in stated.items() if present]
    text = f"its {' and '.join(names)} not applied: all values from 0 to {whole - 1}"
    return (("dicom_display_not_applied", text),) if names else ()


def _jpeg(dataset: Any) -> bytes:
    """Return the frame as a JPEG that any decoder reads as DICOM means it.

    Its EXIF is no part of DICOM and would turn it. Where it does not say whether its three colours
    are RGB (no JFIF, no Adobe), the header of the file does.
    """
    from pydicom.encaps import get_frame

    frame = bytes(get_frame(dataset.PixelData, 0, number_of_frames=1))
    if frame[:2] != b"\xff\xd8":
        raise NoPicture("its frame is no JPEG, though it says so")
    kept, states_colours, offset = [frame[:2]], False, 2
    while offset + 4 <= len(frame) and frame[offset] == 0xFF and frame[offset + 1] != 0xDA:
        end = offset + 2 + int.from_bytes(frame[offset + 2 : offset + 4], "big")
        segment = frame[offset:end]
        states_colours |= segment[4:8] == b"JFIF" or segment[4:9] == b"Adobe"
        kept += [segment] if segment[1] != 0xE1 else []
        offset = end
    if dataset.PhotometricInterpretation == "RGB" and not states_colours:
        kept.insert(1, b"\xff\xee\x00\x0eAdobe\x00\x64" + bytes(5))  # its last 0: not transformed
    return b"".join([*kept, frame[offset:]])


def _values(dataset: Any, bits: int) -> tuple[np.ndarray, int, tuple[tuple[str, str], ...]]:
    """Return value_HWC, its bits, and a remark where these were guessed."""
    from pydicom.pixels import apply_color_lut, get_decoder, pixel_array

    syntax = dataset.file_meta.TransferSyntaxUID
    if syntax.is_encapsulated:
        try:
            available = get_decoder(syntax).is_available
        except NotImplementedError:
            available = False
        deep = bits > 8 and (
            syntax in _JPEG or (syntax in _JPEG_2000 and dataset.SamplesPerPixel > 1)
        )  # which Pillow cannot
        if not available or (deep and not find_spec("pylibjpeg")):
            of = f" of {int(bits)} bits" if deep else ""
            raise NoPicture(
                f"{syntax.name}{of} has no decoder here; export it as plain JPEG or unpacked"
            )
    else:  # of two pixels of YBR_FULL_422 there are four values
        form = dataset.PhotometricInterpretation
        values = dataset.Rows * dataset.Columns * (2 if form == "YBR_FULL_422" else _SAMPLES[form])
        if len(dataset.PixelData) < values * dataset.BitsAllocated // 8:
            raise NoPicture("its pixels are cut short")
    value = np.asarray(pixel_array(dataset))  # planes brought together, YBR made RGB
    value = value & value.dtype.type(2**bits - 1)  # overlays may lie in the bits above
    if dataset.PhotometricInterpretation != "PALETTE COLOR":
        return value.reshape(*value.shape[:2], -1), bits, ()
    value_HWC = np.asarray(apply_color_lut(value, dataset))[..., :3]
    bits = 8 * value_HWC.dtype.itemsize
    if bits == 16 and value_HWC.max() < 256:
        text = "8 bits in use of the 16 of its palette, by the highest value"
        return value_HWC, 8, (("bit_depths_guessed", text),)
    return value_HWC, bits, ()
