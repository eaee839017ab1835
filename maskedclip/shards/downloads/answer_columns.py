"""What the columns of a user's table answer of an image: its class, its labels, or a number."""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from maskedclip.data.cell_values import is_missing, plain, presence
from maskedclip.data.class_names import NUMBER, class_names, spelling_key
from maskedclip.data.class_order import in_order
from maskedclip.data.label_kinds import SEPARATOR, joined, labels_in, number_text
from maskedclip.shards.downloads.label_files import Remarks, Row, cell, names_of

_CLASSES = 12  # at most so many are classes whatever they look like
WHOLE_CELLS = "none"  # as --label_separator: a cell is one class, whatever it holds
OF_ROWS = "rows"  # an image has a row for each of its labels
_ROW = "\x1f"  # between labels that were those of several rows
SEPARATORS = ("|", ";", ",", "/", "+", "&", "\N{FULLWIDTH COMMA}", "\N{IDEOGRAPHIC COMMA}")


class Answer(NamedTuple):
    """A task that a table answers, and how a row does."""

    task: str
    kind: str
    classes: tuple[str, ...]  # in order; none of a number
    text_of: Callable[[Row], str | None]  # as a sample's JSON has it; None where it has no entry
    lacking: Callable[[Row], str]  # the columns that keep a row from an entry
    words: Mapping[str, tuple[str, ...]] = {}  # of a class in captions; "": of none of the labels

    def categories_in(self, text: str) -> list[str]:
        """Return what captions say of an image with this text."""
        names = {"class": [text], "labels": labels_in(text) or [""], "number": []}[self.kind]
        return [word for name in names for word in self.words.get(name, ())]


def one_class(rows: Sequence[Row], column: str, task: str, remarks: Remarks) -> Answer:
    """Return the classes of a column; ValueError where no cell has one."""
    form_of = _forms(Counter(cell(row, column) for row in rows))
    classes = class_names(form_of[cell(row, column)] for row in rows)
    if not any(classes.class_of.values()):
        raise ValueError(
            f"--label_column {column!r}: none of the {len(rows)} rows has a class; give another "
            f"column, or leave the flag out"
        )
    remarks["spellings_joined"] |= set(classes.joined) | {
        f"{classes.class_of[form]}: also written {text}"
        for text, form in form_of.items()
        if form != text.strip() and classes.class_of[form]
    }
    remarks["labels_that_state_nothing"] |= set(classes.missing)
    remarks["none_is_a_grade"] |= set(classes.grades)
    remarks["taken_as_one_class"] |= _beside_numbers(classes.class_of.values())
    return Answer(
        task,
        "class",
        in_order({*classes.class_of.values()} - {""}),
        lambda row: classes.class_of[form_of[cell(row, column)]] or None,
        lambda _: column,
    )


_GRADE = re.compile(r"(?:grade|stage|level|class|label|category|severity|score|icdr|dr)[\W_]*(\d+)")
_BETWEEN = re.compile(r"(?<=\w)[\s_-]+(?=\w)|_")
_AT_THE_END = " ,;|\N{FULLWIDTH COMMA}"


def _forms(cells: Mapping[str, int]) -> dict[str, str]:
    """Return the cells of a class column as they are written, but for what would part a class.

    "DR," and "['DR']" are DR, and DR1 is "DR 1"; "Grade 1" is 1 where bare numbers stand beside it;
    where all cells say yes or no, yes and 1 are one class. The more frequent spelling counts.
    """
    form_of = {text: text.strip(_AROUND if _is_list(text) else _AT_THE_END) for text in cells}
    numbered = {
        form: match[1] for form in form_of.values() if (match := _GRADE.fullmatch(plain(form)))
    }
    if numbered and any(NUMBER.fullmatch(plain(form)) for form in form_of.values()):
        form_of = {text: numbered.get(form, form) for text, form in form_of.items()}
    stated = {text: form for text, form in form_of.items() if not is_missing(form)}
    yes_or_no = None not in map(presence, stated.values())
    alike: defaultdict[object, list[str]] = defaultdict(list)
    for text, form in stated.items():
        if yes_or_no:
            alike[presence(form)].append(text)
        elif re.search(r"[^\W\d_]", form):
            alike[_BETWEEN.sub("", plain(form))].append(text)
    for texts in alike.values():
        if len({spelling_key(form_of[text]) for text in texts}) > 1:
            name = max(texts, key=lambda text: (cells[text], text))
            form_of |= dict.fromkeys(texts, form_of[name])
    return form_of


