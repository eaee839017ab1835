"""Label files: the rows under a heading, and which image a row labels."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from maskedclip.data.cell_values import is_missing, patient_of, plain, presence, whole_number
from maskedclip.data.label_kinds import joined
from maskedclip.shards.downloads.cards import DatasetCard, LabelTable
from maskedclip.shards.downloads.image_names import ImageNames, Named, stem_of
from maskedclip.shards.downloads.table_lines import is_sheet, pages_of

Row = dict[str, str]  # by heading in lower case
SURPLUS = ""  # in place of a heading, of the cells of a text file that stand under none
_UNSEEN = dict.fromkeys(
    map(ord, "\N{ZERO WIDTH NO-BREAK SPACE}\N{ZERO WIDTH SPACE}\N{SOFT HYPHEN}")
)
TITLE_LINES = 12  # at most so many lines stand above the heading


def names_of(columns: str | Iterable[str]) -> tuple[str, ...]:
    """Return one column or several alternatives, normalised: lower case, single blanks."""
    given = (columns,) if isinstance(columns, str) else columns
    return tuple(" ".join(name.translate(_UNSEEN).lower().split()) for name in given)


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
            them, with the one or two below it where a title spans several columns of that.
        sheet: of an XLSX; the first if not given.
        once: whether a wanted column that the heading has twice is a lack, and not the first; and
            whether of an XLSX the sheet that alone has the columns is meant.

    Values are stripped strings. Raises ValueError for a file that is not of the type of its name.
    """
    groups = [names_of(columns) for columns in wanted]
    found: dict[str, tuple[list[Row], str]] = {}
    for title, lines in pages_of(path, sheet, every=once).items():
        found[title] = _rows_of_lines(path, lines, groups, once=once)
    whole = [title for title, (_, lacking) in found.items() if not lacking]
    if len(whole) > 1:
        raise ValueError(
            f"{path}: the sheets {' and '.join(whole)} have these columns; keep one, or put their "
            f"rows together"
        )
    return found[whole[0]] if whole else next(iter(found.values()))


def _rows_of_lines(
    path: Path, lines: list[list[str]], groups: Sequence[tuple[str, ...]], *, once: bool
) -> tuple[list[Row], str]:
    for number in range(min(len(lines), TITLE_LINES)):
        for height in (1, 2, 3):
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
                text = not is_sheet(path)
                width = max(map(len, lines[number : number + height])) if text else None
                return _by_heading(heading, width, lines[number + height :]), ""

    def words(line: list[str]) -> int:
        return sum(re.search(r"[^\W\d_]", title) is not None for title in line)

    titles = max(lines[:TITLE_LINES], key=words, default=[])
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
