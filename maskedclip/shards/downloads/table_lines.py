"""The cells of a table, line by line: CSV by whatever separator, XLSX, JSON, lines of JSON."""

import csv
import io
import json
import zipfile
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from maskedclip.data.storage.first_bytes import not_the_file

_FIRST_LINES = 50  # by which the separator is known
_ARCHIVE = b"PK\x03\x04"
_SAVE = "save it as XLSX or CSV"
_OTHERS = {  # by its first bytes, what a file is that has another name
    b"\xd0\xcf\x11\xe0": f"cannot be read: a sheet of an old Excel; {_SAVE}",
    b"PAR1": "cannot be read: parquet; pandas.read_parquet(...).to_csv(...) makes a CSV of it",
    b"\x1f\x8b": "cannot be read: compressed; gunzip it",
    b"BZh": "cannot be read: compressed; bunzip2 it",
    b"\xff\xd8\xff": "is an image, not a table",
    b"\x89PNG": "is an image, not a table",
    b"%PDF": f"cannot be read: a PDF; {_SAVE}",
    b"{\\rtf": f"cannot be read: a text of a word processor; {_SAVE}",
    b"\x80\x04\x95": f"cannot be read: a pickle; {_SAVE}",
}


def is_sheet(path: Path) -> bool:
    """Return whether a file is an XLSX, by its name or its first bytes."""
    with path.open("rb") as file:
        return path.suffix.lower() == ".xlsx" or file.read(4) == _ARCHIVE


def pages_of(path: Path, sheet: str = "", *, every: bool = False) -> dict[str, list[list[str]]]:
    """Return the lines of a table as stripped cells, by the title of their sheet; "" has a text.

    Args:
        sheet: of an XLSX; the first if not given.
        every: all sheets, where none is given.

    Raises ValueError for a file that is no table, in one line with what it is.
    """
    with path.open("rb") as file:
        first = file.read(64)
    if wrong := not_the_file(first):
        raise ValueError(f"{path}: {wrong}")
    if wrong := next((what for start, what in _OTHERS.items() if first.startswith(start)), ""):
        raise ValueError(f"{path}: {wrong}")
    if is_sheet(path):
        return _sheets(path, sheet, every)
    if path.suffix.lower() in (".xls", ".ods", ".numbers", ".sav", ".dta", ".rds", ".mat", ".xml"):
        raise ValueError(f"{path}: cannot be read; save it as {path.stem}.xlsx or {path.stem}.csv")
    try:
        wide = first.startswith((b"\xff\xfe", b"\xfe\xff"))
        text = path.read_text(encoding="utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 ({error.reason}); save it as UTF-8") from None
    if "\0" in text:
        raise ValueError(f"{path}: holds null bytes; save it as UTF-8")
    if path.suffix.lower() in (".json", ".jsonl", ".ndjson") or text.lstrip()[:2] in ('{"', "[{"):
        return {"": _json_lines(path, text)}
    return {"": list(_csv_lines(path, text))}


def _json_lines(path: Path, text: str) -> list[list[str]]:
    """Return a heading and the entries of a list, of an object of entries, or of lines of JSON."""
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        try:
            content = [json.loads(line) for line in text.splitlines() if line.strip()]
        except json.JSONDecodeError:
            raise ValueError(f"{path}: not a table in JSON ({error}); download it again") from None
    if isinstance(content, dict) and {"images", "annotations"} <= content.keys():
        raise ValueError(
            f"{path}: COCO, which has lists of images and of annotations; write a table with a "
            f"row an image, its file_name and its category"
        )
    entries = list(content.values() if isinstance(content, dict) else content)
    if not entries or not all(isinstance(entry, dict) for entry in entries):
        raise ValueError(
            f"{path}: not a table in JSON; write a list of objects, one an image: "
            f'[{{"image": "1.jpg", "grade": 0}}, ...]'
        )
    if isinstance(content, dict) and {*entries[0]} == {str(n) for n in range(len(entries[0]))}:
        columns = {name: list(values.values()) for name, values in content.items()}  # of pandas
        longest = max(map(len, columns.values()))
        lines = [
            [_text(v[n] if n < len(v) else None) for v in columns.values()] for n in range(longest)
        ]
        return [list(columns), *lines]
    for name, value in (item for entry in entries for item in entry.items()):
        if isinstance(value, dict):
            raise ValueError(f"{path}: {name} holds objects; write their values as columns")
    heading = list({name: 0 for entry in entries for name in entry})
    return [heading, *([_text(entry.get(name)) for name in heading] for entry in entries)]


