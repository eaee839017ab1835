"""Label files: CSV with commas, semicolons or tabs, XLSX, JSON; and which image a row labels."""

import csv
import io
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from maskedclip.shards.downloads.cards import DatasetCard, LabelTable
from maskedclip.shards.downloads.files import ENDINGS

Row = dict[str, str]  # by heading in lower case
TITLE_LINES = 12  # at most so many lines stand above the heading


def names_of(columns: str | Iterable[str]) -> tuple[str, ...]:
    """Return one column or several alternatives, normalised: lower case, single blanks."""
    given = (columns,) if isinstance(columns, str) else columns
    return tuple(" ".join(name.lower().split()) for name in given)


def cell(row: Row, columns: str | Iterable[str]) -> str:
    """Return the first of the columns that is not empty, else ""."""
    return next((row[name] for name in names_of(columns) if row.get(name)), "")


def rows_of(
    path: Path, wanted: Sequence[str | Iterable[str]] = (), sheet: str = ""
) -> tuple[list[Row], str]:
    """Return the rows of a label file, and "" or a message of the columns that it lacks.

    Args:
        wanted: columns that the heading holds, of alternatives one. It is the first line that has
            them, with the line below it where a title spans several columns of that.
        sheet: of an XLSX; the first if not given.

    Values are stripped strings. Raises ValueError for a file that is not of the type of its name.
    """
    lines = _lines(path, sheet)
    groups = [names_of(columns) for columns in wanted]
    for number in range(min(len(lines), TITLE_LINES)):
        for height in (1, 2):
            heading: dict[str, int] = {}
            for line in lines[number : number + height]:
                for column, name in enumerate(names_of(line)):
                    heading.setdefault(name, column)
            if all(any(name in heading for name in names) for names in groups):
                return _by_heading(heading, lines[number + height :]), ""
    titles = max(lines[:TITLE_LINES], key=lambda line: sum(map(bool, line)), default=[])
    heading = dict.fromkeys(names_of(titles), 0)
    missing = [" or ".join(names) for names in groups if not any(n in heading for n in names)]
    present = ", ".join(title for title in titles if title) or "nothing"
    return [], f"no column {', '.join(missing)}; it has {present}"


def _by_heading(heading: dict[str, int], lines: Iterable[list[str]]) -> list[Row]:
    return [
        {name: line[column] for name, column in heading.items() if name and column < len(line)}
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
    page.reset_dimensions()  # the dimensions stated in the file may be wrong
    lines = [[_text(value) for value in line] for line in page.values]
    book.close()
    return lines


def _text(value: Any) -> str:
    """Return a cell as the string that a CSV would hold: a whole number without its ".0"."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return "" if value is None else str(value).strip()


Remarks = dict[str, set[str]]


class LabelFile(NamedTuple):
    """A label file after reading."""

    source: str
    table: LabelTable
    groups: dict[str, str]  # of the pattern of its path
    rows: list[Row]


def label_files(
    card: DatasetCard, root: Path, others: list[str], remarks: Remarks
) -> Iterator[LabelFile]:
    """Yield every label file, those of a later table last: the later value wins.

    Raises ValueError where all files that match a table lack columns.
    """
    for table in card.tables:
        read, refused = 0, []
        for source in others:
            match = re.search(table.file, "/" + source, re.IGNORECASE)
            if match is None:
                continue
            rows, lacking = rows_of(root / source, table.wanted, table.sheet)
            if lacking:
                refused.append(f"{source}: {lacking}")
            else:
                read += 1
                groups = {name: text or "" for name, text in match.groupdict().items()}
                yield LabelFile(source, table, groups, rows)
        if refused and not read:
            raise ValueError(f"--root {root}: {refused[0]}; is it the label file of {card.title}?")
        remarks["label_files_not_read"].update(refused)


def rows_of_images(
    file: LabelFile, images: Iterable[str], remarks: Remarks
) -> Iterator[tuple[str, dict[str, str], list[str]]]:
    """Yield for every row its image, its values, and other images of the same name."""
    by_stem = images_by_stem(images, file.table.inside.format(**file.groups).lower())
    values_of: dict[str, dict[str, str]] = {}
    nameless = 0
    for row in file.rows:
        name = _image_name(file.table, row)
        chosen, *others = images_named(name, by_stem) or [""]
        if not name:
            nameless += 1
        elif not chosen:
            remarks["labels_without_image"].add(stem_of(name))
        else:
            values = _values(file.table, row, file.groups)
            if values_of.setdefault(chosen, values) != values:
                remarks["images_with_two_rows"].add(f"{file.source}: {stem_of(name)}")
            yield chosen, values, others
    if nameless:  # without the content of the rows: it may identify patients
        remarks["rows_that_name_no_image"].add(f"{file.source}: {nameless} rows")


def images_by_stem(sources: Iterable[str], inside: str) -> dict[str, list[str]]:
    """Return the images inside a part of the tree by stem, those nearest the root first."""
    by_stem: dict[str, list[str]] = {}
    for source in sorted(sources, key=lambda s: s.count("/")):
        if inside in "/" + source.lower():
            by_stem.setdefault(stem_of(source.rpartition("/")[2]).lower(), []).append(source)
    return by_stem


def stem_of(name: str) -> str:
    """Return a file's name without its ending where that is one of an image."""
    stem, ending = os.path.splitext(name)  # noqa: PTH122 - quick on many
    return stem if ending.lower() in ENDINGS else name


def _image_name(table: LabelTable, row: Row) -> str:
    name = cell(row, table.image).replace("\\", "/")
    if table.image_pattern:
        match = re.search(table.image_pattern, name)
        name = match[1].strip() if match else ""
    return name


def images_named(name: str, by_stem: Mapping[str, list[str]]) -> list[str]:
    """Return the images of a name; its folders and its ending count where any image has them."""
    folder, _, last = name.lower().removeprefix("./").rpartition("/")
    matches = by_stem.get(stem_of(last), [])
    within = [s for s in matches if f"/{s.lower()}".rpartition("/")[0].endswith(f"/{folder}")]
    matches = within if folder and within else matches
    return [s for s in matches if s.lower().endswith(last)] or matches


def _values(table: LabelTable, row: Row, groups: Mapping[str, str]) -> dict[str, str]:
    """Return the values of a row, as written in the dataset, without the empty ones."""
    values = {task: cell(row, columns) for task, columns in table.labels.items()}
    values["patient"] = stem_of(cell(row, table.patient)) if table.patient else ""
    if isinstance(table.eye, str):
        values["eye"] = cell(row, table.eye)
    else:
        values["eye"] = next((side for side, name in table.eye.items() if cell(row, name)), "")
    of_row = cell(row, table.split_column)
    values["split"] = of_row or table.split or groups.get("split", "")
    return {name: text for name, text in values.items() if text}
