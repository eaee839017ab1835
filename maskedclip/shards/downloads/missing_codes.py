"""What stands in a user's columns for "not known": -1, -9, 99 and 999, unknown, ungradable.

Such a code would be the lowest grade, a class of its own, or an age of 999 in a mean. It is taken
for an empty cell where it does not fit the rest of its column, and that is said with its count.
"""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from itertools import pairwise

from maskedclip.data.cell_values import is_missing, plain
from maskedclip.data.class_names import NUMBER
from maskedclip.data.label_kinds import number_text
from maskedclip.shards.downloads.answer_columns import numbers, parts_of_cell
from maskedclip.shards.downloads.label_files import Row, names_of

WORDS = frozenset({
    "unknown", "unk", "unkn", "not known", "hidden", "withheld", "undetermined", "not determined",
    "not available", "unavailable", "not applicable", "not given", "not specified", "not stated",
    "not recorded", "not reported", "not done", "not examined", "not assessed", "not graded",
    "ungraded", "unlabeled", "unlabelled", "no label", "not labeled", "not labelled",
    "not annotated", "unannotated", "to be determined", "tbd", "pending",
})  # fmt: skip
# of a grade; beside words such as "gradable" or "good" they are a class of image quality
UNGRADABLE = frozenset({
    "ungradable", "ungradeable", "not gradable", "not gradeable", "non gradable", "nongradable",
    "cannot grade", "cannot be graded", "unable to grade", "unreadable", "not readable",
})  # fmt: skip
_QUALITY = ("gradable", "gradeable", "good", "usable", "acceptable", "quality", "readable", "poor")
SMALL = frozenset({1, 3, 7, 8, 9})  # of which -1 and -3 are those of UK Biobank
LARGE = frozenset({77, 88, 99, 777, 888, 999, 7777, 8888, 9999, 99999, 255, 32768, 65535})
_BESIDE_WORDS = frozenset({-1.0, -9.0, -99.0, -999.0, 99.0, 999.0, 9999.0})
_LEAST = 3  # different values that show what a column holds
_MANY = 10  # different values, of which a repeated extreme is no count of something
_ROOM = 0.15  # of the width of a column, between 0 and the rest


def said(text: str) -> str:
    """Return the words of a cell without case, "_", "-" and punctuation around them."""
    return " ".join(plain(text).replace("_", " ").replace("-", " ").strip("'\"()[]{}.* ").split())


def codes_of_classes(cells: Mapping[str, int]) -> dict[str, str]:
    """Return the cells of a class column that state nothing, and why: a word, or a code.

    Args:
        cells: how often each stands there; empty ones and nan are passed over.
    """
    texts = [text for text in cells if not is_missing(text)]
    found = {text: "says that nothing is known" for text in texts if said(text) in WORDS}
    found |= {text: "has no letter and no digit" for text in texts if {*text} <= {*"*#"}}
    rest = [text for text in texts if text not in found]
    ungradable = [text for text in rest if said(text) in UNGRADABLE]
    others = [text for text in rest if text not in ungradable]
    quality = any(word in said(text) for text in others for word in _QUALITY)
    if ungradable and len({*map(said, others)}) > 1 and not quality:
        found |= dict.fromkeys(ungradable, "says that there is no grade")
    value_of = {text: _value(text) for text in others}
    values = {value for value in value_of.values() if value is not None}
    words = len(values) and len({said(text) for text in others if value_of[text] is None})
    if words:  # numbers beside names
        codes = values if words > 1 and values <= _BESIDE_WORDS else set()
        why = "is a number among names"
    else:
        codes = _codes_of_grades(values)
        span = sorted(map(number_text, values - codes), key=float) or [""]
        why = f"is no grade beside {span[0]} to {span[-1]}"
    return found | {text: why for text, value in value_of.items() if value in codes}


def _codes_of_grades(values: Collection[float]) -> set[float]:
    """Return the values that are codes beside grades from 0, or class numbers."""
    below = {value for value in values if value < 0}
    rest = {value for value in values if value >= 0}
    signed = below and len(below) > 1 and below == set(range(int(min(below)), 0))  # -2 -1 0 1 2
    if signed or rest == {1}:  # -1 and 1 are two classes
        below = set()
    base = rest - LARGE - {8, 9}
    # from 0 or 1 without a gap, as grades are
    whole = len(base) > 1 and min(base) in (0, 1) and len(base) == max(base) - min(base) + 1
    above = {value for value in rest - base if value > max(base) + 3} if whole else set()
    return below | above


def _value(text: str) -> float | None:
    word = plain(text).strip("()[]'\"").replace("\N{MINUS SIGN}", "-").replace(",", ".")
    return float(word) if NUMBER.fullmatch(word) else None


