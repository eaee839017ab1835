"""Label files: CSV with commas, semicolons or tabs, XLSX, JSON; and which image a row labels."""

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from maskedclip.data.cell_values import is_missing, patient_of, plain, presence, whole_number
from maskedclip.data.label_kinds import joined
from maskedclip.data.storage.first_bytes import not_the_file
from maskedclip.shards.downloads.cards import DatasetCard, LabelTable
from maskedclip.shards.downloads.image_names import ImageNames, Named, stem_of

Row = dict[str, str]  # by heading in lower case
SURPLUS = ""  # in place of a heading, of the cells of a text file that stand under none
TITLE_LINES = 12  # at most so many lines stand above the heading


def names_of(columns: str | Iterable[str]) -> tuple[str, ...]:
    """Return one column or several alternatives, normalised: lower case, single blanks."""
    given = (columns,) if isinstance(columns, str) else columns
    return tuple(" ".join(name.lower().split()) for name in given)


def cell(row: Row, columns: str | Iterable[str]) -> str:
    """Return the first of the columns that is not empty, else ""."""
    return next((row[name] for name in names_of(columns) if row.get(name)), "")


def rows_of(
    path: Path,
    wanted: Sequence[str | Iterable[str]] = (),
    sheet: str = "",
    *,
    once: bool = False,
) -> tuple[list[Row], str]:
    """Return the rows of a label file, and "" or a message of the columns that it lacks.

    Args:
        wanted: columns that the heading holds, of alternatives one. It is the first line that has
            them, with the line below it where a title spans several columns of that.
        sheet: of an XLSX; the first if not given.
        once: whether a wanted column that the heading has twice is a lack, and not the first.

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
                heads = names_of(lines[number])
                twice = [n for names in groups for n in names if once and heads.count(n) > 1]
                if twice:
                    return [], f"two columns are called {twice[0]}; rename one of them"
                # a comment beside a sheet shifts nothing, a comma in a text file does
                text = path.suffix.lower() != ".xlsx"
                width = max(map(len, lines[number : number + height])) if text else None
                return _by_heading(heading, width, lines[number + height :]), ""
    titles = max(lines[:TITLE_LINES], key=lambda line: sum(map(bool, line)), default=[])
    heading = dict.fromkeys(names_of(titles), 0)
    missing = [" or ".join(names) for names in groups if not any(n in heading for n in names)]
    present = ", ".join(title for title in titles if title) or "nothing"
    return [], f"no column {', '.join(missing)}; it has {present}"


def _by_heading(
    heading: dict[str, int], width: int | None, lines: Iterable[list[str]]
) -> list[Row]:
    rows = []
    for line in filter(any, lines):
        row = {
            name: line[column] for name, column in heading.items() if name and column < len(line)
        }
        surplus = "" if width is None else " ".join(filter(None, line[width:]))
        rows.append(row | {SURPLUS: surplus} if surplus else row)
    return rows


def _lines(path: Path, sheet: str) -> list[list[str]]:
    with path.open("rb") as file:
        wrong = not_the_file(file.read(64))
    if wrong:
        raise ValueError(f"{path}: {wrong}")
    if path.suffix.lower() == ".xlsx":
        return _sheet_lines(path, sheet)
    if path.suffix.lower() in (".xls", ".ods", ".numbers"):
        raise ValueError(f"{path}: cannot be read; save it as {path.stem}.xlsx or {path.stem}.csv")
    try:
        text = path.read_text(encoding="utf-8-sig")
        if "\0" in text:
            raise ValueError(f"{path}: holds null bytes; save it as UTF-8")
        if path.suffix.lower() == ".json":
            content = json.loads(text)
            entries = list(content.values() if isinstance(content, dict) else content)
            heading = list({name: 0 for entry in entries for name in entry})
            return [heading, *([_text(entry.get(n)) for n in heading] for entry in entries)]
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 ({error.reason}); save it as UTF-8") from None
    except (json.JSONDecodeError, AttributeError, TypeError) as error:
        raise ValueError(f"{path}: not a table in JSON ({error}); download it again") from None
    return list(_csv_lines(path, text))


def _csv_lines(path: Path, text: str) -> Iterator[list[str]]:
    """Yield the rows of a CSV; ValueError, with the line, where a quote is left open."""
    delimiter = max(",;\t", key=text.partition("\n")[0].count)
    printed = list(io.StringIO(text, newline=""))
    reader = csv.reader(printed, delimiter=delimiter)
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
        list(csv.reader(printed, delimiter=delimiter, strict=True))
    except csv.Error as error:
        return len(printed) > 1 or "unexpected end" in str(error)
    for column, value in enumerate(line):
        first, *others = [piece.count(delimiter) for piece in value.splitlines() or [""]]
        full = [width - 1] * (len(others) - 1)
        rows = (first, others) == (width - 1 - column, [*full, column])
        if others and rows and width > 2 and f"{delimiter} " not in value:
            return True
    return False


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
    words: dict[str, frozenset[str]] = {}  # noqa: RUF012 - of a task, those that the card knows


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
                words = {task: _known_words(card, task) for task in table.labels}
                yield LabelFile(source, table, groups, rows, words)
        if refused and not read:
            raise ValueError(f"--root {root}: {refused[0]}; is it the label file of {card.title}?")
        remarks["label_files_not_read"].update(refused)


def _known_words(card: DatasetCard, task: str) -> frozenset[str]:
    known = [*card.values.get(task, {}), *card.classes.get(task, {})]
    return frozenset(name for word in known for name in names_of(word))


class ImageRow(NamedTuple):
    """What a label file states of an image."""

    image: str
    values: dict[str, str]
    copies: tuple[str, ...]  # other images of the same name


def rows_of_images(
    file: LabelFile, images: Iterable[str], root: Path, remarks: Remarks
) -> tuple[list[ImageRow], set[str]]:
    """Return a row for every image that the file labels, and the images that it leaves unclear.

    Unclear are those with rows that disagree, and those of one name in several folders.
    """
    inside = file.table.inside.format(**file.groups).lower()
    names = ImageNames(images, root, inside, nearest=True)
    found: dict[str, ImageRow] = {}
    unclear: set[str] = set()
    nameless = shifted = 0
    for row in file.rows:
        name = _image_name(file.table, row)
        values = _values(file, row)
        named = names.named(name, values.get("split", "").lower()) if name else Named()
        shifted += SURPLUS in row
        if SURPLUS in row:
            continue
        if not name:
            nameless += 1
        elif named.unclear:
            remarks["names_of_several_images"].add(f"{file.source}: {stem_of(name)}")
            unclear.update(named.unclear)
        elif not named.image:
            remarks["labels_without_image"].add(stem_of(name))
        else:
            before = found.setdefault(named.image, ImageRow(named.image, values, named.copies))
            if _plain(before.values) != _plain(values):
                remarks["images_with_two_rows"].add(f"{file.source}: {stem_of(name)}")
                unclear.add(named.image)
    if nameless:  # without the content of the rows: it may identify patients
        remarks["rows_that_name_no_image"].add(f"{file.source}: {nameless} rows")
    if shifted:
        remarks["rows_longer_than_the_heading"].add(f"{file.source}: {shifted} rows")
    if file.table.patient:
        remarks["patients_unknown"] |= _nobodies(file)
    return [row for image, row in found.items() if image not in unclear], unclear


def _nobodies(file: LabelFile) -> set[str]:
    """Return a line for every word of the patients' column that is no patient."""
    written = [stem_of(cell(row, file.table.patient)) for row in file.rows]
    words = Counter(word for word in written if word and patient_of(word) is None)
    return {f"{file.source}: {word}: {count} rows" for word, count in words.items()}


