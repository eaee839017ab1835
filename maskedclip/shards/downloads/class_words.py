"""What a class is called in captions: categories in its name, or the words of a user's file.

A name that says nothing gives none, and so no caption: a number, a grade without its disease, an
abbreviation that the dictionary does not know, another script than the text tower's.
"""

import difflib
import re
import tomllib
import unicodedata
from collections.abc import Iterable, Mapping
from pathlib import Path

from maskedclip.data.captions import categories_of
from maskedclip.data.cell_values import patient_of, plain
from maskedclip.data.expert_dictionary import CLASS_NAMES, EXPERT, KEYWORDS
from maskedclip.shards.downloads.label_files import cell, rows_of

COLUMNS = ("class", ("words", "category", "categories", "caption"))
_NO_WORDS = {"true", "false", "yes", "positive", "negative", "present", "absent"}
_KEYS = {key.lower() for key in EXPERT} | KEYWORDS.keys() | CLASS_NAMES.keys()
_RETINOPATHY = "diabetic retinopathy"
_GRADES = {  # without their disease they say nothing
    **dict.fromkeys(("none", "no", "absent"), f"no {_RETINOPATHY}"),
    **{grade: f"{grade} {_RETINOPATHY}" for grade in ("mild", "moderate", "severe")},
    **dict.fromkeys(("proliferative", "proliferate"), f"proliferative {_RETINOPATHY}"),
}
_GRADES_OF_ANY = {*_GRADES, "minimal", "early", "advanced", "late", "intermediate", "suspect"}
_ABBREVIATION = 4  # letters
_NUMBERED = re.compile(r"(class|cls|grade|label|category|type|group|stage|level)e?s? ?(\d+|[a-z])?")


def words_of_class(name: str) -> tuple[str, ...]:
    """Return the categories in a class name: "2_cataract" is cataract; "3" and "NaN" are none."""
    words = re.sub(r"[\s_]+", " ", re.sub(r"^[\d.]+[\s._-]*", "", name)).strip()
    words = re.sub(r"\s*[(\[][^)\]]*[)\]]$", "", words)  # "Healthy [Color Fundus]"
    apart = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", words)  # MildDR
    known = next((word for word in (words, apart) if plain(word) in _KEYS), "")
    if known:
        return tuple(categories_of(known))
    if patient_of(words) is None or plain(words) in _NO_WORDS | _GRADES_OF_ANY:
        return ()
    if _NUMBERED.fullmatch(plain(words)):  # class_1, grade 2
        return ()
    short = words.isupper() and words.isalpha() and len(words) <= _ABBREVIATION
    if short or not re.search("[a-z]{3}", words, re.IGNORECASE) or not _is_latin(words):
        return ()
    return tuple(categories_of(words))


def _is_latin(text: str) -> bool:
    return all(unicodedata.name(c, "").startswith("LATIN") for c in text if c.isalpha())


def words_of_classes(
    names: Iterable[str], task: str, given: Mapping[str, str] | None = None
) -> dict[str, tuple[str, ...]]:
    """Return the categories of each class of a task.

    Grades alone (Mild, Severe) are those of diabetic retinopathy where the task or another class
    says that.

    Args:
        given: words of a user's file, which come first; of the class "" those of an image that
            has none of several labels.
    """
    own = {name: words_of_class(name) for name in names}
    subject = words_of_class(task.replace("-", " "))
    retinopathy = any(_RETINOPATHY in word for words in (subject, *own.values()) for word in words)
    for name in own:
        grade = plain(re.sub(r"^[\d.]+[\s._-]*", "", name))
        if retinopathy and not own[name] and grade in _GRADES:
            own[name] = (_GRADES[grade],)
    written = {plain(name): words for name, words in (given or {}).items()}
    for name in own:
        if plain(name) in written:
            own[name] = tuple(categories_of(written[plain(name)]))
    if "" in written:
        own[""] = tuple(categories_of(written[""]))
    return own


def read_class_words(file: Path) -> dict[str, str]:
    """Return the words of each class in a TOML (class = "words") or a table (class, words).

    Raises ValueError, in one line, where it is neither.
    """
    where = f"--class_words {file}"
    if not file.is_file():
        raise ValueError(f"{where}: no such file; write a CSV with the columns class and words")
    if file.suffix.lower() != ".toml":
        rows, lacking = rows_of(file, COLUMNS, once=True)
        if lacking:
            raise ValueError(f"{where}: {lacking}; write the columns class and words")
        pairs = [(cell(row, COLUMNS[0]), cell(row, COLUMNS[1])) for row in rows]
    else:
        try:
            content = tomllib.loads(file.read_text(encoding="utf-8"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ValueError(f'{where}: {error}; write lines such as "No DR" = "normal"') from None
        pairs = [(name, _text(where, name, words)) for name, words in content.items()]
    words: dict[str, str] = {}
    for name, text in pairs:
        if words.setdefault(name, text) != text:
            raise ValueError(f"{where}: the class {name!r} stands there twice; keep one line")
    return words


def _text(where: str, name: str, words: object) -> str:
    texts = words if isinstance(words, list) else [words]
    if not all(isinstance(text, str) for text in texts):
        raise ValueError(f'{where}: {name} is no text; write lines such as "RP" = "words of it"')
    return ", ".join(map(str, texts))


def unused_words(given: Mapping[str, str], names: Iterable[str]) -> set[str]:
    """Return a line for each class of a user's file that no image has, with the nearest one."""
    known = {plain(name): name for name in names}
    lines = set()
    for name in given:
        if name and plain(name) not in known:
            near = difflib.get_close_matches(plain(name), known, n=1)
            lines.add(f"{name} (did you mean {known[near[0]]}?)" if near else name)
    return lines
