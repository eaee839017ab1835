"""What the cells of tables say: what states nothing (nan, N/A, ?), and who is nobody."""

import re
import unicodedata

WHOLE = re.compile(r"([+-]?\d+)(?:[.,]0*)?")

MISSING = frozenset({
    "nan", "na", "n/a", "n.a.", "n.a", "<na>", "nat", "none", "null", "nil", "missing",
    "?", "??", "???", ".", "..", "-", "--", "---",
    "\N{EN DASH}", "\N{EM DASH}", "\N{MINUS SIGN}",
    "#n/a", "#na", "#ref!", "#value!", "#div/0!", "#name?", "#null!", "#num!",
})  # fmt: skip
NOBODY = MISSING | {
    "unknown", "unk", "unkn", "unknown patient", "patient unknown", "not known", "not available",
    "unspecified", "undefined", "unidentified", "anonymous", "anonymised", "anonymized", "anon",
    "no id", "noid", "no patient", "nobody", "no name", "noname", "not applicable", "not given",
    "not specified", "not recorded", "not stated", "withheld", "redacted", "removed", "hidden",
    "deidentified", "de identified", "anonymous patient", "patient", "-1",
}  # fmt: skip
YES = frozenset({"1", "1.0", "yes", "y", "true", "t", "positive", "present"})
NO = frozenset({"0", "0.0", "no", "n", "false", "f", "negative", "absent"})


def plain(text: str) -> str:
    """Return a cell without case, surplus blanks and the difference of full-width letters."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def is_missing(text: str) -> bool:
    """Return whether a cell states nothing: it is empty, or says nan, N/A, None, null, ?, -."""
    word = plain(text)
    return not word or word in MISSING or word.strip("'\"()[]{}") in MISSING | {""}


def patient_of(text: str | None) -> str | None:
    """Return the patient that a cell names; None for nobody: empty, nan, unknown, no_id, -1."""
    if text is None or is_missing(text):
        return None
    word = plain(text).strip("'\"()[]{}")
    if word in NOBODY or " ".join(re.split(r"[\s_-]+", word)).strip() in NOBODY:  # no_id
        return None
    return text


def whole_number(text: str) -> str:
    """Return "2" for "2.0" and "2,0", as spreadsheets and pandas write it; other text as it is."""
    match = WHOLE.fullmatch(text)
    return match[1] if match else text


def presence(text: str) -> bool | None:
    """Return whether a cell says that a label is there; None where it says neither."""
    word = plain(text)
    return True if word in YES else False if word in NO else None