def _beside_numbers(classes: Iterable[str]) -> set[str]:
    """Return a line for each class that is no number among numbers: 1?, 1-2, x."""
    names = {name for name in classes if name}
    numbered = sorted((n for n in names if NUMBER.fullmatch(plain(n))), key=spelling_key)
    others = names - {*numbered}
    if not others or len(numbered) < 2 or len(numbered) < len(others):
        return set()
    return {f"{name} (beside {numbered[0]} to {numbered[-1]})" for name in others}


def refuse_numbers(rows: Sequence[Row], column: str) -> None:
    """Raise ValueError where the classes of a column are numbers of something, or names of images.

    They are where there are many of them, and most have one image, or not all are whole numbers
    from 0 or 1.
    """
    cells = Counter(text for row in rows if not is_missing(text := cell(row, column)))
    keys = Counter(map(spelling_key, cells.elements()))
    if len(keys) <= _CLASSES:
        return
    numeric = all(NUMBER.fullmatch(key) for key in keys)
    values = [*map(float, keys)] if numeric else [0.0]
    measured = min(values) not in (0, 1) or not all(map(float.is_integer, values))
    if not measured and 2 * len(keys) <= keys.total():
        return
    fix = f"--number_column={column} takes numbers; " if numeric else ""
    raise ValueError(
        f"--label_column {column!r}: {len(keys)} different cells in {keys.total()} rows, such as "
        f"{next(iter(cells))[:40]!r}; {fix}--label_separator={WHOLE_CELLS} if each is a class"
    )


def refuse_several(rows: Sequence[Row], column: str, remarks: Remarks) -> None:
    """Raise ValueError where the cells of a column plainly hold several classes.

    They do where they hold `|` or are lists, and where each part between other signs is a class of
    its own in another cell. Where a part is one of another cell's, it is remarked on.
    """
    cells = Counter(text for row in rows if (text := cell(row, column)) and not is_missing(text))
    whole = {plain(text.strip(_AROUND) if _is_list(text) else text) for text in cells}
    for separator in SEPARATORS:
        parts_of = {text: [*map(plain, parts_of_cell(text, separator))] for text in cells}
        several = {text: parts for text, parts in parts_of.items() if len(parts) > 1}
        if separator == SEPARATOR:
            several |= {text: parts_of[text] for text in cells if separator in text}
        add = f"--label_separator='{separator}'"
        plainly = [
            text
            for text in sorted(several)
            if separator == SEPARATOR or _is_list(text) or {*several[text]} <= whole
        ]
        if plainly:
            images = sum(cells[text] for text in plainly)
            raise ValueError(
                f"--label_column {column!r}: {images} of {len(rows)} cells hold {separator}, such "
                f"as {plainly[0]!r}; if these are several labels of an image, add {add}, and if "
                f"each is one class --label_separator={WHOLE_CELLS}"
            )
        used = Counter(part for parts in parts_of.values() for part in {*parts})
        for text, parts in several.items():
            if any(used[part] > 1 for part in parts) and not NUMBER.fullmatch(plain(text)):
                remarks["taken_as_one_class"].add(f"{text} (several labels with {add})")


def in_one_row(rows: Sequence[Row], column: str) -> list[Row]:
    """Return rows that differ in a column alone as one, its labels together (`OF_ROWS`)."""
    together: dict[tuple[tuple[str, str], ...], list[str]] = {}
    (name,) = names_of(column)
    for row in rows:
        rest = tuple(sorted((n, text) for n, text in row.items() if n != name))
        together.setdefault(rest, []).append(row.get(name, ""))
    return [{**dict(rest), name: _ROW.join(texts)} for rest, texts in together.items()]


