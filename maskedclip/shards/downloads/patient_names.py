"""Patients and eyes that file names state: Patient001_L, 12_left, 001_OD_2, L_0012, RET002OD.

Names are recognised as a whole, never one by one: an ending `_l` is an eye only where enough names
differ from another one in nothing but `_r`. A word (patient, subject, pid) with a number is a
patient wherever it stands.
"""

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

from maskedclip.data.cell_values import patient_of
from maskedclip.shards.downloads.copies_in_names import before_copied, original_stem
from maskedclip.shards.downloads.files import printable
from maskedclip.shards.downloads.folder_names import plain_split
from maskedclip.shards.downloads.image_names import stem_of
from maskedclip.shards.downloads.records import Record, Sources, eye_of

REFUSED = "none"  # of --patient_pattern: no name states a patient
FOUND, CROSSING = "patients_from_names", "patients_in_several_splits"  # remarks
ZEROS = "patients_that_differ_in_zeros"  # a remark


class Sides(NamedTuple):
    """Two words for the left and the right eye."""

    left: str
    right: str
    clear: bool  # whether they mean eyes also where only few patients have both


_SIDES = (
    *(Sides(left, "od", True) for left in ("os", "oi", "oe", "og")),  # Latin, and Romance tongues
    Sides("left", "right", True),
    Sides("izquierdo", "derecho", True),
    Sides("links", "rechts", True),
    Sides("gauche", "droite", True),
    Sides("\u5de6", "\u53f3", True),
    Sides("l", "r", False),
    Sides("le", "re", False),
    Sides("lt", "rt", False),
    Sides("izq", "der", False),
    Sides("sx", "dx", False),
)
_WORDS = {word for sides in _SIDES for word in sides[:2]}
_ALTERNATIVES = "|".join(sorted(_WORDS, key=len, reverse=True))
_KNOWN = (  # where no rule below fits: UK Biobank, premature eyes of Ostrava, IOSTAR
    r"(?P<patient>\d{7})_(?P<eye>2101[56])_\d_\d",
    r"(?P<patient>\d+)_[FM]_GA\d+_.*",
    r"(?P<patient>STAR ?\d+)_(?P<eye>O[DS])[CN]?",
)
_EYES = {"21015": "L", "21016": "R"}
_LONG, _SHORT = "patient|subject|participant|proband|paciente", "subj|sub|pat|pid|pt"
_PERSON = re.compile(f"{_LONG}|{_SHORT}", re.IGNORECASE)
_NUMBERED = re.compile(rf"({_LONG})(id|no|nr)?\d\w*|({_SHORT})(id|no|nr)?\d+", re.IGNORECASE)
_NUMBER = ("id", "no", "nr")
_DATE = re.compile(
    r"(19|20)\d\d(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])(T?\d{4}|T?\d{6})?"
    r"|(0[1-9]|[12]\d|3[01])(0[1-9]|1[0-2])(19|20)\d\d"
)
_TIME = re.compile(r"([01]\d|2[0-3])[0-5]\d[0-5]\d")
_SHORT_DATE = re.compile(
    r"\d\d(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])|(0[1-9]|[12]\d|3[01])(0[1-9]|1[0-2])\d\d"
)
_VISIT = re.compile(r"(v|vis|visit|exam|ses|session|fu|followup)(\d{1,3})?", re.IGNORECASE)
_TAKE = re.compile(r"(img|image|im|photo|pic|field|f|m|month|y|year|t|wk|week|day)\d{1,3}", re.I)
_LEAST_OF_CLEAR, _LEAST_OF_OTHERS = 0.03, 0.3  # share of patients with both eyes
_MOST_OF_A_PATIENT = 50  # images, on average: more are no patient
_MOST_TAKES = 40  # different numbers of visits, fields, photographs


class NamedPatient(NamedTuple):
    """What a file name states."""

    patient: str
    eye: str | None = None  # L or R


class _Parts(NamedTuple):
    """A file name around the word of its eye."""

    before: tuple[str, ...]
    side: str
    behind: tuple[str, ...]