def _plain(values: dict[str, str]) -> dict[str, str]:
    return {name: plain(text) for name, text in values.items()}


def _image_name(table: LabelTable, row: Row) -> str:
    name = cell(row, table.image).replace("\\", "/")
    if table.image_pattern:
        match = re.search(table.image_pattern, name)
        name = match[1].strip() if match else ""
    return "" if is_missing(name) else name


def _values(file: LabelFile, row: Row) -> dict[str, str]:
    """Return the values of a row, as written in the dataset, without those that state nothing."""
    table = file.table
    values = {task: whole_number(cell(row, columns)) for task, columns in table.labels.items()}
    patient = whole_number(stem_of(cell(row, table.patient))) if table.patient else ""
    values["patient"] = patient_of(patient) or ""
    if isinstance(table.eye, str):
        values["eye"] = cell(row, table.eye)
    else:
        values["eye"] = next((side for side, name in table.eye.items() if cell(row, name)), "")
    of_row = cell(row, table.split_column)
    values["split"] = of_row or table.split or file.groups.get("split", "")
    stated = {
        name: text
        for name, text in values.items()
        if not is_missing(text) or names_of(text)[0] in file.words.get(name, ())
    }
    for task, columns in table.several.items():
        said = {column: presence(cell(row, column)) for column in columns}
        if None not in said.values():  # else the image was not examined for one of them
            stated[task] = joined((column for column, has in said.items() if has), columns)
    return stated
