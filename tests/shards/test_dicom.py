"""DICOM files, written by pydicom: their pixels, patients and eyes, and what is refused."""

import io
import json
import logging
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from maskedclip.data.photographs.decoding import UnreadableImage, decode
from maskedclip.data.storage.shards import Shards
from maskedclip.inference import read_image
from maskedclip.predict.photographs import FolderPictures
from maskedclip.shards.downloads.cards import read_card
from maskedclip.shards.downloads.files import files_not_read, list_files
from maskedclip.shards.make import ShardRequest, build
from maskedclip.shards.make_command import main
from tests.downloads.drawing import picture, write

pydicom = pytest.importorskip("pydicom", reason="DICOM is read by the extra `dicom`")
uid = pydicom.uid

BAND_HW = np.repeat(np.array([[0, 51, 204, 255]], np.uint8), 4, axis=0)
COLOUR_HWC = np.stack([BAND_HW, BAND_HW.T, 255 - BAND_HW], axis=-1)


def dicom(
    value: np.ndarray | bytes,
    form: str = "MONOCHROME2",
    *,
    syntax: str = uid.ExplicitVRLittleEndian,
    size: tuple[int, int] = (4, 4),
    bits: int = 8,
    **more: Any,
) -> bytes:
    """Return a DICOM file; `value` is one compressed frame where it is bytes."""
    header = pydicom.Dataset()
    header.file_meta = pydicom.dataset.FileMetaDataset()
    header.file_meta.TransferSyntaxUID = syntax
    header.file_meta.MediaStorageSOPClassUID = uid.OphthalmicPhotography8BitImageStorage
    header.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    header.SOPClassUID = uid.OphthalmicPhotography8BitImageStorage
    header.SOPInstanceUID = "1.2.3"
    header.PatientName = "Doe^Jane"
    header.Rows, header.Columns = size
    header.PhotometricInterpretation = form
    header.SamplesPerPixel = 1 if form in ("MONOCHROME1", "MONOCHROME2", "PALETTE COLOR") else 3
    if header.SamplesPerPixel == 3:
        header.PlanarConfiguration = 0
    header.BitsAllocated = 8 if bits <= 8 else 16
    header.BitsStored, header.HighBit, header.PixelRepresentation = bits, bits - 1, 0
    compressed = isinstance(value, bytes)
    content = pydicom.encaps.encapsulate([value]) if compressed else value.tobytes()
    header.PixelData = content
    header["PixelData"].VR = "OB" if compressed or bits <= 8 else "OW"
    for name, fact in more.items():
        setattr(header, name, fact)
    file = io.BytesIO()
    header.save_as(file, enforce_file_format=True)
    return file.getvalue()


def pixels(content: bytes) -> np.ndarray:
    return decode(content, 1000).image_HWC


def jpeg(image_HWC: np.ndarray, form: str = "JPEG", **options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image_HWC).save(file, form, **options)
    return file.getvalue()


def test_grey_is_read_and_monochrome1_is_turned_to_its_negative() -> None:
    for value, form in ((BAND_HW, "MONOCHROME2"), (255 - BAND_HW, "MONOCHROME1")):
        decoded = decode(dicom(value, form), 4)
        assert decoded.image_HWC.tolist() == np.stack([BAND_HW] * 3, axis=-1).tolist()
        assert decoded.remarks == ()
        assert decoded.carried == ("DICOM header",)


def test_twelve_bits_in_sixteen_are_known_and_not_guessed() -> None:
    value_HW = np.repeat(np.array([[0, 257, 1028, 2056]], np.uint16), 4, axis=0)  # no 4095
    decoded = decode(dicom(value_HW | 0xF000, bits=12), 4)  # an overlay in the bits above
    assert decoded.image_HWC[0, :, 0].tolist() == [0, 16, 64, 128]
    assert decoded.remarks == ()


def test_a_window_is_not_applied_and_said() -> None:
    decoded = decode(dicom(BAND_HW, WindowCenter=20, WindowWidth=10), 4)
    assert decoded.image_HWC[0, :, 0].tolist() == [0, 51, 204, 255]
    (remark,) = decoded.remarks
    assert remark == (
        "dicom_display_not_applied", "its window not applied: all values from 0 to 255"
    )  # fmt: skip
    assert decode(dicom(COLOUR_HWC, "RGB", WindowCenter=20, WindowWidth=10), 4).remarks == ()