def with_patients(sources: Sources, pattern: str, classes: bool) -> Sources:
    """Return the records with the patients and eyes of their file names, and remarks on them.

    Nothing is read from names where the dataset states patients itself. Raises ValueError where a
    given pattern fits no name, or the dataset states its patients.

    Args:
        pattern: of --patient_pattern; "" for the known forms, "none" for no patients.
        classes: whether the folder of an image is its class.
    """
    records = sources.records
    stated = any(record.patient for record in records)
    if stated and pattern not in ("", REFUSED):
        raise ValueError("--patient_pattern: the dataset states its patients; leave the flag out")
    if stated or pattern == REFUSED:
        return sources._replace(records=records, remarks=sources.remarks | _crossing(records))
    names = [record.source for record in records]
    found = by_pattern(names, pattern) if pattern else recognised(names, classes)
    if pattern and not found:
        example = f", such as {printable(names[0])}" if names else ""
        raise ValueError(
            f"--patient_pattern {pattern}: fits none of {len(names)} file names{example}; correct "
            f"it, or leave it out"
        )
    if not found:
        return sources
    records = [_with(record, found.get(record.source)) for record in records]
    remarks = {FOUND: [_summary(names, found)]} | _differing_in_zeros(found) | _crossing(records)
    return sources._replace(records=records, remarks=sources.remarks | remarks)


def _with(record: Record, named: NamedPatient | None) -> Record:
    if named is None:
        return record
    return record._replace(patient=named.patient, eye=record.eye or named.eye)


def _summary(names: Sequence[str], found: Mapping[str, NamedPatient]) -> str:
    patients = len({named.patient for named in found.values()})
    example = next(name for name in names if name in found)
    of = f"{len(found)} images"
    if len(found) < len(names):
        of = f"{len(found)} of {len(names)} images ({len(names) - len(found)} name none)"
    file = printable(example.rpartition("/")[2])
    return f"{patients} patients of {of}, such as {file} -> {printable(found[example].patient)}"


def _differing_in_zeros(found: Mapping[str, NamedPatient]) -> dict[str, list[str]]:
    """Return a remark on patients such as 12 and 0012, who may be one or two people."""
    example = {named.patient: printable(name.rpartition("/")[2]) for name, named in found.items()}
    alike: defaultdict[str, list[str]] = defaultdict(list)
    for patient in sorted(example):
        alike[re.sub(r"(?<!\d)0+(?=\d)", "", patient.casefold())].append(patient)
    several = [patients for patients in alike.values() if len(patients) > 1]
    if not several:
        return {}
    one, other = several[0][:2]
    return {
        ZEROS: [
            f"{sum(map(len, several))} patients of {len(example)} differ from another in leading "
            f"zeros alone, such as {printable(one)} ({example[one]}) and {printable(other)} "
            f"({example[other]})"
        ]
    }


def _crossing(records: Iterable[Record]) -> dict[str, list[str]]:
    """Return a remark on the patients of more than one split; a record of none is for training."""
    splits: defaultdict[str, set[str]] = defaultdict(set)
    for record in records:
        if record.patient:
            splits[record.patient].add(record.split or "train")
    count = sum(len(own) > 1 for own in splits.values())
    return {CROSSING: [f"{count} of {len(splits)} patients"]} if count else {}


def compiled(pattern: str) -> re.Pattern[str]:
    """Return the pattern of --patient_pattern; ValueError where it is none, or has no group."""
    try:
        found = re.compile(pattern, re.IGNORECASE)
    except re.error as error:
        raise ValueError(
            f"--patient_pattern {pattern}: is no regular expression ({error}); correct it"
        ) from None
    if not found.groups:
        raise ValueError(
            f"--patient_pattern {pattern}: has no group; put the part of the patient in "
            f"parentheses, as in '(\\d+)_[LR]'"
        )
    return found


