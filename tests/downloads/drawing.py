"""The files of a miniature download: tiny pictures, tables and junk, always the same bytes."""

import csv
import io
import re
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import openpyxl
from PIL import Image

FORMATS = {
    ".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG", ".tif": "TIFF", ".ppm": "PPM", ".bmp": "BMP",
}  # fmt: skip
LONG_AGO = (1980, 1, 1, 0, 0, 0)
Cell = str | int | float | None


def write(root: Path, name: str, content: bytes | str) -> Path:
    """Write one file; text without any translation of its line ends."""
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def picture(source: str) -> bytes:
    """Return an image file in the format of its ending: a lit disc on black, unlike any other."""
    random = np.random.default_rng(zlib.crc32(source.encode()))
    height, width = int(random.integers(44, 52)), int(random.integers(52, 64))
    y, x = np.mgrid[:height, :width]
    y, x = y - height / 2, x - width / 2
    light = 0.7 + 0.3 * np.cos(random.uniform(0, 6) + x / random.uniform(5, 20) + y / 20)
    across, down = random.uniform(-12, 12, 2)
    light += 0.6 * (np.hypot(x - across, y - down) < random.uniform(3, 7))
    inside = np.hypot(x, y) < height / 2 - 1
    colour = np.array([150, 75, 35]) + random.integers(-20, 20, 3)
    image_HWC = (light * inside)[:, :, None] * colour
    buffer = io.BytesIO()
    image = Image.fromarray(image_HWC.clip(0, 255).astype(np.uint8))
    image.save(buffer, FORMATS[Path(source).suffix.lower()])
    return buffer.getvalue()


def draw(root: Path, *sources: str) -> None:
    """Draw a picture of its own for every source."""
    for source in sources:
        write(root, source, picture(source))


def copy(root: Path, copies: dict[str, str]) -> list[str]:
    """Write each copy with the bytes of its original; return the copies."""
    for name, original in copies.items():
        write(root, name, (root / original).read_bytes())
    return list(copies)


def cut_short(root: Path, source: str) -> str:
    """Draw a picture and keep two thirds of its bytes, as a broken transfer does."""
    content = picture(source)
    write(root, source, content[: len(content) * 2 // 3])
    return source


def empty(root: Path, source: str) -> str:
    """Leave a file of no bytes."""
    write(root, source, b"")
    return source


def junk(root: Path, folder: str, neighbour: str) -> None:
    """Leave what Windows and macOS leave beside the image `neighbour`."""
    prefix = f"{folder}/" if folder else ""
    write(root, f"{prefix}Thumbs.db", b"\xd0\xcf\x11\xe0 thumbnails")
    write(root, f"{prefix}.DS_Store", b"\x00\x00\x00\x01Bud1")
    fork = b"\x00\x05\x16\x07\x00\x02\x00\x00Mac OS X"
    write(root, f"{prefix}._{neighbour}", fork)
    write(root, f"__MACOSX/{prefix}._{neighbour}", fork)


def table(
    root: Path, name: str, *rows: Sequence[Cell], delimiter: str = ",", bom: bool = False
) -> None:
    """Write a CSV."""
    buffer = io.StringIO()
    csv.writer(buffer, delimiter=delimiter, lineterminator="\r\n").writerows(rows)
    write(root, name, buffer.getvalue().encode("utf-8-sig" if bom else "utf-8"))


def book(root: Path, name: str, **sheets: Sequence[Sequence[Cell]]) -> None:
    """Write an XLSX with one sheet for each keyword; "_" in a sheet's name stands for "-"."""
    workbook = openpyxl.Workbook()
    workbook.remove(workbook.worksheets[0])
    for title, rows in sheets.items():
        sheet = workbook.create_sheet(title.replace("_", "-"))
        for row in rows:
            sheet.append(list(row))
    buffer = io.BytesIO()
    workbook.save(buffer)
    write(root, name, _without_time(buffer.getvalue()))


def _without_time(content: bytes) -> bytes:
    """Return the same archive with no date in it: openpyxl writes the clock in several places."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(buffer, "w") as new:
        for name in old.namelist():
            part = old.read(name)
            if name == "docProps/core.xml":
                part = re.sub(rb">\d{4}-[^<]*Z<", b">1980-01-01T00:00:00Z<", part)
            new.writestr(zipfile.ZipInfo(name, LONG_AGO), part)
    return buffer.getvalue()
