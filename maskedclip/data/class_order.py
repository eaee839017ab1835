"""The order of classes: as stated, else that of their numbers or of a known scale, else natural.

Quadratic kappa measures steps between classes, so it means something for grades alone: names that
are numbers (0 1 2, grade 2), or words of one scale (none, mild, moderate, severe) about one
disease. Two classes need no order: their kappa is the same in both.
"""

import re
from collections.abc import Iterable, Sequence
from itertools import pairwise

# Rungs of the scale of severity, the lowest first; the words of a rung mean the same.
_SEVERITY = (
    "no none normal healthy negative absent absence nil control non without",
    "suspect suspected suspicious suspicion borderline possible questionable",
    "minimal trace incipient",
    "mild early slight initial",
    "moderate intermediate medium",
    "severe advanced late",
    "endstage",
    "proliferative proliferate pdr",
)
_RUNG_OF = {word: rung for rung, words in enumerate(_SEVERITY) for word in words.split()}
_VERY = {3: 2, 5: 6}  # mild, severe
_PROLIFERATIVE, _ADVANCED_PROLIFERATIVE = 7, 8
_LEVELS = (  # scales of other words, each of one word a class
    ("low", "medium moderate intermediate mid middle", "high"),
    ("small", "medium moderate intermediate mid middle", "large big"),
    ("reject ungradable unusable bad poor", "usable fair acceptable average", "good", "excellent"),
)
_NOT_PROLIFERATIVE = {"npdr", "nonproliferative"}  # a whole stage where no grade stands beside it
_PRESENT = {"present", "positive", "definite", "confirmed", "certain", "glaucomatous", "yes"}
_NEUTRAL = {
    "eye", "eyes", "fundus", "retina", "retinal", "image", "images", "disease", "sign", "signs",
    "finding", "findings", "apparent", "visible", "change", "changes", "or", "of", "for", "with",
    "the", "a", "grade", "graded", "stage", "level", "class", "degree", "quality", "risk",
}  # fmt: skip
_GRADE = {"grade", "stage", "level", "severity", "score", "dr", "dme", "amd", "icdr"}
_JOINED = re.compile(
    "^(no|non|mild|early|moderate|severe|advanced|proliferative|proliferate)"
    "(dr|npdr|pdr|amd|dme|glaucoma)$"
)
_DISEASES = {"dr", "amd", "dme", "glaucoma", "cataract", "myopia"}
_SUBJECTS = (  # phrases that are one disease
    ("diabetic retinopathy", "dr"),
    ("non proliferative", "nonproliferative"),
    ("end stage", "endstage"),
    ("at risk", "suspect"),
    ("age related macular degeneration", "amd"),
    ("macular degeneration", "amd"),
    ("armd", "amd"),
    ("diabetic macular edema", "dme"),
    ("diabetic macular oedema", "dme"),
    ("macular edema", "dme"),
    ("macular oedema", "dme"),
    ("retinopathy", "dr"),
)


def in_order(classes: Iterable[str]) -> tuple[str, ...]:
    """Return class names in the order of their grades, else naturally: 1, 2, 10; a2, a10."""
    names = sorted(classes, key=_natural)
    ranks = _ranks(names)
    if ranks is None or len(names) < 3:
        return tuple(names)
    return tuple(name for _, name in sorted(zip(ranks, names, strict=True)))


def is_ordered(classes: Sequence[str]) -> bool:
    """Return whether quadratic kappa has a meaning for classes in this order: they are grades."""
    if len(classes) < 3:
        return True
    ranks = _ranks(classes)
    if ranks is None:
        return False
    steps = {before < after for before, after in pairwise(ranks)}
    return len(steps) == 1


def positive_of_two(classes: Sequence[str]) -> int:
    """Return which of two classes is the finding: the one that is not called normal, or the last.

    "glaucoma" of "glaucoma" and "no glaucoma", 1 of 0 and 1.
    """
    healthy = [_rung(_words(name))[0] == 0 for name in classes]
    return 0 if healthy == [False, True] else 1


def places_on_a_scale(names: Sequence[str]) -> list[float] | None:
    """Return each name's place on a scale of words, which all are of and two may share, or None.

    Names that are numbers are of none: 0 may be the best or the worst of another scale.
    """
    return _words_of_a_scale([_words(name) for name in names])


def diseases_in(name: str) -> frozenset[str]:
    """Return the known diseases that a class or a task names: of dr_grade that is dr."""
    return frozenset(_words(name.replace("_", " "))) & _DISEASES


def says_what(name: str) -> bool:
    """Return whether a class says what it is a class of: mild DR, drusen; not mild, yes or 2."""
    words = _words(name.replace("_", " "))
    return bool(_rung(words)[1]) if words else not name.isascii()


def nothing_found(name: str) -> bool:
    """Return whether a class is the absence of any finding: normal, healthy; not "no glaucoma"."""
    words = _words(name)
    return bool(words) and _rung(words) == (0, frozenset())


