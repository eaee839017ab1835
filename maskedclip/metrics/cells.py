"""Texts of others as cells of a CSV, none of which a spreadsheet takes for a formula."""

import csv
import io
import re
from collections.abc import Iterable

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.IGNORECASE)
_FORMULA = tuple("=+-@\t\r")  # what a spreadsheet takes for the beginning of a formula


def safe_text(text: str) -> str:
    """Return a text with a ' before what would begin a formula; `given_text` has it back."""
    return f"'{text}" if _would_begin(text) and not _NUMBER.fullmatch(text) else text


def given_text(cell: str) -> str:
    """Return the text that `safe_text` made a cell of."""
    return cell[1:] if cell.startswith("'") and _would_begin(cell) else cell


def _would_begin(text: str) -> bool:
    return text.lstrip("'").startswith(_FORMULA)


def csv_row(cells: Iterable[str]) -> str:
    """Return a row of a CSV, ended by LF; a CR within a cell, which would end it too, is quoted."""
    text = io.StringIO(newline="")
    csv.writer(text).writerow(cells)  # which quotes the characters of its own line end, CR LF
    return text.getvalue().removesuffix("\r\n") + "\n"


def safe_path(path: str) -> str:
    """Return a path that begins no formula, and that still leads to the file."""
    return f"./{path}" if path.startswith(_FORMULA) else path