def by_pattern(names: Iterable[str], pattern: str) -> dict[str, NamedPatient]:
    """Return what a pattern finds in file names, or in paths where it holds a slash.

    The patient is the group `patient`, else the first that is not the eye.
    """
    search = compiled(pattern)
    groups = search.groupindex
    others = {*range(1, search.groups + 1)} - {groups.get("eye")}
    number = groups.get("patient") or min(others, default=1)
    found = {}
    for name in names:
        folder, slash, file = name.rpartition("/")
        path = f"/{folder}{slash}" if "/" in pattern else ""
        # a pattern may count on the words of a copy; else they are no part of the patient
        stem = stem_of(file)
        original = original_stem(stem) + file[len(stem) :]
        match = search.search(path + original) or search.search(path + file)
        patient = patient_of(match[number]) if match else None
        if match and patient:
            found[name] = NamedPatient(patient, eye_of(match["eye"]) if "eye" in groups else None)
    return _in_one_spelling(found)


def recognised(names: Sequence[str], classes: bool) -> dict[str, NamedPatient]:
    """Return the patients that file names state, for those names that do; mostly for none."""
    found = _of_known_forms(names)
    words = {name: word for name in names if name not in found and (word := _person(name, classes))}
    if len({word.casefold() for word in words.values()}) < 2:
        words = {}
    found |= {name: NamedPatient(word) for name, word in words.items()}
    with_side = [name for name in names if not _WORDS.isdisjoint(_lower(name))]
    for sides in _SIDES:
        rest = [name for name in with_side if name not in found or not found[name].eye]
        parts = {name: part for name in rest if (part := _parts(name, sides))}
        of_side = _patients(parts, classes) | {n: words[n] for n in parts.keys() & words.keys()}
        patients = {name: patient for name, patient in of_side.items() if patient is not None}
        if patients and _convinces(sides, parts, patients, names, classes):
            for name, patient in patients.items():
                found[name] = NamedPatient(patient, "L" if parts[name].side == sides.left else "R")
    return _in_one_spelling(_by_folder(found) if classes else found)


def _lower(name: str) -> tuple[str, ...]:
    return tuple(token.lower() for token in _tokens(_stem(name)))


def _stem(name: str) -> str:
    """Return the file name of a path without its ending; of a copy that of its original."""
    return original_stem(stem_of(name.rpartition("/")[2]))


def _of_known_forms(names: Sequence[str]) -> dict[str, NamedPatient]:
    found: dict[str, NamedPatient] = {}
    for form in _KNOWN:
        pattern = re.compile(form, re.IGNORECASE)
        here = {}
        for name in names:
            match = pattern.fullmatch(_stem(name))
            if match:
                eye = match.groupdict().get("eye", "")
                here[name] = NamedPatient(match["patient"], _EYES.get(eye) or eye_of(eye))
        if len({named.patient for named in here.values()}) > 1:
            found |= here
    return found


def _person(name: str, classes: bool) -> str:
    """Return a patient with its word, as in patient_12, of the file name or of a folder."""
    *folders, file = name.split("/")
    if classes:  # the innermost folder is the class
        folders = folders[:-1]
    for part in (stem_of(file), *reversed(folders)):
        tokens = _tokens(part)
        for number, token in enumerate(tokens):
            if token.lower() in ("sub", "pt") and number:
                continue  # too short to be a word in the middle of others
            if _NUMBERED.fullmatch(token):
                return token
            if _PERSON.fullmatch(token):
                behind = tokens[number + 1 :]
                behind = behind[1:] if behind[:1] and behind[0].lower() in _NUMBER else behind
                if behind and _has_digit(behind[0]):
                    return f"{token}_{behind[0]}"
    return ""


@lru_cache(maxsize=1 << 17)
def _tokens(stem: str) -> tuple[str, ...]:
    """Return the words and numbers of a name, with the words of eyes by themselves."""
    text = unicodedata.normalize("NFKC", stem)
    text = re.sub(r"(?<=[a-z0-9])(Left|Right|OD|OS|OI)(?![a-z])", r"_\1_", text)
    text = re.sub(r"(?<![A-Za-z])(Left|Right)(?=[A-Z])", r"\1_", text)
    text = re.sub(r"([\u5de6\u53f3])\u773c?", r"_\1_", text)
    text = re.sub(r"(?<=\d)(V|visit)(\d{1,2})(?!\d)", r"_\1\2_", text, flags=re.IGNORECASE)
    tokens: list[str] = []
    for token in re.findall(r"[^\W_]+", text):
        glued = re.fullmatch(rf"(?:(.*\d))?({_ALTERNATIVES})(?:(\d+)|eye|fundus)?", token, re.I)
        tokens += [part for part in glued.groups() if part] if glued else [token]
    return tuple(tokens)


