"""Which words in the column of splits are train, val and test, and which the user has to say."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from shlex import quote

from maskedclip.data.cell_values import is_missing
from maskedclip.shards.downloads.folder_names import plain_split
from maskedclip.shards.downloads.label_files import SURPLUS, Row, cell, names_of
from maskedclip.shards.downloads.missing_codes import said

NO_PART = "none"  # what WORD=none says: its rows are left out
_LISTED = 6
_SHOWN = 200  # rows that show what a column holds


def split_column(given: str) -> tuple[str, dict[str, str]]:
    """Return the column of a flag such as "usage:Public=train,Private=test", and what words mean.

    Raises ValueError where a word is said to be another split than train, val or test; "none" takes
    no part.
    """
    column, colon, meanings = given.rpartition(":")
    if not colon or "=" not in meanings:
        return given, {}
    words = {}
    for pair in meanings.split(","):
        word, _, split = (part.strip() for part in pair.rpartition("="))
        if not word or split not in ("train", "val", "test", "none"):
            raise ValueError(
                f"--split_column {given!r}: {pair.strip()!r} gives no split; write WORD=train, "
                f"WORD=val, WORD=test or WORD=none"
            )
        words[said(word)] = split
    return column.strip(), words


def with_splits(rows: Sequence[Row], column: str, words: Mapping[str, str]) -> list[Row]:
    """Return the rows with train, val, test or "" in the column of splits, those of none left out.

    Raises ValueError, with what the column holds, where a word is none of them.

    Args:
        words: what the user says of them, as `split_column` returns it.
    """
    (name,) = names_of(column)
    cells = Counter(cell(row, column) for row in rows)
    split_of = {text: _split_of(text, words) for text in cells}
    unclear = [text for text, count in cells.most_common() if split_of[text] is None]
    unused = words.keys() - {*map(said, cells)}
    if unclear or unused:
        listed = ", ".join(f"{text} ({cells[text]:,})" for text in unclear[:_LISTED])
        more = f" and {len(unclear) - _LISTED} more" if unclear[_LISTED:] else ""
        what = (
            f"holds {listed}{more}, which are none of train, val and test"
            if unclear
            else f"no row has {min(unused)}; it has {', '.join(cells)[:80]}"
        )
        raise ValueError(
            f"--split_column {column!r}: {what}; say what each means, as in "
            f"--split_column='{column}:{(unclear or [*cells])[0]}=train,...' (train, val, test, "
            f"or none: takes no part), or leave the flag out"
        )
    return [
        {**row, name: split_of[cell(row, column)] or ""}
        for row in rows
        if split_of[cell(row, column)] != NO_PART
    ]


def columns_of_splits(rows: Sequence[Row], used: Iterable[str]) -> set[str]:
    """Return a line for every column that holds train, val and test alone, and is not used."""
    lines = set()
    for name in {name for row in rows[:_SHOWN] for name in row} - {*names_of(used), SURPLUS}:
        if None in {_split_of(row.get(name, ""), {}) for row in rows[:_SHOWN]}:
            continue
        splits = Counter(_split_of(row.get(name, ""), {}) for row in rows)
        if splits["train"] and (splits["val"] or splits["test"]) and None not in splits:
            held = ", ".join(f"{split} {splits[split]:,}" for split in ("train", "val", "test"))
            lines.add(
                f"{name} ({held}): --split_column={quote(name)} takes it; without it test and val "
                f"are drawn here"
            )
    return lines


def _split_of(text: str, words: Mapping[str, str]) -> str | None:
    """Return the split of a cell, "" where it states none, None where that is not clear."""
    word = said(text)
    if word in words:
        return words[word]
    if is_missing(text):
        return ""
    return plain_split(text) or None
