"""Texts of others as cells of a CSV, none of which a spreadsheet takes for a formula."""

import re

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


def safe_path(path: str) -> str:
    """Return a path that begins no formula, and that still leads to the file."""
    return f"./{path}" if path.startswith(_FORMULA) else path
