"""Label files as rows: CSV with commas, semicolons or tabs, XLSX, and JSON with a row an entry."""

import csv
import io
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

Row = dict[str, str]  # by heading in lower case
TITLE_LINES = 12  # at most so many lines stand above the heading


def names_of(columns: str | Iterable[str]) -> tuple[str, ...]:
    """Return one column or several alternatives as they are compared: lower case, single blanks."""
    given = (columns,) if isinstance(columns, str) else columns
    return tuple(" ".join(name.lower().split()) for name in given)


def cell(row: Row, columns: str | Iterable[str]) -> str:
    """Return the first of the columns that says something, else ""."""
    return next((row[name] for name in names_of(columns) if row.get(name)), "")


def rows_of(
    path: Path, wanted: Sequence[str | Iterable[str]] = (), sheet: str = ""
) -> tuple[list[Row], str]:
    """Return the rows of a label file, and "" or the words that say which columns it lacks.

    Args:
        wanted: columns that the heading holds, of alternatives one. It is the first line that has
            them, with the line below it where a title spans several columns of that.
        sheet: of an XLSX; the first if not given.

    Values are stripped strings. Raises ValueError for a file that is not what its name says.
    """
    lines = _lines(path, sheet)
    groups = [names_of(columns) for columns in wanted]
    for number in range(min(len(lines), TITLE_LINES)):
        for height in (1, 2):
            heading: dict[str, int] = {}
            for line in lines[number : number + height]:
                for place, name in enumerate(names_of(line)):
                    heading.setdefault(name, place)
            if all(any(name in heading for name in names) for names in groups):
                return _by_heading(heading, lines[number + height :]), ""
    titles = max(lines[:TITLE_LINES], key=lambda line: sum(map(bool, line)), default=[])
    heading = dict.fromkeys(names_of(titles), 0)
    missing = [" or ".join(names) for names in groups if not any(n in heading for n in names)]
    found = ", ".join(title for title in titles if title) or "nothing"
    return [], f"no column {', '.join(missing)}; it has {found}"


def _by_heading(heading: dict[str, int], lines: Iterable[list[str]]) -> list[Row]:
    return [
        {name: line[place] for name, place in heading.items() if name and place < len(line)}
        for line in lines
        if any(line)
    ]


def _lines(path: Path, sheet: str) -> list[list[str]]:
    if path.suffix.lower() == ".xlsx":
        return _sheet_lines(path, sheet)
    try:
        text = path.read_text(encoding="utf-8-sig")
        if path.suffix.lower() == ".json":
            content = json.loads(text)
            entries = list(content.values() if isinstance(content, dict) else content)
            heading = list({name: 0 for entry in entries for name in entry})
            return [heading, *([_text(entry.get(n)) for n in heading] for entry in entries)]
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 ({error.reason}); save it as UTF-8") from None
    except (json.JSONDecodeError, AttributeError, TypeError) as error:
        raise ValueError(f"{path}: not a table in JSON ({error}); download it again") from None
    first = text.partition("\n")[0]
    delimiter = max(",;\t", key=first.count)
    lines = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    return [[value.strip() for value in line] for line in lines]


def _sheet_lines(path: Path, sheet: str) -> list[list[str]]:
    import zipfile

    import openpyxl  # not at the top: it loads numpy, and `--list` must not wait for that
    from openpyxl.utils.exceptions import InvalidFileException

    try:
        book = openpyxl.load_workbook(path, read_only=True, data_only=True)
    except (zipfile.BadZipFile, InvalidFileException, KeyError) as error:
        raise ValueError(f"{path}: not an xlsx ({error}); download it again") from None
    titles = {name.strip().lower(): name for name in book.sheetnames}
    if sheet and sheet.lower() not in titles:
        raise ValueError(f"{path}: no sheet {sheet}; it has {', '.join(book.sheetnames)}")
    page = book[titles[sheet.lower()]] if sheet else book.worksheets[0]
    page.reset_dimensions()  # those that the file states may be wrong
    lines = [[_text(value) for value in line] for line in page.values]
    book.close()
    return lines


def _text(value: Any) -> str:
    """Return a cell as the string that a CSV would hold: a whole number without its ".0"."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return "" if value is None else str(value).strip()