@pytest.mark.parametrize("syntax", [uid.ImplicitVRLittleEndian, uid.ExplicitVRLittleEndian])
def test_colours_are_read_by_pixel_and_by_plane(syntax: str) -> None:
    assert pixels(dicom(COLOUR_HWC, "RGB", syntax=syntax)).tolist() == COLOUR_HWC.tolist()
    planes = dicom(COLOUR_HWC.transpose(2, 0, 1), "RGB", syntax=syntax, PlanarConfiguration=1)
    assert pixels(planes).tolist() == COLOUR_HWC.tolist()
    deep = dicom(COLOUR_HWC.astype(np.uint16) * 4, "RGB", syntax=syntax, bits=10)
    assert abs(pixels(deep).astype(int) - COLOUR_HWC).max() <= 1


def test_luma_and_chroma_become_red_green_and_blue() -> None:
    # a red of ITU-R BT.601: Y 0.299 * 200, Cb 128 - 0.1687 * 200, Cr 128 + 0.5 * 200
    full = np.full((4, 4, 3), (60, 94, 228), np.uint8)
    halved = np.tile(np.array([60, 60, 94, 228], np.uint8), 8)  # Y Y Cb Cr
    for value, form in ((full, "YBR_FULL"), (halved, "YBR_FULL_422")):
        assert abs(pixels(dicom(value, form)).astype(int) - (200, 0, 0)).max() <= 1