def _parts(name: str, sides: Sides) -> _Parts | None:
    tokens = _tokens(_stem(name))
    for number in reversed(range(len(tokens))):
        if tokens[number].lower() in sides[:2]:
            before, behind = tokens[:number], tokens[number + 1 :]
            return _Parts(_identifying(before), tokens[number].lower(), _identifying(behind))
    return None


def _has_digit(token: str) -> bool:
    return any(letter.isdigit() for letter in token)


def _identifying(tokens: tuple[str, ...]) -> tuple[str, ...]:
    """Return the tokens without dates, visits, and words behind the last number."""
    kept = list(_without_dates(tokens))
    number = 0
    while number < len(kept):
        token, others = kept[number], [*kept[:number], *kept[number + 1 :]]
        visit = _VISIT.fullmatch(token)
        if visit and any(map(_has_digit, others)):
            counted = not visit[2] and kept[number + 1 : number + 2]
            several = sum(map(_has_digit, others)) > 1
            width = 2 if counted and several and counted[0].isdigit() else 1
            del kept[number : number + width]
        elif _TAKE.fullmatch(token) and any(map(_has_digit, kept[:number])):
            del kept[number]
        else:
            number += 1
    if any(map(_has_digit, kept)):
        while not _has_digit(kept[-1]):
            kept.pop()
    return tuple(kept)


def _without_dates(tokens: tuple[str, ...]) -> tuple[str, ...]:
    for number in range(len(tokens)):
        for width in (1, 3):
            joined = "".join(tokens[number : number + width])
            before, behind = tokens[:number], tokens[number + width :]
            others = any(map(_has_digit, before)) or any(
                _has_digit(token) and len(token) > 2 for token in behind
            )
            if others and number + width <= len(tokens) and _DATE.fullmatch(joined):
                if any(map(_has_digit, before)) and behind and _TIME.fullmatch(behind[0]):
                    behind = behind[1:]
                return _without_dates(before + behind)
    return tokens


def _patients(parts: Mapping[str, _Parts], classes: bool) -> dict[str, str | None]:
    """Return the patient of every name; None for nobody, "" where only the eye is left of it."""
    numbers = {name: next(filter(_has_digit, part.behind), "") for name, part in parts.items()}
    before = len({part.before for part in parts.values()} - {()})
    behind = len({*numbers.values()} - {""})
    keys: dict[str, tuple[str, ...]] = {}
    for name, part in parts.items():
        has_number = any(map(_has_digit, part.before))
        if not part.before or before < (behind / 10 if has_number else behind):
            keys[name] = part.before + ((numbers[name],) if numbers[name] else ())
        else:
            keys[name] = part.before
    dated = [
        key
        for key in keys.values()
        if re.fullmatch(r"\d{6}", "".join(key[-1:])) and any(map(_has_digit, key[:-1]))
    ]
    if dated and all(_SHORT_DATE.fullmatch(key[-1]) for key in dated):
        short = {*dated}
        keys = {name: key[:-1] if key in short else key for name, key in keys.items()}
    of_folder = {} if classes else _patient_folders(parts)
    counted = {key for key in keys.values() if len(key) > 1 and re.fullmatch(r"\d\d?", key[-1])}
    patients, takes = {key[:-1] for key in counted}, {key[-1] for key in counted}
    drop = len(patients) >= 3 and len(takes) < len(patients) and len(takes) <= _MOST_TAKES
    if of_folder:
        return of_folder
    nobody = {name for name, part in parts.items() if part.before and not _is_person(part.before)}
    return {
        name: None if name in nobody else "_".join(key[:-1] if drop and key in counted else key)
        for name, key in keys.items()
    }


