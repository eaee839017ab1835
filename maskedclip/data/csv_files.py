"""CSV as this package writes it: rows end with LF, and any text of a cell comes back as it was."""

import csv
import io
from pathlib import Path
from typing import TextIO


class UnixLines:
    """The file that a csv.writer of usual line ends, CR LF, is given.

    That quotes what has either; one of lineterminator LF would leave a CR bare, which ends a row.
    """

    def __init__(self, file: TextIO) -> None:
        """`file` is opened with newline=""."""
        self._file = file

    def write(self, row: str) -> int:
        """Write a row, which ends with LF."""
        return self._file.write(row.removesuffix("\r\n") + "\n")


def csv_rows(path: Path) -> list[list[str]]:
    """Return the rows of a CSV of ours; ValueError where it is not UTF-8, or a quote is open."""
    text = path.read_bytes().decode()  # read_text would make LF of the CR within a cell
    try:
        return list(csv.reader(io.StringIO(text, newline=""), strict=True))
    except csv.Error as error:
        raise ValueError(str(error)) from None