_AROUND = " \t'\"[](){}"  # of a list that a program wrote: ['DR', 'AMD']


def parts_of_cell(text: str, separator: str) -> list[str]:
    """Return the labels of a cell between separators, without what a program wrote around them."""
    parts = text.strip(_AROUND) if _is_list(text) else text
    found = [part.strip(_AROUND if _is_list(text) else None) for part in parts.split(separator)]
    return [part for part in found if part]


def _is_list(text: str) -> bool:
    return text[:1] + text[-1:] in ("[]", "()", "{}")


def labels_of_cells(
    rows: Sequence[Row], column: str, separator: str, task: str, remarks: Remarks
) -> Answer:
    """Return the labels that a column's cells hold, between separators.

    A cell that states nothing is of an image that was not examined. Raises ValueError where no
    cell has a label, where none has several, and for a label that holds `|`.
    """
    sign = _ROW if separator == OF_ROWS else separator
    parts_of = {text: parts_of_cell(text, sign) for text in {cell(row, column) for row in rows}}
    names = class_names(part for row in rows for part in parts_of[cell(row, column)])
    labels = {name for name in names.class_of.values() if name}
    if not labels:
        raise ValueError(
            f"--label_column {column!r}: none of the {len(rows)} rows has a label; give another "
            f"column, or leave the flag out"
        )
    if separator != OF_ROWS and all(len(parts) < 2 for parts in parts_of.values()):
        raise ValueError(
            f"--label_separator {separator!r}: no cell of {column} holds it; leave it out for a "
            f"class an image, or give the one that stands there"
        )
    bad = sorted(name for name in labels if SEPARATOR in name)
    if bad:
        raise ValueError(
            f"--label_column {column!r}: the label {bad[0]!r} holds {SEPARATOR}, which separates "
            f"labels in shards; give it as --label_separator, or write another sign in the table"
        )
    remarks["spellings_joined"] |= set(names.joined)
    remarks["labels_that_state_nothing"] |= set(names.missing)
    remarks["none_is_a_grade"] |= set(names.grades)
    order = in_order(labels)

    def text_of(row: Row) -> str | None:
        found = [names.class_of[part] for part in parts_of[cell(row, column)]]
        return joined(filter(None, found), order) or None

    return Answer(task, "labels", order, text_of, lambda _: column)


def _presences(rows: Sequence[Row], columns: Sequence[str]) -> Counter[tuple[str, bool | None]]:
    """Return how many cells of each column say yes, no, and neither; ValueError as it is below."""
    cells: Counter[tuple[str, bool | None]] = Counter()
    whole = 0
    for row in rows:
        said = {name: presence(cell(row, name)) for name in columns}
        for name in [name for name, has in said.items() if has is None]:
            if not is_missing(cell(row, name)):
                raise ValueError(
                    f"--label_columns: {cell(row, name)[:40]!r} of {name} is neither 0 nor 1, yes "
                    f"nor no, true nor false; give such columns alone (grades: --label_column)"
                )
        whole += None not in said.values()
        cells.update(said.items())
    write = "write 0 where an image was examined and has it not"
    for name in columns:  # of which the images without it would leave the task
        if cells[name, True] and cells[name, None] and not cells[name, False]:
            raise ValueError(
                f"--label_columns: {cells[name, True]} cells of {name} say that it is there, "
                f"{cells[name, None]} are empty or a code, and none is 0; {write}"
            )
    if not whole:
        raise ValueError(
            f"--label_columns: none of the {len(rows)} rows has a 0 or a 1 in each of "
            f"{', '.join(columns)}; {write}"
        )
    return cells