def _is_person(before: tuple[str, ...]) -> bool:
    return any(map(_has_digit, before)) or patient_of(" ".join(before)) is not None


def _patient_folders(parts: Mapping[str, _Parts]) -> dict[str, str | None]:
    """Return the folder of every name where it is the patient: 0012/OD_1.jpg, 0012/OS_1.jpg."""
    folders = Counter(name.rpartition("/")[0] for name in parts)
    files = Counter(name.rpartition("/")[2].lower() for name in parts)
    repeated = sum(count for count in files.values() if count > 1)
    nameless = sum(not part.before for part in parts.values())
    few = len(folders) > 2 and len(parts) / len(folders) <= 20  # images of one
    if few and "" not in folders and nameless == len(parts) and repeated > len(parts) / 2:
        return {name: "/".join(map(before_copied, name.split("/")[:-1])) for name in parts}
    return {}


def _convinces(
    sides: Sides,
    parts: Mapping[str, _Parts],
    patients: Mapping[str, str],
    rest: Sequence[str],
    classes: bool,
) -> bool:
    """Return whether the words are the eyes of patients, by how many have both."""
    eyes: defaultdict[str, set[str]] = defaultdict(set)
    for name, patient in patients.items():
        eyes[patient.casefold()].add(parts[name].side)
    both = sum(len(own) == 2 for own in eyes.values())
    share = both / len(eyes)
    if "" in eyes or both < 2 or len(parts) / len(eyes) > _MOST_OF_A_PATIENT:
        return False
    if sides.clear:
        return share >= _LEAST_OF_CLEAR
    numbered = sum(map(_has_digit, eyes))
    if share < _LEAST_OF_OTHERS or (numbered < len(eyes) / 2 and len(eyes) < 5):
        return False
    return not _is_another_series(parts, rest) and not (classes and _is_class(parts))


def _is_another_series(parts: Mapping[str, _Parts], rest: Sequence[str]) -> bool:
    """Return whether l and r are two letters of many, as in 01_a, 01_b, ... 01_z; 01_r, _g, _b."""
    before = {part.before for part in parts.values()}
    others = 0
    for name in rest:
        tokens = _tokens(_stem(name))
        if name not in parts and len(tokens) > 1 and len(tokens[-1]) == 1 and tokens[-1].isalpha():
            others += _identifying(tokens[:-1]) in before
    return others > len(parts) / 4


def _is_class(parts: Mapping[str, _Parts]) -> bool:
    """Return whether each class has one of the two words alone: then they name the class."""
    sides: defaultdict[str, set[str]] = defaultdict(set)
    for name, part in parts.items():
        folders = [f for f in name.lower().split("/")[:-1] if not plain_split(f)]
        sides[folders[-1] if folders else ""].add(part.side)
    return len(sides) > 1 and all(len(own) == 1 for own in sides.values())


def _by_folder(found: Mapping[str, NamedPatient]) -> dict[str, NamedPatient]:
    """Return the patients by folder where each folder counts its own: most file names repeat."""
    folders: defaultdict[str, set[tuple[str, ...]]] = defaultdict(set)
    for name in found:
        *above, file = name.lower().split("/")
        above = [folder for folder in above if plain_split(folder)] + above[-1:]
        folders[stem_of(file)].add(tuple(dict.fromkeys(above)))
    repeated = sum(len(places) > 1 for places in folders.values())
    if repeated <= len(folders) / 2:
        return dict(found)
    return {
        name: named._replace(patient=f"{name.rpartition('/')[0]}/{named.patient}")
        for name, named in found.items()
    }


def _in_one_spelling(found: Mapping[str, NamedPatient]) -> dict[str, NamedPatient]:
    """Return P001 and p001 as one patient, in the spelling of the first."""
    spelling: dict[str, str] = {}
    for name in sorted(found):
        spelling.setdefault(found[name].patient.casefold(), found[name].patient)
    return {
        name: named._replace(patient=spelling[named.patient.casefold()])
        for name, named in found.items()
    }