def _separator(text: str) -> str:
    """Return the sign that parts the most of the first rows into equally many; " " for blanks.

    A sign within quotes parts nothing: reports have commas and semicolons.
    """
    lines = [line for line in text.splitlines()[: 2 * _FIRST_LINES] if line.strip()][:_FIRST_LINES]
    best, score = ",", (0, 0)
    for sign in (",", ";", "\t", "|"):
        counts = Counter(number for line in _split(lines, sign) if (number := len(line) - 1))
        for number, agreeing in counts.most_common(1):
            if (agreeing, number) > score:
                best, score = sign, (agreeing, number)
    if score == (0, 0) and len(lines) > 1:
        widths = {len(line.split()) for line in lines}
        return " " if len(widths) == 1 and widths != {1} else ","
    return best


def _split(lines: Sequence[str], sign: str) -> list[list[str]]:
    try:
        return list(csv.reader(lines, delimiter=sign, skipinitialspace=True))
    except csv.Error:  # a quote that is not closed, which is refused when all is read
        return [line.split(sign) for line in lines]


def _csv_lines(path: Path, text: str) -> Iterator[list[str]]:
    """Yield the rows of a CSV; ValueError, with the line, where a quote is left open."""
    delimiter = _separator(text)
    printed = list(io.StringIO(text, newline=""))
    reader = csv.reader(printed, delimiter=delimiter, skipinitialspace=True)
    start = width = 0
    while True:
        try:
            line = next(reader, None)
            if line is None:
                return
            several = reader.line_num - start > 1
            swallowed = (several or reader.line_num == len(printed)) and _swallowed(
                printed[start : reader.line_num], line, width, delimiter
            )
        except csv.Error:  # a cell of more than 131,072 characters
            swallowed, line = True, []
        if swallowed:
            raise ValueError(
                f"{path}, line {start + 1}: a quote is opened and not closed, so that the rows "
                f"below would be part of one cell; close or remove it"
            )
        width, start = width or len(line), reader.line_num
        yield [value.strip() for value in line]


def _swallowed(printed: list[str], line: list[str], width: int, delimiter: str) -> bool:
    """Return whether an open quote has made one row of several, or of the last one.

    It shows by the end of the file, by text behind the closing quote, or by a cell that holds the
    end of a row, whole rows and the beginning of another.
    """
    try:
        list(csv.reader(printed, delimiter=delimiter, strict=True, skipinitialspace=True))
    except csv.Error as error:
        return len(printed) > 1 or "unexpected end" in str(error)
    for column, value in enumerate(line):
        first, *others = [piece.count(delimiter) for piece in value.splitlines() or [""]]
        full = [width - 1] * (len(others) - 1)
        rows = (first, others) == (width - 1 - column, [*full, column])
        if others and rows and width > 2 and f"{delimiter} " not in value:
            return True
    return False


def _sheets(path: Path, sheet: str, every: bool) -> dict[str, list[list[str]]]:
    import openpyxl  # not at the top: it loads numpy, and `--list` must not wait for that
    from openpyxl.utils.exceptions import InvalidFileException

    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            if "xl/workbook.xml" not in names:
                what = "an archive or a document of another program"
                raise ValueError(f"{path}: not an xlsx, but {what}; unpack it, or {_SAVE}")
            pages = [name for name in names if name.startswith("xl/worksheets/sheet")]
            merged = any(b"<mergeCell " in archive.read(name) for name in pages)
        with path.open("rb") as file:
            book = openpyxl.load_workbook(file, read_only=not merged, data_only=True)
            titles = {name.strip().lower(): name for name in book.sheetnames}
            if sheet and sheet.lower() not in titles:
                raise ValueError(f"{path}: no sheet {sheet}; it has {', '.join(book.sheetnames)}")
            wanted = [titles[sheet.lower()]] if sheet else [page.title for page in book.worksheets]
            found = {name: _cells(book[name], merged) for name in wanted[: None if every else 1]}
            book.close()
    except (zipfile.BadZipFile, InvalidFileException, KeyError) as error:
        raise ValueError(f"{path}: not an xlsx ({error}); download it again") from None
    return found


def _cells(page: Any, merged: bool) -> list[list[str]]:
    """Return the cells of a sheet; one that spans several rows stands in each of them."""
    if not merged:
        page.reset_dimensions()  # the dimensions stated in the file may be wrong
    lines = [[_text(value) for value in line] for line in page.values]
    for area in page.merged_cells.ranges if merged else ():
        if area.min_col == area.max_col:
            for row in range(area.min_row, area.max_row):
                lines[row][area.min_col - 1] = lines[area.min_row - 1][area.min_col - 1]
    return lines


def _text(value: Any) -> str:
    """Return a cell as the string that a CSV would hold: a whole number without its ".0"."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return "" if value is None else str(value).strip()