def codes_of_numbers(counts: Mapping[float, int]) -> set[float]:
    """Return the numbers of a column that are codes for "not known", as they do not fit the rest.

    -1 or -9 where nothing else is negative; 99 or 999, and any extreme that repeats, further from
    the rest than the rest is wide; 0 where the rest begins far above it.

    Args:
        counts: how often each number stands there.
    """
    rest = dict(counts)
    codes: set[float] = set()
    while far := _far_above(rest) or {-v for v in _far_above({-v: n for v, n in rest.items()})}:
        codes |= far
        rest = {value: count for value, count in rest.items() if value not in far}
    below = {value for value in rest if value < 0}
    if below <= {-code for code in SMALL | LARGE} and len(rest) >= 3 * len(below):
        codes |= below
        rest = {value: count for value, count in rest.items() if value not in below}
    return codes | _spikes(rest)


def _far_above(counts: Mapping[float, int]) -> set[float]:
    """Return the highest numbers, where a gap is below them that is wider than the rest."""
    values = sorted(counts)
    for place in range(_LEAST, len(values)):
        above, width = values[place:], values[place - 1] - values[0]
        gap = above[0] - values[place - 1]
        if all(_is_code(value, counts[value], gap, width, place) for value in above):
            return {*above}
    return set()


def _is_code(value: float, count: int, gap: float, width: float, others: int) -> bool:
    if abs(value) in LARGE and (abs(value) > 100 or count >= _LEAST):
        return gap > width
    if abs(value) in LARGE:  # 99 once is an age
        return gap > 3 * width
    if abs(value) in SMALL:
        return count > 1 and gap > width
    return count >= _LEAST and gap > (width if others >= _MANY else 3 * width)


def _spikes(counts: Mapping[float, int]) -> set[float]:
    """Return 0 and a code as the highest number, apart from the rest and often there."""
    values = sorted(counts)
    if len(values) < 2 * _LEAST:
        return set()
    found = set()
    low, *higher = values
    steps = [after - before for before, after in pairwise(higher[: len(higher) // 2 + 1])]
    room = higher[0] - low
    if low == 0 and counts[low] > 1 and room > 3 * max(steps) and room > _ROOM * (values[-1] - low):
        found.add(low)
    *lower, high = values
    steps = [after - before for before, after in pairwise(lower[len(lower) // 2 - 1 :])]
    often = counts[high] >= max(_LEAST, 2 * max(counts[value] for value in lower))
    if high in LARGE and often and high - lower[-1] > 3 * max(steps):
        found.add(high)
    return found


def without_codes(
    rows: Sequence[Row],
    column: str,
    kind: str,
    separator: str = "",
) -> tuple[list[Row], list[str]]:
    """Return the rows with empty cells in place of a column's codes, and a line for each code.

    Args:
        kind: of what the column answers: "class", "labels" (of 0 and 1), "number" or "patient".
        separator: between the labels of a cell, each of which may be a code.
    """
    (name,) = names_of(column)

    def parts(row: Row) -> list[str]:
        text = row.get(name, "")
        return parts_of_cell(text, separator) if separator else [text]

    cells = Counter(part for row in rows for part in parts(row))
    found = {
        "class": codes_of_classes,
        "labels": _codes_of_labels,
        "number": _codes_of_cells,
        "patient": _codes_of_patients,
    }
    why = found[kind](cells)
    lines = [f"{column} {text}, {why[text]}: {cells[text]} cells" for text in sorted(why)]
    kept = [
        {**row, name: separator.join(part for part in parts(row) if part not in why)}
        if why.keys() & {*parts(row)}
        else row
        for row in rows
    ]
    return kept, lines


def _codes_of_labels(cells: Mapping[str, int]) -> dict[str, str]:
    """Return the cells of a column of 0 and 1 that state neither."""
    found = {}
    for text in cells:
        value = _value(text)
        if value is None or value >= 0:
            code = value in {9, *LARGE} - {255}  # 0 and 255 are those of a mask
        else:
            code = -value in SMALL | LARGE
        if code or said(text) in WORDS | UNGRADABLE:
            found[text] = "is neither 0 nor 1"
    return found


def _codes_of_cells(cells: Mapping[str, int]) -> dict[str, str]:
    """Return the cells of a column of numbers that are codes."""
    value_of = {text: value for text, value in numbers(cells).items() if value is not None}
    counts: Counter[float] = Counter()
    for text, value in value_of.items():
        counts[value] += cells[text]
    codes = codes_of_numbers(counts)
    if not codes:
        return {}
    low, high = min(counts.keys() - codes), max(counts.keys() - codes)
    why = f"far from the rest ({number_text(low)} to {number_text(high)})"
    return {text: why for text, value in value_of.items() if value in codes}


def _codes_of_patients(cells: Mapping[str, int]) -> dict[str, str]:
    """Return 999, 9999 ... where it is no number of a patient, and would be one of many images."""
    return {
        text: why
        for text, why in _codes_of_cells(cells).items()
        if _value(text) in LARGE and float(text) >= 999 and cells[text] > 1
    }