@pytest.mark.parametrize(("bits", "top"), [(8, 255), (16, 65535), (16, 255)])
def test_a_palette_is_applied(bits: int, top: int) -> None:
    index_HW = np.repeat(np.array([[0, 1, 2, 3]], np.uint8), 4, axis=0)
    tables = {}
    for name, column in zip(("Red", "Green", "Blue"), COLOUR_HWC[:, 1].T, strict=True):
        kind = np.uint8 if bits == 8 else np.uint16
        entries = (column.astype(np.uint32) * top // 255).astype(kind)
        tables[f"{name}PaletteColorLookupTableDescriptor"] = [4, 0, bits]
        tables[f"{name}PaletteColorLookupTableData"] = entries.tobytes()
    decoded = decode(dicom(index_HW, "PALETTE COLOR", **tables), 4)
    assert decoded.image_HWC[0].tolist() == COLOUR_HWC[:, 1].tolist()
    assert bool(decoded.remarks) == (bits == 16 and top == 255)


def test_a_frame_of_jpeg_is_the_picture_of_that_jpeg_unturned() -> None:
    disc_HWC = np.asarray(Image.open(io.BytesIO(picture("a.png"))).convert("RGB"))
    size = disc_HWC.shape[:2]
    exif = Image.Exif()
    exif[0x0112] = 6
    plain, turned = jpeg(disc_HWC, quality=95), jpeg(disc_HWC, quality=95, exif=exif)
    expected = pixels(plain).tolist()
    for frame in (plain, turned):
        content = dicom(frame, "YBR_FULL_422", syntax=uid.JPEGBaseline8Bit, size=size)
        assert pixels(content).tolist() == expected
    grey = jpeg(disc_HWC[..., 0])
    negative = dicom(grey, "MONOCHROME1", syntax=uid.JPEGBaseline8Bit, size=size)
    assert pixels(negative).tolist() == (255 - pixels(grey)).tolist()


def test_colours_of_a_jpeg_without_a_marker_are_those_of_the_header() -> None:
    red_HWC = np.full((16, 16, 3), (200, 40, 10), np.uint8)
    frame = jpeg(red_HWC, quality=100, keep_rgb=True)
    adobe = frame.find(b"\xff\xee")
    if adobe > 0:
        frame = frame[:adobe] + frame[adobe + 16 :]
    for one, other in ((b"R", b"\x01"), (b"G", b"\x02"), (b"B", b"\x03")):
        frame = frame.replace(one + b"\x11\x00", other + b"\x11\x00", 1)
        scan = frame.rfind(b"\xff\xda")
        frame = frame[:scan] + frame[scan:].replace(one + b"\x00", other + b"\x00", 1)
    content = dicom(frame, "RGB", syntax=uid.JPEGBaseline8Bit, size=(16, 16))
    assert abs(pixels(content).astype(int) - red_HWC).max() <= 2
    assert abs(pixels(frame).astype(int) - red_HWC).max() > 50


def test_runs_and_jpeg_2000_are_unpacked_and_jpeg_ls_is_refused_by_name() -> None:
    data = pydicom.dcmread(io.BytesIO(dicom(COLOUR_HWC, "RGB")))
    data.compress(uid.RLELossless)
    file = io.BytesIO()
    data.save_as(file)
    assert pixels(file.getvalue()).tolist() == COLOUR_HWC.tolist()
    big_HWC = np.kron(COLOUR_HWC, np.ones((16, 16, 1), np.uint8))
    frame = jpeg(big_HWC, "JPEG2000", no_jp2=True)
    facts: dict[str, Any] = {"syntax": uid.JPEG2000Lossless, "size": (64, 64)}
    assert pixels(dicom(frame, "YBR_RCT", **facts)).tolist() == big_HWC.tolist()
    decoder = pydicom.pixels.get_decoder(uid.JPEGLSLossless)
    if not decoder.is_available:
        with pytest.raises(UnreadableImage, match=r"JPEG-LS Lossless .* has no decoder here"):
            pixels(dicom(b"\xff\xd8\xff\xf7" + bytes(60), syntax=uid.JPEGLSLossless))


HOSTILE = {
    "several frames": (
        lambda: dicom(np.stack([BAND_HW] * 3), NumberOfFrames=3),
        "3 frames; export the photograph as a file of one",
    ),
    "cut in its pixels": (lambda: dicom(COLOUR_HWC, "RGB")[:-20], "its pixels are cut short"),
    "cut in its header": (lambda: dicom(BAND_HW)[:300], "without a picture, or cut short|damaged"),
    "pixels too few": (lambda: dicom(BAND_HW[:1]), "its pixels are cut short"),
    "preamble alone": (lambda: bytes(128) + b"DICM", "cut short|damaged"),
    "cut JPEG": (
        lambda: dicom(jpeg(np.kron(COLOUR_HWC, np.ones((16, 16, 1), np.uint8)))[:-300], "RGB",
                      syntax=uid.JPEGBaseline8Bit, size=(64, 64)),
        "does not decode",
    ),
    "too large": (lambda: dicom(BAND_HW, Rows=60_000, Columns=60_000), "60000x60000 is over the l"),
    "a sign": (lambda: dicom(BAND_HW, PixelRepresentation=1), "Pixel Representation 1"),
    "high bits": (lambda: dicom(BAND_HW, HighBit=6), "its bits do not begin at the lowest"),
    "another colour": (lambda: dicom(COLOUR_HWC, "Doe Jane"), "an unknown one of 3 values a pixel"),
    "broken JPEG 2000": (
        lambda: dicom(b"\xff\x4f\xff\x51" + bytes(80), syntax=uid.JPEG2000Lossless),
        "a damaged DICOM file",
    ),
    "a syntax of a vendor": (
        lambda: dicom(BAND_HW).replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.113619.5.2\0\0", 1),
        "a private or unknown transfer syntax",
    ),
    "a packed header": (
        lambda: dicom(BAND_HW, syntax=uid.DeflatedExplicitVRLittleEndian), "its header is packed"
    ),
    "no image": (lambda: dicom(BAND_HW, PixelData=b""), "a DICOM file without a picture"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_not_read_is_refused_in_one_line_that_quotes_nothing(
    name: str, caplog: pytest.LogCaptureFixture, recwarn: pytest.WarningsRecorder
) -> None:
    write_file, reason = HOSTILE[name]
    content = write_file()
    caplog.set_level(logging.DEBUG)
    caplog.clear()  # writing may warn
    recwarn.clear()
    with pytest.raises(UnreadableImage, match=reason) as raised:
        pixels(content)
    assert "\n" not in str(raised.value)
    assert "Doe" not in str(raised.value)
    assert not caplog.text
    assert not recwarn.list


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return DICOM photographs of two patients and of nobody, and a file of several frames."""
    root = tmp_path_factory.mktemp("archive")
    people = [("7", "R"), ("7", "L"), ("8", "R"), ("unknown", "B")]
    names = ["a/1.dcm", "a/2.DICOM", "b/IM0003", "b/1.2.840.4"]
    for name, (patient, side) in zip(names, people, strict=True):
        disc = Image.open(io.BytesIO(picture(name.lower() + ".png"))).convert("RGB")
        facts = {"PatientID": patient, "ImageLaterality": side, "PatientBirthDate": "19500317"}
        image_HWC = np.asarray(disc)
        write(root, name, dicom(image_HWC, "RGB", size=image_HWC.shape[:2], **facts))
    write(root, "b/oct.dcm", dicom(np.stack([BAND_HW] * 3), NumberOfFrames=3))
    write(root, "DICOMDIR", bytes(128) + b"DICM")
    return root


def test_a_folder_of_dicom_is_built_with_its_patients_and_eyes_and_nothing_else(
    archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    main(["folder", "--name=eyes", f"--root={archive}", f"--out={out}", "--size=64", "--workers=1",
          "--classes=disease"])  # fmt: skip
    printed = capsys.readouterr().out
    shards = Shards(out)
    found = {m["source"]: m for m in map(shards.metadata, range(len(shards)))}
    assert {source: m["eye"] for source, m in found.items()} == {
        "a/1.dcm": "R", "a/2.DICOM": "L", "b/IM0003": "R", "b/1.2.840.4": None,
    }  # fmt: skip
    assert found["a/1.dcm"]["patient"] == found["a/2.DICOM"]["patient"] != None  # noqa: E711
    assert found["b/IM0003"]["patient"] not in (None, "8", found["a/1.dcm"]["patient"])
    assert found["b/1.2.840.4"]["patient"] is None
    assert "patients read from DICOM headers: 2 patients of 3 images" in printed
    assert shards.manifest["removed"] == {"DICOM header": 4}
    (refused,) = shards.manifest["rejected"]
    assert refused["source"] == "b/oct.dcm"
    assert refused["reason"].startswith("3 frames")
    written = printed.encode() + b"".join(path.read_bytes() for path in out.iterdir())
    assert not any(word in written for word in (b"Doe", b"19500317"))


def test_a_table_that_states_patients_and_eyes_goes_before_the_headers(
    archive: Path, tmp_path: Path
) -> None:
    rows = "image,who,side\na/1.dcm,me,OS\na/2.DICOM,,\nIM0003,you,\n"
    (tmp_path / "rows.csv").write_text(rows)
    asked = ShardRequest(
        dataset="csv", root=archive, out=tmp_path / "out", csv=tmp_path / "rows.csv", name="eyes",
        image_column="image", patient_column="who", eye_column="side", size=64, workers=1,
    )  # fmt: skip
    assert build(asked, progress=False).manifest["counts"]["patients"] == 2
    shards = Shards(tmp_path / "out")
    found = {m["source"]: m for m in map(shards.metadata, range(len(shards)))}
    eyes = {source: (m["patient"] is None, m["eye"]) for source, m in found.items()}
    assert eyes == {
        "a/1.dcm": (False, "L"), "a/2.DICOM": (True, "L"), "b/IM0003": (False, "R"),
    }  # fmt: skip


def test_load_and_predict_read_the_same_picture(archive: Path) -> None:
    path = archive / "a/1.dcm"
    image_HWC = np.asarray(read_image(path, field_of_view=False))
    assert image_HWC.tolist() == pydicom.dcmread(path).pixel_array.tolist()
    source = FolderPictures(archive, None)
    first = next(p for p in source.pictures if p.path == "a/1.dcm")
    assert np.asarray(source.image(first)).tolist() == image_HWC.tolist()


def test_without_pydicom_dicom_is_counted_with_what_would_read_it(
    archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pydicom", None)
    files = list_files(read_card("folder"), archive)
    assert files.images == {}
    words = "(pip install -e '.[dicom]' reads DICOM)"
    assert files_not_read(files) == [
        f"2 .dcm: not read, such as a/1.dcm {words}",
        f"1 .dicom: not read, such as a/2.DICOM {words}",
        f"2 without an ending: not read, such as b/1.2.840.4 {words}",
    ]
    with pytest.raises(UnreadableImage, match=r"needs pydicom: pip install -e '\.\[dicom\]'"):
        decode((archive / "a/1.dcm").read_bytes(), 4)


def test_a_pattern_goes_before_the_headers_and_anonymise_keeps_their_count(
    archive: Path, tmp_path: Path
) -> None:
    asked = ShardRequest(
        dataset="folder", root=archive, out=tmp_path / "s" / "a", name="eyes", size=64, workers=1,
        anonymise=True,
    )  # fmt: skip
    manifest = build(asked, progress=False).manifest
    assert manifest["remarks"]["patients_from_dicom"] == ["2 patients of 3 images"]
    assert "dcm" not in json.dumps(manifest)
    by_name = replace(asked, out=tmp_path / "s" / "b", patient_pattern=r"/a/(\d)\.")
    manifest = build(by_name, progress=False).manifest
    assert "patients_from_dicom" not in manifest["remarks"]
    assert manifest["counts"]["with_patient"] == 2
