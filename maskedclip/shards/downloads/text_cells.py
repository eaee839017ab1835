"""Cells of reports and findings that say nothing and would be captions: "no report", -1."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from maskedclip.data.cell_values import is_missing
from maskedclip.shards.downloads.files import ENDINGS, ending_of
from maskedclip.shards.downloads.label_files import Row, names_of
from maskedclip.shards.downloads.missing_codes import UNGRADABLE, WORDS, said

_PLACEHOLDERS = WORDS | {
    "na", "no report", "no text", "no caption", "no description", "no comment", "no comments",
    "no notes", "see report", "see text", "see above", "see notes", "see chart", "as above",
    "report pending", "report to follow", "dictated", "report", "caption", "description", "text",
    "note", "notes", "comment", "todo", "xxx", "test", "string", "image", "photo", "fundus",
}  # fmt: skip
_AGE = re.compile(r"(?<![\w.])(-\d+|9{3,4}|1[3-9]\d|[2-8]\d\d)[ -]*(years?|yrs?|y/?o)\b", re.I)
_EMPTY = "states nothing"
_FEWEST = 5  # reports, of which more than half are the same


def says_nothing(text: str) -> str:
    """Return why a text is no caption, "" where it may be one."""
    words = said(text)
    if not re.search(r"[^\W\d_]", words):
        return "has no word"
    if words in _PLACEHOLDERS or words.startswith(("lorem ipsum", "insert ", "your text")):
        return _EMPTY
    return "is the name of a file" if ending_of(text) in ENDINGS and " " not in text else ""


def without_empty_reports(rows: Sequence[Row], column: str) -> tuple[list[Row], list[str]]:
    """Return the rows with empty cells in place of reports that say nothing, and lines on them."""
    (name,) = names_of(column)
    cells = Counter(text for row in rows if not is_missing(text := row.get(name, "")))
    why = {text: reason for text in cells if (reason := says_nothing(text))}
    kept = [{**row, name: ""} if row.get(name, "") in why else row for row in rows]
    return kept, _lines(column, {(text, reason): cells[text] for text, reason in why.items()})


def without_empty_findings(rows: Sequence[Row], column: str) -> tuple[list[Row], list[str]]:
    """Return the rows with the findings of a column that are findings, and a line for the others.

    "unknown, drusen" is drusen, and "-1" is none.
    """
    (name,) = names_of(column)
    dropped: Counter[tuple[str, str]] = Counter()
    kept = []
    for row in rows:
        parts = [part.strip() for part in re.split("[\N{FULLWIDTH COMMA},]", row.get(name, ""))]
        why = {
            part: reason for part in parts if not is_missing(part) and (reason := _no_finding(part))
        }
        dropped.update(why.items())
        rest = ", ".join(part for part in parts if part and part not in why)
        kept.append({**row, name: rest} if why else row)
    return kept, _lines(column, dropped)


def _no_finding(text: str) -> str:
    if is_missing(text):  # as everywhere
        return ""
    if said(text) in WORDS | UNGRADABLE:
        return _EMPTY
    return "" if re.search(r"[^\W\d_]", text) else "has no word"


def _lines(column: str, counts: Mapping[tuple[str, str], int]) -> list[str]:
    """Return a line for each reason; no example of numbers and names, which may be a patient's."""
    found: dict[str, Counter[str]] = {}
    for (text, why), count in counts.items():
        found.setdefault(why, Counter())[text] += count
    lines = []
    for why, texts in sorted(found.items()):
        example = f", such as {min(texts)[:40]}" if why == _EMPTY else ""
        lines.append(f"{column} {why}{example}: {texts.total()} cells")
    return lines


def on_reports(texts: Iterable[str]) -> dict[str, set[str]]:
    """Return remarks on the reports: one that most images have, and ages that nobody has."""
    counts = Counter(filter(None, texts))
    remarks: dict[str, set[str]] = {}
    ages = Counter(match[0] for text in counts.elements() if (match := _AGE.search(text)))
    if ages:
        remarks["reports_with_an_age_that_may_be_a_code"] = {
            f"{age}: {count} reports" for age, count in ages.items()
        }
    for text, count in counts.most_common(1):
        if count >= _FEWEST and 2 * count > counts.total():
            remarks["reports_that_are_the_same"] = {
                f"{text[:60]}: {count} of {counts.total()} reports"
            }
    return remarks
