"""The classes of a column that people wrote: one class however it is spelt, none for no entry."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import NamedTuple

from maskedclip.data.cell_values import WHOLE, is_missing, plain, whole_number

NUMBER = re.compile(r"[+-]?(\d+[.,]?\d*|[.,]\d+)(e[+-]?\d+)?")
GRADES = frozenset({"minimal", "mild", "moderate", "severe"})  # beside which "none" is a grade,
LOWEST = frozenset({"normal", "no", "healthy", "absent", "no dr", "no_dr", "nodr"})  # but for these


class ClassNames(NamedTuple):
    """What the cells of a column mean."""

    class_of: dict[str, str]  # of every spelling, "" where it states nothing
    joined: list[str]  # a line for every class that is spelt in several ways
    missing: list[str]  # a line for every word that states nothing, with its number of cells
    grades: list[str]  # a line for every "none" that is a grade


def class_names(cells: Iterable[str]) -> ClassNames:
    """Return the classes of a column: "0", "0.0" and "00" are one, as are Normal and NORMAL.

    nan, N/A, None, null, ?, - and empty cells are no class. Only beside the grades mild, moderate
    or severe, and without another word for no disease, is "none" a grade of its own. A class has
    its most frequent spelling; a whole number that is written in several ways, or with ".0", is
    written without.
    """
    counts = Counter(cells)
    words = set(map(plain, counts))
    graded = bool(GRADES & words) and not LOWEST & words
    spellings: defaultdict[str, list[str]] = defaultdict(list)
    missing = []
    class_of = {}
    for text in sorted(counts):
        if is_missing(text) and not (graded and plain(text) == "none"):
            class_of[text] = ""
            missing += [f"{text}: {counts[text]} cells"] if text else []
        else:
            spellings[spelling_key(text)].append(text)
    joined = []
    for texts in spellings.values():
        name = _name(texts, counts)
        class_of |= dict.fromkeys(texts, name)
        others = [text for text in texts if text != name]
        if len(texts) > 1:
            joined.append(f"{name}: also written {', '.join(others)}")
    grades = [
        f"{text}: {counts[text]} cells"
        for text in sorted(counts)
        if class_of[text] and plain(text) == "none"
    ]
    return ClassNames(class_of, joined, missing, grades)


def joined_spellings(names: Iterable[str]) -> tuple[dict[str, str], list[str]]:
    """Return the class of every name that is another spelling of one, and a line for each class.

    Names of folders, and labels of tars, which are what they are but where two of them are one.
    """
    counts = Counter(names)
    spellings: defaultdict[str, list[str]] = defaultdict(list)
    for text in sorted(counts):
        spellings[spelling_key(text)].append(text)
    class_of: dict[str, str] = {}
    lines = []
    for texts in spellings.values():
        if len(texts) > 1:
            name = _name(texts, counts)
            class_of |= dict.fromkeys(texts, name)
            lines.append(f"{name}: also written {', '.join(t for t in texts if t != name)}")
    return class_of, lines


def spelling_key(text: str) -> str:
    """Return what is the same for all spellings of a class: case, blanks and "_", 1 and 1.0."""
    word = plain(text)
    if NUMBER.fullmatch(word):
        return f"{float(word.replace(',', '.')) + 0.0:.12g}"
    if re.search(r"[^\W\d_]", word):
        word = re.sub(r"(?<=\w)[\s_-]+(?=\w)", " ", word.replace("_", " "))
    return " ".join(word.split())


def _name(texts: list[str], counts: Counter[str]) -> str:
    """Return how a class is written: numbers that differ in spelling by their value."""
    without = {
        whole_number(plain(text)) if WHOLE.fullmatch(plain(text)) else text for text in texts
    }
    if len(without) == 1:
        return without.pop()
    if NUMBER.fullmatch(plain(texts[0])):
        return spelling_key(texts[0])
    return min(texts, key=lambda text: (-counts[text], text.swapcase()))