def _natural(name: str) -> tuple[tuple[tuple[int, float, str], ...], str]:
    if _is_number(name):
        return ((0, float(name), ""),), name
    parts = re.findall(r"[0-9]+|[^0-9]+", name)
    key = [(0, float(part), "") if part[0] in "0123456789" else (1, 0.0, part) for part in parts]
    return tuple(key), name


def _is_number(text: str) -> bool:
    return re.fullmatch(r"-?([0-9]+\.?[0-9]*|\.[0-9]+)", text) is not None


def _ranks(names: Sequence[str]) -> list[float] | None:
    """Return each name's place on the scale that all are of, None where there is none."""
    found = _numbers(names)
    if found is None:
        found = _words_of_a_scale([_words(name) for name in names])
    if found is None and _lettered(names):  # aNoDR, bMildDR, as RETFound's folders are
        found = _words_of_a_scale([_words(name[1:]) for name in names])
    return found if found is not None and len(set(found)) == len(names) else None


def _numbers(names: Sequence[str]) -> list[float] | None:
    if all(map(_is_number, names)):
        return [float(name) for name in names]
    parts = [re.fullmatch(r"([A-Za-z]+)[ _-]*([0-9]+)", name) for name in names]
    words = {part[1].lower() for part in parts if part}
    if all(parts) and len(words) == 1 and words <= _GRADE:
        return [float(part[2]) for part in parts if part]
    return None


def _lettered(names: Sequence[str]) -> bool:
    letters = sorted(name[:1].lower() for name in names)
    return letters == [chr(ord("a") + i) for i in range(len(names))]


def _words(name: str) -> list[str]:
    """Return the words of a name in lower case, without its leading number; none where unclear."""
    if not name.isascii():
        return []
    name = re.sub(r"^[0-9.]+", "", name)
    words = [w.lower() for w in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+", name)]
    joined = " ".join(_JOINED.sub(r"\1 \2", word) for word in words)
    text = f" {joined} "
    for phrase, subject in _SUBJECTS:
        text = text.replace(f" {phrase} ", f" {subject} ")
    return text.split()


def _words_of_a_scale(names: Sequence[Sequence[str]]) -> list[float] | None:
    return _severity(names) or _levels(names)


def _levels(names: Sequence[Sequence[str]]) -> list[float] | None:
    """Return the places on a scale such as low, medium, high."""
    bare = [[word for word in words if word not in _NEUTRAL] for words in names]
    if any(len(words) != 1 for words in bare):
        return None
    for scale in _LEVELS:
        rung_of = {word: rung for rung, words in enumerate(scale) for word in words.split()}
        if all(words[0] in rung_of for words in bare):
            return [float(rung_of[words[0]]) for words in bare]
    return None


def _severity(names: Sequence[Sequence[str]]) -> list[float] | None:
    """Return the places on the scale of severity; all names are about one disease, or none."""
    subjects: set[frozenset[str]] = set()
    rungs: list[int | str] = []
    for words in names:
        rung, rest = _rung(words)
        if rung is None:
            return None
        rungs.append(rung)
        subjects |= {rest} if rest else set()
    if len(subjects) > 1:
        return None
    numbers = {rung for rung in rungs if isinstance(rung, int)}
    if "present" in rungs and not (numbers <= {0, 1} and 1 in numbers):  # normal, suspect, glaucoma
        return None
    if "nonproliferative" in rungs and not numbers <= {0, _PROLIFERATIVE}:  # normal, NPDR, PDR
        return None
    if "present" in rungs and "nonproliferative" in rungs:
        return None
    return [float(rung) if isinstance(rung, int) else 2.5 for rung in rungs]


def _rung(words: Sequence[str]) -> tuple[int | str | None, frozenset[str]]:
    """Return the place of a name on the scale, None where it has none, and its other words."""
    own = {*words}
    rungs = {_RUNG_OF[word] for word in words if word in _RUNG_OF}
    rest = own - _RUNG_OF.keys() - _NOT_PROLIFERATIVE - _PRESENT - _NEUTRAL - {"very", "high"}
    implied = _PROLIFERATIVE in rungs or own & _NOT_PROLIFERATIVE
    about = frozenset({*rest, "dr"} if implied else rest)
    if "very" in own:
        rungs = {_VERY.get(rung, -1) for rung in rungs}
    if _PROLIFERATIVE in rungs and (own & {"high", "advanced"}) and rungs <= {5, _PROLIFERATIVE}:
        rungs = {_ADVANCED_PROLIFERATIVE}
    elif "high" in own:
        return None, about
    if rungs:
        (rung,) = rungs if len(rungs) == 1 else (-1,)
        return (rung if rung >= 0 else None), about
    if own & _NOT_PROLIFERATIVE:
        return "nonproliferative", about
    return ("present" if rest or own & _PRESENT else None), about