def labels_of_columns(
    rows: Sequence[Row], columns: Sequence[str], task: str, remarks: Remarks
) -> Answer:
    """Return the labels of columns of 0 and 1, yes and no, true and false: one a column.

    An image with an empty cell among them was not examined for that label, and has no entry.
    Raises ValueError for a cell that says neither, where no row is whole, and for a column without
    a 0 that has empty cells.
    """
    held = [name for name in columns if SEPARATOR in name]
    if held:
        raise ValueError(f"--label_columns: {held[0]!r} holds {SEPARATOR}; rename the column")
    heads = Counter(name for column in columns for name in names_of(column))
    twice = [name for name, times in heads.items() if times > 1]
    if twice:
        raise ValueError(f"--label_columns: {twice[0]!r} is named twice; name each column once")
    cells = _presences(rows, columns)
    remarks["labels_of_no_image"] |= {name for name in columns if not cells[name, True]}

    def text_of(row: Row) -> str | None:
        said = {name: presence(cell(row, name)) for name in columns}
        if None in said.values():
            return None
        return joined((name for name, has in said.items() if has), columns)

    def lacking(row: Row) -> str:
        return ", ".join(name for name in columns if is_missing(cell(row, name)))

    return Answer(task, "labels", tuple(columns), text_of, lacking)


def numbers_of(rows: Sequence[Row], column: str, task: str, remarks: Remarks) -> Answer:
    """Return the numbers of a column; ValueError where no cell is one.

    A cell that is no finite number gives no entry. A decimal comma is read where it can be nothing
    else, as in 0,57, or where such cells say that all commas of the column are.
    """
    written = Counter(cell(row, column) for row in rows)
    found = numbers(written)
    if not any(value is not None for value in found.values()):
        example = next(iter(sorted(filter(None, written))), "nothing")
        raise ValueError(
            f"--number_column {column!r}: none of the {len(rows)} rows has a number (such as "
            f"{example[:40]!r}); write numbers alone, without units and with a decimal point"
        )
    counted: Counter[float] = Counter()
    for text, value in found.items():
        if value is not None:
            counted[value] += written[text]
    outliers = _outliers(sorted(counted))
    for text, value in found.items():
        if value is None and text:
            remarks["cells_that_are_no_number"].add(f"{column} {text}: {written[text]} cells")
        elif value is not None and "," in text:
            read = f"{column} {text} as {number_text(value)}: {written[text]} cells"
            remarks["decimal_commas"].add(read)

    remarks["numbers_far_from_the_rest"] |= {
        f"{column} {number_text(value)}: {count} cells"
        for value, count in counted.items()
        if value in outliers
    }

    def text_of(row: Row) -> str | None:
        value = found[cell(row, column)]
        return None if value is None else number_text(value)

    return Answer(task, "number", (), text_of, lambda _: column)


def _outliers(values: Sequence[float]) -> set[float]:
    """Return the lowest and the highest few of sorted numbers, where a wide gap parts them."""
    few = len(values) // 10 or 1
    found = set()
    for number in range(1, few + 1 if len(values) > _CLASSES else 1):
        inner, above = values[:-number], values[-number:]
        if above[0] - inner[-1] > 2 * (inner[-1] - inner[0]):
            found |= {*above}
        inner, below = values[number:], values[:number]
        if inner[0] - below[-1] > 2 * (inner[-1] - inner[0]):
            found |= {*below}
    return found


_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?")
_COMMA = re.compile(r"[+-]?\d*,\d+")
_CERTAIN = re.compile(r"[+-]?(0*,\d+|\d+,(\d{1,2}|\d{4,}))")  # 0,571 and 12,5, but not 1,234


def numbers(cells: Iterable[str]) -> dict[str, float | None]:
    """Return the finite number that each cell of a column is, None where it is none."""
    texts = {text: plain(text).replace("\N{MINUS SIGN}", "-") for text in cells}
    commas = any(_CERTAIN.fullmatch(word) for word in texts.values())
    points = any("." in word and _NUMBER.fullmatch(word) for word in texts.values())

    def value(word: str) -> float | None:
        whole_column = commas and not points and _COMMA.fullmatch(word)
        if whole_column or _CERTAIN.fullmatch(word):
            word = word.replace(",", ".")
        # 1.234 beside 0,57 may be a thousand
        elif commas and re.fullmatch(r"[+-]?[1-9]\d{0,2}\.\d{3}", word):
            return None
        if not _NUMBER.fullmatch(word):
            return None
        return number if abs(number := float(word)) < float("inf") else None

    return {text: value(word) for text, word in texts.items()}
